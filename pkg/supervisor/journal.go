package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"supervisor/pkg/control"
)

// journal is what has happened, for those who ask later: each line of our log that tells of a change of state is also an event here. What
// happens daily is kept apart, so that a pool that recycles all the time does not wash away the crash of last night. Only used by the loop.
type journal struct {
	seq     uint64 // of the newest event
	notable ring
	routine ring
	more    chan struct{} // closed at the next event; nil: nobody waits for one
	text    []byte        // the newest ones as JSON, for the snapshot; nil: something happened since
}

const (
	journalNotable = 400 // events that are kept
	journalRoutine = 600

	// Of them, those that the next supervisor gets: each event of the loop writes them to the store.
	snapshotNotable = 200
	snapshotRoutine = 100
)

// ring holds the newest entries, oldest first.
type ring []entry

// entry is an event, and how the snapshot has it; nil: it has not been there yet.
type entry struct {
	control.Event
	text []byte
}

func (r *ring) add(e control.Event, most int) {
	if len(*r) >= most {
		*r = slices.Delete(*r, 0, len(*r)-most+1)
	}
	*r = append(*r, entry{Event: e})
}

// add numbers an event and wakes those who wait for it.
func (j *journal) add(e control.Event) {
	j.seq++
	e.Seq = j.seq
	j.text = nil
	j.keep(e)
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

func (j *journal) keep(e control.Event) {
	if e.Routine() {
		j.routine.add(e, journalRoutine)
	} else {
		j.notable.add(e, journalNotable)
	}
}

// read gives the events that somebody asks for.
func (j *journal) read(q control.HistoryQuery) control.History {
	if q.After > j.seq {
		q.After = 0 // it read in another life
	}
	h := control.History{Last: j.seq, Lost: j.seq - q.After, Events: []control.Event{}}
	j.each(func(e *entry) {
		if e.Seq > q.After {
			h.Lost--
		}
		if q.Wants(e.Event) {
			h.Events = append(h.Events, e.Event)
		}
	})
	if extra := len(h.Events) - q.Newest; q.Newest > 0 && extra > 0 {
		h.Events = h.Events[extra:]
	}
	return h
}

// each visits all entries by seq.
func (j *journal) each(visit func(*entry)) {
	a, b := j.notable, j.routine
	for len(a)+len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Seq < b[0].Seq {
			visit(&a[0])
			a = a[1:]
		} else {
			visit(&b[0])
			b = b[1:]
		}
	}
}

// next gives a channel that is closed at the next event.
func (j *journal) next() <-chan struct{} {
	if j.more == nil {
		j.more = make(chan struct{})
	}
	return j.more
}

// encoded gives the newest events as a JSON array, for the snapshot, which is written after every event of the loop. Each is encoded once.
func (j *journal) encoded() []byte {
	if j.text != nil || j.seq == 0 {
		return j.text
	}
	dropNotable, dropRoutine := len(j.notable)-snapshotNotable, len(j.routine)-snapshotRoutine
	size := 2
	var texts [][]byte
	j.each(func(e *entry) {
		drop := &dropNotable
		if e.Routine() {
			drop = &dropRoutine
		}
		if *drop--; *drop >= 0 {
			return
		}
		if e.text == nil {
			e.text, _ = json.Marshal(e.Event) // strings and numbers only
		}
		texts = append(texts, e.text)
		size += len(e.text) + 1
	})
	j.text = append(make([]byte, 0, size), '[')
	for i, text := range texts {
		if i > 0 {
			j.text = append(j.text, ',')
		}
		j.text = append(j.text, text...)
	}
	j.text = append(j.text, ']')
	return j.text
}

// goOn puts the journal of the supervisor before us in front of our own events, which nobody has read yet.
func (j *journal) goOn(before []control.Event, seq uint64) {
	var ours []control.Event
	j.each(func(e *entry) { ours = append(ours, e.Event) })
	j.notable, j.routine, j.seq, j.text = nil, nil, seq, nil
	for _, e := range before {
		j.keep(e)
		j.seq = max(j.seq, e.Seq)
	}
	for _, e := range ours {
		j.add(e)
	}
}

// recordStart notes that we begin, and as what.
func (s *Supervisor) recordStart() {
	text := "supervisor %d starts"
	switch {
	case s.revived:
		s.record(control.EventStart, control.LevelWarning, "supervisor %d starts: the one before it was killed, its %s serve until new ones are ready",
			os.Getpid(), plural(len(s.workers()), "worker"))
		return
	case s.probation:
		text = "supervisor %d starts, for a self-upgrade"
	}
	s.record(control.EventStart, control.LevelInfo, text, os.Getpid())
}

// record notes a change of state.
func (s *Supervisor) record(kind, level, format string, args ...any) {
	s.recordEvent(control.Event{Kind: kind, Level: level, Generation: s.generation, Text: fmt.Sprintf(format, args...)})
}

// recordPool notes one of a pool.
func (s *Supervisor) recordPool(p *pool, kind, level, format string, args ...any) {
	s.recordEvent(control.Event{Kind: kind, Level: level, Pool: p.cfg.Name, Generation: p.generation, Text: fmt.Sprintf(format, args...)})
}

// recordSlot notes one of a slot.
func (s *Supervisor) recordSlot(p *pool, sl *slot, kind, level, format string, args ...any) {
	s.recordEvent(control.Event{
		Kind: kind, Level: level, Pool: p.cfg.Name, Worker: fmt.Sprintf("%s.%d", p.cfg.Name, sl.index), Generation: p.generation,
		Text: fmt.Sprintf(format, args...),
	})
}

