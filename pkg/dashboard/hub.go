package dashboard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"supervisor/pkg/control"
)

const (
	maxStreams     = 64 // pages that are live at once
	sessionStreams = 4  // of one session: a browser has six connections for an address, and one must be left for a click

	// soon bounds how often events alone make a frame.
	soon = 100 * time.Millisecond
	// kept are the newest messages, for a page that was rendered a moment ago and connects now.
	kept = 8
	// queued are messages that a page may be behind before it misses some.
	queued = 4
)

var (
	errTooMany = errors.New("too many pages are open")
	errBusy    = errors.New("too many requests wait for their end: try again later")
	errOver    = errors.New("the supervisor is stopping")
)

// hub is the goroutine that looks at the supervisor. Fields are only used by run, but for those marked otherwise.
type hub struct {
	opts Options // set once

	// Shared and safe.
	calls   chan func() // run by run
	news    chan news
	over    chan struct{}
	once    sync.Once
	ctx     context.Context // ends with the hub
	cancel  context.CancelFunc
	samples atomic.Int64 // how often it has looked
	made    atomic.Int64 // messages that were made

	looking bool               // it samples
	ticks   *time.Ticker       // while it looks
	follow  context.CancelFunc // ends the reading of events
	last    time.Time          // when somebody was there
	flush   *time.Timer        // runs until a frame is made of events

	streams []*stream      // oldest first
	status  control.Status // the last one that came
	at      time.Time      // when
	host    string
	failed  error // why there is no newer one
	past    past
	events  timeline
	asked   []*ask // newest first
	asks    int    // so many there were

	id     string // of this hub, in the names of frames
	number int
	frame  *frame
	recent []numbered // the newest messages, oldest first
	entire event      // the frame as a message, if somebody needed it
}

// numbered is a message, and the number of the frame that it leads to.
type numbered struct {
	number int
	event
}

// news are events from a reader; one that was told to end is not heard any more.
type news struct {
	reader context.Context
	control.History
}

// event is one server-sent event.
type event struct {
	name string // "": a change
	id   string
	data []byte
}

// stream is an open page.
type stream struct {
	session string
	events  chan event // closed when the stream shall end
	behind  bool       // it missed a message: it gets the whole frame when it takes messages again
}

func newHub(opts Options) *hub {
	h := &hub{opts: opts, calls: make(chan func()), news: make(chan news), over: make(chan struct{}), id: rand.Text()[:8]}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.frame = &frame{}
	h.host, _ = os.Hostname() // without one the page has none
	return h
}

func (h *hub) close() {
	h.once.Do(h.cancel)
	<-h.over
}

// run is the hub's life.
func (h *hub) run() {
	defer close(h.over)
	defer func() {
		h.rest()
		for _, s := range h.streams {
			close(s.events)
		}
	}()
	for {
		var tick, flush <-chan time.Time
		if h.ticks != nil {
			tick = h.ticks.C
		}
		if h.flush != nil {
			flush = h.flush.C
		}
		select {
		case f := <-h.calls:
			h.survive(f)
		case n := <-h.news:
			h.hear(n)
			h.changed()
		case <-tick:
			h.survive(h.tick)
		case <-flush:
			h.flush = nil
			h.survive(func() { h.publish(false) })
		case <-h.ctx.Done():
			return
		}
	}
}

// tick is a step of time.
func (h *hub) tick() {
	if len(h.streams) > 0 {
		h.last = time.Now()
	}
	if time.Since(h.last) > tail {
		h.rest()
		return
	}
	h.sample()
	h.publish(true)
}

// survive runs f. A fault of the page must not end the process that it is about.
func (h *hub) survive(f func()) {
	defer func() {
		if fault := recover(); fault != nil {
			h.opts.Fault(fmt.Errorf("%v\n%s", fault, debug.Stack()))
		}
	}()
	f()
}

// do runs f in the hub, and waits for it.
func (h *hub) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case h.calls <- func() { defer close(done); f() }:
	case <-h.over:
		return errOver
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-done
	return nil
}

