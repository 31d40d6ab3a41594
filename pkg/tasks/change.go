package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"
)

// What the Inspector changes: retries and purges.

// ErrNotDead says that a job cannot be retried: only dead ones can.
var ErrNotDead = errors.New("the job is not dead")

// Retry makes a dead job pending again, as if it had never begun: all attempts are before it, and no time limit of its enqueuer is left but
// that of an attempt. One that had a unique key takes it again, or is an ErrDuplicate.
func (i *Inspector) Retry(ctx context.Context, id string) error {
	l, err := parseID(i.c.options.Namespace, id)
	if err != nil {
		return err
	}
	var said int64
	unanswered := false
	var holder string
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		keys := l.keys(l.bell(), l.dead(), l.stat(), l.paused(), l.job(id))
		uniques, err := l.uniqueKeys(ctx, conn, id)
		if err != nil {
			return err
		}
		if uniques[0] != "" {
			keys = append(keys, uniques[0])
		}
		said, err = run(ctx, conn, retryScript.call(keys, id))[0].AsInt64()
		if said == 0 && err == nil && unanswered {
			said = 1 // the call without an answer was executed: it is dead no more
		}
		if said == 2 && err == nil {
			if holder, err = conn.Do(ctx, conn.B().Get().Key(uniques[0]).Build()).ToString(); rueidis.IsRedisNil(err) {
				err = nil // it was given back this moment: the next try will do
			}
		}
		unanswered = unanswered || err != nil
		return err
	})
	switch {
	case err != nil:
		return err
	case said < 0:
		return fmt.Errorf("job %s: %w", id, ErrNotFound)
	case said == 2:
		return fmt.Errorf("job %s: %w", id, &DuplicateError{Holder: holder})
	case said == 0:
		return fmt.Errorf("job %s: %w", id, ErrNotDead)
	}
	return nil
}

// Purgeable are the states that Purge knows. What runs is cancelled one by one; all others go by themselves.
var Purgeable = []State{Pending, Scheduled, Dead}

// purgeAtOnce bounds how long Redis does nothing else.
const purgeAtOnce = 100

// Purge lets all jobs of a queue go that are in a state: pending and scheduled ones (retrying, too) are cancelled, of dead ones the records go.
// What comes into that state meanwhile may stay. It tells each batch (nil: nobody), and returns how many went; with an error, until then.
func (i *Inspector) Purge(ctx context.Context, queue string, state State, tell func(ids []string)) (gone int64, err error) {
	if err := i.exists(ctx, queue); err != nil {
		return 0, err
	}
	if tell == nil {
		tell = func([]string) {}
	}
	for _, l := range i.lanes(queue) {
		var lists []purge
		switch state {
		case Pending:
			for p := range priorities {
				lists = append(lists, purge{key: l.pending(p), sweep: true})
			}
		case Scheduled:
			lists = []purge{{key: l.sched(), sorted: true, prefix: 1}}
		case Dead:
			lists = []purge{{key: l.dead(), sorted: true, bury: true}}
		default:
			return 0, fmt.Errorf("purge %.50q: one of %v: %w", state, Purgeable, ErrInvalid)
		}
		for _, p := range lists {
			n, err := i.purge(ctx, l, p, tell)
			gone += n
			if err != nil {
				return gone, err
			}
		}
	}
	return gone, nil
}

// purge is a list to be emptied.
type purge struct {
	key    string
	sorted bool
	prefix int  // bytes before the id
	bury   bool // else cancel
	sweep  bool // what is cancelled still lies there
}

func (i *Inspector) purge(ctx context.Context, l lane, p purge, tell func([]string)) (gone int64, err error) {
	for left := int64(-1); left != 0; {
		var went []string
		err := i.do(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
			b := conn.B()
			length, read := b.Llen().Key(p.key).Build(), b.Lrange().Key(p.key).Start(0).Stop(purgeAtOnce-1).Build()
			if p.sorted {
				length, read = b.Zcard().Key(p.key).Build(), b.Zrange().Key(p.key).Min("0").Max(strconv.Itoa(purgeAtOnce-1)).Build()
			}
			if left < 0 { // a purge ends, however fast others enqueue
				if left, err = conn.Do(ctx, length).AsInt64(); err != nil {
					return err
				}
			}
			ids, err := conn.Do(ctx, read).AsStrSlice()
			if err != nil || len(ids) == 0 {
				left = 0
				return err
			}
			ids = ids[:min(int64(len(ids)), left)]
			left -= int64(len(ids))
			for n := range ids {
				ids[n] = ids[n][p.prefix:]
			}
			if err = i.c.owe(ctx, conn, l, owedAfter, ids...); err != nil {
				return err
			}
			went, err = p.take(ctx, conn, l, ids)
			return err
		})
		gone += int64(len(went))
		if len(went) > 0 {
			tell(went)
		}
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}

// take ends the jobs with these ids, and returns those that it ended: others may have been taken meanwhile.
func (p purge) take(ctx context.Context, conn rueidis.Client, l lane, ids []string) (went []string, err error) {
	jobs := make([]string, len(ids))
	for n, id := range ids {
		jobs[n] = l.job(id)
	}
	if p.bury {
		return run(ctx, conn, buryScript.call(append([]string{p.key}, jobs...), append([]string{ms(keepOwn)}, ids...)...))[0].AsStrSlice()
	}
	calls := make([]scriptCall, len(ids))
	for n, id := range ids {
		calls[n] = l.cancelOn(id, "", "")
	}
	for n, answer := range run(ctx, conn, calls...) {
		said, err := answer.AsInt64()
		if err == nil && said == 4 { // it has a unique key: look which
			var state State
			if state, err = l.cancel(ctx, conn, ids[n]); state == Cancelled {
				said = 1
			}
		}
		if err != nil {
			return went, err
		}
		if said == 1 {
			went = append(went, ids[n])
		}
	}
	if p.sweep {
		err = run(ctx, conn, sweepScript.call(append([]string{p.key, l.gone()}, jobs...), append([]string{ms(keepOwn)}, ids...)...))[0].Error()
	}
	return went, err
}
