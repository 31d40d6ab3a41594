package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"
)

// Ended is a job's end, for a store that keeps it longer than the job's own record, or instead of it.
type Ended struct {
	Status Status
	Result []byte        // what the handler of a Done job returned
	Keep   time.Duration // how long the result was asked to stay; a store may have its own idea
}

// ResultBackend keeps ends of jobs. Runners save each end before Redis hears of it, all of a batch at once, and again until that was
// confirmed; what cannot be saved is told later, and nothing is claimed meanwhile. So a Status that says Done has a result that is there.
type ResultBackend interface {
	// Save replaces what it has of these jobs. A later run of a job wins over an earlier one, whose runner may have lost it and not know.
	Save(ctx context.Context, namespace string, ends []Ended) error
	// Load gives ErrNotFound for a job that it does not have, or not any more.
	Load(ctx context.Context, namespace, id string) (Ended, error)
}

// endedOf reads a record that has ended.
func endedOf(id string, l lane, r *record) Ended {
	e := Ended{Status: r.status(id, l.queue), Keep: r.keep}
	if r.state == stateDone && len(r.payload) > 0 {
		e.Result = r.payload
	}
	return e
}

// ended tells how a claim ends its job, if it does.
func (a *attempt) ended() (Ended, bool) {
	var r record
	var err error
	switch a.ack.op {
	case opDone, opDoneNext:
		r, err = decode(a.ack.body)
	case opDead:
		// The ack has the header only: the rest stays as it is.
		r, err = decodeHeader(slices.Concat(a.ack.body, []byte(a.record.name)))
		r.failure = cut(a.ack.failure, maxErrorText)
	case opCancelled:
		r = a.record
		r.attempt++
		r.state, r.started, r.finished = stateCancelled, a.claimed, a.claimed+a.took.Milliseconds()
	case opExpired:
		r = a.record
		r.state, r.finished = stateExpired, a.claimed
	default:
		return Ended{}, false
	}
	if err != nil {
		return Ended{}, false
	}
	e := endedOf(a.key.id, a.post.lane, &r)
	e.Keep = a.ack.after
	return e, true
}

// load asks those who keep ends, for a job that Redis does not know.
func (c *Client) load(ctx context.Context, id string) (Ended, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	for _, k := range c.keepers {
		e, err := k.Load(ctx, c.options.Namespace, id)
		if !errors.Is(err, ErrNotFound) {
			return e, err
		}
	}
	return Ended{}, fmt.Errorf("job %s: %w", id, ErrNotFound)
}

// keep saves the ends among x's acks. Those that cannot be saved are held back, and nothing is claimed: a store that is away slows the
// queue down, and loses nothing. Ends that are none (a retry, a job that goes back) are told in any case.
func (r *Runner) keep(x *exchange) error {
	if len(r.client.keepers) == 0 {
		return nil
	}
	var ends []Ended
	terminal := make(map[*attempt]bool)
	for _, a := range x.acks {
		if a.saved {
			continue // its end was told without an answer, and may do without the result by now
		}
		if e, ok := a.ended(); ok {
			terminal[a] = true
			ends = append(ends, e)
		}
	}
	if len(ends) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	for _, k := range r.client.keepers {
		if err := k.Save(ctx, r.client.options.Namespace, ends); err != nil {
			r.holdBack(x, terminal)
			return err
		}
	}
	for a := range terminal {
		a.saved = true
		if r.client.options.Results != nil {
			a.dropResult()
		}
	}
	return nil
}

// holdBack takes the ends out of x. At the very last there is no later: these jobs go back, and run again elsewhere.
func (r *Runner) holdBack(x *exchange, terminal map[*attempt]bool) {
	acks := x.acks
	x.acks = nil
	for _, a := range acks {
		switch {
		case !terminal[a]:
		case x.last:
			a.ack = a.goBack()
		default:
			x.held = append(x.held, a)
			continue
		}
		x.acks = append(x.acks, a)
	}
}

// dropResult makes the job's own record do without the result, which is kept elsewhere.
func (a *attempt) dropResult() {
	if a.ack.op != opDone && a.ack.op != opDoneNext {
		return
	}
	if rec, err := decode(a.ack.body); err == nil && len(rec.payload) > 0 {
		rec.payload = nil
		a.ack.body = rec.encode()
	}
}

// saveAgain has what was saved of a job looked at again: its end was refused, so the job was another's, and its end may be another.
func (r *Runner) saveAgain(a *attempt) {
	if _, is := a.ended(); !is || !r.client.options.Postgres.archives() {
		return
	}
	r.helpers.Go(func() {
		_ = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
			return r.client.owe(ctx, conn, a.post.lane, 0, a.key.id)
		})
	})
}
