//go:build unix

package worker

import (
	"os"
	osignal "os/signal"
	"syscall"
)

// signals translates what the process is sent, see doc.go for the table.
func signals(supervised bool) <-chan signal {
	meaning := map[os.Signal]signal{
		syscall.SIGTERM: signalStop,
		syscall.SIGINT:  signalStop,
		syscall.SIGUSR1: signalReopen,
	}
	if supervised {
		meaning[syscall.SIGINT] = signalQuick
		meaning[syscall.SIGQUIT] = signalQuick
	}
	caught := make(chan os.Signal, 8)
	for s := range meaning {
		osignal.Notify(caught, s)
	}

	// Caught and dropped, not ignored: an ignored signal stays ignored in programs that this one starts. Without this a write to
	// a log pipe whose reader is gone would end the process.
	osignal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if supervised {
		osignal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // `pkill -HUP name` means the supervisor
	}

	out := make(chan signal)
	go func() {
		for s := range caught {
			out <- meaning[s]
			if s == syscall.SIGINT {
				meaning[s] = signalQuick // Ctrl-C again: now
			}
		}
	}()
	return out
}
