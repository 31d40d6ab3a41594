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

const reapAtOnce = 100 // jobs per script

// reapLoop looks for dead runners: every reapEvery for those whose death can be proved here, every pollEvery for ended leases.
func (r *Runner) reapLoop(ctx context.Context) {
	// Not all runners of a machine at the same moment.
	wait := time.Duration(rand.Int64N(int64(reapEvery)))
	var leases time.Time // when the leases were last looked at
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = reapEvery
		byLease := time.Since(leases) >= pollEvery
		if byLease {
			leases = time.Now()
		}
		for _, p := range r.posts {
			if err := r.reapLane(ctx, p.lane, byLease); err != nil && ctx.Err() == nil {
				r.log.Debug("cannot look for dead runners", zap.Error(err))
				wait = pollEvery
			}
		}
	}
}

func (r *Runner) reapLane(ctx context.Context, l lane, byLease bool) error {
	ctx, cancel := context.WithTimeout(ctx, r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		return err
	}
	names, err := conn.Do(ctx, conn.B().Zrange().Key(l.wk()).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		return redisError(ctx, err)
	}
	self := r.Name()
	names = slices.DeleteFunc(names, func(name string) bool { return name == self })
	var doubted []string
	for _, name := range names {
		if provedDead(name) {
			if err := r.client.reap(ctx, conn, l, name, true, r.options.MaxCrashes, r.tellReaped); err != nil {
				return err
			}
		} else {
			doubted = append(doubted, name)
		}
	}
	if !byLease || len(doubted) == 0 {
		return nil
	}
	commands := make([]rueidis.Completed, len(doubted))
	for i, name := range doubted {
		commands[i] = conn.B().Exists().Key(l.lease(name)).Build()
	}
	for i, result := range conn.DoMulti(ctx, commands...) {
		alive, err := result.AsInt64()
		if err != nil {
			return redisError(ctx, err)
		}
		if alive == 0 {
			if err := r.client.reap(ctx, conn, l, doubted[i], false, r.options.MaxCrashes, r.tellReaped); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Runner) tellReaped(runner string, proved bool, back, dead, cancelled int64) {
	r.counts.reaped.Add(back + dead + cancelled)
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
	dead, err := run(ctx, conn, expireScript.call([]string{l.lease(runner)}, flag))[0].AsInt64()
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
		keys := l.keys(l.act(), l.bell(), l.dead(), l.stat())
		args := []string{runner, strconv.Itoa(maxCrashes), ms(keepDead), ms(keepOwn)}
		for _, id := range batch {
			keys = append(keys, l.job(id))
			args = append(args, id)
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
