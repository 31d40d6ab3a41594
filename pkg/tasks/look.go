package tasks

import (
	"context"
	"slices"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// look is what Redis says this runner has claimed. It is compared with what the runner knows after a claim without an answer, after
// messages may have been lost, when Redis was away, and now and then: a job that only Redis believes to be running would run for ever.
type look struct {
	runner string
	found  []sight
	err    error
}

type sight struct {
	post  *post
	id    string
	owner owner
}

func (r *Runner) look(runner string) {
	l := look{runner: runner}
	l.err = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
		for _, p := range r.posts {
			claims, err := conn.Do(ctx, conn.B().Hgetall().Key(p.lane.act()).Build()).AsStrMap()
			if err != nil {
				return err
			}
			for id, value := range claims {
				if o, ok := parseOwner(value); ok && o.runner == runner {
					l.found = append(l.found, sight{p, id, o})
				}
			}
		}
		return nil
	})
	select {
	case r.looked <- l:
	case <-r.gone:
	}
}

// compare releases what Redis believes this runner has and it has not, and cancels what it was not told to.
func (r *Runner) compare(l look) {
	r.looking = false
	settled := r.settled
	r.settled = nil
	now := time.Now()
	if l.err != nil {
		r.lookBy(now.Add(time.Second))
		return
	}
	if r.lease == nil || l.runner != r.lease.name {
		r.lookBy(now)
		return
	}
	for _, s := range l.found {
		key := claimKey{s.id, s.owner.seq}
		if a := r.claims[key]; a != nil {
			if s.owner.cancel {
				a.cancel(ErrCancelled)
			}
			continue
		}
		if settled[key] || slices.Contains(s.post.open, key.seq) {
			continue // it has ended meanwhile, or it or its record is on the way
		}
		back := ack{op: opBack}
		if _, unanswered := r.uncertain[key.seq]; unanswered {
			back.op = opRequeue
			r.log.Warn("a claim without an answer did happen, its job goes back", zap.String("job", s.id))
		} else {
			r.log.Warn("redis does not know that a job has ended, it goes back: a failover, or a file that lost its last writes", zap.String("job", s.id))
		}
		a := &attempt{post: s.post, key: key, owner: s.owner.prefix(), ack: back}
		r.claims[key] = a
		s.post.acks = append(s.post.acks, a)
	}
	for seq, since := range r.uncertain {
		if now.Sub(since) > lateClaim {
			delete(r.uncertain, seq)
		}
	}
	if len(r.uncertain) > 0 {
		r.lookBy(now.Add(r.options.Lease / 3))
	}
}

// lookBy asks for a look at this time, unless there will be one before it.
func (r *Runner) lookBy(at time.Time) {
	if at.Before(r.lookAt) {
		r.lookAt = at
	}
}
