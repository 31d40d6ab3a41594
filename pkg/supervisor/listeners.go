package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
)

// bindSockets are the listening sockets of one address. The supervisor holds them, so that a queue outlives its worker.
//
// With slots each worker slot has a socket of its own in one SO_REUSEPORT group: index = slot = order of creation. A slot's socket is
// never closed while the address is bound, since closing one renumbers the kernel's group and resets its queue.
type bindSockets struct {
	bind     config.Bind
	backlog  int
	nonblock bool  // O_NONBLOCK on every slot
	slots    []int // one per slot, or a single one for all
	shared   bool
	local    unix.Sockaddr // as bound: a port 0 is filled in
	adoptRx  int           // the adopt socket: idle connections pass from draining workers to ready ones
	adoptTx  int
	inode    uint64     // of a unix socket's file, to remove no other one's
	steered  []int      // the slots that new connections go to, see steer
	stopper  []int      // turns new connections away, see refuse
	rescuers []*rescuer // by slot, nil where its worker accepts, see rescue.go
	passedOn bool       // another bindSockets has the same sockets: they must not refuse
}

// openBind binds an address and listens.
func openBind(b config.Bind, cfg *config.Pool, inherited map[string][]int) (_ *bindSockets, err error) {
	s := &bindSockets{bind: b, backlog: cfg.Backlog, nonblock: cfg.NonBlock, adoptRx: -1, adoptTx: -1}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("%w %s: %w", ErrBind, b, err)
		}
	}()
	var fd int
	switch b.Network {
	case "systemd":
		s.shared = true
		switch fds := inherited[b.Address]; len(fds) {
		case 0:
			return nil, fmt.Errorf("systemd passed no socket of that name (it passed: %s)", nameList(inherited))
		case 1:
			if fd, err = unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("systemd passed %d sockets of that name: give each its own FileDescriptorName=", len(fds))
		}
		s.slots = []int{fd}
	case "unix":
		s.shared = true
		if err := s.openUnix(); err != nil {
			return nil, err
		}
	default:
		s.shared = cfg.Sockets == config.SocketsShared
		if err := s.openTCP(); err != nil {
			return nil, err
		}
	}
	if s.local, err = unix.Getsockname(s.slots[0]); err != nil {
		return nil, err
	}
	if err := s.setNonblock(s.slots[0]); err != nil {
		return nil, err
	}
	return s, s.pairUp()
}

// pairUp makes the adopt socket.
func (s *bindSockets) pairUp() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("adopt socket: %w", err)
	}
	s.adoptRx, s.adoptTx = pair[0], pair[1]
	return nil
}

// canBecome reports whether these sockets can serve another bind of the same address.
func (s *bindSockets) canBecome(b config.Bind, cfg *config.Pool) error {
	if b.Network == "unix" && (s.bind.Mode != b.Mode || s.bind.User != b.User || s.bind.Group != b.Group) {
		return fmt.Errorf("%w %s: mode and owner of a socket in use change only with a restart", ErrBind, b)
	}
	if b.Network != "unix" && b.Network != "systemd" && s.shared != (cfg.Sockets == config.SocketsShared) {
		return fmt.Errorf("%w %s: sockets = %q of an address in use changes only with a restart", ErrBind, b, cfg.Sockets)
	}
	return nil
}

