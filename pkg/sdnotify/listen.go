package sdnotify

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage is what a message may be at most; systemd's limit.
const maxMessage = 4096

// Listener is a manager's end: a datagram socket that knows who sent what. One goroutine at a time reads.
type Listener struct {
	name string // as in NOTIFY_SOCKET
	file *os.File
	raw  syscall.RawConn

	// Of the one who reads.
	packet [maxMessage]byte
	oob    []byte
}

// Listen makes the socket: @NAME for an abstract one, which leaves no file behind, or a path that does not exist yet.
func Listen(name string) (*Listener, error) {
	addr, err := address(name)
	if err != nil {
		return nil, fmt.Errorf("notify socket %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("notify socket %s: %w", name, err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("notify socket %s: %w", name, err)
	}
	return newListener(fd, name)
}

// Inherit makes a Listener of a socket that another process listened on. It owns the descriptor from now on.
func Inherit(fd int) (*Listener, error) {
	addr, err := unix.Getsockname(fd)
	named, ok := addr.(*unix.SockaddrUnix)
	if err == nil && !ok {
		err = errors.New("not a unix socket")
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	unix.SetNonblock(fd, true)
	unix.CloseOnExec(fd)
	return newListener(fd, named.Name)
}

func newListener(fd int, name string) (*Listener, error) {
	l := &Listener{name: name, file: os.NewFile(uintptr(fd), "notify "+name)}
	l.oob = make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxDescriptors))
	var err error
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("notify socket %s: %w", name, err)
	}
	return l, nil
}

// Name is what goes into NOTIFY_SOCKET.
func (l *Listener) Name() string { return l.name }

// Dup gives another descriptor of the socket, for a process that goes on reading it with Inherit.
func (l *Listener) Dup() (fd int, err error) {
	if other := l.raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); other != nil {
		return -1, other
	}
	return fd, err
}

// SyscallConn gives the descriptor itself, to be passed to another process.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.raw, nil }

// SetReadDeadline ends a Read that waits, with os.ErrDeadlineExceeded.
func (l *Listener) SetReadDeadline(t time.Time) error { return l.file.SetReadDeadline(t) }

// Close ends a Read and a Wait, too.
func (l *Listener) Close() error { return l.file.Close() }

// Message is what somebody sent.
type Message struct {
	State string // lines NAME=VALUE
	FDs   []int  // the receiver's own from now on, close-on-exec; see Close
	PID   int    // of the sender, as the kernel has it; it may be gone. 0: of another pid namespace
	UID   int    // of the sender; -1: unknown
}

// Read waits for a message. One that was too long, or whose descriptors did not fit into this process, comes empty.
func (l *Listener) Read() (m Message, err error) {
	if other := l.raw.Read(func(fd uintptr) bool {
		m, err = l.receive(int(fd))
		return err != unix.EAGAIN
	}); other != nil {
		return Message{}, other
	}
	return m, err
}

// TryRead is Read where nothing may wait; ok is false when there is no message.
func (l *Listener) TryRead() (m Message, ok bool) {
	l.raw.Control(func(fd uintptr) {
		var err error
		m, err = l.receive(int(fd))
		ok = err == nil
	})
	return m, ok
}

// Wait returns when there is a message, and leaves it there. An error says that the socket is closed.
func (l *Listener) Wait() error {
	return l.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
}

func (l *Listener) receive(fd int) (Message, error) {
	var n, oobSize, flags int
	for {
		var err error
		n, oobSize, flags, _, err = unix.Recvmsg(fd, l.packet[:], l.oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Message{}, err
		}
	}
	m := Message{UID: -1}
	control, err := unix.ParseSocketControlMessage(l.oob[:oobSize])
	for _, c := range control {
		if cred, err := unix.ParseUnixCredentials(&c); err == nil {
			m.PID, m.UID = int(cred.Pid), int(cred.Uid)
		} else if fds, err := unix.ParseUnixRights(&c); err == nil {
			m.FDs = append(m.FDs, fds...)
		}
	}
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		m.Close()
		return m, nil
	}
	m.State = string(l.packet[:n])
	return m, nil
}

// Close closes the descriptors: the answer to BARRIER=1, and what is done with those that nobody expected.
func (m *Message) Close() {
	for _, fd := range m.FDs {
		unix.Close(fd)
	}
	m.FDs = nil
}

// Lines gives the names and values in their order.
func (m *Message) Lines() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for line := range strings.Lines(m.State) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !yield(name, value) {
				return
			}
		}
	}
}

// Get gives the value of the last line of that name, "" without one.
func (m *Message) Get(name string) string {
	value := ""
	for n, v := range m.Lines() {
		if n == name {
			value = v
		}
	}
	return value
}
