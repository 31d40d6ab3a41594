package tasks

import (
	"bytes"
	"context"
	"errors"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// What a runner cannot repair by itself: it drains, Run returns why, and whoever supervises the process starts another.
var (
	// ErrStuck says that a handler did not return after its context had ended. It holds a slot, and whatever else it holds, for ever.
	ErrStuck = errors.New("a handler does not heed its context")
	// ErrDeaf says that the runner's claims did not come through while Redis answered.
	ErrDeaf = errors.New("the runner cannot claim, and redis answers")
)

const readyWithin = 5 * time.Second // several looks of pollEvery

// Ready reports whether the runner does its work: its last claim came through a moment ago, or all its slots are taken. It is false
// before the first claim and from the stop on.
func (r *Runner) Ready() bool {
	heard := r.heard.Load()
	return heard != 0 && time.Since(time.Unix(0, heard)) < readyWithin
}

// watchOver looks once a second for handlers that do not return, and whether the claims come through. The loop's.
func (r *Runner) watchOver(now time.Time) {
	if r.stopping || now.Before(r.watchAt) {
		return
	}
	r.watchAt = now.Add(pollEvery)
	for _, a := range r.claims {
		// The attempt's own end of time, a cancel, a lost lease.
		if a.job == nil || a.stuck || a.returned.Load() || a.ctx.Err() == nil {
			continue
		}
		if a.told.IsZero() {
			a.told = now
		}
		if r.options.StuckAfter > 0 && now.Sub(a.told) >= r.options.StuckAfter {
			a.stuck = true
			r.stuck++
			r.log.Error("handler does not heed its context, the runner will be replaced", zap.String("job", a.key.id), zap.String("name", a.job.Name),
				zap.NamedError("cause", context.Cause(&a.ctx)), zap.Duration("ago", now.Sub(a.told).Round(time.Second)), zap.String("goroutine", stackOf(a.slot)))
			r.retire(ErrStuck)
		}
	}
	if r.free() <= 0 {
		r.hearing = now
		if r.heard.Load() != 0 {
			r.heard.Store(now.UnixNano())
		}
	}
	// Silence begins when Redis answers: it is asked as long as the silence lasts.
	if r.options.Deaf > 0 && now.Sub(r.hearing) > min(r.options.Deaf/2, readyWithin) && !r.pinging {
		r.pinging = true
		go func() {
			err := r.client.Ping(r.work)
			select {
			case r.pinged <- err:
			case <-r.gone:
			}
		}()
	}
}

// heardOf takes note of whether Redis answers while the claims do not come through.
func (r *Runner) heardOf(err error) {
	r.pinging = false
	switch {
	case err != nil:
		r.hearing = time.Now() // it is away: nobody is deaf
	case !r.stopping && time.Since(r.hearing) > r.options.Deaf:
		r.log.Error("no claim comes through and redis answers, the runner will be replaced", zap.Duration("for", time.Since(r.hearing).Round(time.Second)))
		r.retire(ErrDeaf)
	}
}

// retire begins the stop for a reason of the runner's own. The first counts.
func (r *Runner) retire(why error) {
	if r.retired == nil {
		r.retired = why
	}
	r.endFetch()
}

// slot marks a handler's goroutine, and those that it starts, so that their stacks can be found among all others. The marks are made
// once per slot: they cost an attempt next to nothing.
type slot struct {
	number string
	labels context.Context
}

const slotLabel = "tasks_slot"

func (r *Runner) takeSlot() *slot {
	if n := len(r.slots); n > 0 {
		s := r.slots[n-1]
		r.slots = r.slots[:n-1]
		return s
	}
	r.slotCount++
	number := r.id + "-" + strconv.Itoa(r.slotCount)
	return &slot{number, pprof.WithLabels(context.Background(), pprof.Labels(slotLabel, number))}
}

// stackOf tells where the goroutines of a slot are, as far as they have not taken other labels.
func stackOf(s *slot) string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return err.Error()
	}
	mark := `"` + slotLabel + `":"` + s.number + `"`
	var found []string
	for block := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(block, mark) {
			found = append(found, block)
		}
	}
	if len(found) == 0 {
		return "not found: it took other labels"
	}
	return cut(strings.Join(found, "\n\n"), 8<<10)
}
