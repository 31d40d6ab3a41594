// Package machine tells what this machine is and who uses it: its processors and our cgroup's memory, its users and groups, who holds a
// socket or a lock. It only looks, mostly into /proc, and disturbs nobody. Linux only.
package machine
