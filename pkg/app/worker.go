package app

import (
	"os"
	"strconv"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// Worker is what the application knows about the process it runs in.
type Worker struct {
	ID          string         // under a supervisor pool.slot.serial, else the pid
	Generation  int            // counts the supervisor's reloads, 0 without one
	Connections func() int     // open connections; nil asks the server
	Pools       protocol.Pools // how many workers the supervisor has in all; empty: this process is alone
	Draining    func() bool    // reports whether the process was told to stop; nil means never

	// Label gives a counter or gauge of that name on the scoreboard, see worker.Worker.Label; nil: there are no metrics.
	Label func(name string) scoreboard.Label
	// Overdue reports whether a request was answered with 504 while its handler ran; nil means never.
	Overdue func(*fasthttp.RequestCtx) bool
}

// Standalone is the worker of a process without a supervisor.
func Standalone() Worker {
	return Worker{ID: strconv.Itoa(os.Getpid())}
}
