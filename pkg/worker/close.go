package worker

import (
	"errors"
	"io"
	"time"

	"supervisor/pkg/scoreboard"
)

// How a connection ends here: closed for good, lingering so that its last answer is read, or only our descriptor of one that another
// worker serves.

// CloseWrite says that nothing more will be written.
func (c *Conn) CloseWrite() error {
	if s := c.phase.Load() & phaseMask; s == phaseGone {
		return nil
	}
	if raw, ok := c.raw.(interface{ CloseWrite() error }); ok {
		return raw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close ends the connection here: for good, or only our descriptor when another worker has it.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return c.raw.Close()
	}
	defer c.leave()
	if c.phase.Load()&phaseMask == phaseGone {
		return c.raw.Close()
	}
	c.sc.Add(scoreboard.Closed, 1)
	if c.w.mode.Load() != serving && unread(c.raw) > 0 {
		c.lingerClose() // a plain close would reset the connection, and could take the last answer with it
		return nil
	}
	c.hangUp()
	return c.raw.Close()
}

// hangUp sends FIN for a connection that was offered in vain: the message may still lie in the adopt queue and keep the socket open.
func (c *Conn) hangUp() {
	if c.offered.Load() {
		if raw, ok := c.raw.(interface {
			CloseRead() error
			CloseWrite() error
		}); ok {
			raw.CloseWrite()
			raw.CloseRead()
		}
	}
}

// leave takes the connection off all lists.
func (c *Conn) leave() {
	c.w.registry.remove(c)
	if !c.running() {
		c.release() // else End does
	}
	left := c.w.open.Add(-1)
	if c.w.settings.MaxConns > 0 {
		c.w.mu.Lock()
		c.w.turn.Broadcast()
		c.w.mu.Unlock()
	}
	if left == 0 {
		c.w.tellSettled()
	}
}

// release gives the scoreboard record back once the connection is closed and no handler of it runs.
func (c *Conn) release() {
	if c.released.CompareAndSwap(false, true) {
		c.w.board.Release(c.sc)
	}
}

// lingerTime is how long a connection whose last answer is out waits for the client to read it and to hang up.
const lingerTime = 500 * time.Millisecond

// lingerClose sends FIN, throws away what the client still sends, and closes when it hangs up, or after lingerTime. The process
// does not end meanwhile.
func (c *Conn) lingerClose() {
	raw := c.raw
	if half, ok := raw.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	c.w.busy.Add(1)
	timer := time.AfterFunc(lingerTime, func() { raw.Close() })
	go func() {
		io.Copy(io.Discard, struct{ io.Reader }{raw})
		timer.Stop()
		c.hangUp()
		raw.Close()
		c.w.busy.Add(-1)
		c.w.tellSettled()
	}()
}
