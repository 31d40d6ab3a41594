package worker

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unread gives how many bytes wait in the kernel to be read.
func unread(conn net.Conn) (n int) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) // 0 when the connection is gone
	})
	return n
}

// closeQueue lets no further connection into the queue of a socket that only this process serves: connection attempts wait (the
// client repeats its SYN) until the socket is closed.
func closeQueue(l net.Listener) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Listen(int(fd), 0) })
	}
}
