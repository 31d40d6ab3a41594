package worker

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

const (
	minTick = 50 * time.Millisecond
	maxTick = scoreboard.BeatInterval

	// A slow database makes every request overdue: one line about them in so long.
	overdueQuiet = 5 * time.Second
)

// stuck is a request that the monitor answered and whose handler had not ended when it last looked.
type stuck struct {
	c    *Conn
	word uint64
	at   int64 // when the monitor answered
}

// monitor beats for the process, and ends requests that take too long.
func (w *Worker) monitor() {
	tick := maxTick
	if t := w.settings.Timeout; t > 0 {
		tick = min(max(t/4, minTick), maxTick)
	}
	watchdog := w.inherited.watchdog > 0 && w.inherited.board == nil
	if watchdog {
		tick = min(tick, max(w.inherited.watchdog/2, minTick))
	}
	var hung []stuck
	said := time.Now().Add(-overdueQuiet)
	for range time.Tick(tick) {
		w.board.Beat()
		if watchdog {
			w.notify.send("WATCHDOG=1")
		}
		if w.Draining() {
			w.mu.Lock()
			w.turn.Broadcast() // a sweep that waits for room must end in time
			w.mu.Unlock()
		}
		if w.settings.Timeout > 0 {
			hung = w.overdue(hung)
			if w.late > 0 && time.Since(said) >= overdueQuiet {
				noun := "requests"
				if w.late == 1 {
					noun = "request"
				}
				complain("%d %s had no answer within %v and got a 504", w.late, noun, w.settings.Timeout)
				w.late, said = 0, time.Now()
			}
		}
	}
}

// overdue answers requests whose time is over, and keeps the list of those whose handlers still run.
func (w *Worker) overdue(hung []stuck) []stuck {
	now := w.Now()
	if w.board.Total(scoreboard.Finished) != w.board.Total(scoreboard.Started) {
		var late []stuck
		w.registry.each(func(c *Conn) {
			word := c.phase.Load() // before began: a later request makes the swap fail
			if word&phaseMask == phaseHandler && now-c.began.Load() > int64(w.settings.Timeout) {
				late = append(late, stuck{c, word&^phaseMask + phaseTimedOut, now})
			}
		})
		for _, s := range late {
			if s.c.phase.CompareAndSwap(s.word&^phaseMask+phaseHandler, s.word) {
				s.c.timeOut()
				w.late++
				hung = append(hung, s)
			}
		}
	}
	kept := hung[:0]
	for _, s := range hung {
		if s.c.phase.Load() != s.word {
			continue // the handler has ended
		}
		kept = append(kept, s)
		if now-s.at > int64(w.settings.TimeoutGrace) && w.dumped.CompareAndSwap(false, true) {
			complain("a handler still runs %v after its deadline; goroutines follow", w.settings.TimeoutGrace)
			dump(os.Stderr)
			w.recycle(protocol.RecycleTimeout)
		}
	}
	clear(hung[len(kept):])
	return kept
}

// answer504 is the whole answer to an overdue request.
const answer504 = "HTTP/1.1 504 Gateway Timeout\r\n" +
	"Content-Type: application/json\r\n" +
	"Content-Length: 54\r\n" +
	"Connection: close\r\n\r\n" +
	`{"error":"the server did not finish this in its time"}`

// timeOut answers for the handler, which cannot write any more, and closes. When earlier answers wait in the server's buffer
// the client would take ours for the first of them: then it gets none.
func (c *Conn) timeOut() {
	c.sc.SetStarted(0)
	c.sc.Add(scoreboard.TimedOut, 1)
	if !c.dirty && !c.fixed {
		c.raw.SetWriteDeadline(time.Now().Add(lingerTime))
		n, _ := io.WriteString(c.raw, answer504)
		c.sc.Add(scoreboard.BytesOut, uint64(n))
		c.sc.Add(scoreboard.Errors, 1)
	}
	c.lingerClose()
}

const (
	maxDump       = 1 << 20 // bytes
	maxDumpSingle = 2000    // goroutines; more are shown by place and number
)

// dump writes the stacks of all goroutines.
func dump(out io.Writer) {
	if runtime.NumGoroutine() > maxDumpSingle {
		var text bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&text, 1)
		out.Write(text.Bytes()[:min(text.Len(), maxDump)])
		return
	}
	text := make([]byte, maxDump)
	out.Write(text[:runtime.Stack(text, true)])
}
