package scoreboard

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Writer is the worker's side of a scoreboard.
type Writer struct {
	mem   memory
	clock clock

	mu     sync.Mutex     // guards what follows; taken once per connection, never per request
	free   []int          // released connection records
	used   int            // records ever used
	labels map[string]int // index by name
}

// Local gives a scoreboard that nobody else sees, for a program that runs without a supervisor.
func Local(s Settings) *Writer {
	words := make([]uint64, Size/8) // 64-bit aligned; untouched pages cost nothing
	w := newWriter(bytesOf(words))
	w.mem.setSettings(s)
	return w
}

func newWriter(mem memory) *Writer {
	w := &Writer{mem: mem, clock: newClock(), labels: map[string]int{}}
	w.mem.store(offCounts, uint64(kept))
	w.mem.store(offJoined, Version)
	w.Beat()
	return w
}

func check(mem memory) error {
	if mem.load(offMagic) != magic {
		return fmt.Errorf("scoreboard: bad magic %#x", mem.load(offMagic))
	}
	if v := mem.load(offVersion); v != Version {
		return fmt.Errorf("scoreboard: version %d, this program knows %d", v, Version)
	}
	return nil
}

// Settings gives what the supervisor wants this worker to know.
func (w *Writer) Settings() Settings { return w.mem.settings() }

// SetState publishes the worker's state.
func (w *Writer) SetState(s State) { w.mem.store(offState, uint64(s)) }

// SetTakes publishes of which inherited sockets this worker adopts connections: bit i is the i-th one.
func (w *Writer) SetTakes(sockets uint64) { w.mem.store(offTakes, sockets) }

// Beat publishes a sign of life.
func (w *Writer) Beat() { w.mem.store(offHeartbeat, uint64(w.Now())) }

// Now gives the time in nanoseconds of CLOCK_MONOTONIC, without a system call.
func (w *Writer) Now() int64 { return w.clock.now() }

// At converts a time that carries a monotonic reading (time.Now, fasthttp's ctx.Time) to nanoseconds of CLOCK_MONOTONIC.
func (w *Writer) At(t time.Time) int64 { return w.clock.at(t) }

// Total sums one counter over all shards.
func (w *Writer) Total(c Counter) uint64 { return total(w.mem, c) }

// Conn is a connection's place in the scoreboard: its shard of the counters and its start stamp. It is used by one goroutine at a
// time, except Started and Expire.
type Conn struct {
	shard shard
	stamp *atomic.Int64 // 0: no handler runs, or its answer has begun
	index int           // of the record, -1 beyond MaxConns
}

type shard struct {
	mem memory
	n   int
}

// Open takes a record for a new connection.
func (w *Writer) Open() *Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	index := -1
	switch n := len(w.free); {
	case n > 0:
		index = w.free[n-1]
		w.free = w.free[:n-1]
	case w.used < MaxConns:
		index = w.used
		w.used++
		w.mem.store(offHighWater, uint64(w.used))
	}
	c := &Conn{index: index}
	if index < 0 {
		c.stamp = new(atomic.Int64)
		c.shard = shard{w.mem, 0}
		return c
	}
	c.stamp = (*atomic.Int64)(ptr(w.mem, offConns+index*connSize))
	c.stamp.Store(0)
	c.shard = shard{w.mem, index % Shards}
	return c
}

// Release gives the record back. The Conn must not be used afterwards.
func (w *Writer) Release(c *Conn) {
	c.stamp.Store(0)
	if c.index < 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free = append(w.free, c.index)
}

// Add counts and returns the shard's new value.
func (c *Conn) Add(n Counter, delta uint64) uint64 {
	return atomic.AddUint64(c.shard.mem.counter(c.shard.n, n), delta)
}

// Shard gives the number of the connection's shard.
func (c *Conn) Shard() int { return c.shard.n }

// Begin stamps the start of a handler at the given time (see At).
func (c *Conn) Begin(now int64) {
	c.stamp.Store(now)
	c.Add(Started, 1)
}

// End counts a handler that ended after the given time, and gives the shard's count of finished requests.
func (c *Conn) End(took time.Duration) uint64 {
	c.stamp.Store(0)
	if took > 0 {
		c.Add(Took, uint64(took))
	}
	atomic.AddUint64(c.shard.mem.bucket(c.shard.n, bucket(took)), 1)
	return c.Add(Finished, 1)
}

// SetStarted moves the start stamp; 0 says that no deadline runs.
func (c *Conn) SetStarted(at int64) { c.stamp.Store(at) }

// Started gives the start stamp; 0: no deadline runs.
func (c *Conn) Started() int64 { return c.stamp.Load() }

// bucket finds the first bound of at least d.
func bucket(d time.Duration) int {
	if d <= BucketBound(0) {
		return 0
	}
	i := bits.Len64(uint64((d - 1) / BucketBound(0)))
	return min(i, Buckets-1)
}

// Label is a named counter or gauge of the worker's own, shared memory like the rest.
type Label struct{ value *uint64 }

// Add counts.
func (l Label) Add(delta int64) { atomic.AddUint64(l.value, uint64(delta)) }

// Set sets a gauge.
func (l Label) Set(v int64) { atomic.StoreUint64(l.value, uint64(v)) }

// Label interns a name of at most 112 bytes (a longer one is cut). When the table is full it gives the counter "other".
func (w *Writer) Label(name string) Label {
	if len(name) > labelText {
		name = name[:labelText]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i, ok := w.labels[name]
	if !ok {
		i = len(w.labels)
		if i >= MaxLabels-1 {
			i, name = MaxLabels-1, "other"
		}
		w.labels[name] = i
		off := offLabels + i*labelSize
		copy(w.mem[off+16:off+labelSize], name)
		w.mem.store(off+8, uint64(len(name)))
		w.mem.store(offLabelled, uint64(i+1)) // last: a reader sees whole entries only
	}
	return Label{w.mem.word(offLabels + i*labelSize)}
}
