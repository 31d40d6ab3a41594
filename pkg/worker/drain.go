package worker

import (
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// StopTimeout is the deadline of a drain that came without one (a TERM, or a supervisor that is gone), unless StopWithin changed it.
const StopTimeout = 30 * time.Second

// StopWithin sets the deadline of drains that come without one, instead of StopTimeout. Where there is a supervisor its own commands
// say by when.
func (w *Worker) StopWithin(d time.Duration) { w.stopWithin.Store(int64(d)) }

// Deadline tells by when this worker has to be gone: what is left then is cut, and a supervisor kills. It is the zero time while no drain
// is on. Run's context ends after it is known.
func (w *Worker) Deadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

// hasUntil notes the deadline of a drain that begins, or of another command in it, and gives what is left: a second command never gives
// more time, for who sent the first still counts. Only the loop calls it.
func (w *Worker) hasUntil(within time.Duration) (left time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if until := time.Now().Add(within); w.until.IsZero() || until.Before(w.until) {
		w.until = until
	}
	return time.Until(w.until)
}

// drain begins to stop, or changes how this worker stops. Whoever has ended stays so: a command that comes then is too late, and a gate
// that has not seen the end yet must not let anybody in. Only the loop calls it.
func (w *Worker) drain(how string) {
	mode := moving
	if how == protocol.DrainClose {
		mode = closing
	}
	w.mu.Lock()
	if w.mode.Load() == ended {
		w.mu.Unlock()
		return
	}
	first := w.mode.Load() == serving
	w.mode.Store(mode)
	if first {
		close(w.draining)
	}
	for _, g := range w.gates {
		g.swept, g.sweepTill = false, time.Time{}
		if mode == closing && g.socket.ours {
			closeQueue(g.socket.Listener)
		}
		if g.accepting && !g.closed {
			g.wake()
		}
	}
	w.turn.Broadcast()
	w.mu.Unlock()

	if first {
		w.board.SetState(scoreboard.Draining)
		w.notify.send("STOPPING=1")
	}
	w.registry.each(func(c *Conn) { c.poke() })
	w.tellSettled()
}

// undrain takes a drain back. Connections that moved are gone; those that were told Connection: close will close. Only the loop
// calls it.
func (w *Worker) undrain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mode := w.mode.Load(); mode == serving || mode == ended {
		w.lame.Store(false)
		return
	}
	w.mode.Store(serving)
	w.lame.Store(false)
	w.until = time.Time{}
	w.draining = make(chan struct{})
	w.board.SetState(scoreboard.Serving)
	w.turn.Broadcast()
}

// adopt says whether to take connections of others. Only the loop calls it.
func (w *Worker) adopt(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.adopting = on
	for _, g := range w.gates {
		if g.isAdopt && g.accepting && !on {
			g.wake()
		}
	}
	w.turn.Broadcast()
}

// tellSettled makes the loop look whether a drain is complete.
func (w *Worker) tellSettled() {
	select {
	case w.settled <- struct{}{}:
	default: // it will look anyway
	}
}

// isSettled reports whether a drain is complete: nobody is let in, nobody is left.
func (w *Worker) isSettled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mode.Load() == serving {
		return false
	}
	for _, g := range w.gates {
		if g.accepting && !g.closed && !g.parked { // it may have a connection in its hands
			return false
		}
	}
	return w.open.Load() == 0 && w.busy.Load() == 0
}

// finish ends the process's service: what is still open is cut and counted, then every Serve returns. Only the loop calls it.
func (w *Worker) finish() {
	w.mu.Lock()
	if w.mode.Swap(ended) == ended {
		w.mu.Unlock()
		return
	}
	select {
	case <-w.draining:
	default:
		close(w.draining) // a quick stop comes without a drain
	}
	for _, g := range w.gates {
		if g.accepting && !g.closed {
			g.wake()
		}
	}
	w.turn.Broadcast()
	w.mu.Unlock()
	w.registry.each(func(c *Conn) {
		c.sc.Add(scoreboard.ForceShut, 1)
		c.hangUp()
		c.raw.Close()
	})
	close(w.end) // last: main may exit now
}
