package scoreboard

import (
	"sync/atomic"
	"time"
	"unsafe"
)

func bytesOf(words []uint64) memory {
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
}

func ptr(m memory, off int) unsafe.Pointer { return unsafe.Pointer(&m[off]) }

// clock gives CLOCK_MONOTONIC from Go's monotonic reading: the offset between both is taken once, so that no request pays for a
// system call (440 ns on a machine without a vDSO, against 40).
type clock struct {
	base   time.Time
	offset int64
}

func newClock() clock {
	base := time.Now()
	return clock{base, monotonic()}
}

func (c clock) now() int64 { return c.offset + int64(time.Since(c.base)) }

func (c clock) at(t time.Time) int64 { return c.offset + int64(t.Sub(c.base)) }

// NewMemory gives a board in plain memory with both its sides, for tests.
func NewMemory(s Settings) (*Writer, *Reader) {
	w := Local(s)
	return w, &Reader{mem: w.mem, clock: w.clock}
}

var _ atomic.Int64 // the stamps in the memory are used as atomic.Int64: 8 bytes, aligned
