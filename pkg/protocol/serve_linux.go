package protocol

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SendServe sends VerbServe with a connection over the sending descriptor of a control channel. It does not wait. The caller keeps its
// own descriptor of the connection, and closes it.
func SendServe(control int, bind string, conn int) error {
	return sendWith(control, Command{VerbServe, []string{bind}}, conn)
}

// SendProfile sends VerbProfile with the far end of a stream socket, in the same way.
func SendProfile(control int, kind string, d time.Duration, conn int) error {
	return sendWith(control, Command{VerbProfile, []string{kind, strconv.FormatInt(d.Milliseconds(), 10)}}, conn)
}

func sendWith(control int, c Command, conn int) error {
	packet := c.Packet()
	if len(packet) > MaxCommand {
		return fmt.Errorf("control: %s %q is too long", c.Verb, c.Arg(0))
	}
	return unix.Sendmsg(control, packet, unix.UnixRights(conn), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// Receive waits for a packet of the control channel and gives its length, 0 at the channel's end, and the connection that came along, or nil.
func Receive(control syscall.RawConn, packet []byte) (n int, conn net.Conn, err error) {
	rights := make([]byte, unix.CmsgSpace(4))
	var nr int
	waited := control.Read(func(fd uintptr) bool {
		for {
			n, nr, _, _, err = unix.Recvmsg(int(fd), packet, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waited != nil {
		return 0, nil, waited
	}
	if err != nil {
		return 0, nil, fmt.Errorf("control: recvmsg: %w", err)
	}
	fds, _ := parseRights(rights[:nr])
	for i, fd := range fds {
		if i == 0 {
			conn, _ = asConn(fd)
			continue
		}
		unix.Close(fd)
	}
	return n, conn, nil
}
