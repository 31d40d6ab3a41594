package tasks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// Then enqueues another job when this one is done; not when it is dead, cancelled or expired. It gets the result as Job.Input, and as its
// payload if it has none of its own. Its id is made from this one's, its times (In, ExpireIn) count from then. It may have a Then itself.
// If it has a Unique key that another job holds then, it is dropped, and the runner's log says so.
//
// The end of a job and the fact that another follows are one step in Redis (T:out, by the id of the one that follows). The runner that
// made it relays the job to its own queue, and so does any other that finds it: the same id is the same job.
func Then(t Task) Option { return func(p *plan) { p.then = &t } }

// next is the job that follows in a chain. Its times count from when it is enqueued, until then they are durations.
type next struct {
	id     string
	due    string // as enqueue.lua takes it
	record []byte
}

// encode is how the job before it carries it.
func (n *next) encode() string { return n.id + "|" + n.kept() }

// kept is what T:out has of it, by its id.
func (n *next) kept() string { return n.due + "|" + string(n.record) }

func decodeNext(s string) (*next, bool) {
	id, rest, _ := strings.Cut(s, "|")
	due, record, ok := strings.Cut(rest, "|")
	return &next{id, due, []byte(record)}, ok && id != ""
}

// nextKey makes the key of the job that follows from that of the one before it.
func nextKey(key string) string {
	if made := key + ":next"; len(made) <= maxKey {
		return made
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:]) + ":next"
}

// planNext reads the task that follows the one with that key and that trace.
func (c *Client) planNext(key string, t Task, trace string) (*next, error) {
	same := func(p *plan) { p.extra.trace = trace }
	options := append([]Option{Key(nextKey(key)), same}, t.Options...) // unless it has these itself
	p := c.plan(Task{Name: t.Name, Payload: t.Payload, Options: options})
	if p.invalid != nil {
		return nil, fmt.Errorf("then: %w", p.invalid)
	}
	if p.expires > 0 {
		p.expires -= p.enqueued
	}
	p.enqueued = 0
	return &next{p.id, p.due, p.encode()}, nil
}

// after completes the job when the one before it is done.
func (n *next) after(parent string, result []byte, now int64) (*next, error) {
	r, err := decode(n.record)
	if err != nil {
		return nil, fmt.Errorf("what follows %s: %w", parent, err)
	}
	x, err := decodeExtra(r.extra)
	if err != nil {
		return nil, fmt.Errorf("what follows %s: %w", parent, err)
	}
	x.parent, x.own, x.split = parent, len(r.payload), true
	r.extra = x.encode()
	r.payload = append(r.payload, result...)
	r.enqueued = now
	if r.expires > 0 {
		r.expires += now
	}
	return &next{n.id, n.due, r.encode()}, nil
}

// follow relays jobs from a lane's T:out to their own queues. What cannot be enqueued now stays there.
func (c *Client) follow(ctx context.Context, l lane, jobs []*next, log *zap.Logger) {
	entries := make([]*entry, 0, len(jobs))
	var settled []string
	for _, n := range jobs {
		e, at, err := c.entryOf(n)
		if err != nil {
			log.Error("a job that follows another cannot be read: it is lost", zap.String("job", n.id), zap.Error(err))
			settled = append(settled, n.id)
			continue
		}
		c.line(at).add(ctx, []*entry{e}, false)
		entries = append(entries, e)
	}
	for _, e := range entries {
		select {
		case <-e.done:
		case <-ctx.Done():
			return
		}
		switch {
		case e.err == nil:
		case errors.Is(e.err, ErrDuplicate):
			log.Info("a job that follows another is not enqueued", zap.String("job", e.id), zap.Error(e.err))
		default:
			log.Debug("a job that follows another waits to be enqueued", zap.String("job", e.id), zap.Error(e.err))
			continue
		}
		settled = append(settled, e.id)
	}
	if len(settled) == 0 {
		return
	}
	_ = c.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		return conn.Do(ctx, conn.B().Hdel().Key(l.out()).Field(settled...).Build()).Error()
	})
}

// entryOf makes a job that follows another ready for its queue.
func (c *Client) entryOf(n *next) (*entry, lane, error) {
	l, err := parseID(c.options.Namespace, n.id)
	if err != nil {
		return nil, l, err
	}
	r, err := decode(n.record)
	if err != nil {
		return nil, l, err
	}
	x, err := decodeExtra(r.extra)
	if err != nil {
		return nil, l, err
	}
	return newEntry(n.id, n.due, &r, &x, n.record, time.Now()), l, nil
}

const sweepAtOnce = 20

// sweep relays what other runners may have left in a lane's T:out. Some, at random: not all runners the same.
func (r *Runner) sweep(ctx context.Context, conn rueidis.Client, l lane) error {
	ids, err := conn.Do(ctx, conn.B().Hrandfield().Key(l.out()).Count(sweepAtOnce).Build()).AsStrSlice()
	if err != nil || len(ids) == 0 {
		return redisError(ctx, err)
	}
	kept, err := conn.Do(ctx, conn.B().Hmget().Key(l.out()).Field(ids...).Build()).ToArray()
	if err != nil {
		return redisError(ctx, err)
	}
	jobs := make([]*next, 0, len(ids))
	for i, m := range kept {
		if value, err := m.ToString(); err == nil { // else its runner has done it
			n, _ := decodeNext(ids[i] + "|" + value)
			jobs = append(jobs, n)
		}
	}
	r.client.follow(ctx, l, jobs, r.log)
	return nil
}
