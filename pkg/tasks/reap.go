package tasks

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

const (
	reapAtOnce = 100 // jobs per script
	// cutTTL is how long a reaper's mark outlives a reaper that died over it; each that comes after it sets it anew.
	cutTTL = time.Hour
)

// Runners watch each other in the ring of their names' order, so that idling costs each of them the same however many there are: a runner
// looks at those that follow it, reaps the dead, and goes on until it has found a few that live. Two, because one that stands still
// watches nobody until its own lease has ended.
const (
	watched = 2
	page    = 8 // names per question
)

// reapLoop looks for dead runners: every reapEvery for those whose death can be proved here, every pollEvery for ended leases.
func (r *Runner) reapLoop(ctx context.Context) {
	// Not all runners of a machine at the same moment.
	wait := time.Duration(rand.Int64N(int64(reapEvery)))
	var (
		leases time.Time // when the leases were last looked at
		last   time.Time // when Redis last answered
		since  time.Time // since when it has answered every time
	)
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = reapEvery
		// Redis was away, or this process stood still: the others must have the time to renew their leases before an ended one counts.
		if time.Since(last) > max(r.options.Lease/2, pollEvery) {
			since = time.Now()
		}
		byLease := time.Since(leases) >= pollEvery && time.Since(since) >= r.options.Lease
		if byLease {
			leases = time.Now()
		}
		for _, p := range r.posts {
			err := r.watch(ctx, p.lane, byLease)
			if err == nil {
				last = time.Now()
			} else if ctx.Err() == nil {
				r.log.Debug("cannot look for dead runners", zap.Error(err))
				wait, last = pollEvery, time.Time{}
				break
			}
		}
	}
}

// watch looks at the runners that follow this one: those of its machine, and by their leases those of all.
func (r *Runner) watch(ctx context.Context, l lane, byLease bool) error {
	ctx, cancel := context.WithTimeout(ctx, r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		return err
	}
	reap := func(name string, proved bool) error {
		return r.client.reap(ctx, conn, l, name, proved, r.options.MaxCrashes, func(runner string, proved bool, back, dead, cancelled int64) {
			r.tellReaped(l.queue, runner, proved, back, dead, cancelled)
		})
	}
	if here.machine != "" {
		// The names of this machine begin with it and a slash; '0' comes after '/'.
		err := r.around(ctx, conn, l, "["+here.machine+"/", "("+here.machine+"0", func(name string) (dead bool, err error) {
			if !provedDead(name) {
				return false, nil
			}
			return true, reap(name, true)
		})
		if err != nil {
			return err
		}
	}
	if !byLease {
		return nil
	}
	if err := r.sweep(ctx, conn, l); err != nil {
		return err
	}
	return r.around(ctx, conn, l, "-", "+", func(name string) (dead bool, err error) {
		alive, err := conn.Do(ctx, conn.B().Exists().Key(l.lease(name)).Build()).AsInt64()
		if err != nil || alive == 1 {
			return false, redisError(ctx, err)
		}
		return true, reap(name, false)
	})
}

// around asks about the names from this runner's own to the last and on from the first, until enough have been found alive.
func (r *Runner) around(ctx context.Context, conn rueidis.Client, l lane, first, last string, dead func(name string) (bool, error)) error {
	self := r.Name()
	alive := 0
	look := func(names []string) (enough bool, err error) {
		for _, name := range names {
			if name == self {
				continue
			}
			is, err := dead(name)
			if err != nil {
				return false, err
			}
			if !is {
				if alive++; alive == watched {
					return true, nil
				}
			}
		}
		return false, nil
	}
	ask := func(from, to string) ([]string, error) {
		names, err := conn.Do(ctx, conn.B().Zrangebylex().Key(l.wk()).Min(from).Max(to).Limit(0, page).Build()).AsStrSlice()
		return names, redisError(ctx, err)
	}
	// A few runners need one question.
	if ring := l.tag + first; !r.large[ring] {
		names, err := ask(first, last)
		if err != nil {
			return err
		}
		if len(names) < page {
			at, _ := slices.BinarySearch(names, self)
			_, err := look(slices.Concat(names[at:], names[:at]))
			return err
		}
		r.large[ring] = true
	}
	count := 0
	for _, part := range [][2]string{{"(" + self, last}, {first, "(" + self}} {
		if self == "" && part[1] == "(" {
			break // not registered: the first part was all
		}
		for from := part[0]; ; {
			names, err := ask(from, part[1])
			if err != nil {
				return err
			}
			count += len(names)
			if enough, err := look(names); enough || err != nil {
				return err
			}
			if len(names) < page {
				break
			}
			from = "(" + names[len(names)-1]
		}
	}
	r.large[l.tag+first] = count >= page-1
	return nil
}

