package supervisor

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
)

// notifySocket is the NOTIFY_SOCKET of one worker: an abstract datagram socket, so that there is no file to clean up, whose messages
// count only with the right credentials.
type notifySocket struct {
	name string // as in the environment, with a leading @
	conn *net.UnixConn
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
	name := "@supervisor/" + instance + "/" + id.String()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("notify socket: SO_PASSCRED: %w", err)
	}
	return &notifySocket{name: name, conn: conn}, nil
}

// run tells what the worker says until the socket is closed. READY and STOPPING are told once, so a flood cannot fill the loop.
func (n *notifySocket) run(tell func(event)) {
	var ready, stopping bool
	var status string
	packet := make([]byte, 4096)
	oob := make([]byte, 1024)
	burst, since := 0, time.Now()
	for {
		size, oobSize, _, _, err := n.conn.ReadMsgUnix(packet, oob)
		if err != nil {
			return
		}
		if burst++; time.Since(since) > time.Second {
			burst, since = 0, time.Now()
		} else if burst >= notifyBurst {
			time.Sleep(notifyPause)
		}
		fds, own := n.check(oob[:oobSize])
		for _, fd := range fds {
			unix.Close(fd) // BARRIER=1: closing the pipe is the answer. Any other descriptor is not ours to keep.
		}
		if !own {
			continue
		}
		for line := range strings.Lines(string(packet[:size])) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
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

// check gives the descriptors that came along and reports whether the sender is the worker or of its process group. A helper
// that has already exited (systemd-notify in a shell script) is known by its user only.
func (n *notifySocket) check(oob []byte) (fds []int, own bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, false
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			own = n.trusts(cred)
		} else if rights, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, rights...)
		}
	}
	return fds, own
}

func (n *notifySocket) trusts(cred *unix.Ucred) bool {
	pgid, err := unix.Getpgid(int(cred.Pid))
	if err == nil {
		return pgid == n.pgid
	}
	var st syscall.Stat_t
	if err := syscall.Stat("/proc/"+strconv.Itoa(n.pgid), &st); err != nil {
		return false
	}
	return cred.Uid == st.Uid || cred.Uid == 0
}

// lastBeat gives the time of the last WATCHDOG=1.
func (n *notifySocket) lastBeat() (time.Time, bool) {
	at := n.beat.Load()
	return birth.Add(time.Duration(at)), at > 0
}

func (n *notifySocket) Close() { n.conn.Close() }

// cut bounds a text for a log line.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
