package scoreboard

import (
	"sync/atomic"
	"time"
)

// Totals are a worker's counters, summed over its shards. They can be added, so that the counts of workers that are gone live on.
type Totals struct {
	Counters [counters]uint64 `json:"counters"`
	Latency  [Buckets]uint64  `json:"latency"` // requests by duration, see BucketBound
}

// Get gives one counter.
func (t *Totals) Get(c Counter) uint64 { return t.Counters[c] }

// Add adds another worker's totals.
func (t *Totals) Add(o Totals) {
	for i, v := range o.Counters {
		t.Counters[i] += v
	}
	for i, v := range o.Latency {
		t.Latency[i] += v
	}
}

// Reader is the supervisor's side of a scoreboard.
type Reader struct {
	mem   memory
	clock clock
	holds atomic.Int32 // of others than the one who made it
}

// Hold keeps the memory mapped until one more Close, for somebody who reads it later. Only while it cannot be closed meanwhile.
func (r *Reader) Hold() { r.holds.Add(1) }

// Joined reports whether the worker writes to this board.
func (r *Reader) Joined() bool { return r.mem.load(offJoined) == Version }

// State gives what the worker last said of itself.
func (r *Reader) State() State { return State(r.mem.load(offState)) }

// Takes reports whether the worker adopts connections of its i-th inherited socket, once it is told to.
func (r *Reader) Takes(i int) bool { return i >= 0 && i < 64 && r.mem.load(offTakes)&(1<<i) != 0 }

// SinceBeat gives the age of the last beat; ok is false when there was none.
func (r *Reader) SinceBeat() (age time.Duration, ok bool) {
	at := int64(r.mem.load(offHeartbeat))
	if at <= 0 {
		return 0, false
	}
	return max(0, time.Duration(r.clock.now()-at)), true
}

// Totals sums the counters. What an older worker does not count is derived: Succeeded from the others, Took from the histogram.
func (r *Reader) Totals() Totals {
	var t Totals
	for s := range Shards {
		for c := range t.Counters {
			t.Counters[c] += atomic.LoadUint64(r.mem.counter(s, Counter(c)))
		}
		for b := range t.Latency {
			t.Latency[b] += atomic.LoadUint64(r.mem.bucket(s, b))
		}
	}
	kept := r.mem.load(offCounts)
	if kept <= uint64(Succeeded) && t.Counters[Finished] > t.Counters[Errors] {
		t.Counters[Succeeded] = t.Counters[Finished] - t.Counters[Errors]
	}
	if kept <= uint64(Took) {
		for b, n := range t.Latency {
			t.Counters[Took] += n * uint64(BucketBound(b)) * 3 / 4 // the middle of the bucket
		}
	}
	return t
}

// Total sums one counter.
func (r *Reader) Total(c Counter) uint64 { return total(r.mem, c) }

// Running gives how many handlers run now.
func (r *Reader) Running() int {
	finished := r.Total(Finished) // first, so that the difference cannot be negative
	return max(0, int(r.Total(Started)-finished))
}

// Connections gives how many connections are open now.
func (r *Reader) Connections() int {
	gone := r.Total(Closed) + r.Total(Moved)
	return max(0, int(r.Total(Accepted)+r.Total(Adopted)-gone))
}

// Oldest gives how long the oldest running handler has been without a byte of its answer; 0: none.
func (r *Reader) Oldest() time.Duration {
	n := min(r.mem.load(offHighWater), MaxConns)
	var oldest int64
	for i := range int(n) {
		if at := int64(r.mem.load(offConns + i*connSize)); at > 0 && (oldest == 0 || at < oldest) {
			oldest = at
		}
	}
	if oldest == 0 {
		return 0
	}
	return max(0, time.Duration(r.clock.now()-oldest))
}

// Labels gives the worker's named counters.
func (r *Reader) Labels() map[string]int64 {
	labels := make(map[string]int64, min(r.mem.load(offLabelled), MaxLabels))
	r.EachLabel(func(name []byte, value int64) { labels[string(name)] = value })
	return labels
}

// EachLabel calls f for each of the worker's named counters, in the order in which they were named. The name is a copy, so that the worker cannot
// change it meanwhile; it is good until f returns. A name may come twice: it is the worker who wrote them.
func (r *Reader) EachLabel(f func(name []byte, value int64)) {
	var name [labelText]byte
	for i := range int(min(r.mem.load(offLabelled), MaxLabels)) {
		off := offLabels + i*labelSize
		size := copy(name[:], r.mem[off+16:off+16+int(min(r.mem.load(off+8), labelText))])
		f(name[:size], int64(r.mem.load(off)))
	}
}

func total(m memory, c Counter) uint64 {
	var sum uint64
	for s := range Shards {
		sum += atomic.LoadUint64(m.counter(s, c))
	}
	return sum
}
