package tasks

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// Upkeep is what a runner does for Postgres beside its jobs, each as well as any other: the outbox, ends that no runner told, and the deletion
// of what is too old. One goroutine, one connection, which also hears the notices of new jobs.

const (
	outboxPoll   = time.Second // a notice may be lost, or not pass through a PgBouncer
	upkeepPause  = 250 * time.Millisecond
	upkeepLonger = 5 * time.Second
)

// upkeep goes on until ctx ends.
func (r *Runner) upkeep(ctx context.Context) {
	away := false
	pause := upkeepPause
	tell := func(err error) {
		if err == nil {
			pause = upkeepPause
		}
		if is := err != nil; is != away {
			away = is
			if is {
				r.log.Warn("jobs enqueued in transactions wait: postgres or redis does not do its part", zap.Error(err))
			} else {
				r.log.Info("postgres and redis do their part again")
			}
		}
	}
	relay := newRelay(r.client, r.log)
	for ctx.Err() == nil {
		err := r.upkeepSession(ctx, relay, tell)
		if ctx.Err() != nil {
			return
		}
		tell(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, upkeepLonger)
	}
}

// upkeepSession works on one connection until it fails. tell hears after each round what did not go well, nil if all did.
func (r *Runner) upkeepSession(ctx context.Context, relay *relay, tell func(error)) error {
	p := r.client.options.Postgres
	held, err := p.pool.Acquire(ctx)
	if err != nil {
		return fault(err)
	}
	defer held.Release()
	conn := held.Conn()
	if _, err := conn.Exec(ctx, "listen "+outboxChannel); err != nil {
		return fault(err)
	}
	defer func() {
		// Whoever has this connection next wants no notices.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = conn.Exec(ctx, "unlisten *")
	}()
	pruneAt := time.Now().Add(rand.N(pruneEvery)) // not all runners at the same moment
	for {
		for more := true; more; {
			if more, err = relay.batch(ctx, conn); err != nil {
				return err
			}
		}
		if p.archives() {
			if err := r.archiveOwed(ctx); err != nil {
				return err
			}
		}
		if !time.Now().Before(pruneAt) {
			if err := p.prune(ctx, r.client.options.Namespace); err != nil {
				return err
			}
			pruneAt = time.Now().Add(pruneEvery)
		}
		tell(relay.trouble())
		wait, cancel := context.WithTimeout(ctx, relay.next())
		_, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || conn.IsClosed()) {
			return fault(err)
		}
	}
}

// T:owed is a ZSET: ids of jobs that somebody else than the runner with their claim may have ended (a cancel, a reaper, the runner that took
// over), by the time at which to look. They are entered before it happens, so that a crash in between costs no row of the archive.
func (l lane) owed() string { return l.tag + ":owed" }

const (
	owedAfter  = 10 * time.Second // longer than any call that was begun
	owedAgain  = 30 * time.Second // for one that runs on: its handler takes its time to end
	owedAtOnce = 100
	owedTTL    = keepDead // of what nobody looks at any more: there is no Postgres left
)

// owe enters jobs. Without an archive there is nothing to do.
func (c *Client) owe(ctx context.Context, conn rueidis.Client, l lane, after time.Duration, ids ...string) error {
	if !c.options.Postgres.archives() || len(ids) == 0 {
		return nil
	}
	at := float64(time.Now().Add(after).UnixMilli())
	members := conn.B().Zadd().Key(l.owed()).ScoreMember()
	for _, id := range ids {
		members = members.ScoreMember(at, id)
	}
	for _, result := range conn.DoMulti(ctx, members.Build(), conn.B().Pexpire().Key(l.owed()).Milliseconds(owedTTL.Milliseconds()).Build()) {
		// A full Redis takes no entry, but does what follows: that must not wait for the archive.
		if err := redisError(ctx, result.Error()); err != nil && !errors.Is(err, ErrFull) {
			return err
		}
	}
	return nil
}

// archiveOwed archives those that have ended, as Redis has them.
func (r *Runner) archiveOwed(ctx context.Context) error {
	for _, post := range r.posts {
		err := r.client.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
			return r.client.archiveOwed(ctx, conn, post.lane)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) archiveOwed(ctx context.Context, conn rueidis.Client, l lane) error {
	ids, err := conn.Do(ctx, conn.B().Zrangebyscore().Key(l.owed()).Min("-inf").Max(strconv.FormatInt(time.Now().UnixMilli(), 10)).
		Limit(0, owedAtOnce).Build()).AsStrSlice()
	if err != nil || len(ids) == 0 {
		return err
	}
	var ends []Ended
	var settled, later []string
	for _, id := range ids {
		raw, err := conn.Do(ctx, conn.B().Get().Key(l.job(id)).Build()).AsBytes()
		if err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
		rec, err := decode(raw)
		switch {
		case err != nil: // gone, or none of ours
			settled = append(settled, id)
		case rec.terminal():
			ends = append(ends, endedOf(id, l, &rec))
			settled = append(settled, id)
		default:
			value, err := conn.Do(ctx, conn.B().Hget().Key(l.act()).Field(id).Build()).ToString()
			if err != nil && !rueidis.IsRedisNil(err) {
				return err
			}
			if o, _ := parseOwner(value); o.cancel {
				later = append(later, id) // its handler has not returned yet
			} else {
				settled = append(settled, id) // it will end in its own way
			}
		}
	}
	if len(ends) > 0 {
		if err := c.options.Postgres.save(ctx, c.options.Namespace, ends, true); err != nil {
			return err
		}
	}
	if err := c.owe(ctx, conn, l, owedAgain, later...); err != nil || len(settled) == 0 {
		return err
	}
	return conn.Do(ctx, conn.B().Zrem().Key(l.owed()).Member(settled...).Build()).Error()
}
