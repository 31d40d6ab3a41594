package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
	"go.uber.org/zap"
)

// Periodic is a job on a schedule. Each runner that has it enqueues at the same times with the same ids, so the queue has each job once,
// and no runner is the leader. What nobody was there to enqueue is not made up for.
type Periodic struct {
	Name string // of the schedule: [A-Za-z0-9_:-], part of its jobs' ids
	// Spec is five fields (minute, hour, day of the month, month, day of the week), or @hourly, @daily, @weekly, @monthly, @yearly, or
	// @every with a duration: then times are multiples of it since 1970, the same for all runners.
	Spec string
	// Location of the spec; UTC. A time that a change of clocks leaves out comes as much later; of one that comes twice the first counts,
	// unless the spec is for every hour.
	Location *time.Location
	Task     Task // its Key is overridden. With Unique(…, UntilDone) no job begins while the last one runs
}

// timetable is a Periodic that has been read.
type timetable struct {
	Periodic
	next func(after time.Time) time.Time // zero: never
}

func (p Periodic) read() (timetable, error) {
	t := timetable{Periodic: p}
	if !validKey(t.key(time.Unix(1e10, 0))) || p.Name == "" {
		return t, fmt.Errorf("schedule %.100q: letters, digits, '_', ':' and '-' only, not too many", p.Name)
	}
	schedule, err := cron.ParseStandard(p.Spec)
	if err != nil {
		return t, fmt.Errorf("schedule %s: %w", p.Name, err)
	}
	where := p.Location
	if where == nil {
		where = time.UTC
	}
	fields := strings.Fields(p.Spec)
	hourly := slices.Contains(fields, "@hourly") || len(fields) >= 5 && strings.HasPrefix(fields[len(fields)-4], "*")
	t.next = func(after time.Time) time.Time {
		at := schedule.Next(after.In(where))
		for !hourly && secondTime(at) {
			at = schedule.Next(at)
		}
		return at
	}
	if every, ok := schedule.(cron.ConstantDelaySchedule); ok {
		if every.Delay < time.Second {
			return t, fmt.Errorf("schedule %s: every %s, at least every second", p.Name, every.Delay)
		}
		t.next = func(after time.Time) time.Time {
			return time.Unix(0, 0).Add(after.Sub(time.Unix(0, 0)).Truncate(every.Delay) + every.Delay)
		}
	}
	if t.next(time.Now()).IsZero() {
		return t, fmt.Errorf("schedule %s: %q never comes", p.Name, p.Spec)
	}
	return t, nil
}

// secondTime reports whether clocks showed the same time before, and then were put back.
func secondTime(at time.Time) bool {
	_, offset := at.Zone()
	_, before := at.Add(-3 * time.Hour).Zone()
	_, then := at.Add(time.Duration(offset-before) * time.Second).Zone()
	return before > offset && then == before
}

// setBack is how far a clock may be put back before the schedule begins anew: what it makes come twice within that does not run twice.
const setBack = time.Hour

// awaited is the time that is waited for: at, unless the clock was set so far back that it would be silent for too long.
func (t *timetable) awaited(at, now time.Time) time.Time {
	if next := t.next(now); at.Sub(next) > setBack {
		return next
	}
	return at
}

func (t *timetable) key(at time.Time) string {
	return "cron:" + t.Name + ":" + strconv.FormatInt(at.Unix(), 10)
}

// keepTime enqueues when it is time, until ctx ends.
func (r *Runner) keepTime(ctx context.Context, t timetable) {
	for at := t.next(time.Now()); !at.IsZero(); {
		// In steps: the clock may be set, and a machine may sleep.
		for left := time.Until(at); left > 0; left = time.Until(at) {
			select {
			case <-time.After(min(left, time.Minute)):
				at = t.awaited(at, time.Now())
			case <-ctx.Done():
				return
			}
		}
		after := t.next(at)
		r.enqueueOnTime(ctx, t, at, after)
		if at = after; at.Before(time.Now()) {
			at = t.next(time.Now())
		}
	}
}

// enqueueOnTime tries until it is in, or until it is time for the next.
func (r *Runner) enqueueOnTime(ctx context.Context, t timetable, at, after time.Time) {
	options := append(t.Task.Options[:len(t.Task.Options):len(t.Task.Options)], Key(t.key(at)))
	for ctx.Err() == nil {
		id, err := r.client.Enqueue(ctx, t.Task.Name, t.Task.Payload, options...)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrDuplicate):
			r.log.Info("a job of the schedule is not enqueued", zap.String("schedule", t.Name), zap.String("job", id), zap.Error(err))
			return
		case ctx.Err() != nil:
			return
		case !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrFull) && !errors.Is(err, ErrQueueFull), !after.IsZero() && time.Now().After(after):
			r.log.Error("a job of the schedule was not enqueued", zap.String("schedule", t.Name), zap.String("job", id), zap.Error(err))
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