// recordWorker notes one of a worker. why may be "".
func (s *Supervisor) recordWorker(w *worker, kind, level string, why reason, format string, args ...any) {
	e := w.event(kind, level, why)
	e.Text = fmt.Sprintf(format, args...)
	s.recordEvent(e)
}

// recordEvent notes any. At is now.
func (s *Supervisor) recordEvent(e control.Event) {
	e.At = time.Now()
	s.journal.add(e)
}

// event is what is the same in all events of a worker.
func (w *worker) event(kind, level string, why reason) control.Event {
	e := control.Event{
		Kind: kind, Level: level, Pool: w.pool.cfg.Name, Worker: w.id.String(), Generation: w.generation, Reason: string(why),
		Lived: time.Since(w.started).Seconds(),
	}
	if w.proc != nil {
		e.PID = w.proc.Pid()
	}
	return e
}

// recordExit notes the end of a process.
func (s *Supervisor) recordExit(w *worker, was state, exit exitStatus, why reason) {
	e := w.event(control.EventGone, control.LevelInfo, why)
	e.Exit, e.Requests = exit.String(), w.requests()
	switch {
	case w.cause != "":
		e.Kind, e.Level, e.Text = control.EventCrash, control.LevelError, "the command cannot be executed: "+w.cause
	case w.reason == reasonLeft:
		e.Text = "left"
	case w.reason.planned() && w.reason != "":
		e.Text = "left as it was told"
	case w.reason != "":
		e.Level, e.Text = control.LevelWarning, "was ended"
	case was == starting:
		e.Kind, e.Level, e.Text = control.EventCrash, control.LevelError, "failed to start"
	default:
		e.Kind, e.Level, e.Text = control.EventCrash, control.LevelError, "died"
	}
	if exit.signal != syscall.SIGKILL && (e.Level != control.LevelInfo || exit.code != 0) { // who was killed has nothing to say about it
		e.Words = exit.tail
	}
	s.recordEvent(e)
}

// History gives the events that are asked for. Any goroutine may call it; the loop only copies them.
func (s *Supervisor) History(ctx context.Context, q control.HistoryQuery) (control.History, error) {
	var h control.History
	err := s.inLoop(ctx, func() { h = s.journal.read(q) })
	return h, err
}

// followPause: events that come within it are sent together.
const followPause = 20 * time.Millisecond

// knows refuses the name of something that is not there, and never was as far as the journal goes.
func (s *Supervisor) knows(ctx context.Context, what string) (refused error) {
	err := s.inLoop(ctx, func() {
		name, _, _ := strings.Cut(what, ".")
		if _, refused = s.named(name); refused == nil {
			return
		}
		s.journal.each(func(e *entry) {
			if e.About(what) {
				refused = nil
			}
		})
	})
	return errors.Join(err, refused)
}

// FollowHistory gives events to send, first those that there are, then those that come, until ctx ends, send fails or the supervisor ends (nil, after
// the last events). Every 15 s without one send gets none: the reader sees that we live. A reader that is slow is told in Lost how
// many events it has missed; nobody waits for it.
func (s *Supervisor) FollowHistory(ctx context.Context, q control.HistoryQuery, send func(control.History) error) error {
	beat := time.NewTicker(control.StreamBeat)
	defer beat.Stop()
	first := true
	for {
		var h control.History
		var more <-chan struct{}
		err := s.inLoop(ctx, func() { h, more = s.journal.read(q), s.journal.next() })
		if errors.Is(err, errLoopEnded) {
			h, err = s.journal.read(q), nil // the loop is over: nobody writes any more
		}
		if errors.Is(err, errLoopStands) {
			continue // that takes its time
		}
		if err != nil {
			return err
		}
		if first && q.After == 0 {
			h.Lost = 0 // it asks for what there is
		}
		if len(h.Events) > 0 || h.Lost > 0 || first {
			if err := send(h); err != nil {
				return err
			}
			beat.Reset(control.StreamBeat)
		}
		first, q.Newest, q.After = false, 0, h.Last
		select {
		case <-more:
			select {
			case <-time.After(followPause):
			case <-s.over:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		case <-beat.C:
			if err := send(control.History{Last: h.Last}); err != nil {
				return err
			}
		case <-s.over:
			if more == nil {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answerHistory is GET /v1/history.
func (s *Supervisor) answerHistory(w http.ResponseWriter, r *http.Request) {
	q, err := control.ParseHistoryQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	if q.What != "" {
		err = s.knows(r.Context(), q.What)
	}
	if e := new(control.Error); errors.As(err, &e) {
		fail(w, e.Status, "%s", e.Text)
		return
	}
	if r.URL.Query().Get("follow") == "" {
		h, err := s.History(r.Context(), q)
		if err != nil {
			fail(w, http.StatusServiceUnavailable, "%v", err)
			return
		}
		reply(w, http.StatusOK, h)
		return
	}
	s.stream(w, r, func(send func(...any) error) error {
		return s.FollowHistory(r.Context(), q, func(h control.History) error {
			var lines []any
			if h.Lost > 0 {
				lines = append(lines, control.Event{
					At: time.Now(), Kind: control.EventLost, Level: control.LevelWarning, Lost: h.Lost,
					Text: fmt.Sprintf("%d events are not kept any more", h.Lost),
				})
			}
			for _, e := range h.Events {
				lines = append(lines, e)
			}
			return send(lines...)
		})
	})
}
