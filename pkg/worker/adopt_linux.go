package worker

import (
	"errors"
	"net"
	"os"
	"syscall"

	"supervisor/pkg/protocol"
)

var (
	errNoDescriptors = protocol.ErrTruncated
	errQueueFull     = syscall.EAGAIN
)

// receive reads a packet of the control channel; conn is what came along with it, or nil. The channel's end has no bytes.
func receive(control *os.File, packet []byte) (n int, conn net.Conn, err error) {
	raw, err := control.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	return protocol.Receive(raw, packet)
}

func takeMove(rx *os.File) (net.Conn, protocol.Move, error) {
	raw, err := rx.SyscallConn()
	if err != nil {
		return nil, protocol.Move{}, err
	}
	return protocol.Take(raw)
}

func giveMove(tx *os.File, conn net.Conn, m protocol.Move) error {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("not a socket")
	}
	rawConn, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	rawTx, err := tx.SyscallConn()
	if err != nil {
		return err
	}
	return protocol.Give(rawTx, rawConn, m)
}
