package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/sdnotify"
)

// notifySocket is the NOTIFY_SOCKET of one worker: an abstract datagram socket, so that there is no file to clean up, whose messages
// count only with the right credentials.
type notifySocket struct {
	*sdnotify.Listener
	pgid int // the worker's process group; set before run

	beat atomic.Int64 // when the last WATCHDOG=1 came, in nanoseconds since birth, 0: none yet
}

// birth anchors times that a step of the wall clock must not change.
var birth = time.Now()

// A worker that floods its socket is slowed down: its kernel queue fills, its sends wait. Nobody else shares the socket.
const (
	notifyBurst = 1000
	notifyPause = 100 * time.Millisecond
)

func newNotifySocket(instance string, id protocol.WorkerID) (*notifySocket, error) {
	// A successor that gives up, and the one that goes on instead of it, may give a worker the same name for a moment: hence our pid.
	l, err := sdnotify.Listen(fmt.Sprintf("@supervisor/%s/%d/%s", instance, os.Getpid(), id))
	if err != nil {
		return nil, err
	}
	return &notifySocket{Listener: l}, nil
}

// run tells what the worker says until the socket is closed. READY and STOPPING are told once, so a flood cannot fill the loop.
func (n *notifySocket) run(tell func(event)) {
	var ready, stopping bool
	var status string
	burst, since := 0, time.Now()
	for {
		m, err := n.Read()
		if err != nil {
			return
		}
		if burst++; time.Since(since) > time.Second {
			burst, since = 0, time.Now()
		} else if burst >= notifyBurst {
			time.Sleep(notifyPause)
		}
		// BARRIER=1: closing the pipe is the answer. Any other descriptor is not ours to keep.
		m.Close()
		if !n.trusts(m) {
			continue
		}
		for key, value := range m.Lines() {
			switch {
			case key == "READY" && value == "1" && !ready:
				ready = true
				tell(event{fact: factReady})
			case key == "STOPPING" && value == "1" && !stopping:
				stopping = true
				tell(event{fact: factStopping})
			case key == "WATCHDOG" && value == "1":
				n.beat.Store(int64(max(1, time.Since(birth))))
			case key == "STATUS" && value != status && burst < notifyBurst/10:
				status = cut(value, 256)
				tell(event{fact: factStatus, status: status})
			case key == "EXTEND_TIMEOUT_USEC" && burst < notifyBurst/10:
				if usec, err := strconv.ParseInt(value, 10, 64); err == nil && usec > 0 && usec < int64(time.Hour/time.Microsecond) {
					tell(event{fact: factExtend, status: value})
				}
			}
		}
	}
}

// trusts reports whether the sender is the worker or of its process group. A helper that has already exited (systemd-notify in a shell
// script) is known by its user only.
func (n *notifySocket) trusts(m sdnotify.Message) bool {
	if m.PID == 0 {
		return false // not of our pid namespace; 0 would ask for our own group
	}
	pgid, err := unix.Getpgid(m.PID)
	if err == nil {
		return pgid == n.pgid
	}
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/"+strconv.Itoa(n.pgid), &st); err != nil {
		return false
	}
	return m.UID == int(st.Uid) || m.UID == 0
}

// lastBeat gives the time of the last WATCHDOG=1.
func (n *notifySocket) lastBeat() (time.Time, bool) {
	at := n.beat.Load()
	return birth.Add(time.Duration(at)), at > 0
}

// cut bounds a text for a log line.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
