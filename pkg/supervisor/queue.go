package supervisor

import "golang.org/x/sys/unix"

// queue gives how many connections wait to be accepted at an address, over all its slots, and how many may. The kernel keeps both numbers of a
// TCP listener where a connection has its unacknowledged and selectively acknowledged segments: two numbers, no table to read and parse.
// length is -1 where it cannot be told.
func (s *bindSockets) queue() (length, limit int) {
	for _, fd := range s.slots {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return -1, 0 // a unix socket
		}
		length += int(info.Unacked)
		limit += int(info.Sacked)
	}
	return length, limit
}

// addListeners notes the queues of a pool's addresses.
func (v *poolView) addListeners(p *pool) {
	for _, b := range p.sockets {
		length, limit := b.queue()
		v.listeners = append(v.listeners, listenerView{b.bind.Name, length, limit})
	}
}
