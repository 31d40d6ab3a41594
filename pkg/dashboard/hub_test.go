package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"supervisor/pkg/control"
)

// watched runs a dashboard in virtual time.
func watched(t *testing.T, workers int, test func(t *testing.T, f *fake, h *hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(workers)
		d := New(f.options())
		defer d.Close()
		test(t, f, d.hub)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, err := range f.faults {
			if !strings.Contains(err.Error(), "on purpose") {
				t.Error(err)
			}
		}
	})
}

// open opens a page that shows nothing yet.
func (h *hub) open(t *testing.T, session string) *stream {
	t.Helper()
	s, err := h.join(t.Context(), session, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// take gives what a page has got by now.
func (s *stream) take(t *testing.T) (events []event, messages []message) {
	t.Helper()
	synctest.Wait()
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				return events, messages
			}
			var m message
			if err := json.Unmarshal(e.data, &m); err != nil {
				t.Fatal(err)
			}
			events, messages = append(events, e), append(messages, m)
		default:
			return events, messages
		}
	}
}

func (f *fake) looks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func TestThirtyPagesCostAsMuchAsOne(t *testing.T) {
	watched(t, 100, func(t *testing.T, f *fake, h *hub) {
		time.Sleep(time.Hour)
		if f.looks() != 0 {
			t.Errorf("%d looks, and nobody is there", f.looks())
		}
		var streams []*stream
		for range 30 {
			streams = append(streams, h.open(t, ""))
		}
		for i, s := range streams {
			if events, messages := s.take(t); len(events) != 1 || events[0].name != "whole" || !strings.Contains(messages[0].Lists[4].Made["pool web"], `data-piece="web.99.100"`) {
				t.Fatalf("page %d begins with %d messages", i, len(events))
			}
		}
		if f.looks() != 1 || h.made.Load() != 2 { // the first change, which nobody saw, and the whole
			t.Errorf("30 pages opened: %d looks, %d messages made", f.looks(), h.made.Load())
		}
		f.happens(control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.7.8", Pool: "web", Text: "died"})
		time.Sleep(10*step + step/2)
		if f.looks() != 11 || h.made.Load() != 2+11 {
			t.Errorf("10 steps and an event later: %d looks, %d messages made", f.looks(), h.made.Load())
		}
		for _, s := range streams {
			h.leave(s)
		}
		time.Sleep(tail + 2*step)
		after := f.looks()
		if after > 11+int(tail/step)+2 {
			t.Errorf("%d looks within the tail", after)
		}
		time.Sleep(time.Hour)
		if f.looks() != after {
			t.Errorf("%d looks, and everybody has left", f.looks()-after)
		}
		if s := h.open(t, ""); f.looks() != after+1 {
			t.Errorf("who comes back gets an old picture: %d looks", f.looks()-after)
		} else if _, messages := s.take(t); strings.Contains(fmt.Sprint(messages), "119,29") {
			t.Error("its sparklines go on from an hour ago")
		}
	})
}

func TestEveryPageGetsTheEvent(t *testing.T) {
	watched(t, 4, func(t *testing.T, f *fake, h *hub) {
		var streams []*stream
		for range 30 {
			streams = append(streams, h.open(t, ""))
		}
		for _, s := range streams {
			s.take(t)
		}
		f.happens(control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.1.2", Pool: "web", Text: "died", Words: []string{"panic: <b>"}})
		time.Sleep(2 * soon)
		for i, s := range streams {
			_, messages := s.take(t)
			if len(messages) != 1 || messages[0].Say[0] != "web.1.2: died" || !strings.Contains(messages[0].Lists[0].Made["event 1"], "panic: &lt;b&gt;") {
				t.Fatalf("page %d got %+v", i, messages)
			}
		}
	})
}

func TestASlowPageHoldsNobodyUp(t *testing.T) {
	watched(t, 4, func(t *testing.T, f *fake, h *hub) {
		slow, quick := h.open(t, ""), h.open(t, "")
		got := 0
		for range 60 {
			time.Sleep(step)
			events, _ := quick.take(t)
			got += len(events)
		}
		if got != 61 {
			t.Errorf("the quick one got %d messages", got)
		}
		if f.looks() != 61 {
			t.Errorf("%d looks", f.looks())
		}
		if events, _ := slow.take(t); len(events) != cap(slow.events) {
			t.Errorf("%d messages were kept for the slow one", len(events))
		}
		f.change(func(st *control.Status) { st.Version = "other" })
		time.Sleep(step)
		events, messages := slow.take(t)
		if len(events) != 1 || events[0].name != "whole" || !strings.Contains(fmt.Sprint(messages[0]), "version other") {
			t.Errorf("when it takes messages again it gets %d: %+v", len(events), events)
		}
		time.Sleep(step)
		if events, _ := slow.take(t); len(events) != 1 || events[0].name != "" {
			t.Errorf("and then %+v", events)
		}
	})
}

func TestAPageGoesOnFromTheFrameThatItShows(t *testing.T) {
	watched(t, 4, func(t *testing.T, f *fake, h *hub) {
		_, frame, err := h.whole(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*step + step/2)
		s, err := h.join(t.Context(), "", frame)
		if err != nil {
			t.Fatal(err)
		}
		if events, _ := s.take(t); len(events) != 2 || events[0].name != "" {
			t.Errorf("it missed 2 messages and got %d", len(events))
		}
		time.Sleep(20 * step)
		for _, old := range []string{frame, "", "x", h.id + ".99"} {
			s, err := h.join(t.Context(), "", old)
			if err != nil {
				t.Fatal(err)
			}
			if events, _ := s.take(t); len(events) != 1 || events[0].name != "whole" {
				t.Errorf("from %q: %d messages", old, len(events))
			}
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	watched(t, 1, func(t *testing.T, _ *fake, h *hub) {
		first := h.open(t, "me")
		first.take(t)
		for range sessionStreams - 1 {
			h.open(t, "me")
		}
		if events, _ := first.take(t); len(events) != 0 {
			t.Errorf("%+v", events)
		}
		h.open(t, "me")
		if events, _ := first.take(t); len(events) != 1 || events[0].name != "elsewhere" {
			t.Errorf("one too many: the oldest gets %+v", events)
		}
		h.leave(first) // as its handler does
		for range maxStreams - sessionStreams {
			h.open(t, "")
		}
		if _, err := h.join(t.Context(), "", ""); !errors.Is(err, errTooMany) {
			t.Errorf("%v", err)
		}
	})
}

func TestASupervisorThatDoesNotAnswerIsShownAsThat(t *testing.T) {
	watched(t, 2, func(t *testing.T, f *fake, h *hub) {
		f.err = errors.New("the supervisor's loop does not answer")
		body, _, err := h.whole(t.Context())
		if err != nil || !strings.Contains(string(body), "loop does not answer") {
			t.Errorf("%v: %s", err, body)
		}
		f.mu.Lock()
		f.err = nil
		f.mu.Unlock()
		time.Sleep(2 * step)
		if body, _, _ := h.whole(t.Context()); strings.Contains(string(body), "does not answer") || !strings.Contains(string(body), "web.1.2") {
			t.Errorf("%s", body)
		}
	})
}

func TestAFaultOfThePageIsNotTheSupervisors(t *testing.T) {
	watched(t, 1, func(t *testing.T, f *fake, h *hub) {
		s := h.open(t, "")
		s.take(t)
		h.do(t.Context(), func() { panic("on purpose") })
		time.Sleep(step)
		if events, _ := s.take(t); len(events) != 1 || len(f.faults) != 1 {
			t.Errorf("%d messages, faults %v", len(events), f.faults)
		}
	})
}

func TestVerdictsComeWhenTheyCome(t *testing.T) {
	watched(t, 2, func(t *testing.T, f *fake, h *hub) {
		s := h.open(t, "")
		f.hang = make(chan struct{})
		if err := h.request(t.Context(), "Reload", "Reload", f.options().Reload); err != nil {
			t.Fatal(err)
		}
		time.Sleep(step)
		_, messages := s.take(t)
		if text := fmt.Sprint(messages); !strings.Contains(text, "was asked for here") || !strings.Contains(text, "reload has begun") {
			t.Errorf("%s", text)
		}
		close(f.hang)
		time.Sleep(step)
		_, messages = s.take(t)
		if text := fmt.Sprint(messages); !strings.Contains(text, "Reload done") || messages[0].Say[0] != "Reload is done: generation 4 is in force" {
			t.Errorf("%s", text)
		}
		f.change(func(st *control.Status) { v := f.verdict; v.What = "reload"; st.Last = &v })
		time.Sleep(step)
		if _, messages = s.take(t); strings.Contains(fmt.Sprint(messages), "Last reload") {
			t.Error("it is told twice")
		}
		time.Sleep(goodShown + step)
		if body, _, _ := h.whole(t.Context()); strings.Contains(string(body), "Reload done") || !strings.Contains(string(body), "Last reload") {
			t.Error("it does not go")
		}

		f.hang = make(chan struct{})
		for range maxAsked {
			if err := h.request(t.Context(), "Recycle", "Recycle web", f.options().Reload); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.request(t.Context(), "Recycle", "Recycle web", f.options().Reload); !errors.Is(err, errBusy) {
			t.Errorf("%v", err)
		}
		f.verdict.Text = ""
		close(f.hang)
		time.Sleep(step)
		if body, _, _ := h.whole(t.Context()); strings.Count(string(body), "Recycle web refused") != mostShown || !strings.Contains(string(body), "a self-upgrade runs") {
			t.Errorf("%d refusals are shown", strings.Count(string(body), "Recycle web refused"))
		}
	})
}
