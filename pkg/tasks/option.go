package tasks

import (
	"fmt"
	"time"
)

const (
	priorities      = 4
	defaultQueue    = "default"
	defaultPriority = 1
	// defaultAttempts with the default back-off spread over about 20 minutes.
	defaultAttempts = 8
	// defaultTimeout ends an attempt that hangs; a job that needs longer says so.
	defaultTimeout = 30 * time.Minute
)

// Option of one job. Those of Unique and Then stand with what they do.
type Option func(*plan)

// plan is a job that its options describe.
type plan struct {
	record
	queue   string
	key     string
	due     string // as enqueue.lua takes it
	wait    int64  // the same in ms from now
	expire  time.Duration
	extra   extra
	alone   bool // Unique is among the options
	then    *Task
	lane    lane
	id      string
	invalid error
}

// Queue names the job's queue: letters, digits, '_' and '-'; "default".
func Queue(name string) Option { return func(p *plan) { p.queue = name } }

// Priority within the queue: 0 first, 1 normal, 2, 3 last.
func Priority(n int) Option { return func(p *plan) { p.priority = n } }

// At schedules the job. A time in the past means now.
func At(t time.Time) Option {
	return func(p *plan) {
		p.due, p.wait = fmt.Sprintf("@%d", max(milliseconds(t), 0)), time.Until(t).Milliseconds()
	}
}

// In schedules the job by Redis' clock.
func In(d time.Duration) Option {
	return func(p *plan) { p.due, p.wait = fmt.Sprintf("+%d", max(d.Milliseconds(), 0)), d.Milliseconds() }
}

// ExpireIn is how long the job may wait for its first attempt, from now or from when it is due: Expired after that.
func ExpireIn(d time.Duration) Option { return func(p *plan) { p.expire = d } }

// Deadline is when the job is of no use any more: no attempt goes on or begins after it, the job is dead then.
func Deadline(t time.Time) Option { return func(p *plan) { p.deadline = max(milliseconds(t), 1) } }

// MaxAttempts is how often the job may fail, 8. After the last it is dead.
func MaxAttempts(n int) Option { return func(p *plan) { p.max = n } }

// Timeout bounds one attempt, 30 min; 0: none.
func Timeout(d time.Duration) Option { return func(p *plan) { p.timeout = d } }

// Keep is how long the result stays. Without it an hour if there is one, else a minute (10 with a key of the caller's own).
func Keep(d time.Duration) Option { return func(p *plan) { p.keep = d } }

// Key makes the enqueue idempotent: the same key in the same queue is the same job, while it exists and for ten minutes after its
// end. [A-Za-z0-9_:-]{1,128}
func Key(key string) Option {
	return func(p *plan) { p.key, p.own = key, true }
}

// Backoff is the wait after the first failed attempt, which doubles with each until the longest, instead of RunnerOptions.Backoff.
func Backoff(first, longest time.Duration) Option {
	return func(p *plan) { p.extra.backoff, p.extra.longest = first, longest }
}

// plan reads a task.
func (c *Client) plan(t Task) plan {
	p := plan{queue: defaultQueue}
	p.record = record{
		state: statePending, priority: defaultPriority, max: defaultAttempts, timeout: defaultTimeout,
		name: t.Name, payload: t.Payload, enqueued: milliseconds(time.Now()),
	}
	for _, option := range t.Options {
		option(&p)
	}
	if !p.own {
		p.key = newKey()
	}
	if p.expire > 0 {
		p.expires = p.enqueued + max(p.wait, 0) + p.expire.Milliseconds()
	}
	switch {
	case p.name == "" || len(p.name) > maxName:
		p.invalid = fmt.Errorf("name %.50q: 1 to %d bytes: %w", p.name, maxName, ErrInvalid)
	case !validQueue(p.queue):
		p.invalid = fmt.Errorf("queue %.100q: %w", p.queue, ErrInvalid)
	case !validKey(p.key):
		p.invalid = fmt.Errorf("key %.200q: %w", p.key, ErrInvalid)
	case len(p.payload) > maxPayload:
		p.invalid = fmt.Errorf("payload of %d bytes, limit %d: %w", len(p.payload), maxPayload, ErrInvalid)
	case p.priority < 0 || p.priority >= priorities:
		p.invalid = fmt.Errorf("priority %d, 0 to %d: %w", p.priority, priorities-1, ErrInvalid)
	case p.max < 1 || p.max > maxAttempts:
		p.invalid = fmt.Errorf("%d attempts, 1 to %d: %w", p.max, maxAttempts, ErrInvalid)
	case p.timeout < 0 || p.timeout > 11*24*time.Hour:
		p.invalid = fmt.Errorf("timeout %s, 0 to 11 days: %w", p.timeout, ErrInvalid)
	case p.expire < 0 || p.expire > 365*24*time.Hour:
		p.invalid = fmt.Errorf("expire in %s, 0 to a year: %w", p.expire, ErrInvalid)
	case p.keep < 0 || p.keep > 365*24*time.Hour:
		p.invalid = fmt.Errorf("keep %s, 0 to a year: %w", p.keep, ErrInvalid)
	case p.alone && !(validKey(p.extra.unique) && p.extra.scope.valid()):
		p.invalid = fmt.Errorf("unique key %.200q for %d: %w", p.extra.unique, p.extra.scope, ErrInvalid)
	case p.extra.backoff < 0 || p.extra.backoff > p.extra.longest || p.extra.longest > 365*24*time.Hour:
		p.invalid = fmt.Errorf("back-off from %s to %s: %w", p.extra.backoff, p.extra.longest, ErrInvalid)
	}
	if p.invalid != nil {
		return p
	}
	shard := p.key
	if p.alone { // the jobs that exclude each other must meet in one lane
		shard = p.extra.unique
		p.holds = p.extra.scope.held()
	}
	p.lane = newLane(c.options.Namespace, p.queue, shardOf(shard, c.options.Shards))
	p.id = fmt.Sprintf("%s.%d.%s", p.queue, p.lane.shard, p.key)
	if p.then != nil {
		p.extra.next, p.invalid = c.planNext(p.key, *p.then, p.extra.trace)
	}
	p.record.extra = p.extra.encode()
	if len(p.record.extra) > maxExtra {
		p.invalid = fmt.Errorf("%d bytes of jobs that follow, limit %d: %w", len(p.record.extra), maxExtra, ErrInvalid)
	}
	return p
}
