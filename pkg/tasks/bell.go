package tasks

import (
	"context"
	"time"
)

// rang is what came of waiting for a ward's bells.
type rang struct {
	ward *ward
	post *post // whose token was taken; nil: none came
	err  error
}

// listen makes sure that somebody waits for the bells while there are free slots and nothing is known to be claimable.
func (r *Runner) listen(fetch context.Context, now time.Time) {
	if r.lease == nil || r.free() <= 0 || now.Before(r.resume) {
		return
	}
	for _, w := range r.wards {
		quiet := !w.listening
		for _, p := range w.posts {
			quiet = quiet && !p.want && !p.call
		}
		if quiet {
			w.listening = true
			r.helpers.Go(func() { r.wait(fetch, w) })
		}
	}
}

func (r *Runner) wait(fetch context.Context, w *ward) {
	keys := make([]string, len(w.posts))
	for i, p := range w.posts {
		keys[i] = p.lane.bell()
	}
	said, err := r.blpop(fetch, keys, pollEvery)
	x := rang{ward: w, err: err}
	if len(said) > 0 {
		for i, key := range keys {
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

// hear takes note of a bell, or that none rang for pollEvery: then look anyway, a token may have been lost with a killed runner.
func (r *Runner) hear(x rang) {
	x.ward.listening = false
	switch {
	case r.stopping:
		// The call was cut off, its token may be lost with it.
		for _, p := range x.ward.posts {
			r.passOn(p)
		}
	case x.err != nil:
		r.stumble(x.err)
		for _, p := range x.ward.posts {
			p.want = true
		}
		r.lookAt = time.Now()
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
		r.side(func(ctx context.Context) {
			if conn, err := r.client.calls.get(ctx); err == nil {
				run(ctx, conn, ringScript.call(l.keys(l.sched(), l.bell(), l.timer()), name))
			}
		})
	})
}