func (r *Runner) tellReaped(queue, runner string, proved bool, back, dead, cancelled int64) {
	r.counts.reaped.Add(back + dead + cancelled)
	r.options.Meter.Reaped(queue, back+dead+cancelled)
	r.log.Warn("runner is dead, its jobs go back", zap.String("runner", runner), zap.Bool("proved", proved),
		zap.Int64("back", back), zap.Int64("dead", dead), zap.Int64("cancelled", cancelled))
}

// reap takes everything from a dead runner: its lease first, so that it cannot claim any more; then its claims; its name last, so that
// whoever comes after a reaper that died half-way finds the rest.
func (c *Client) reap(ctx context.Context, conn rueidis.Client, l lane, runner string, proved bool, maxCrashes int,
	tell func(runner string, proved bool, back, dead, cancelled int64),
) error {
	flag := "0"
	if proved {
		flag = "1"
	}
	dead, err := run(ctx, conn, expireScript.call([]string{l.lease(runner), l.cut(runner)}, flag, ms(cutTTL)))[0].AsInt64()
	if err != nil || dead == 0 {
		return redisError(ctx, err)
	}
	claims, err := conn.Do(ctx, conn.B().Hgetall().Key(l.act()).Build()).AsStrMap()
	if err != nil {
		return redisError(ctx, err)
	}
	var ids []string
	for id, value := range claims {
		if strings.HasPrefix(value, runner+"|") {
			ids = append(ids, id)
		}
	}
	// Each goes to the front: the youngest first, so that the oldest ends up foremost.
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	var sum [3]int64
	for batch := range slices.Chunk(ids, reapAtOnce) {
		keys := l.keys(l.act(), l.bell(), l.dead(), l.stat(), l.paused(), l.recent(stateCancelled))
		args := []string{runner, strconv.Itoa(maxCrashes), ms(keepDead), ms(keepOwn), strconv.Itoa(len(batch))}
		for _, id := range batch {
			keys = append(keys, l.job(id))
			args = append(args, id)
		}
		uniques, err := l.uniqueKeys(ctx, conn, batch...)
		if err != nil {
			return redisError(ctx, err)
		}
		for i, unique := range uniques {
			if unique != "" {
				keys = append(keys, unique)
				args = append(args, strconv.Itoa(i+1))
			}
		}
		if err := c.owe(ctx, conn, l, owedAfter, batch...); err != nil { // those that end here: poison, cancelled
			return err
		}
		counts, err := run(ctx, conn, reapScript.call(keys, args...))[0].AsIntSlice()
		if err != nil {
			return redisError(ctx, err)
		}
		for i := range min(len(counts), len(sum)) {
			sum[i] += counts[i]
		}
	}
	for _, command := range []rueidis.Completed{
		conn.B().Del().Key(l.ctl(runner), l.wake(runner)).Build(),
		conn.B().Zrem().Key(l.wk()).Member(runner).Build(),
		conn.B().Del().Key(l.cut(runner)).Build(), // without its name it cannot renew either
	} {
		if err := conn.Do(ctx, command).Error(); err != nil {
			return redisError(ctx, err)
		}
	}
	if len(ids) > 0 {
		tell(runner, proved, sum[0], sum[1], sum[2])
	}
	return nil
}
