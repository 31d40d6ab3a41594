package tasks

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// rang is what came of waiting for a ward's bells.
type rang struct {
	ward *ward
	post *post // whose token was taken; nil: none came
	err  error
}

// listen makes sure that somebody waits for the bells while there are free slots and nothing is known to be claimable.
func (r *Runner) listen(hearing context.Context, now time.Time) {
	if r.lease == nil || r.free() <= 0 || now.Before(r.resume) {
		return
	}
	for _, w := range r.wards {
		quiet := !w.listening
		for _, p := range w.posts {
			quiet = quiet && !p.want && p.calls == 0 && len(p.open) == 0
		}
		if quiet {
			w.listening = true
			name := r.lease.name
			r.helpers.Go(func() { r.wait(hearing, w, name) })
		}
	}
}

func (r *Runner) wait(hearing context.Context, w *ward, name string) {
	// The first key that holds something answers: the runner's own before the bells.
	keys := []string{w.posts[0].lane.wake(name)}
	for _, p := range w.posts {
		keys = append(keys, p.lane.bell())
	}
	said, err := r.blpop(hearing, keys, pollEvery)
	x := rang{ward: w, err: err}
	if len(said) > 0 {
		for i, key := range keys[1:] {
			if key == said[0] {
				x.post = w.posts[i]
			}
		}
	}
	select {
	case r.rang <- x:
	case <-r.gone:
	}
}

// hush ends all waiting for bells. Cutting such a call off could lose the token that it was about to bring, and that would cost the
// others up to pollEvery; so each gets a token of its own. Only a Redis that does not answer has its calls cut off.
func (r *Runner) hush(cut context.CancelFunc) {
	time.AfterFunc(hushTime, cut)
	var keys []string
	for _, w := range r.wards {
		if w.listening && r.lease != nil {
			keys = append(keys, w.posts[0].lane.wake(r.lease.name))
		}
	}
	r.helpers.Go(func() {
		_ = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
			for _, key := range keys {
				run(ctx, conn, wakeScript.call([]string{key}))
			}
			return nil
		})
	})
}

// hear takes note of a bell, or that none rang for pollEvery: then look anyway, a token may have been lost with a killed runner.
func (r *Runner) hear(x rang) {
	x.ward.listening = false
	switch {
	case r.stopping:
		// A token that came after all, or may have been lost with a call that was cut off.
		for _, p := range x.ward.posts {
			if p == x.post || x.err != nil {
				r.passOn(p)
			}
		}
	case x.err != nil:
		r.stumble(x.err)
		for _, p := range x.ward.posts {
			p.want = true
		}
		r.lookBy(time.Now())
	case x.post == nil:
		for _, p := range x.ward.posts {
			p.want = true
		}
	case r.free() <= 0:
		r.passOn(x.post)
	default:
		x.post.want = true
	}
}

// passOn wakes another runner for what this one cannot take: its token, and the watch over the clock.
func (r *Runner) passOn(p *post) {
	name := r.Name()
	l := p.lane
	r.helpers.Go(func() {
		_ = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
			return run(ctx, conn, ringScript.call(l.keys(l.sched(), l.bell(), l.timer(), l.paused()), name))[0].Error()
		})
	})
}
