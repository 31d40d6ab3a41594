package control

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FindProcess names a running process; nil when there is none of that pid.
func FindProcess(pid int) *Process {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	// pid (comm) state …: the start time is the 22nd field, and a comm may hold spaces and brackets
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return nil
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return nil
	}
	return &Process{PID: pid, Start: start}
}

// AwaitEnd waits until the process is gone, or ctx ends. A process that cannot be seen from here, in a container for instance, counts as gone.
func (p *Process) AwaitEnd(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if now := FindProcess(p.PID); now == nil || *now != *p {
		return nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int((100 * time.Millisecond).Milliseconds())); n > 0 || err != nil && err != unix.EINTR {
			return nil
		}
	}
}
