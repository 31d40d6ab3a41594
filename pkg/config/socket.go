package config

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Socket makes the socket of a TCP address, with the options that a server's has in Go, and gives the address to bind it to. A start and
// a check use the same one, so that a check passes what a start would bind.
func (b Bind) Socket() (fd int, addr unix.Sockaddr, err error) {
	if addr, err = b.resolve(); err != nil {
		return -1, nil, err
	}
	fd, err = b.SocketFor(addr)
	if v6, ok := addr.(*unix.SockaddrInet6); ok && errors.Is(err, unix.EAFNOSUPPORT) && b.Network == "tcp" && isWildcard(addr) {
		addr = &unix.SockaddrInet4{Port: v6.Port} // a machine without IPv6
		fd, err = b.SocketFor(addr)
	}
	return fd, addr, err
}

// SocketFor makes another such socket for an address that Socket gave.
func (b Bind) SocketFor(addr unix.Sockaddr) (fd int, err error) {
	family := unix.AF_INET
	if _, ok := addr.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		only := 1
		if b.Network == "tcp" && isWildcard(addr) {
			only = 0 // ":8080" means both families
		}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func isWildcard(addr unix.Sockaddr) bool {
	switch a := addr.(type) {
	case *unix.SockaddrInet6:
		return a.Addr == [16]byte{}
	case *unix.SockaddrInet4:
		return a.Addr == [4]byte{}
	}
	return false
}

func (b Bind) resolve() (unix.Sockaddr, error) {
	a, err := net.ResolveTCPAddr(b.Network, b.Address)
	if err != nil {
		return nil, err
	}
	if ip := a.IP.To4(); b.Network == "tcp4" || ip != nil {
		sa := &unix.SockaddrInet4{Port: a.Port}
		copy(sa.Addr[:], ip)
		return sa, nil
	}
	sa := &unix.SockaddrInet6{Port: a.Port}
	copy(sa.Addr[:], a.IP.To16())
	if a.Zone != "" {
		if ifi, err := net.InterfaceByName(a.Zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa, nil
}
