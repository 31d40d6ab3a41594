package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"supervisor/pkg/machine"
	"supervisor/pkg/protocol"
)

// bind looks whether an address could be bound, by a start or by a reload of the running instance.
func (ck *checker) bind(b Bind) error {
	switch b.Network {
	case "systemd":
		return ck.inherited(b.Address)
	case "unix":
		return ck.bindUnix(b)
	}
	return ck.bindTCP(b)
}

// inherited: a check does not run under the unit, so it can tell only when it was given sockets.
func (ck *checker) inherited(name string) error {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if !slices.Contains(names, name) {
		return fmt.Errorf("systemd passed no socket of that name (it passed: %s)", strings.Join(names, ", "))
	}
	return nil
}

// bindTCP binds, but does not listen: so no client ever reaches the socket, and a supervisor that starts at this moment gets the
// address nevertheless.
func (ck *checker) bindTCP(b Bind) error {
	fd, addr, err := b.Socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, addr)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return ck.holderOf(b, addr)
	case errors.Is(err, unix.EACCES):
		return errors.New("permission denied: low ports are for root, or for CAP_NET_BIND_SERVICE (see net.ipv4.ip_unprivileged_port_start)")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return errors.New("this machine does not have that address")
	}
	return err
}

// holderOf is nil when all that is in an address's way belongs to the running instance.
func (ck *checker) holderOf(b Bind, addr unix.Sockaddr) error {
	found, err := machine.TCPListeners()
	if err != nil {
		return fmt.Errorf("in use, and one cannot see by whom: %w", err)
	}
	var strangers []int
	conflicts, ours := 0, 0
	for _, s := range found {
		if !conflict(b, addr, s.Address) {
			continue
		}
		conflicts++
		if ck.instance != 0 && machine.HoldsSocket(ck.instance, s.Inode) {
			ours++
			continue
		}
		for _, pid := range machine.SocketHolders(s.Inode) {
			if !slices.Contains(strangers, pid) {
				strangers = append(strangers, pid)
			}
		}
	}
	if conflicts > 0 && ours == conflicts {
		return nil
	}
	if orphans(strangers) {
		return fmt.Errorf("address already in use by workers of a supervisor that is gone, %s: they serve on until orphan_timeout, and foreign "+
			"programs until somebody ends them (kill)", machine.NameProcesses(strangers))
	}
	hint := ""
	if ck.instance == 0 {
		hint = " (if that is the supervisor to reload: a check knows it by its pidfile)"
	}
	return fmt.Errorf("address already in use by %s%s", machine.NameProcesses(strangers), hint)
}

// orphans reports whether all of these processes are workers: a living supervisor would hold their address, too.
func orphans(pids []int) bool {
	for _, pid := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // as it was started, whatever it has unset since
		if err != nil || !slices.ContainsFunc(strings.Split(string(env), "\x00"), func(pair string) bool {
			return strings.HasPrefix(pair, protocol.EnvWorker+"=")
		}) {
			return false
		}
	}
	return len(pids) > 0
}

// conflict reports whether a listening socket stands in the way of an address.
func conflict(b Bind, addr unix.Sockaddr, other netip.AddrPort) bool {
	mine := sockaddrPort(addr)
	if mine.Port() != other.Port() {
		return false
	}
	ip, otherIP := mine.Addr(), other.Addr().Unmap()
	if ip == otherIP || (ip.IsUnspecified() && ip.Is4() == otherIP.Is4()) || (otherIP.IsUnspecified() && ip.Is4() == otherIP.Is4()) {
		return true
	}
	// Across the families: a wildcard IPv6 socket takes IPv4 as well, ours when it is no tcp6, the other's unless it says so,
	// which /proc does not tell. Bind said "in use" already, so one looks rather too wide.
	return (ip.Is6() && ip.IsUnspecified() && b.Network == "tcp") || (otherIP.Is6() && otherIP.IsUnspecified() && ip.Is4())
}

func sockaddrPort(addr unix.Sockaddr) netip.AddrPort {
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// bindUnix never binds and never removes: it looks at what is in the way.
func (ck *checker) bindUnix(b Bind) error {
	path := b.Address
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("cannot make a socket in %s: %w", dir, err)
		}
		return nil
	case err != nil:
		return withoutPath(err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way: %s, not a socket; remove it or bind elsewhere", path, machine.FileKind(info.Mode()))
	}
	if inode, ok := machine.UnixListener(path); ok && ck.instance != 0 && machine.HoldsSocket(ck.instance, inode) {
		return nil
	}
	conn, err := net.Dial("unix", path)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("cannot replace the stale socket %s: %w", path, err)
		}
		return nil // nobody behind it: a start replaces it
	case err != nil && !errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("cannot tell whether it is in use: %w", err)
	}
	var pids []int
	if inode, ok := machine.UnixListener(path); ok {
		pids = machine.SocketHolders(inode)
	}
	if conn != nil {
		defer conn.Close()
		if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil && len(pids) == 0 {
			pids = append(pids, machine.PeerPID(raw))
		}
	}
	if ck.instance != 0 && slices.Contains(pids, ck.instance) {
		return nil
	}
	if orphans(pids) {
		return fmt.Errorf("workers of a supervisor that is gone listen there: %s", machine.NameProcesses(pids))
	}
	return fmt.Errorf("another process listens there: %s", machine.NameProcesses(pids))
}
