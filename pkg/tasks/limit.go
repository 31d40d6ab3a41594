package tasks

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// Limit of a queue, over all its runners. Zero: none.
type Limit struct {
	Concurrency int     // jobs at once
	PerSecond   float64 // jobs that begin
	Burst       int     // of those at once after a pause; 1
}

// Limit sets a queue's limit, from the next claim on; the zero Limit takes it away. Only queues of one shard can have one.
func (c *Client) Limit(ctx context.Context, queue string, limit Limit) error {
	if limit.Burst == 0 {
		limit.Burst = 1
	}
	switch {
	case !validQueue(queue):
		return fmt.Errorf("queue %.100q: %w", queue, ErrInvalid)
	case c.options.Shards > 1:
		return fmt.Errorf("limit of queue %s: it has %d shards, want 1: %w", queue, c.options.Shards, ErrInvalid)
	case limit.Concurrency < 0 || limit.Concurrency > 1<<20:
		return fmt.Errorf("limit of queue %s: %d at once: %w", queue, limit.Concurrency, ErrInvalid)
	case !(limit.PerSecond >= 0 && limit.PerSecond <= 1e6) || limit.PerSecond > 0 && limit.PerSecond < 0.0001:
		return fmt.Errorf("limit of queue %s: %g a second, want 0 or 0.0001 to 1000000: %w", queue, limit.PerSecond, ErrInvalid)
	case limit.Burst < 1 || limit.Burst > 1<<20:
		return fmt.Errorf("limit of queue %s: burst of %d: %w", queue, limit.Burst, ErrInvalid)
	}
	l := newLane(c.options.Namespace, queue, 0)
	return c.ask(ctx, func(ctx context.Context, conn rueidis.Client) error {
		new(announced).announce(ctx, conn, l)
		set := conn.B().Set().Key(l.lim()).Value(limit.encode()).Build()
		if limit.Concurrency == 0 && limit.PerSecond == 0 {
			set = conn.B().Del().Key(l.lim(), l.rate()).Build()
		}
		if err := conn.Do(ctx, set).Error(); err != nil {
			return err
		}
		// Whoever sleeps may claim more now.
		return run(ctx, conn, ringScript.call(l.keys(l.sched(), l.bell(), l.timer(), l.paused()), ""))[0].Error()
	})
}

// Limited tells a queue's limit.
func (c *Client) Limited(ctx context.Context, queue string) (limit Limit, err error) {
	if !validQueue(queue) {
		return Limit{}, fmt.Errorf("queue %.100q: %w", queue, ErrInvalid)
	}
	var text string
	err = c.ask(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		text, err = conn.Do(ctx, conn.B().Get().Key(newLane(c.options.Namespace, queue, 0).lim()).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			return nil
		}
		return err
	})
	if err != nil || text == "" {
		return Limit{}, err
	}
	return decodeLimit(text)
}

// encode is the value of T:lim.
func (l Limit) encode() string {
	return fmt.Sprintf("%d|%s|%d", l.Concurrency, strconv.FormatFloat(l.PerSecond, 'f', -1, 64), l.Burst)
}

func decodeLimit(text string) (l Limit, err error) {
	parts := strings.Split(text, "|")
	if len(parts) != 3 {
		return l, fmt.Errorf("%q is no limit", text)
	}
	var errs [3]error
	l.Concurrency, errs[0] = strconv.Atoi(parts[0])
	l.PerSecond, errs[1] = strconv.ParseFloat(parts[1], 64)
	l.Burst, errs[2] = strconv.Atoi(parts[2])
	for _, err := range errs {
		if err != nil {
			return Limit{}, fmt.Errorf("%q is no limit: %w", text, err)
		}
	}
	return l, nil
}
