//go:build unix

package main

import (
	"os"
	"syscall"
)

// leave begins a graceful stop of this process.
func leave() { syscall.Kill(os.Getpid(), syscall.SIGTERM) }
