// Package accesslog writes a line per request of a fasthttp server, off the path of the request: the goroutine of a request fills a record in a
// bounded ring and goes on, one other goroutine makes lines of the records and writes them. Nothing that the reader of the lines does, or fails to
// do, holds up a request. Where the ring is full (the reader is slow, the disk is full) lines are lost, and each is counted:
//
//	requests that the sample has = lines written + lines lost
//
// holds exactly after Close. What a kill -9 finds in the ring is lost uncounted: the lines of some 20 ms.
//
//	access, err := accesslog.Open(accesslog.Options{Format: accesslog.JSON})
//	server := &fasthttp.Server{Handler: access.Handler(handler)}
//	…
//	access.Close(time.Second)
//
// A line is at most 4 KiB of printable ASCII: what clients send is escaped, cut, and the values of queries that look like secrets (token=,
// password=) are masked. Of headers only Referer and User-Agent are in it, never Authorization or Cookie. Lines are written whole: to a pipe in pieces that
// the kernel does not mix with those of other processes, to a file with O_APPEND.
//
// Where to change what: ring.go records on their way; record.go what is in one; writer.go the other goroutine; output*.go where lines go;
// format.go combined and JSON; mask.go secrets.
package accesslog

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tracecontext"
)

// Format of the lines.
type Format int

// Formats. Combined is Apache's and nginx's, with rt= (seconds), id=, trace=, worker= and gen= behind it.
const (
	JSON Format = iota
	Combined
)

// Options of a log. The zero value writes JSON to stdout.
type Options struct {
	Format Format
	Path   string  // of a file that lines are appended to; "" or "-": stdout
	Sample float64 // the share of requests that is logged, at random, from 0 to 1; those with a status from 500 always are. See All
	// Remote gives the client's address, the zero Addr of one that has none; nil: the peer's.
	Remote func(*fasthttp.RequestCtx) netip.Addr

	Worker     string // in each line; "": none
	Generation int    // in each line with a Worker

	Lost    Counter     // of lines; nil: Log.Stats only
	Problem func(error) // told when a file cannot be opened again; nil: nobody
}

// All is the Sample with which nothing is left out.
const All = 1.0

// Counter counts, for example a label of worker.Worker.
type Counter interface{ Add(delta int64) }

// Log is an access log. A nil Log writes nothing.
type Log struct {
	// Set once.
	options Options
	sample  uint64 // of 1<<32
	ring    *ring

	wake    chan struct{} // a record came while the writer slept
	urgent  chan struct{} // the ring is half full
	reopens chan struct{}
	closing chan struct{} // Close was called
	closed  chan struct{} // the writer has returned

	// Shared and safe.
	asleep        atomic.Bool // the writer waits for wake
	deadline      atomic.Int64
	written, lost atomic.Uint64
}

// Open opens the log and starts its writer.
func Open(o Options) (*Log, error) {
	if !(o.Sample >= 0 && o.Sample <= 1) {
		return nil, fmt.Errorf("access log: a sample of %v: want 0 to 1", o.Sample)
	}
	out, err := openOutput(o.Path)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return start(o, out), nil
}

func start(o Options, out *output) *Log {
	l := &Log{
		options: o, sample: uint64(math.Round(o.Sample * (1 << 32))), ring: newRing(ringSize),
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), reopens: make(chan struct{}, 1),
		closing: make(chan struct{}), closed: make(chan struct{}),
	}
	if l.options.Remote == nil {
		l.options.Remote = peer
	}
	w := &writer{log: l, out: out, format: newFormatter(o)}
	l.asleep.Store(true)
	go w.run()
	return l
}

// Entry is what a request's line has that the log cannot see itself.
type Entry struct {
	Status int
	At     time.Time     // when it ended
	Took   time.Duration // from its first byte to that, or from whenever the server counts
	ID     []byte        // of the request; it is copied
	Trace  tracecontext.TraceID
	Unread bool // it could not be read: method, path and headers are not to be trusted
}

// Log takes a request's line. Call it after the handler, before the answer leaves. It never blocks and allocates nothing.
func (l *Log) Log(ctx *fasthttp.RequestCtx, e *Entry) {
	if l == nil || e.Status < 500 && l.sample != 1<<32 && uint64(rand.Uint32()) >= l.sample {
		return
	}
	remote := l.options.Remote(ctx) // before there is a slot: who has one and panics would stop the ring
	s, at := l.ring.reserve()
	if s == nil {
		l.lose(1)
		return
	}
	s.fill(ctx, e, remote)
	s.publish(at)
	if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
		signal(l.wake)
	}
	if l.ring.pressing(at) {
		signal(l.urgent)
	}
}

// Handler logs what a handler answers. Its requests' ids are those of X-Request-ID.
func (l *Log) Handler(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		next(ctx)
		now := time.Now()
		l.Log(ctx, &Entry{Status: ctx.Response.StatusCode(), At: now, Took: now.Sub(ctx.Time()), ID: ctx.Request.Header.Peek("X-Request-ID")})
	}
}

// Stats gives how many lines were written, and how many were lost.
func (l *Log) Stats() (written, lost uint64) {
	if l == nil {
		return 0, 0
	}
	return l.written.Load(), l.lost.Load()
}

// Reopen opens the file anew, after it was moved away. Lines before and after go whole into one or the other.
func (l *Log) Reopen() {
	if l != nil {
		signal(l.reopens)
	}
}

// Close writes what is in the ring, and counts as lost what nobody takes within patience. Requests after that are counted as lost.
func (l *Log) Close(patience time.Duration) {
	if l == nil || !l.deadline.CompareAndSwap(0, time.Now().Add(patience).UnixNano()) {
		return
	}
	close(l.closing)
	select {
	case <-l.closed:
	case <-time.After(patience + time.Second): // a write that cannot be interrupted
	}
}

func (l *Log) lose(lines int) {
	if lines <= 0 {
		return
	}
	l.lost.Add(uint64(lines))
	if l.options.Lost != nil {
		l.options.Lost.Add(int64(lines))
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
