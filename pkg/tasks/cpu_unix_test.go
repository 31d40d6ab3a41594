//go:build unix

package tasks

import (
	"syscall"
	"testing"
	"time"
)

// ownCPU is the CPU time of this process: unlike the clock it does not care who else is on the machine.
func ownCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
