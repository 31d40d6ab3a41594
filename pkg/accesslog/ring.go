package accesslog

import (
	"runtime"
	"sync/atomic"
)

// ringSize is how many records may wait: 50 ms of 40,000 requests a second, in 2.5 MiB of memory of which only what was used once costs anything.
const ringSize = 2048

// ring is a bounded queue with many writers and one reader, without a lock. Each slot has a turn: the number of the place in the endless row of
// records for which it is free, that plus one when its record is complete. Who gets a place by a compare-and-swap of tail owns its slot until it
// publishes it.
type ring struct {
	slots []slot
	_     [64]byte      // tail, which all writers change, shares no cache line with what all read
	tail  atomic.Uint64 // the next place to fill, and ringClosed
	_     [64]byte
	head  atomic.Uint64 // the next place to read; changed by the reader only
}

// ringClosed in tail says that no place is given any more. In the same word, so that the last place is known for certain.
const ringClosed = 1 << 63

type slot struct {
	turn atomic.Uint64
	record
}

func newRing(size int) *ring {
	r := &ring{slots: make([]slot, size)} // a power of two
	for i := range r.slots {
		r.slots[i].turn.Store(uint64(i))
	}
	return r
}

func (r *ring) slot(at uint64) *slot { return &r.slots[at&uint64(len(r.slots)-1)] }

// reserve gives a slot to fill, nil when all are taken or the ring is closed.
func (r *ring) reserve() (*slot, uint64) {
	for {
		at := r.tail.Load()
		if at&ringClosed != 0 {
			return nil, 0
		}
		s := r.slot(at)
		switch turn := s.turn.Load(); {
		case turn == at:
			if r.tail.CompareAndSwap(at, at+1) {
				return s, at
			}
		case turn < at:
			return nil, 0
		}
	}
}

func (s *slot) publish(at uint64) { s.turn.Store(at + 1) }

// pressing reports whether so many records wait that the reader should not sleep on; not at each of them.
func (r *ring) pressing(at uint64) bool {
	return at%16 == 0 && at-r.head.Load() >= uint64(len(r.slots)/2)
}

// next gives the record to read, nil when there is none or it is not complete yet. Done with it, call release.
func (r *ring) next() *record {
	s := r.slot(r.head.Load())
	if s.turn.Load() != r.head.Load()+1 {
		return nil
	}
	return &s.record
}

func (r *ring) release() {
	at := r.head.Load()
	r.slot(at).turn.Store(at + uint64(len(r.slots)))
	r.head.Store(at + 1)
}

// close ends it: what has a place is still to be read, see drained.
func (r *ring) close() { r.tail.Or(ringClosed) }

// drained reports, after close, whether all was read; it lets those run who have a place and have not published yet.
func (r *ring) drained() bool {
	if r.head.Load() == r.tail.Load()&^ringClosed {
		return true
	}
	runtime.Gosched()
	return false
}
