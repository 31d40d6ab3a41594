package supervisor

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// reason says why a worker went, in logs, in metrics and to people.
type reason string

// Reasons that the supervisor has to end a worker.
const (
	reasonMaxRequests reason = "max_requests"
	reasonLifetime    reason = "lifetime"
	reasonMemory      reason = "memory"
	reasonTimeout     reason = "timeout"   // a handler overdue beyond timeout_grace
	reasonHeartbeat   reason = "heartbeat" // no sign of life
	reasonBoot        reason = "boot_timeout"
	reasonRecycle     reason = "recycle" // asked for by supervisor ctl
	reasonReload      reason = "reload"
	reasonRollback    reason = "reload-failed"
	reasonUpgrade     reason = "upgrade"
	reasonScaleDown   reason = "scale-down"
	reasonPark        reason = "park"  // SIGWINCH
	reasonDrain       reason = "drain" // by hand: supervisor ctl drain
	reasonStop        reason = "stop"
	reasonQuit        reason = "quit" // quick stop
	reasonLeft        reason = "left" // it said STOPPING=1 of its own will

	reasonOOM reason = "oom" // the kernel killed it for want of memory
)

// planned reports whether a worker that goes for this reason did nothing wrong.
func (r reason) planned() bool {
	switch r {
	case reasonTimeout, reasonHeartbeat, reasonBoot, reasonLeft, "":
		return false
	}
	return true
}

// of gives the reason of an exit that nobody asked for: exit:3, crash:SIGSEGV, crash:panic.
func (e exitStatus) reason() reason {
	switch {
	case e.crash != "":
		return reason("crash:" + e.crash)
	case e.signal != 0:
		return reason("crash:" + unix.SignalName(e.signal))
	case e.unknown:
		return "exit:unknown"
	}
	return reason(fmt.Sprintf("exit:%d", e.code))
}

func (e exitStatus) String() string {
	if e.signal != 0 {
		return unix.SignalName(e.signal)
	}
	if e.unknown {
		return "unknown status"
	}
	return fmt.Sprintf("status %d", e.code)
}

// lastWords gives the last lines of a worker's stderr for a log line.
func (e exitStatus) lastWords() string { return strings.Join(e.tail, "\n") }
