package tasks

import (
	"errors"
	"time"
)

// How long a stop takes. What happens in it stands in the runner's loop.

// ErrAbandoned says that handlers did not heed ErrShutdown, or that Redis was away at the end: their jobs run again elsewhere.
var ErrAbandoned = errors.New("jobs were left behind")

// phases is how long each part of a stop may take.
type phases struct{ grace, unwind, farewell, goodbye time.Duration }

// stopWithin divides what a stop may take in all. Three times goodbye: for calls that are still under way, for the goodbye itself, and for
// a busy machine. Where there is little time, handlers get half of it.
func stopWithin(all time.Duration) phases {
	p := phases{unwind: unwindTime, farewell: farewell, goodbye: goodbyeTime}
	rest := p.unwind + p.farewell + 3*p.goodbye
	if all < 2*rest {
		all = max(all, 0)
		shrink := func(d time.Duration) time.Duration {
			return time.Duration(float64(all) / 2 * float64(d) / float64(rest))
		}
		p.unwind, p.farewell, p.goodbye = shrink(p.unwind), shrink(p.farewell), shrink(p.goodbye)
		rest = all / 2
	}
	p.grace = all - rest
	return p
}

// stopPhases tells how long the stop that begins may take.
func (r *Runner) stopPhases() phases {
	if r.options.StopBy != nil {
		if by := r.options.StopBy(); !by.IsZero() {
			return stopWithin(time.Until(by))
		}
	}
	return phases{r.options.Grace, unwindTime, farewell, goodbyeTime}
}
