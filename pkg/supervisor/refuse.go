package supervisor

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// refuse ends new connections without a reset: the kernel drops them from now on, and what is queued can still be accepted. A socket of
// systemd's stays as it is.
//
// listen(fd, 0) alone would let one connection slip into every queue that the worker has just emptied, to be reset at the close. So
// with slots one more socket joins the group, whose queue has one place, which we take ourselves; then the kernel is told to send
// everybody there. It needs no capability, unlike a socket filter.
func (s *bindSockets) refuse() {
	if s.bind.Network == "systemd" || s.stopper != nil || s.passedOn || len(s.slots) == 0 {
		return
	}
	if !s.shared && s.turnAway() == nil {
		return
	}
	for _, fd := range s.slots {
		unix.Listen(fd, 0)
	}
}

func (s *bindSockets) turnAway() (err error) {
	stopper, err := s.join(0)
	if err != nil {
		return err
	}
	s.stopper = append(s.stopper, stopper)
	index := len(s.slots)
	slots := slices.Clone(s.steered)
	if len(slots) == 0 {
		for i := range s.slots {
			slots = append(slots, i)
		}
	}

	to := s.local
	family, sourcePort := unix.AF_INET, uint32(20) // offset behind an IPv4 header without options
	from := unix.Sockaddr(&unix.SockaddrInet4{})
	switch a := to.(type) {
	case *unix.SockaddrInet4:
		if a.Addr == [4]byte{} {
			to = &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte{127, 0, 0, 1}}
		}
	case *unix.SockaddrInet6:
		family, sourcePort, from = unix.AF_INET6, 40, &unix.SockaddrInet6{}
		if a.Addr == [16]byte{} {
			to = &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte{15: 1}}
		}
	}
	client, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.stopper = append(s.stopper, client)
	if err := unix.Bind(client, from); err != nil {
		return err
	}
	bound, err := unix.Getsockname(client)
	if err != nil {
		return err
	}
	var port int
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		port = a.Port
	case *unix.SockaddrInet6:
		port = a.Port
	}
	// Our own connection, known by its port, goes to the stopper; all others as before.
	program := append([]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: networkHeader + sourcePort},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(port), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: uint32(index)},
	}, steering(slots)...)
	if err := s.attach(program); err != nil {
		return err
	}
	timeout := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return err
	}
	if err := unix.Connect(client, to); err != nil {
		return fmt.Errorf("fill the last place of %s: %w", s.bind, err)
	}
	return s.attach([]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: uint32(index)}})
}

// attach gives the kernel a program that picks the socket for a new connection.
func (s *bindSockets) attach(program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(s.slots[0], unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
