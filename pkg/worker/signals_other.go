//go:build !unix

package worker

import (
	"os"
	osignal "os/signal"
	"syscall"
)

func signals(bool) <-chan signal {
	caught := make(chan os.Signal, 8)
	osignal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	out := make(chan signal)
	go func() {
		for range caught {
			out <- signalStop
		}
	}()
	return out
}
