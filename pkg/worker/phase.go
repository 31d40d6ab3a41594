package worker

import (
	"bytes"
	"errors"
	"time"

	"supervisor/pkg/scoreboard"
)

// Each connection has one word that says how far its request is, and so who may write. It is changed by compare-and-swap, and its upper
// bits count the requests: the monitor cannot mistake a new request for the one that it looked at.
//
//	state      meaning                                        next
//	idle       no handler runs                                handler (Begin)
//	handler    a handler runs, no byte of its answer is out   reading (Read), answering (Write, NoDeadline), finished (End),
//	                                                          timed out (monitor)
//	reading    the handler waits for the client's bytes       handler, answering, finished; the monitor leaves it alone
//	answering  the answer has begun, or has no deadline       idle (End)
//	finished   the handler has ended, nothing is written yet  idle (Write), handler (Begin: the server holds the answer back)
//	timed out  the monitor has answered: Write fails          dead (End)
//	dead       the same, and the handler has ended            -
//	gone       another worker has the connection              -
const (
	phaseIdle uint64 = iota
	phaseAnswering
	phaseFinished
	phaseHandler
	phaseReading
	phaseTimedOut
	phaseDead
	phaseGone

	phaseMask = 7
	phaseStep = 8
)

// overdue stands for the status of an answer that the monitor has counted.
const overdue = -1

var (
	errOverdue = errors.New("worker: the request took too long and was answered with 504")
	errGone    = errors.New("worker: the connection was moved")
)

// Begin says that the handler of a request starts, at the time given by Worker.Now or Worker.At.
func (c *Conn) Begin(now int64) {
	c.served++
	c.start = now
	c.began.Store(now)
	c.sc.Begin(now)
	c.phase.Store(c.phase.Load()&^phaseMask + phaseStep + phaseHandler)
}

// End says that the handler has ended. status is that of its answer, 0 when the adapter does not know: then the first line that is
// written tells.
func (c *Conn) End(now int64, status int) {
	for {
		word := c.phase.Load()
		next := word &^ phaseMask
		switch word & phaseMask {
		case phaseHandler, phaseReading:
			next += phaseFinished
		case phaseTimedOut:
			next += phaseDead
			status = overdue
		}
		if c.phase.CompareAndSwap(word, next) {
			break
		}
	}
	switch {
	case status >= 500:
		c.sc.Add(scoreboard.Errors, 1)
	case status > 0, status == 0 && c.fixed: // of a status that nobody sees we think well
		c.sc.Add(scoreboard.Succeeded, 1)
	}
	c.finished(time.Duration(now - c.start))
	if c.closed.Load() {
		c.release()
	}
}

// running reports whether a handler runs.
func (c *Conn) running() bool {
	switch c.phase.Load() & phaseMask {
	case phaseHandler, phaseReading, phaseAnswering, phaseTimedOut:
		return true
	}
	return false
}

// claim asks for the right to write p, the start of which is the answer's first line if nothing was written before. It ends the
// deadline, except for an interim answer (100, 103): after writing that, resume takes the word to go back to.
func (c *Conn) claim(p []byte) (resume uint64, err error) {
	for {
		word := c.phase.Load()
		answering := word&^phaseMask + phaseAnswering
		switch word & phaseMask {
		case phaseIdle, phaseAnswering:
			return 0, nil
		case phaseFinished:
			if c.phase.CompareAndSwap(word, word&^phaseMask+phaseIdle) {
				c.status(p)
				return 0, nil
			}
		case phaseHandler, phaseReading:
			if !c.phase.CompareAndSwap(word, answering) {
				continue
			}
			if interim(p) {
				return word, nil
			}
			c.sc.SetStarted(0)
			c.status(p)
			return 0, nil
		case phaseGone:
			return 0, errGone
		default:
			return 0, errOverdue
		}
	}
}

// resume takes back the claim for an interim answer.
func (c *Conn) resume(word uint64) {
	c.phase.CompareAndSwap(word&^phaseMask+phaseAnswering, word)
}

// interim reports whether p is a whole interim answer and nothing more.
func interim(p []byte) bool {
	return bytes.HasPrefix(p, []byte("HTTP/1.1 1")) && !bytes.HasPrefix(p, []byte("HTTP/1.1 101")) &&
		bytes.Index(p, []byte("\r\n\r\n")) == len(p)-4
}

// status counts an answer by its first line, for servers whose adapter does not see the status.
func (c *Conn) status(p []byte) {
	if c.gate.server == nil || !c.gate.server.nethttp || c.fixed || len(p) < len("HTTP/1.1 500") || p[0] != 'H' {
		return
	}
	if p[9] == '5' {
		c.sc.Add(scoreboard.Errors, 1)
	} else {
		c.sc.Add(scoreboard.Succeeded, 1)
	}
}

// pause stops the clock of a running handler while it waits for the client's bytes. It gives what proceed needs: the word before and
// the time, or 0 when there was no clock to stop.
func (c *Conn) pause() (word uint64, from int64) {
	word = c.phase.Load()
	if word&phaseMask != phaseHandler || !c.phase.CompareAndSwap(word, word&^phaseMask+phaseReading) {
		return 0, 0
	}
	c.sc.SetStarted(0)
	return word, c.w.Now()
}

// proceed lets the clock run on.
func (c *Conn) proceed(word uint64, from int64) {
	if word == 0 {
		return
	}
	c.sc.SetStarted(c.began.Add(c.w.Now() - from))
	if !c.phase.CompareAndSwap(word&^phaseMask+phaseReading, word) {
		c.sc.SetStarted(0) // the answer has begun meanwhile
	}
}

// Overdue reports whether the monitor has answered the running request, whose handler writes in vain.
func (c *Conn) Overdue() bool { return c.phase.Load()&phaseMask == phaseTimedOut }

// NoDeadline ends the deadline of the running request.
func (c *Conn) NoDeadline() {
	for {
		word := c.phase.Load()
		switch word & phaseMask {
		case phaseHandler, phaseReading:
			if !c.phase.CompareAndSwap(word, word&^phaseMask+phaseAnswering) {
				continue
			}
			c.sc.SetStarted(0)
		}
		return
	}
}

// Extend gives the running request that much more time.
func (c *Conn) Extend(d time.Duration) {
	switch c.phase.Load() & phaseMask {
	case phaseHandler:
		c.sc.SetStarted(c.began.Add(int64(d)))
	case phaseReading:
		c.began.Add(int64(d))
	}
}

// finished counts a handler that has ended, and looks at max_requests.
func (c *Conn) finished(took time.Duration) {
	shard := c.sc.Shard()
	if n := c.sc.End(took); n >= c.w.limits[shard].next.Load() {
		c.w.overLimit(shard, n)
	}
}
