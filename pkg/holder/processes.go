package holder

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// reapAll gives the status of every child that is dead: the supervisor, and whatever lost its parent.
func reapAll() map[int]syscall.WaitStatus {
	dead := map[int]syscall.WaitStatus{}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case pid <= 0:
			return dead
		default:
			dead[pid] = status
		}
	}
}

// left reports whether a child of ours lives, or is dead and not reaped. What lost its parent is our child, too.
func left() bool {
	return unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != unix.ECHILD
}

// sweep sends a signal to everything below us. It reports whether anything is there.
func sweep(sig syscall.Signal) bool {
	reapAll()
	if !left() {
		return false
	}
	if os.Getpid() == 1 {
		unix.Kill(-1, sig) // all of the container
		return true
	}
	for _, pid := range visible() {
		if descends(pid) {
			unix.Kill(pid, sig)
		}
	}
	return true
}

// visible gives every process in our pid namespace, none where /proc is another's.
func visible() []int {
	if !ownProc() {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parent gives a process's parent, 0 if it has none that we can see.
func parent(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// pid (name) state ppid …: the name may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// descends reports whether a process is one of ours, at any depth.
func descends(pid int) bool {
	if !ownProc() { // a bare pid namespace: all in it are PID 1's
		return os.Getpid() == 1 && unix.Kill(pid, 0) == nil
	}
	for own := os.Getpid(); pid > 0; {
		if pid = parent(pid); pid == own {
			return true
		}
	}
	return false
}

// ownProc reports whether /proc is there and of our own pid namespace.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}
