package scoreboard

import (
	"sync/atomic"
	"time"
)

// Totals are a worker's counters, summed over its shards. They can be added, so that the counts of workers that are gone live on.
type Totals struct {
	Counters [counters]uint64
	Latency  [Buckets]uint64 // requests by duration, see BucketBound
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
}

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

// Totals sums the counters.
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
	n := min(r.mem.load(offLabelled), MaxLabels)
	labels := make(map[string]int64, n)
	for i := range int(n) {
		off := offLabels + i*labelSize
		size := min(r.mem.load(off+8), labelText)
		name := string(r.mem[off+16 : off+16+int(size)])
		labels[name] = int64(r.mem.load(off))
	}
	return labels
}

func total(m memory, c Counter) uint64 {
	var sum uint64
	for s := range Shards {
		sum += atomic.LoadUint64(m.counter(s, c))
	}
	return sum
}
