package sdnotify

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Patience bounds a send to a manager whose queue is full because it stands still.
const Patience = 100 * time.Millisecond

// maxDescriptors is the kernel's SCM_MAX_FD.
const maxDescriptors = 253

// ErrTimeout says that the manager did not take a message, or did not answer, in time.
var ErrTimeout = errors.New("the manager does not read its notify socket")

// Send sends one message to the socket that a manager named in NOTIFY_SOCKET: a path, or @NAME for an abstract one. Without a name it does
// nothing. It waits no longer than Patience. The descriptors stay the caller's.
func Send(socket, state string, fds ...int) error {
	if socket == "" {
		return nil
	}
	if err := send(socket, state, fds); err != nil {
		return fmt.Errorf("notify %s: %w", socket, err)
	}
	return nil
}

func send(socket, state string, fds []int) error {
	addr, err := address(socket)
	if err != nil {
		return err
	}
	if len(fds) > maxDescriptors {
		return fmt.Errorf("%d descriptors in one message, at most %d go", len(fds), maxDescriptors)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	// The kernel waits for a place in the queue; with O_NONBLOCK nobody would tell when there is one.
	limit := unix.NsecToTimeval(Patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("SO_SNDTIMEO: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		switch err := unix.Sendmsg(fd, []byte(state), rights, addr, unix.MSG_NOSIGNAL); err {
		case unix.EINTR:
		case unix.EAGAIN:
			return ErrTimeout
		default:
			return err
		}
	}
}

// Barrier returns when the manager has worked off all that was sent before, or with ErrTimeout.
func Barrier(socket string, patience time.Duration) error {
	if socket == "" {
		return nil
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("notify %s: barrier: %w", socket, err)
	}
	defer ours.Close()
	raw, err := theirs.SyscallConn()
	if err == nil {
		// Not Fd: that makes a descriptor blocking for everybody.
		if other := raw.Control(func(fd uintptr) { err = Send(socket, "BARRIER=1", int(fd)) }); err == nil {
			err = other
		}
	}
	theirs.Close() // theirs is now the last one
	if err != nil {
		return err
	}
	ours.SetReadDeadline(time.Now().Add(patience))
	if _, err := ours.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("notify %s: barrier: %w", socket, ErrTimeout)
	}
	return nil
}

// address reads a socket's name as NOTIFY_SOCKET has it.
func address(socket string) (*unix.SockaddrUnix, error) {
	if strings.HasPrefix(socket, "/") || (strings.HasPrefix(socket, "@") && len(socket) > 1) {
		return &unix.SockaddrUnix{Name: socket}, nil // x/sys makes the @ a zero byte
	}
	return nil, fmt.Errorf("neither a path nor @NAME")
}

// OneLine keeps a text from smuggling in further lines.
func OneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }
