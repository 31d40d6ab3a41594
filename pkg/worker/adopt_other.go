//go:build !linux

package worker

import (
	"errors"
	"net"
	"os"

	"supervisor/pkg/protocol"
)

// Connections do not move here: no supervisor passes an adopt socket.
var (
	errNoDescriptors = errors.New("no descriptors")
	errQueueFull     = errors.New("queue full")
)

func receive(*os.File, []byte) (int, net.Conn, error) { return 0, nil, nil } // nobody commands

func takeMove(*os.File) (net.Conn, protocol.Move, error) {
	return nil, protocol.Move{}, os.ErrClosed
}

func giveMove(*os.File, net.Conn, protocol.Move) error { return errors.ErrUnsupported }
