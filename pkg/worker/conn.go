package worker

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// Conn is a connection that this worker serves. It counts, knows when it stands between two requests (boundary.go), and lets only one
// side write the answer of an overdue request (phase.go). Servers use it as a net.Conn; its other methods are for their adapters.
type Conn struct {
	// Set once.
	w      *Worker
	gate   *gate
	raw    net.Conn // TCP or unix
	remote net.Addr
	sc     *scoreboard.Conn

	// Used by the serving goroutine only (and by those that read for it, one after the other).
	fresh     bool          // no byte was read since the connection came, or since the last answer
	virgin    bool          // no byte was read at all
	fixed     bool          // cannot move: TLS, HTTP/2, a foreign protocol, hijacked
	dirty     bool          // the server may hold back answers of earlier requests
	shortened bool          // the read deadline is ours
	askAgain  int64         // not offered before that time of the board
	deadlines int           // read deadlines set since the last answer
	wish      time.Time     // the read deadline that the server wants
	moved     bool          // came from another process with requests served, and its first byte is still to come
	readFor   time.Duration // moved: the server's own patience once that byte is there
	since     time.Time     // moved: when it came
	stale     time.Duration // how much too early the server's next read deadline is
	served    uint64        // requests, here and before
	start     int64         // of the running handler

	// Shared and safe.
	used     atomic.Bool   // it has served a request, here or before
	lame     atomic.Bool   // the next answer is the last one
	offered  atomic.Bool   // nobody took it, but the message may still be in the queue
	wait     atomic.Uint32 // see boundary.go
	pokeMu   sync.Mutex    // held while a poke sets the deadline
	phase    atomic.Uint64 // see phase.go
	began    atomic.Int64  // start of the running handler, moved on by waits for the client and by Extend
	hijacked atomic.Bool
	multi    atomic.Bool // HTTP/2: many requests at once, nobody stands between two
	closed   atomic.Bool
	released atomic.Bool // the scoreboard record was given back

	prev, next *Conn // guarded by registry.mu
}

// wrap makes the Conn of a new connection.
func (g *gate) wrap(raw net.Conn, m protocol.Move, how scoreboard.Counter) *Conn {
	w := g.w
	c := &Conn{
		w: w, gate: g, raw: raw, remote: raw.RemoteAddr(), sc: w.board.Open(),
		fresh: g.server != nil, virgin: true, fixed: g.server == nil,
		moved: m.Served > 0, served: m.Served,
	}
	if addr, err := netip.ParseAddrPort(m.Remote); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addr)
	}
	if c.moved {
		c.used.Store(true)
		c.since = time.Now()
		c.SetReadDeadline(time.Time{})
	}
	w.open.Add(1)
	w.registry.add(c)
	c.sc.Add(how, 1)
	return c
}

// Read reads. Between two requests it is also where a connection moves or ends in a drain.
func (c *Conn) Read(p []byte) (int, error) {
	if c.fresh && c.atBoundary(len(p)) {
		return c.await(p)
	}
	var word uint64
	var from int64
	switch c.phase.Load() & phaseMask {
	case phaseHandler:
		if c.waitsHere(len(p)) {
			word, from = c.pause()
		}
	case phaseTimedOut, phaseDead, phaseGone:
		return 0, io.EOF
	}
	n, err := c.raw.Read(p)
	c.arrived(n)
	c.proceed(word, from)
	return n, err
}

// waitsHere reports whether a Read of n bytes during a handler is the handler's own, so that its clock must stand still. net/http also reads
// one byte in the background: that is nobody's wait. Under TLS both look alike, see timedBody.
func (c *Conn) waitsHere(n int) bool {
	s := c.gate.server
	return s != nil && (!s.nethttp || n > 1 && !c.fixed)
}

// arrived accounts for bytes that were read.
func (c *Conn) arrived(n int) {
	if n > 0 {
		c.fresh, c.virgin = false, false
		c.sc.Add(scoreboard.BytesIn, uint64(n))
	}
}

// Write writes, unless the request's time is over.
func (c *Conn) Write(p []byte) (int, error) {
	resume, err := c.claim(p)
	if err == errGone {
		return len(p), nil
	} else if err != nil {
		return 0, err
	}
	n, err := c.raw.Write(p)
	c.departed(n, resume)
	return n, err
}

// ReadFrom lets a server send a file without copying it.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	raw, ok := c.raw.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	resume, err := c.claim(nil)
	if err == errGone {
		return io.Copy(io.Discard, r)
	} else if err != nil {
		return 0, err
	}
	n, err := raw.ReadFrom(r)
	c.departed(int(n), resume)
	return n, err
}

// departed accounts for bytes that were written.
func (c *Conn) departed(n int, resume uint64) {
	c.dirty = false
	if n > 0 {
		c.sc.Add(scoreboard.BytesOut, uint64(n))
	}
	if resume != 0 {
		c.resume(resume)
	}
}

// LocalAddr gives the server's address.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr gives the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the read deadline. While a moved connection has not sent its first byte the server's deadline for a new
// connection's first byte is replaced by the one for an idle connection, which this one is; net/http also takes the time for the
// whole first request before it waits, so that one is moved on by the wait.
func (c *Conn) SetReadDeadline(t time.Time) error {
	switch c.phase.Load() & phaseMask {
	case phaseTimedOut, phaseDead, phaseGone:
		return nil
	}
	c.deadlines++
	if c.moved && c.virgin {
		c.readFor = 0
		if !t.IsZero() {
			c.readFor = time.Until(t)
		}
		t = time.Time{}
		if c.gate.server.Idle > 0 {
			t = time.Now().Add(c.gate.server.Idle)
		}
	}
	if c.stale > 0 {
		if !t.IsZero() {
			t = t.Add(c.stale)
		}
		c.stale = 0
	}
	c.wish = t
	return c.raw.SetReadDeadline(t)
}

// SetWriteDeadline sets the write deadline.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	switch c.phase.Load() & phaseMask {
	case phaseTimedOut, phaseDead, phaseGone:
		return nil
	}
	return c.raw.SetWriteDeadline(t)
}

// SetKeepAlive and SetKeepAlivePeriod are what fasthttp's TCPKeepalive calls.
func (c *Conn) SetKeepAlive(on bool) error {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		return tcp.SetKeepAlive(on)
	}
	return nil
}

// SetKeepAlivePeriod sets the time between keep-alive probes.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		return tcp.SetKeepAlivePeriod(d)
	}
	return nil
}