// look begins to look, unless it does.
func (h *hub) look() {
	h.last = time.Now()
	if h.looking {
		return
	}
	h.looking = true
	h.past, h.events = past{}, timeline{}
	h.ticks = time.NewTicker(step)
	ctx, cancel := context.WithCancel(h.ctx)
	h.follow = cancel
	go h.opts.Follow(ctx, func(more control.History) error {
		select {
		case h.news <- news{ctx, more}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	h.sample()
	select { // what there is comes at once; a loop that stands has been waited for
	case n := <-h.news:
		h.hear(n)
	case <-time.After(soon):
	}
	h.publish(true)
}

func (h *hub) hear(n news) {
	if n.reader.Err() == nil {
		h.events.add(n.Events)
	}
}

// rest ends it.
func (h *hub) rest() {
	if h.looking {
		h.looking = false
		h.ticks.Stop()
		h.follow()
		h.ticks = nil
	}
}

// sample looks at the supervisor once, for everybody.
func (h *hub) sample() {
	h.samples.Add(1)
	status, err := h.opts.Read(h.ctx)
	h.failed = err
	if err == nil {
		status.Pools = together(status.Pools)
		h.status, h.at = status, time.Now()
		h.past.add(h.at, &h.status)
	}
	h.forget()
}

// publish makes a frame, and tells all pages what is new in it.
func (h *hub) publish(sampled bool) {
	before := h.frame
	h.frame = h.sheet()
	h.number++
	m := h.frame.since(before, sampled && h.failed == nil)
	m.Say = h.events.say()
	h.made.Add(1)
	e := event{id: h.name(h.number), data: m.encode()}
	h.recent = append(h.recent, numbered{h.number, e})
	if len(h.recent) > kept {
		h.recent = h.recent[1:]
	}
	for _, s := range h.streams {
		if s.behind {
			if len(s.events) > 0 {
				continue // it has not even taken what there was
			}
			s.behind = false
			s.events <- h.wholeEvent()
			continue
		}
		select {
		case s.events <- e:
		default:
			s.behind = true
		}
	}
}

func (h *hub) name(number int) string { return h.id + "." + strconv.Itoa(number) }

// wholeEvent is the whole frame, made once for all who need it.
func (h *hub) wholeEvent() event {
	if id := h.name(h.number); h.entire.id != id {
		h.made.Add(1)
		h.entire = event{name: "whole", id: id, data: h.frame.whole().encode()}
	}
	return h.entire
}

// join adds a page that shows the frame of this name, "" or an old one: it gets the whole one first.
func (h *hub) join(ctx context.Context, session, frame string) (s *stream, err error) {
	problem := h.do(ctx, func() {
		if len(h.streams) >= maxStreams {
			err = errTooMany
			return
		}
		h.look()
		s = &stream{session: session, events: make(chan event, queued+kept)}
		h.makeRoom(session)
		missed, ok := h.missed(frame)
		if !ok {
			missed = []event{h.wholeEvent()}
		}
		for _, e := range missed {
			s.events <- e
		}
		h.streams = append(h.streams, s)
	})
	if problem != nil {
		return nil, problem
	}
	return s, err
}

// missed gives the messages since a frame; ok is false when they are not kept.
func (h *hub) missed(frame string) (events []event, ok bool) {
	if frame == h.name(h.number) {
		return nil, true
	}
	for i, m := range h.recent {
		if frame == h.name(m.number) {
			for _, later := range h.recent[i+1:] {
				events = append(events, later.event)
			}
			return events, true
		}
	}
	return nil, false
}

// makeRoom ends the oldest stream of a session that has many.
func (h *hub) makeRoom(session string) {
	var own []*stream
	for _, s := range h.streams {
		if s.session == session && session != "" {
			own = append(own, s)
		}
	}
	if len(own) >= sessionStreams {
		select {
		case own[0].events <- event{name: "elsewhere", data: []byte("{}")}:
		default:
		}
		h.drop(own[0])
	}
}

func (h *hub) drop(s *stream) {
	for i, other := range h.streams {
		if other == s {
			close(s.events)
			h.streams = append(h.streams[:i:i], h.streams[i+1:]...)
			return
		}
	}
}

// leave takes a page away. Its stream may have ended already.
func (h *hub) leave(s *stream) {
	h.do(context.Background(), func() {
		h.last = time.Now()
		h.drop(s)
	})
}

// whole gives the page's content as HTML, not older than a step, and the name of its frame.
func (h *hub) whole(ctx context.Context) (body template.HTML, frame string, err error) {
	err = h.do(ctx, func() {
		h.look()
		body, frame = h.frame.html(), h.name(h.number)
	})
	return body, frame, err
}

// changed makes a frame soon.
func (h *hub) changed() {
	if h.flush == nil && h.looking {
		h.flush = time.NewTimer(soon)
	}
}
