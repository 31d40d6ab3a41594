package supervisor

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets at which a classic BPF program loads what is not payload.
const (
	ancillaryRandom = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM: a random number
	networkHeader   = 0xfff00000      // SKF_NET_OFF: from the IP header on
)

// steer makes the kernel pick at random among the given slots for each new connection. It needs no capability and may be called at
// any time. An index outside of the group would fall back to the kernel's hash.
func (s *bindSockets) steer(slots []int) error {
	if len(s.slots) < 2 || s.stopper != nil || len(slots) == 0 || slices.Equal(slots, s.steered) {
		return nil // with nobody ready the queues wait for the refill
	}
	for _, slot := range slots {
		if slot >= len(s.slots) {
			return nil // its socket is not open yet: the next change steers
		}
	}
	if err := s.attach(steering(slots)); err != nil {
		return fmt.Errorf("steer %s to slots %v: %w", s.bind, slots, err)
	}
	s.steered = slots
	return nil
}

// steering gives the program: a random number modulo the number of slots, looked up in the list.
func steering(slots []int) []unix.SockFilter {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: ancillaryRandom},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(len(slots))},
	}
	for i, slot := range slots {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(i), Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(slot)})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(slots[0])})
}
