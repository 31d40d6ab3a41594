package tasks

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

// The loop's calls to Redis: which are due, and what their answers mean for the next. All of it is the loop's.

// dispatch starts every call that can be made: ends that Redis does not know yet, claims for free slots.
func (r *Runner) dispatch(now time.Time) {
	if now.Before(r.resume) {
		return
	}
	for i := range r.posts {
		p := r.posts[(r.next+i)%len(r.posts)]
		for p.calls < mostCalls && r.call(p, now) {
		}
	}
	r.next++
	if !r.looking && r.lease != nil && !now.Before(r.lookAt) {
		r.looking, r.settled = true, make(map[claimKey]bool)
		r.lookAt = now.Add(lookEvery) // a wish for a look from now on is for another one: this one may have passed its job by
		go r.look(r.lease.name)
	}
}

// Where many jobs wait, Redis works for one call while the handlers of the other one's jobs run here.
const (
	mostCalls = 2  // of a lane at once
	overlapAt = 16 // with less to say the second waits: the answer to the first will come soon, and takes it along
)

// call starts the next call of a lane, and reports whether there was a reason for one.
func (r *Runner) call(p *post, now time.Time) bool {
	p.want = p.want || p.bound && (len(p.acks) > 0 || p.left) // these leave room
	if now.Sub(p.asked) >= pollEvery {
		p.want = true // while another queue is busy nobody listens to this one's bell
	}
	n := 0
	if p.want && p.coming == 0 && !r.stopping && r.lease != nil && (p.calls == 0 || p.deep) {
		n = max(min(r.free(), claimAtOnce), 0)
	}
	switch {
	case n == 0 && len(p.acks) == 0, p.calls > 0 && n < overlapAt && len(p.acks) < overlapAt:
		return false
	case p.calls > 0 && p.held:
		return false // the first call asks whether ends can be saved again; this one would claim all the same
	case p.calls == 0 && p.deep && n >= 2*overlapAt:
		n /= 2 // the other half comes with the second call
	}
	x := exchange{post: p, acks: p.board(), n: n, large: p.large, last: r.farewell}
	if n > 0 {
		p.asked, p.left = now, false
		r.seq++
		x.seq, x.runner = r.seq, r.lease.name
		r.reserved += n
		p.open = append(p.open, x.seq)
	}
	p.calls++
	go r.exchange(x)
	return true
}

// closes notes that all jobs of a claim have come, or that none will.
func (p *post) closes(seq int64) {
	p.open = slices.DeleteFunc(p.open, func(open int64) bool { return open == seq })
}

// board takes the next call's acks from those that wait.
func (p *post) board() []*attempt {
	n, size := 0, 0
	for n < len(p.acks) && n < ackAtOnce {
		size += p.acks[n].ack.size()
		if n > 0 && size > ackBytes {
			break
		}
		n++
	}
	batch := p.acks[:n:n]
	p.acks = p.acks[n:]
	if len(p.acks) == 0 {
		p.acks = nil
	}
	return batch
}

// idle reports whether a stopping runner has nothing left to do.
func (r *Runner) idle() bool {
	for _, p := range r.posts {
		if p.calls > 0 || len(p.open) > 0 || len(p.acks) > 0 {
			return false
		}
	}
	for _, w := range r.wards {
		if w.listening {
			return false
		}
	}
	return r.busy == 0 && len(r.claims) == 0
}

func (r *Runner) nextWake(now, deadline time.Time) time.Duration {
	wake := now.Add(pollEvery)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(wake) {
			wake = t
		}
	}
	earlier(deadline)
	if r.resume.After(now) {
		earlier(r.resume)
	}
	if r.lookAt.After(now) {
		earlier(r.lookAt)
	}
	for _, p := range r.posts {
		if !p.due.IsZero() && !p.due.After(now) && p.calls == 0 {
			// Its time has come. Without a free slot another runner must go and look.
			p.due = time.Time{}
			if r.free() > 0 {
				p.want = true
				wake = now
			} else {
				r.passOn(p)
			}
		}
		if p.calls == 0 { // its answer brings a new time
			earlier(p.due)
		}
	}
	return max(wake.Sub(now), 0)
}

// settle takes note of what Redis answered.
func (r *Runner) settle(x exchange) {
	p := x.post
	p.calls--
	if x.portion.rest > 0 {
		p.coming++
	} else {
		p.closes(x.seq)
	}
	r.reserved -= x.n - len(x.portion.jobs) - x.portion.rest // kept for those that were claimed
	p.acks = append(p.acks, x.held...)                       // behind those that can be told
	p.held = len(x.held) > 0 || p.held && len(x.acks) == 0
	failed := x.ackErr
	if x.n == 0 && len(x.acks) > 0 {
		p.left = true // a claim that was under way beside them may have come before them
	}
	if failed != nil {
		for _, a := range x.acks {
			a.sentBefore = true
		}
		p.acks = append(x.acks, p.acks...)
	}
	for i, a := range x.acks {
		if failed == nil {
			r.confirm(a, x.answers[i])
		}
	}
	if len(x.held) > 0 {
		failed = x.claimErr
	}
	if len(x.held) > 0 {
		r.hearing = time.Now() // what keeps the ends is away: that is no deafness
	}
	if x.n > 0 {
		if x.claimErr != nil {
			failed = x.claimErr
			if x.maybe {
				r.uncertain[x.seq] = time.Now()
				r.lookBy(time.Now())
			}
		} else if x.leaseGone {
			r.loseLease(x.runner)
		} else {
			r.counts.claims.Add(1)
			r.hearing = time.Now()
			if !r.stopping {
				r.heard.Store(r.hearing.UnixNano())
			}
			got := len(x.portion.jobs) + x.portion.rest
			due := time.Time{}
			if x.sleep >= 0 {
				due = time.Now().Add(x.sleep)
			}
			if x.seq > p.newest {
				p.newest, p.deep = x.seq, got == x.n
				// A server that did not know ack.lua may have claimed first: the ends that left room came after it.
				p.want = p.deep || got == 0 && x.bound && len(x.acks) > 0
				p.bound, p.due = x.bound, due
			} else if p.due.IsZero() || !due.IsZero() && due.Before(p.due) {
				// A later claim has told more already, but Redis may have had it first: then this one has the timer.
				p.due = due
			}
		}
		r.arrive(x.portion)
	}
	if failed != nil {
		r.stumble(failed)
	} else {
		r.recover()
	}
}

// stumble pauses all calls after one failed.
func (r *Runner) stumble(err error) {
	wait := r.pause.NextBackOff()
	r.resume = time.Now().Add(wait)
	if !r.away {
		r.away = true
		r.log.Warn("redis does not answer, or ends of jobs cannot be saved: runner tries again, and claims nothing meanwhile", zap.Error(err))
	}
}

func (r *Runner) recover() {
	r.pause.Reset()
	if r.away {
		r.away = false
		r.lookBy(time.Now()) // another may have taken its place, who does not know our last ends
		r.log.Info("what runners need is back")
	}
}
