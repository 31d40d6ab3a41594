package tasks

import (
	"time"

	"go.uber.org/zap"
)

// The loop's claims: from the record that came until Redis knows the end. All of it is the loop's.

// arrive starts claimed jobs whose records have come, or gives them back.
func (r *Runner) arrive(x portion) {
	r.reserved -= len(x.jobs)
	x.post.large = x.large
	var just *span
	for _, a := range x.jobs {
		if a.ack.op == 0 && (r.lease == nil || r.lease.name != x.runner || r.early[a.key]) {
			a.ack.op = opRequeue // the lease went meanwhile: refused, harmless; or it was cancelled: it ends so
		}
		delete(r.early, a.key)
		just = r.begin(a, just)
	}
}

// mostEarly bounds the cancels that came before their claim. Those that came after their job's end stay until then.
const mostEarly = 10_000

// cancelEarly remembers a cancel of a job whose claim has been made, but is still on its way to us.
func (r *Runner) cancelEarly(key claimKey) {
	if len(r.early) >= mostEarly {
		clear(r.early)
		r.lookBy(time.Now()) // act says the same
	}
	r.early[key] = true
}

// begin starts a claimed job, in the span of the one that was started just before it, if that fits. It returns the last span.
func (r *Runner) begin(a *attempt, just *span) *span {
	r.counts.claimed.Add(1)
	r.options.Meter.Claimed(a.post.lane.queue)
	r.claims[a.key] = a
	switch {
	case a.ack.op != 0: // the claim found that there is nothing to run
		a.post.acks = append(a.post.acks, a)
	case r.stopping:
		a.ack.op = opRequeue
		a.post.acks = append(a.post.acks, a)
	case !r.mux.knows(a.record.name):
		a.ack = a.unknown(r.mux, r.options.UnknownFor, r.log)
		a.post.acks = append(a.post.acks, a)
	default:
		r.busy++
		a.slot = r.takeSlot()
		r.options.Meter.Began(a.post.lane.queue, a.record.name, a.waited())
		return a.start(r, just)
	}
	return just
}

// confirm takes note that Redis knows the end of a claim, or refused it.
func (r *Runner) confirm(a *attempt, answer int64) {
	delete(r.claims, a.key)
	if r.looking {
		r.settled[a.key] = true
	}
	if answer == 0 {
		r.counts.refused.Add(1)
		r.saveAgain(a)
		// Sent twice because the first answer was lost: most likely that one counted.
		if !a.sentBefore {
			r.log.Warn("the end of a job came too late, it had been taken away", zap.String("job", a.key.id), zap.String("owner", a.owner))
		}
		return
	}
	op := a.ack.op
	if answer == 2 {
		op = opCancelled
	}
	switch op {
	case opDone:
		r.counts.done.Add(1)
		r.measure(a, Done)
	case opDoneNext:
		r.counts.done.Add(1)
		r.measure(a, Done)
		follows := []*next{a.ack.next}
		r.helpers.Go(func() { r.client.follow(r.work, a.post.lane, follows, r.log) })
	case opRetry:
		r.counts.retried.Add(1)
		r.measure(a, Retrying)
	case opAgain:
		r.counts.postponed.Add(1)
		r.measure(a, Retrying)
	case opDead:
		r.counts.dead.Add(1)
		r.measure(a, Dead)
	case opCancelled:
		r.counts.cancelled.Add(1)
		r.measure(a, Cancelled)
	case opExpired:
		r.counts.expired.Add(1)
		r.measure(a, Expired)
	case opRequeue, opBack:
		r.counts.requeued.Add(1)
		r.measure(a, Pending)
	case opDrop:
		if a.ack.gone {
			r.log.Error("a job's record is gone: redis deleted it", zap.String("job", a.key.id))
		}
	}
}

// abandon gives up on handlers that do not return: their jobs go back, what they still do is refused.
func (r *Runner) abandon() {
	for key, a := range r.claims {
		if a.job != nil && !a.returned.Load() { // without a job there never was a handler
			r.log.Error("handler does not heed its context, its job goes back", zap.String("job", key.id), zap.String("name", a.job.Name))
			a.abandoned = true
			r.abandoned++
			r.busy--
			r.options.Meter.Returned(a.post.lane.queue)
			if a.stuck {
				r.stuck--
			}
			// The handler's goroutine may write its own end at this moment: this is another. The record is for one that was cancelled: it ends.
			back := &attempt{post: a.post, key: a.key, owner: a.owner, record: a.record, extra: a.extra, ack: ack{op: opBack}}
			r.claims[key] = back
			a.post.acks = append(a.post.acks, back)
		}
	}
}

// collect takes note of the handlers that have returned.
func (r *Runner) collect() {
	ended := r.returned.take(r.spare)
	for _, a := range ended {
		r.finish(a)
	}
	clear(ended)
	r.spare = ended
}

// finish takes note of a handler that has returned.
func (r *Runner) finish(a *attempt) {
	if a.abandoned {
		return
	}
	r.busy--
	r.options.Meter.Returned(a.post.lane.queue)
	a.span.leave()
	r.slots = append(r.slots, a.slot)
	if a.stuck {
		r.stuck--
	}
	a.post.acks = append(a.post.acks, a)
}
