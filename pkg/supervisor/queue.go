package supervisor

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// How many connections wait in the kernel to be accepted at an address, and how many may. Of a TCP listener the kernel says so in TCP_INFO, where
// a connection has its unacknowledged and selectively acknowledged segments: two numbers for one system call. Of a unix socket only sock_diag(7)
// knows, what ss(8) asks; it takes one message there and back, which is less than a netlink library would be.

// listenerView is an address.
type listenerView struct {
	name   string // of the bind
	length int    // over all slots
	limit  int
	unix   uint32 // inode of a unix socket: its numbers are still to be asked for
}

// addListeners notes the queues of a pool's addresses. The loop calls it: it may close a socket in the next moment.
func (v *poolView) addListeners(p *pool) {
	for _, b := range p.sockets {
		l := listenerView{name: b.bind.Name}
		for _, fd := range b.slots {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				var st unix.Stat_t
				if unix.Fstat(fd, &st) == nil {
					l.unix = uint32(st.Ino)
				}
				break
			}
			l.length += int(info.Unacked)
			l.limit += int(info.Sacked)
		}
		v.listeners = append(v.listeners, l)
	}
}

// queue gives the numbers of an address; ok is false where the kernel does not tell.
func (l listenerView) queue() (length, limit int, ok bool) {
	if l.unix == 0 {
		return l.length, l.limit, true
	}
	length, limit, err := unixQueue(l.unix)
	return length, limit, err == nil
}

// Of linux/sock_diag.h and linux/unix_diag.h.
const (
	sockDiagByFamily = 20
	showQueue        = 0x10 // UDIAG_SHOW_RQLEN
	attrQueue        = 4    // UNIX_DIAG_RQLEN: two words, of a listener what waits and what may
	requestSize      = unix.NLMSG_HDRLEN + 24
	answerSize       = 16 // of the message, before its attributes
)

// diagPatience bounds how long the kernel may take; it answers at once.
const diagPatience = 100 * time.Millisecond

var errNoQueue = errors.New("sock_diag: no queue")

// unixQueue asks for a listening unix socket by its inode.
func unixQueue(inode uint32) (length, limit int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(int64(diagPatience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return 0, 0, err
	}
	order := binary.NativeEndian
	var request [requestSize]byte
	order.PutUint32(request[0:], requestSize)
	order.PutUint16(request[4:], sockDiagByFamily)
	order.PutUint16(request[6:], unix.NLM_F_REQUEST)
	body := request[unix.NLMSG_HDRLEN:]
	body[0] = unix.AF_UNIX
	order.PutUint32(body[4:], ^uint32(0)) // in any state
	order.PutUint32(body[8:], inode)
	order.PutUint32(body[12:], showQueue)
	order.PutUint32(body[16:], ^uint32(0)) // whatever its cookie
	order.PutUint32(body[20:], ^uint32(0))
	if err := unix.Sendto(fd, request[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, 0, err
	}
	var answer [512]byte
	n, _, err := unix.Recvfrom(fd, answer[:], 0)
	if err != nil {
		return 0, 0, err
	}
	if n < unix.NLMSG_HDRLEN+answerSize || order.Uint16(answer[4:]) != sockDiagByFamily { // else an error: there is none, or the kernel has no unix_diag
		return 0, 0, errNoQueue
	}
	for rest := answer[unix.NLMSG_HDRLEN+answerSize : n]; len(rest) >= unix.SizeofRtAttr; {
		size, kind := int(order.Uint16(rest)), order.Uint16(rest[2:])
		if size < unix.SizeofRtAttr || size > len(rest) {
			break
		}
		if kind == attrQueue && size >= unix.SizeofRtAttr+8 {
			return int(order.Uint32(rest[4:])), int(order.Uint32(rest[8:])), nil
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return 0, 0, errNoQueue
}
