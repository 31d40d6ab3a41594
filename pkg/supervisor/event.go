package supervisor

import (
	"syscall"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// event is a fact that a goroutine tells the loop about one worker.
type event struct {
	worker *worker
	fact   fact

	reason string     // of factRecycle
	exit   exitStatus // of factExited
	cause  string     // of factNotExecuted: why
	status string     // of factStatus
	timer  uint64     // of factDeadline: which of the worker's deadlines
}

// fact is what happened to a worker. Each is a column of the table in worker.go.
type fact int

const (
	factExecuted    fact = iota // the stub became the worker's command
	factNotExecuted             // it could not
	factReady                   // READY=1
	factStopping                // STOPPING=1: it leaves of its own will
	factRecycle                 // it asks to be replaced
	factDeadline                // the deadline of its state passed
	factExited                  // the process is gone and reaped
	numFacts

	// Facts that change no state; they are not in the table.
	factHello  // the worker reads its control channel
	factStatus // STATUS=
	factExtend // EXTEND_TIMEOUT_USEC=
)

// exitStatus is how a process ended.
type exitStatus struct {
	code     int            // when signal is 0
	signal   syscall.Signal // that ended it
	tail     []string       // its last lines on stderr
	crash    string         // of a Go program that ended with status 2: "panic", "fatal error" or a signal's name
	unknown  bool           // it was not our child: nobody told us
	oomKills int64          // how many of our cgroup the kernel had killed for want of memory; of SIGKILL only
}

// process is what the state machine needs of the program behind a worker. Tests run the loop on fake ones.
type process interface {
	Pid() int
	// Signal sends to the worker alone, Kill ends its whole process group.
	Signal(syscall.Signal)
	Kill()
	// Send writes to the control channel; it reports whether the packet was taken.
	Send(protocol.Command) bool
	// Catches reports whether the program has a handler for the signal.
	Catches(syscall.Signal) bool
	Usage() (usage, error)
	Board() *scoreboard.Reader
	// SinceBeat gives the age of the last sign of life; ok is false before the first.
	SinceBeat() (age time.Duration, ok bool)
	// Close releases what the supervisor holds of a process that is gone.
	Close()
}
