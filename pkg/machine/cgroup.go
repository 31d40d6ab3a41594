package machine

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Cores gives the processors that we may use: the cgroup's quota counts.
func Cores() int { return runtime.GOMAXPROCS(0) }

// Cgroup is where our memory is counted: cgroup version 2 or 1. The zero value is our own.
type Cgroup struct {
	Self string // the file that says which cgroups are ours; "": /proc/self/cgroup
	Root string // where they are mounted; "": /sys/fs/cgroup
}

// dirs gives the directories of our memory cgroup and of those around it, from the inside out, and whether they are of version 2.
func (c Cgroup) dirs() (dirs []string, v2 bool) {
	self, root := c.Self, c.Root
	if self == "" {
		self = "/proc/self/cgroup"
	}
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	f, err := os.Open(self)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mounts, v2 := []string{root, filepath.Join(root, "unified")}, parts[0] == "0"
		probe := "memory.current"
		if !v2 {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			mounts, probe = []string{filepath.Join(root, "memory")}, "memory.usage_in_bytes"
		}
		for _, mount := range mounts {
			for _, start := range []string{parts[2], "/"} { // in a container the path is the host's
				var found []string
				for dir := filepath.Clean("/" + start); ; dir = filepath.Dir(dir) {
					path := filepath.Join(mount, dir)
					if _, err := os.Stat(filepath.Join(path, probe)); err == nil {
						found = append(found, path)
					}
					if dir == "/" {
						break
					}
				}
				if len(found) > 0 {
					return found, v2
				}
			}
		}
	}
	return nil, false
}

// number reads a file with one number; ok is false for "max", and for version 1's largest one, which means the same.
func number(dir, name string) (n int64, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, false
	}
	n, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil && n < 1<<60
}

// field reads a line "name number" of a file, 0 where there is none.
func field(dir, name, key string) int64 {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// OOMKills gives how many processes of our cgroup the kernel has killed for want of memory, 0 where it does not count them.
func (c Cgroup) OOMKills() int64 {
	dirs, v2 := c.dirs()
	switch {
	case len(dirs) == 0:
		return 0
	case v2:
		return field(dirs[0], "memory.events", "oom_kill")
	}
	return field(dirs[0], "memory.oom_control", "oom_kill")
}

// Memory is a limit, and what is used of it, in bytes. Files that the kernel keeps in memory and would drop first are not counted as used.
type Memory struct{ Limit, Used int64 }

// Memory gives the limit around us that is closest to be reached; ok is false when there is none.
func (c Cgroup) Memory() (tightest Memory, ok bool) {
	dirs, v2 := c.dirs()
	limit, usage, cache := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
	if v2 {
		limit, usage, cache = "memory.max", "memory.current", "inactive_file"
	}
	for _, dir := range dirs {
		most, limited := number(dir, limit)
		used, known := number(dir, usage)
		if !limited || !known {
			continue
		}
		m := Memory{Limit: most, Used: max(0, used-field(dir, "memory.stat", cache))}
		if !ok || m.Limit-m.Used < tightest.Limit-tightest.Used {
			tightest, ok = m, true
		}
	}
	return tightest, ok
}

// OOMKills is Cgroup.OOMKills of our own cgroup.
func OOMKills() int64 { return Cgroup{}.OOMKills() }

// MemoryLimit gives the memory limit of our cgroup in bytes, 0: none.
func MemoryLimit() int64 {
	dirs, v2 := Cgroup{}.dirs()
	name := "memory.limit_in_bytes"
	if v2 {
		name = "memory.max"
	}
	var least int64
	for _, dir := range dirs {
		if limit, ok := number(dir, name); ok && (least == 0 || limit < least) {
			least = limit
		}
	}
	return least
}
