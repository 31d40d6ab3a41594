// Package scoreboard is the memory that a worker shares with its supervisor: one sealed memfd per worker process. The worker
// counts in it with plain atomics (writer.go), the supervisor reads it without asking anyone (reader.go), so it works for a
// stopped, spinning or dead worker too. The supervisor treats all that it reads as untrusted: it uses offsets and sizes of its own
// and takes the worker's words only as numbers.
//
//	offset  size               content
//	0       4096               header, see the off constants below
//	4096    Shards × 256       counters, one shard per group of connections, see Counter and Buckets
//	8192    MaxConns × 64      one record per open connection, its first word the start stamp
//	…       MaxLabels × 128    counters by name, interned at first use, see Label
//
// All words are 64 bits in the machine's byte order; all times are nanoseconds of CLOCK_MONOTONIC.
//
// # What a label's name says
//
// A program names values of its own by Writer.Label; the supervisor shows them on /metrics under these names. A name is written as Prometheus
// writes it: name, or name{key="value",key="value"}, with \\, \" and \n escaped in a value. What comes before the brace says what it is:
//
//	X_total                          a counter: only Add, never below 0. The pool's workers are summed, those that are gone too.
//	X_bucket{…,le="0.25"}, X_sum{…}  a histogram X, summed in the same way. Not cumulative: an observation adds 1 to the one bucket with the
//	                                 smallest bound that is not below it (le="+Inf": beyond the last bound). The supervisor adds
//	                                 the buckets up, and makes +Inf and X_count.
//	anything else                    a gauge, Add or Set, of this process alone: it is shown by worker, and ends with it.
//
// A value is a whole number. So what ends in _seconds, _seconds_sum or _seconds_total counts microseconds, and the supervisor divides.
//
// The supervisor adds the labels service, pool and (to gauges) worker; the program's own must not have these names. A program that names
// http_requests_total or http_request_duration_seconds speaks for itself; for all others the supervisor makes both from the counters below. Names
// that begin with supervisor_, process_, go_ or promhttp_, and X_count, are not a worker's to give. What the supervisor cannot use it leaves out and
// counts.
package scoreboard

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Version is the layout's version. A worker that does not know the version it finds runs unscored.
const Version = 1

const magic = 0x31_44_52_42_52_50_55_53 // "SUPRBRD1"

// Sizes of the layout.
const (
	Shards   = 8
	MaxConns = 16384 // connections beyond that are served, but not stamped
	Buckets  = 16    // of the latency histogram, see BucketBound

	headerSize = 4096
	shardSize  = 256
	connSize   = 64
	labelSize  = 128
	labelText  = labelSize - 16 // bytes of a label's name

	// MaxLabels bounds the table of named counters; the last one is "other".
	MaxLabels = 512

	offShards = headerSize
	offConns  = 2 * headerSize
	offLabels = offConns + MaxConns*connSize

	// Size is the memory's size in bytes. It is sparse: pages that nobody touched cost nothing.
	Size = offLabels + MaxLabels*labelSize
)

// Header words: the supervisor's, set before the worker starts.
const (
	offMagic        = 0
	offVersion      = 8
	offTimeout      = 16
	offTimeoutGrace = 24
	offMaxRequests  = 32
	offKeepAlive    = 40
	offOrphan       = 48
	offMaxConns     = 56
)

// Header words: the worker's.
const (
	offJoined    = 1024 // Version once the worker writes here
	offState     = 1032 // State
	offHeartbeat = 1040 // time of the last beat
	offHighWater = 1048 // connection records in use are below this index
	offLabelled  = 1056 // labels in use are below this index
	offTakes     = 1064 // bit i: it adopts connections of its i-th inherited socket
	offCounts    = 1072 // counters that it keeps; 0: of before this word was there, those up to LostLines
)

// BeatInterval is how often a worker beats at least. A few beats missed in a row say that the process stands still. (More of them
// would cost: a process that wakes up for nothing but a beat spends some 100 µs on it.)
const BeatInterval = time.Second

// Settings are what the worker must know of the pool's configuration. Zero means off.
type Settings struct {
	Timeout       time.Duration // from a handler's start to the first byte of its answer
	TimeoutGrace  time.Duration // how long an overdue handler may go on before the worker asks to be replaced
	MaxRequests   uint64        // requests of this process, jitter included
	KeepAlive     time.Duration // how long a connection may be idle
	OrphanTimeout time.Duration // how long to serve on without a supervisor
	MaxConns      uint64        // connections open at once
}

// State is what a worker says of itself.
type State uint64

// States of a worker.
const (
	Starting State = iota
	Serving
	Draining
)

// Counter is one counter of a shard.
type Counter int

// Counters. Requests that run are Started - Finished; connections that are open are Accepted + Adopted - Closed - Moved.
const (
	Started   Counter = iota // requests whose handler began
	Finished                 // requests whose handler ended
	Accepted                 // connections from a listener
	Adopted                  // connections from another process
	Moved                    // connections given to another process
	Closed                   // connections that ended here
	BytesIn                  // bytes read
	BytesOut                 // bytes written
	TimedOut                 // requests that ended by the deadline
	Errors                   // answers with a status from 500
	ForceShut                // connections cut at a drain's deadline
	LostLines                // output lines that nobody could take
	Succeeded                // answers with a status below 500
	Took                     // nanoseconds from the begin to the end of the handlers that ended

	kept     = int(Took) + 1
	counters = 16 // words before the histogram
)

// BucketBound gives the upper bound of a latency bucket: 250 µs × 2^i, the last bucket has none.
func BucketBound(i int) time.Duration { return 250 * time.Microsecond << i }

// memory is the mapped board.
type memory []byte

func (m memory) word(off int) *uint64 { return (*uint64)(unsafe.Pointer(&m[off])) }

func (m memory) load(off int) uint64 { return atomic.LoadUint64(m.word(off)) }

func (m memory) store(off int, v uint64) { atomic.StoreUint64(m.word(off), v) }

func (m memory) counter(shard int, c Counter) *uint64 {
	return m.word(offShards + shard*shardSize + int(c)*8)
}

func (m memory) bucket(shard, i int) *uint64 {
	return m.word(offShards + shard*shardSize + (counters+i)*8)
}

func (m memory) settings() Settings {
	return Settings{
		Timeout:       time.Duration(m.load(offTimeout)),
		TimeoutGrace:  time.Duration(m.load(offTimeoutGrace)),
		MaxRequests:   m.load(offMaxRequests),
		KeepAlive:     time.Duration(m.load(offKeepAlive)),
		OrphanTimeout: time.Duration(m.load(offOrphan)),
		MaxConns:      m.load(offMaxConns),
	}
}

func (m memory) setSettings(s Settings) {
	m.store(offTimeout, uint64(s.Timeout))
	m.store(offTimeoutGrace, uint64(s.TimeoutGrace))
	m.store(offMaxRequests, s.MaxRequests)
	m.store(offKeepAlive, uint64(s.KeepAlive))
	m.store(offOrphan, uint64(s.OrphanTimeout))
	m.store(offMaxConns, s.MaxConns)
}
