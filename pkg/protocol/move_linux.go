package protocol

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Give offers a connection through the sending end of an adopt socket, and returns nil once somebody has taken it: then the caller
// only closes its descriptor. After any error (which wraps ErrNotTaken when nobody was there, in time) the connection is untouched
// and the caller's. Give waits at most ReceiptTimeout, in the netpoller. Nobody else may read or write the connection meanwhile.
func Give(tx, conn syscall.RawConn, m Move) error {
	return give(tx, conn, m, ReceiptTimeout)
}

func give(tx, conn syscall.RawConn, m Move, timeout time.Duration) error {
	packet, err := m.packet()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: receipt: %w", ErrNotTaken, err)
	}
	receipt := os.NewFile(uintptr(pair[0]), "receipt")
	defer receipt.Close()

	err = sendMove(tx, conn, packet, pair[1])
	unix.Close(pair[1]) // ours; while it is open the taker's death would not show as EOF
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotTaken, err)
	}

	receipt.SetReadDeadline(time.Now().Add(timeout))
	if n, _ := receipt.Read(make([]byte, 1)); n == 1 {
		return nil
	}
	if lastLook(receipt) {
		return nil
	}
	return ErrNotTaken
}

func sendMove(tx, conn syscall.RawConn, packet []byte, receipt int) error {
	var sent, reached error
	if err := conn.Control(func(fd uintptr) {
		reached = tx.Control(func(tx uintptr) {
			sent = unix.Sendmsg(int(tx), packet, unix.UnixRights(int(fd), receipt), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
	}); err != nil {
		return err
	}
	return errors.Join(reached, sent)
}

// lastLook closes the receipt for the taker and reports whether its byte was there before.
func lastLook(receipt *os.File) (taken bool) {
	raw, err := receipt.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		unix.Shutdown(int(fd), unix.SHUT_RD)
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_DONTWAIT)
		taken = err == nil && n == 1
	})
	return taken
}

// Take waits for a connection on the receiving end of an adopt socket, and returns it after the receipt was written: the caller
// must serve it. ErrTruncated and other errors about one message leave the socket usable; os.ErrDeadlineExceeded and os.ErrClosed
// are the socket's own.
func Take(rx syscall.RawConn) (net.Conn, Move, error) {
	packet := make([]byte, maxMove)
	rights := make([]byte, unix.CmsgSpace(2*4))
	var n, nr, flags int
	var err error
	waited := rx.Read(func(fd uintptr) bool {
		for {
			n, nr, flags, _, err = unix.Recvmsg(int(fd), packet, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waited != nil {
		return nil, Move{}, waited
	}
	if err != nil {
		return nil, Move{}, fmt.Errorf("move: recvmsg: %w", err)
	}
	if n == 0 && nr == 0 {
		return nil, Move{}, os.ErrClosed // every sending end is closed
	}
	fds, err := parseRights(rights[:nr])
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if flags&unix.MSG_CTRUNC != 0 {
		return nil, Move{}, ErrTruncated
	}
	m, malformed := parseMove(packet[:n])
	if err := errors.Join(err, malformed); err != nil {
		return nil, Move{}, err
	}
	if len(fds) != 2 {
		return nil, Move{}, fmt.Errorf("move: message with %d descriptors", len(fds))
	}
	conn, err := asConn(fds[0])
	fds = fds[1:]
	if err != nil {
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			return nil, Move{}, fmt.Errorf("%w: %w", ErrTruncated, err)
		}
		return nil, Move{}, err
	}
	if err := writeReceipt(fds[0]); err != nil {
		conn.Close()
		return nil, Move{}, fmt.Errorf("move: too late, the giver serves: %w", err)
	}
	return conn, m, nil
}

// writeReceipt is the moment in which the connection changes its owner.
func writeReceipt(fd int) error {
	for {
		err := unix.Sendto(fd, []byte{1}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
		if err != unix.EINTR {
			return err
		}
	}
}

// parseRights gives the descriptors of a control message. All of them are returned also with an error, so that they can be closed.
func parseRights(b []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		more, failed := unix.ParseUnixRights(&messages[i])
		fds = append(fds, more...)
		err = errors.Join(err, failed)
	}
	return fds, err
}

// asConn makes a connection of a descriptor, which it closes.
func asConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "moved")
	defer f.Close()
	conn, err := net.FileConn(f) // a duplicate, close-on-exec and non-blocking
	if err != nil {
		return nil, fmt.Errorf("move: not a connection: %w", err)
	}
	return conn, nil
}
