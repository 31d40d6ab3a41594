//go:build linux

package worker_test

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func prlimit(pid int, limit *syscall.Rlimit) error {
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Cur, Max: limit.Max}, nil)
}
