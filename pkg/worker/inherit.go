package worker

import (
	"net"
	"os"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// inheritance is all that a supervisor (or systemd) gave this process. The zero value is a program that was started by hand.
type inheritance struct {
	id         protocol.WorkerID
	generation int
	instance   string
	pools      protocol.Pools
	sockets    []socket
	control    *os.File // seqpacket; nil: nobody commands
	adopt      map[string]adoptPair
	board      *scoreboard.Writer // nil: run unscored
	notify     string             // NOTIFY_SOCKET
	watchdog   time.Duration      // 0: nobody waits for WATCHDOG=1
}

// socket is a listening socket with its name from the config and its number in the order of LISTEN_FDS. Ours reports that this process
// opened it itself, for a run without a supervisor: then nobody else will serve its queue.
type socket struct {
	name  string
	index int
	net.Listener
	ours bool
}

// adoptPair is a bind's adopt socket, see protocol.Give. Either end may be nil.
type adoptPair struct{ rx, tx *os.File }
