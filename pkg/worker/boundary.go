package worker

import (
	"errors"
	"io"
	"os"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// A connection stands at a request boundary in a Read that is the server's wait for the next request, with nothing of that request
// in the server's own buffers. Only there it can move, or end without harm.
//
// How a Read is known to be one (servers do not say so themselves):
//
//	fresh       no byte was read since the connection came, or since the adapter said Idle; Active ends it
//	deadlines   net/http sets one read deadline between StateIdle and that wait, and a second one before it goes on to parse: the
//	            rest of a request whose first line was pipelined is asked for after the second
//	size        net/http waits with Peek(4) on a buffer of netHTTPBuffer bytes: when the one byte of its background Read or 1..3
//	            pipelined bytes are already there, the Read is for less than the whole buffer
//
// fasthttp looks into its buffer before it reads, so there fresh says it all (with ReduceMemoryUsage it waits with one byte).
//
// A drain finds waiting connections by c.wait and wakes them with a deadline in the past. Reader and drain cannot miss each other:
// the reader first says waiting and then looks at the mode, the drain first sets the mode and then looks for waiting.
const (
	notWaiting uint32 = iota
	waiting           // in a Read at a boundary
	poked             // the same, and the read deadline was overwritten
)

// maxOffers bounds the connections that this process offers at once. The adopt queue holds 278 messages; other workers of the
// pool may be draining, too.
const maxOffers = 64

// hopelessTime is how long nobody is asked after an offer that nobody took in time: else a pool without takers would hold up each
// connection's next request for a turn in a queue. A connection that was offered in vain and is still idle then is offered again.
const hopelessTime = time.Second

// unwantedTime is how long a drain must have found no taker at all before answers say Connection: close. A pool that is short of CPU may
// miss many receipts and still take most connections; a pool in which nobody takes connections lets them go a little later.
const unwantedTime = 3 * time.Second

// A full queue is asked again while the client sends nothing: takers empty it in milliseconds.
const (
	fullPause = 5 * time.Millisecond
	fullTries = 50
)

// LingerTime is how long an idle connection stays open after a drain close began (or after it was accepted in one): the client may
// have sent a request that it would lose otherwise. A request that comes is answered with Connection: close.
const LingerTime = time.Second

// atBoundary reports whether a Read of n bytes is one at a request boundary. fresh holds.
func (c *Conn) atBoundary(n int) bool {
	return c.virgin || c.fixed || (c.deadlines <= 1 && n >= c.gate.server.buffer)
}

// await is the Read at a boundary.
func (c *Conn) await(p []byte) (int, error) {
	if c.phase.Load()&phaseMask == phaseGone {
		return 0, io.EOF
	}
	c.dirty = false
	if c.served > 0 && !c.used.Load() {
		c.used.Store(true)
	}
	for {
		c.wait.Store(waiting)
		switch c.w.mode.Load() {
		case serving:
			if c.mayGive() {
				if c.leaveWait(); c.offer(serving) {
					return 0, io.EOF
				}
				c.askAgain = c.w.Now() + int64(hopelessTime)
				continue
			}
		case moving:
			if now := c.w.Now(); now >= c.askAgain {
				if c.leaveWait(); c.offer(moving) {
					return 0, io.EOF
				}
				if now >= c.w.announce.Load() {
					c.lame.Store(true)
				}
				c.askAgain = c.w.Now() + int64(hopelessTime)
				c.shorten(hopelessTime)
				continue
			}
		case closing:
			if !c.shortened {
				c.leaveWait()
				c.shorten(LingerTime)
				continue
			}
		}
		n, err := c.raw.Read(p)
		if c.leaveWait() && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue // the mode has changed
		}
		if n == 0 && c.shortened && errors.Is(err, os.ErrDeadlineExceeded) {
			switch {
			case c.w.mode.Load() != closing, unread(c.raw) > 0:
				if c.restore(); c.wish.IsZero() || time.Now().Before(c.wish) {
					continue // to be offered again, or because the drain was taken back, or to read
				}
			default:
				return 0, io.EOF
			}
		}
		if n > 0 {
			c.firstByte(p[:n])
		} else if c.moved && errors.Is(err, os.ErrDeadlineExceeded) {
			err = io.EOF // an idle connection's end; fasthttp would answer 408 to a new one's
		}
		c.arrived(n)
		return n, err
	}
}

