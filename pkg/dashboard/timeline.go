package dashboard

import (
	"fmt"
	"strings"

	"supervisor/pkg/control"
	"supervisor/pkg/operator"
)

// timeline is what has happened, the newest last. What happens daily is kept apart: it must not wash away what does not.
type timeline struct {
	notable []control.Event
	ends    []control.Event // workers that left as planned
	steps   []control.Event // the other steps of a replacement
	said    []string        // for the next message
	heard   bool            // what there was is no news
}

// So many of each are shown.
const (
	shownNotable = 40
	shownEnds    = 20
	shownSteps   = 40
)

func (t *timeline) add(events []control.Event) {
	for _, e := range events {
		list, most := &t.notable, shownNotable
		switch {
		case e.Routine() && e.Kind == control.EventGone:
			list, most = &t.ends, shownEnds
		case e.Routine():
			list, most = &t.steps, shownSteps
		case t.heard && spoken(e):
			t.tell(sentence(e))
		}
		*list = append(*list, e)
		if extra := len(*list) - most; extra > 0 {
			*list = append((*list)[:0:0], (*list)[extra:]...)
		}
	}
	t.heard = true
}

// spoken reports whether an event is read out to who does not see the page: nobody can listen to all.
func spoken(e control.Event) bool {
	switch e.Kind {
	case control.EventReload, control.EventUpgrade, control.EventScale, control.EventRecovered:
		return true
	}
	return e.Level != control.LevelInfo
}

// maxSaid bounds what is read out at once.
const maxSaid = 3

func (t *timeline) tell(text string) {
	if text != "" && len(t.said) < maxSaid {
		t.said = append(t.said, text)
	}
}

// say gives what is to be read out, once.
func (t *timeline) say() []string {
	said := t.said
	t.said = nil
	return said
}

// newest gives all events, the newest first.
func (t *timeline) newest() []control.Event {
	a, b, c := t.notable, t.ends, t.steps
	all := make([]control.Event, 0, len(a)+len(b)+len(c))
	for len(a)+len(b)+len(c) > 0 {
		last := &a
		for _, list := range []*[]control.Event{&b, &c} {
			if n := len(*list); n > 0 && (len(*last) == 0 || (*list)[n-1].Seq > (*last)[len(*last)-1].Seq) {
				last = list
			}
		}
		all = append(all, (*last)[len(*last)-1])
		*last = (*last)[:len(*last)-1]
	}
	return all
}

// sentence says an event in one line.
func sentence(e control.Event) string {
	if about := aboutWhat(e); about != "" {
		return about + ": " + e.Text
	}
	return e.Text
}

// aboutWhat names what an event is about.
func aboutWhat(e control.Event) string {
	switch {
	case e.Worker != "":
		return e.Worker
	case e.Pool != "":
		return "pool " + e.Pool
	}
	return ""
}

// details says the rest of what is known of an event.
func details(e control.Event) string {
	var parts []string
	if e.Reason != "" && !strings.Contains(e.Text, e.Reason) {
		parts = append(parts, e.Reason)
	}
	if e.Exit != "" && e.Exit != "status 0" && !strings.HasSuffix(e.Reason, e.Exit) {
		parts = append(parts, e.Exit)
	}
	switch e.Kind {
	case control.EventGone, control.EventCrash:
		if e.Lived > 0 {
			parts = append(parts, "lived "+operator.Ago(seconds(e.Lived)))
		}
		if e.Requests > 0 {
			parts = append(parts, operator.Grouped(int64(e.Requests))+" requests")
		}
	case control.EventReady:
		if e.Lived > 0 && e.Worker != "" {
			parts = append(parts, fmt.Sprintf("after %s", operator.Ago(seconds(e.Lived))))
		}
	}
	if e.PID > 0 {
		parts = append(parts, fmt.Sprintf("pid %d", e.PID))
	}
	return strings.Join(parts, " · ")
}
