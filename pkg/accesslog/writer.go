package accesslog

import (
	"bytes"
	"time"
)

// gather is how long records are gathered before they are written: a busy server wakes the writer 50 times a second, not at each request.
const gather = 20 * time.Millisecond

// writer makes lines of records. All of it belongs to its one goroutine.
type writer struct {
	log    *Log
	out    *output
	format *formatter
	lines  []byte // made, and not yet written
}

func (w *writer) run() {
	defer close(w.log.closed)
	pause := time.NewTimer(gather)
	for {
		select {
		case <-w.log.wake:
			pause.Reset(gather)
			select {
			case <-pause.C:
			case <-w.log.urgent:
			case <-w.log.closing:
			}
			w.log.asleep.Store(true) // before the look: what comes after it wakes us again
			w.drain()
		case <-w.log.reopens:
			w.drain()
			if err := w.out.reopen(); err != nil && w.log.options.Problem != nil {
				w.log.options.Problem(err)
			}
		case <-w.log.closing:
			w.log.ring.close()
			for !w.log.ring.drained() {
				w.drain()
			}
			w.drain()
			w.out.close()
			return
		}
	}
}

// drain writes all that is in the ring.
func (w *writer) drain() {
	for r := w.log.ring.next(); r != nil; r = w.log.ring.next() {
		before := len(w.lines)
		w.lines = w.format.append(w.lines, r)
		w.log.ring.release()
		if len(w.lines) > w.out.chunk { // what was made before goes in one write, this line begins the next
			w.write(w.lines[:before])
			w.lines = append(w.lines[:0], w.lines[before:]...)
		}
	}
	w.write(w.lines)
	w.lines = w.lines[:0]
}

// write writes whole lines, and counts what became of them.
func (w *writer) write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	n := w.out.write(lines, w.over)
	whole := bytes.Count(lines[:n], []byte("\n"))
	w.log.written.Add(uint64(whole))
	w.log.lose(bytes.Count(lines, []byte("\n")) - whole)
}

// over reports whether it is time to give up.
func (w *writer) over() bool {
	at := w.log.deadline.Load()
	return at != 0 && time.Now().UnixNano() >= at
}