// again gives the same sockets to another bind: the address stays where it is, when only its name or its pool changes.
func (s *bindSockets) again(b config.Bind, cfg *config.Pool) (*bindSockets, error) {
	n := &bindSockets{
		bind: b, backlog: cfg.Backlog, nonblock: cfg.NonBlock, shared: s.shared, local: s.local, adoptRx: -1, adoptTx: -1,
		steered: s.steered, passedOn: true, // until a commit says that they are its own
	}
	for _, fd := range s.slots {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			n.Close()
			return nil, fmt.Errorf("%w %s: %w", ErrBind, b, err)
		}
		n.slots = append(n.slots, dup)
	}
	if err := n.pairUp(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// setNonblock: a socket that we made is blocking, so that a plain accept() in any language works; one from systemd stays as it came.
func (s *bindSockets) setNonblock(fd int) error {
	if !s.nonblock {
		return nil
	}
	return unix.SetNonblock(fd, true)
}

// openTCP binds slot 0, without SO_REUSEPORT: see listen.
func (s *bindSockets) openTCP() error {
	fd, addr, err := s.bind.Socket()
	if err != nil {
		return err
	}
	s.slots = []int{fd}
	return unix.Bind(fd, addr)
}

// openUnix binds a unix socket's file, which is ours from then on.
func (s *bindSockets) openUnix() error {
	fd, err := listenUnix(s.bind, s.backlog)
	if err != nil {
		return err
	}
	s.slots, s.shared = []int{fd}, true
	var st unix.Stat_t
	if err := unix.Lstat(s.bind.Address, &st); err != nil {
		return err
	}
	s.inode = st.Ino
	return nil
}

// listenUnix makes a unix socket, with its owner and mode before anybody can connect to it. It listens at once: another supervisor would
// take a socket that refuses for a stale one, and of two that find a stale one the second must not remove the first one's new one: so each
// keeps the others out of the directory meanwhile.
func listenUnix(b config.Bind, backlog int) (fd int, err error) {
	unlock, err := lockDirectory(filepath.Dir(b.Address))
	if err != nil {
		return -1, err
	}
	defer unlock()
	if err := removeStale(b.Address); err != nil {
		return -1, err
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: b.Address}); err != nil {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "bind", Path: b.Address, Err: err}
	}
	err = chown(b)
	if err == nil {
		err = os.Chmod(b.Address, b.Mode)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		os.Remove(b.Address)
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// lockDirectory keeps other supervisors out of a directory for a moment. It does not wait long: the lock may be anybody's. A directory that
// we may not read cannot be locked, and is used as it is.
func lockDirectory(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	for range 100 {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// chown gives a unix socket's file to the owner that the config wants.
func chown(b config.Bind) error {
	if b.User == "" && b.Group == "" {
		return nil
	}
	uid, gid := -1, -1
	if b.User != "" {
		u, err := machine.LookupUser(b.User)
		if err != nil {
			return err
		}
		uid, _ = strconv.Atoi(u.Uid)
	}
	if b.Group != "" {
		var err error
		if gid, err = machine.LookupGroup(b.Group); err != nil {
			return err
		}
	}
	if err := unix.Lchown(b.Address, uid, gid); err != nil {
		return &fs.PathError{Op: "chown", Path: b.Address, Err: err}
	}
	return nil
}

// removeStale removes a unix socket that nobody serves. Anything else stays and is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way: %s, not a socket; remove it or bind elsewhere", path, machine.FileKind(info.Mode()))
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: another process listens there: %w", path, unix.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: cannot tell whether it is in use: %w", path, err)
	}
	return os.Remove(path)
}

// listen makes the kernel take connections. All addresses are bound before any of them listens.
//
// Slot 0 listens before it gets SO_REUSEPORT: two supervisors that start in the same moment can both bind (SO_REUSEADDR lets them, and
// without it a restart would wait for TIME_WAIT), but only one of them can listen. The other slots join afterwards.
func (s *bindSockets) listen() error {
	if s.bind.Network == "systemd" {
		return nil
	}
	err := unix.Listen(s.slots[0], s.backlog)
	if err == nil && !s.shared {
		err = unix.SetsockoptInt(s.slots[0], unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err != nil {
		return fmt.Errorf("%w %s: listen: %w", ErrBind, s.bind, err)
	}
	return nil
}

// forSlot gives the socket of a slot and opens it, and those before it, when it is the first time.
func (s *bindSockets) forSlot(slot int) (int, error) {
	if s.shared {
		return s.slots[0], nil
	}
	for len(s.slots) <= slot {
		fd, err := s.join(s.backlog)
		if err != nil {
			return -1, fmt.Errorf("%w %s: slot %d: %w", ErrBind, s.bind, len(s.slots), err)
		}
		s.slots = append(s.slots, fd)
		if len(s.slots) == 2 && s.steered == nil {
			s.steer([]int{0}) // else the kernel would send half of the connections to a worker that has not even started
		}
	}
	return s.slots[slot], nil
}

// join adds a socket to the group.
func (s *bindSockets) join(backlog int) (int, error) {
	fd, err := s.bind.SocketFor(s.local)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(fd, s.local)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err == nil {
		err = s.setNonblock(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Close closes the sockets and removes our socket file, if it is still ours.
func (s *bindSockets) Close() {
	s.endRescue()
	for _, fd := range s.slots {
		unix.Close(fd)
	}
	for _, fd := range s.stopper {
		unix.Close(fd)
	}
	s.slots, s.stopper = nil, nil
	for _, fd := range []int{s.adoptRx, s.adoptTx} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.adoptRx, s.adoptTx = -1, -1
	if s.inode != 0 && !s.passedOn {
		var st unix.Stat_t
		if unix.Lstat(s.bind.Address, &st) == nil && st.Ino == s.inode {
			os.Remove(s.bind.Address)
		}
		s.inode = 0
	}
}

// address gives the address as bound, for people.
func (s *bindSockets) address() string {
	switch a := s.local.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	case *unix.SockaddrInet6:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	}
	return s.bind.Network + ":" + s.bind.Address
}

func nameList(sockets map[string][]int) string {
	var names []string
	for name := range sockets {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
