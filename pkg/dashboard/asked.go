package dashboard

import (
	"context"
	"errors"
	"time"

	"supervisor/pkg/control"
)

const (
	maxAsked  = 16               // requests that run at once
	goodShown = time.Minute      // a verdict
	badShown  = 15 * time.Minute // or one that says no
	mostShown = 6
)

// ask is something that somebody asked for here.
type ask struct {
	number  int
	verb    string
	what    string // in words: "Reload", "Recycle web.0"
	at      time.Time
	begun   string
	verdict *control.Verdict
	refused string    // why it was not begun
	ended   time.Time // zero: it runs
}

// request begins what a button asks for, and follows it to its end.
func (h *hub) request(ctx context.Context, verb, what string, do doing) (err error) {
	problem := h.do(ctx, func() {
		running := 0
		for _, a := range h.asked {
			if a.ended.IsZero() {
				running++
			}
		}
		if running >= maxAsked {
			err = errBusy
			return
		}
		h.look()
		h.asks++
		a := &ask{number: h.asks, verb: verb, what: what, at: time.Now()}
		h.asked = append([]*ask{a}, h.asked...)
		h.changed()
		go func() { // it goes on when the one who asked goes away
			v, err := do(h.ctx, func(text string) {
				h.do(h.ctx, func() { a.begun = text; h.changed() })
			})
			h.do(h.ctx, func() {
				a.ended = time.Now()
				if err != nil {
					a.refused = err.Error()
				} else {
					a.verdict = &v
				}
				h.events.tell(a.sentence())
				h.changed()
			})
		}()
	})
	return errors.Join(problem, err)
}

// forget drops verdicts that were shown long enough.
func (h *hub) forget() {
	asked := h.asked[:0:0]
	for _, a := range h.asked {
		shown := badShown
		if a.verdict != nil && a.verdict.OK {
			shown = goodShown
		}
		if a.ended.IsZero() || time.Since(a.ended) < shown && len(asked) < mostShown {
			asked = append(asked, a)
		}
	}
	h.asked = asked
}

// sentence says how it ended.
func (a *ask) sentence() string {
	switch {
	case a.refused != "":
		return a.what + " was refused: " + a.refused
	case a.verdict != nil && a.verdict.OK:
		return a.what + " is done: " + a.verdict.Text
	case a.verdict != nil:
		return a.what + " failed: " + a.verdict.Text
	}
	return ""
}