// leaveWait ends a wait and reports whether it was poked; then the deadline is the server's again.
func (c *Conn) leaveWait() bool {
	if c.wait.CompareAndSwap(waiting, notWaiting) {
		return false
	}
	c.pokeMu.Lock() // the poke may still be at work
	defer c.pokeMu.Unlock()
	c.wait.Store(notWaiting)
	c.restore()
	return true
}

// poke wakes the connection if it waits at a boundary, and reports whether it did.
func (c *Conn) poke() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if c.wait.CompareAndSwap(waiting, poked) {
		c.raw.SetReadDeadline(time.Unix(1, 0))
		return true
	}
	return false
}

// restore gives the server its deadline back.
func (c *Conn) restore() {
	c.shortened = false
	c.raw.SetReadDeadline(c.wish)
}

// shorten sets a deadline of ours for the wait, if the server's is not earlier anyway.
func (c *Conn) shorten(d time.Duration) {
	c.shortened = true
	until := time.Now().Add(d)
	if !c.wish.IsZero() && c.wish.Before(until) {
		until = c.wish
	}
	c.raw.SetReadDeadline(until)
}

// firstByte puts the deadlines right when a request begins.
func (c *Conn) firstByte(p []byte) {
	if c.shortened {
		c.restore()
	}
	if c.virgin {
		if c.moved {
			c.moved = false
			c.wish = time.Time{}
			if c.readFor > 0 {
				c.wish = time.Now().Add(c.readFor)
			}
			c.raw.SetReadDeadline(c.wish)
			if c.gate.server.nethttp {
				c.stale = time.Since(c.since)
			}
		}
		if len(p) >= 3 && string(p[:3]) == "PRI" { // HTTP/2 has no boundaries
			c.fixed = true
			c.multi.Store(true)
		}
	}
}

// offer tries to hand the connection to another worker while the mode is the given one, and reports whether it is gone.
func (c *Conn) offer(mode int32) bool {
	w := c.w
	if c.gate.adopt.tx == nil || c.fixed && !c.virgin || w.Now() < w.hopeless.Load() {
		return false
	}
	w.offers <- struct{}{}
	defer func() { <-w.offers }()
	if w.mode.Load() != mode || w.Now() < w.hopeless.Load() {
		return false
	}
	m := protocol.Move{Bind: c.gate.name, Served: c.served}
	if c.remote != nil && c.raw.RemoteAddr() != nil && c.remote.String() != c.raw.RemoteAddr().String() {
		m.Remote = c.remote.String()
	}
	asked := w.Now()
	err := giveMove(c.gate.adopt.tx, c.raw, m)
	for i := 0; i < fullTries && errors.Is(err, errQueueFull) && unread(c.raw) == 0; i++ {
		time.Sleep(fullPause) // many drain at once
		err = giveMove(c.gate.adopt.tx, c.raw, m)
	}
	if err != nil {
		c.offered.Store(true)
		if now := w.Now(); now-asked >= int64(protocol.ReceiptTimeout) {
			w.hopeless.Store(now + int64(hopelessTime))
		}
		return false
	}
	c.phase.Store(phaseGone)
	c.sc.Add(scoreboard.Moved, 1)
	w.wanted()
	return true
}

// wanted notes that somebody takes connections, or, at the beginning of a drain, may do so.
func (w *Worker) wanted() { w.announce.Store(min(w.Now()+int64(unwantedTime), w.lastCall.Load())) }

// Active says that the server has read a request's first bytes.
func (c *Conn) Active() {
	if !c.virgin && !c.multi.Load() { // fasthttp says so before the first byte of the first request
		c.fresh = false
	}
}

// Idle says that an answer is complete and the server goes on to the next request.
func (c *Conn) Idle() {
	if c.hijacked.Load() || c.multi.Load() {
		return
	}
	c.fresh, c.deadlines, c.dirty = true, 0, c.gate.server != nil && c.gate.server.Holds
}

// Hijacked says that the program has taken the connection out of the server's hands. It is counted, and cut at a drain's
// deadline; nothing else happens to it.
func (c *Conn) Hijacked() {
	c.hijacked.Store(true)
	c.NoDeadline()
}

// Last reports whether the answer that is being made must say Connection: close.
func (c *Conn) Last() bool {
	switch c.w.mode.Load() {
	case serving:
		return c.lame.Load() || c.w.lame.Load()
	case moving:
		return c.lame.Load() || c.fixed
	}
	return true
}
