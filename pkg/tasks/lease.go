package tasks

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// lease is a runner's life under one name: made once, and renewed until somebody reaps it. That it ended by the clock means nothing
// by itself: while Redis was away nobody could renew, and nobody could reap.
type lease struct {
	name  string
	end   context.CancelFunc // stops the beat and the reading of messages
	wards []*ward            // for a loop that has none yet
}

// enrol registers a new name in every lane, for as long as it takes, and tells the loop.
func (r *Runner) enrol(ctx context.Context) {
	name := newRunnerName()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := r.register(ctx, name)
		if err == nil {
			break
		}
		r.log.Debug("runner cannot register yet", zap.Error(err))
		select {
		case <-time.After(wait):
		case <-r.gone:
			return
		}
	}
	ctx, end := context.WithCancel(ctx)
	r.name.Store(&name)
	wards := r.newWards()
	select {
	case r.enrolled <- &lease{name: name, end: end, wards: wards}:
	case <-r.gone:
		end()
		r.forget(name)
		return
	}
	go r.beat(ctx, name)
	for _, w := range wards {
		go r.readMessages(ctx, w, name)
	}
}

func (r *Runner) register(ctx context.Context, name string) error {
	return r.client.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		for _, p := range r.posts {
			new(announced).announce(ctx, conn, p.lane)
			keys := []string{p.lane.lease(name), p.lane.wk()}
			// Not new: an earlier try of ours whose answer was lost. Nobody else makes this name.
			if err := run(ctx, conn, registerScript.call(keys, name, ms(r.options.Lease), r.facts()))[0].Error(); err != nil {
				return err
			}
		}
		return nil
	})
}

// beat renews the lease three times in its length. When Redis is away it just goes on: only Redis knows whether the lease is lost.
func (r *Runner) beat(ctx context.Context, name string) {
	every := r.options.Lease / 3
	for {
		wait := every
		alive, err := r.renew(ctx, name, min(every, r.client.options.CallTimeout))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(every, 250*time.Millisecond)
		case !alive:
			select {
			case r.lostLease <- name:
			case <-r.gone:
			}
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (r *Runner) renew(ctx context.Context, name string, within time.Duration) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		return false, err
	}
	commands := make([]rueidis.Completed, 0, 2*len(r.posts))
	for _, p := range r.posts {
		commands = append(commands, conn.B().Pexpire().Key(p.lane.lease(name)).Milliseconds(r.options.Lease.Milliseconds()).Build())
	}
	// What people see of this runner may have gone with an ended lease. A full Redis refuses it, which harms nobody.
	facts := r.facts()
	for _, p := range r.posts {
		commands = append(commands, conn.B().Set().Key(p.lane.lease(name)).Value(facts).Xx().Keepttl().Build())
	}
	alive = true
	for i, result := range conn.DoMulti(ctx, commands...)[:len(r.posts)] {
		n, err := result.AsInt64()
		if err == nil && n == 0 { // it has ended: has anybody come?
			l := r.posts[i].lane
			n, err = run(ctx, conn, renewScript.call([]string{l.lease(name), l.cut(name), l.wk()}, name, ms(r.options.Lease)))[0].AsInt64()
		}
		if err != nil {
			return false, redisError(ctx, err)
		}
		alive = alive && n == 1
	}
	return alive, nil
}

// readMessages waits for what clients tell this runner: `seq|id` cancels a claim.
func (r *Runner) readMessages(ctx context.Context, w *ward, name string) {
	keys := make([]string, len(w.posts))
	for i, p := range w.posts {
		keys[i] = p.lane.ctl(name)
	}
	const patience = 5 * time.Second
	for ctx.Err() == nil {
		said, err := r.blpop(ctx, keys, patience)
		if err != nil {
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			// A message may have been on its way.
			select {
			case r.cancels <- claimKey{}:
			case <-ctx.Done():
			case <-r.gone:
			}
			continue
		}
		if len(said) < 2 {
			continue
		}
		number, id, _ := strings.Cut(said[1], "|")
		seq, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			continue
		}
		select {
		case r.cancels <- claimKey{id, seq}:
		case <-ctx.Done():
		case <-r.gone:
		}
	}
}

// blpop waits for one of the lists. No answer in time is an empty slice; a server that hangs is an error.
func (r *Runner) blpop(ctx context.Context, keys []string, wait time.Duration) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.waits.get(ctx)
	if err != nil {
		return nil, err
	}
	said, err := conn.Do(ctx, conn.B().Blpop().Key(keys...).Timeout(wait.Seconds()).Build().UnblockOnCancel()).AsStrSlice()
	if rueidis.IsRedisNil(err) {
		return nil, nil
	}
	return said, redisError(ctx, err)
}

// leave gives the name back. If not all ends are in Redis it stays, for the others to reap what is left.
func (r *Runner) leave(clean bool) {
	if r.lease == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(r.phases.goodbye, r.client.options.CallTimeout))
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		return
	}
	flag := "0"
	if clean && len(r.uncertain) == 0 {
		flag = "1"
	}
	name := r.lease.name
	for _, p := range r.posts {
		l := p.lane
		keys := l.keys(l.sched(), l.bell(), l.timer(), l.lease(name), l.ctl(name), l.wake(name), l.wk(), l.paused())
		if err := run(ctx, conn, leaveScript.call(keys, name, flag))[0].Error(); err != nil {
			r.log.Warn("runner could not say goodbye, its lease will end", zap.String("runner", name), zap.Error(err))
			return
		}
	}
}

// forget removes a name that never claimed anything.
func (r *Runner) forget(name string) {
	_ = r.client.do(context.Background(), func(ctx context.Context, conn rueidis.Client) error {
		for _, p := range r.posts {
			conn.Do(ctx, conn.B().Del().Key(p.lane.lease(name)).Build())
			conn.Do(ctx, conn.B().Zrem().Key(p.lane.wk()).Member(name).Build())
		}
		return nil
	})
}

// loseLease ends everything that was claimed under a name, and takes a new one.
func (r *Runner) loseLease(name string) {
	if r.lease == nil || r.lease.name != name {
		return
	}
	r.log.Error("lease lost", zap.String("runner", name), zap.Int("running", r.busy))
	r.lease.end()
	r.lease = nil
	clear(r.uncertain)
	for _, p := range r.posts {
		p.due = time.Time{}
	}
	for _, a := range r.claims {
		a.cancel(ErrLeaseLost)
	}
	go r.enrol(r.work)
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
