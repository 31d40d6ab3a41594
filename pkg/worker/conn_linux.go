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

// queued reports whether a connection waits to be accepted.
func queued(l net.Listener) (waits bool) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return false
	}
	if raw, err := sc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			waits = n > 0
		})
	}
	return waits
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
