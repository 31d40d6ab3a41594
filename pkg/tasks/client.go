package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
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

// Client enqueues jobs and tells what became of them. It is safe for concurrent use.
type Client struct {
	options Options
	oneSlot bool // a command may touch several lanes
	calls   link
	waits   link
	sends   link // lone enqueues

	mu    sync.Mutex
	lines map[string]*line // by tag; made when first used
}

// Close ends the connections. Stop runners first.
func (c *Client) Close() {
	c.waits.Close()
	c.calls.Close()
	c.sends.Close()
}

// Task is a job to be enqueued.
type Task struct {
	Name    string // of the handler
	Payload []byte // at most 10 MiB; larger things belong into a store
	Options []Option
}

type plan struct {
	record
	queue   string
	key     string
	due     string // as enqueue.lua takes it
	invalid error
}

// Option of one job.
type Option func(*plan)

// Queue names the job's queue: letters, digits, '_' and '-'; "default".
func Queue(name string) Option { return func(p *plan) { p.queue = name } }

// Priority within the queue: 0 first, 1 normal, 2, 3 last.
func Priority(n int) Option { return func(p *plan) { p.priority = n } }

// At schedules the job. A time in the past means now.
func At(t time.Time) Option {
	return func(p *plan) { p.due = fmt.Sprintf("@%d", max(milliseconds(t), 0)) }
}

// In schedules the job by Redis' clock.
func In(d time.Duration) Option {
	return func(p *plan) { p.due = fmt.Sprintf("+%d", max(d.Milliseconds(), 0)) }
}

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

func newPlan(t Task) plan {
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
	case p.keep < 0 || p.keep > 365*24*time.Hour:
		p.invalid = fmt.Errorf("keep %s, 0 to a year: %w", p.keep, ErrInvalid)
	}
	return p
}

// Enqueue stores a job and returns its id. When ctx ends it returns (a cancel is noticed after Options.CallTimeout at the latest). Whatever it returned nil for is in Redis. With ErrUnavailable the job may be stored
// or not; the id comes with the error when one was made, and enqueueing again with Key settles it.
func (c *Client) Enqueue(ctx context.Context, name string, payload []byte, options ...Option) (id string, err error) {
	ids, err := c.EnqueueBatch(ctx, []Task{{Name: name, Payload: payload, Options: options}})
	return ids[0], err
}

// EnqueueBatch stores many jobs in few round trips. ids[i] belongs to tasks[i]; the error joins one BatchError for each that was
// not stored, or not for certain.
func (c *Client) EnqueueBatch(ctx context.Context, tasks []Task) (ids []string, err error) {
	ids = make([]string, len(tasks))
	entries := make([]*entry, len(tasks))
	byLine := make(map[*line][]*entry, 1)
	var errs []error
	now := time.Now()
	for i, task := range tasks {
		p := newPlan(task)
		if p.invalid != nil {
			errs = append(errs, &BatchError{Index: i, Err: p.invalid})
			continue
		}
		l := newLane(c.options.Namespace, p.queue, shardOf(p.key, c.options.Shards))
		ids[i] = fmt.Sprintf("%s.%d.%s", p.queue, l.shard, p.key)
		entries[i] = &entry{
			id: ids[i], priority: p.priority, due: p.due, record: p.encode(), since: now, done: make(chan struct{}),
		}
		line := c.line(l)
		byLine[line] = append(byLine[line], entries[i])
	}
	for line, mine := range byLine {
		line.add(ctx, mine, len(byLine) == 1)
	}
	for i, e := range entries {
		if e == nil {
			continue
		}
		var failed error
		select {
		case <-e.done:
			failed = e.err
		default:
			select {
			case <-e.done:
				failed = e.err
			case <-ctx.Done():
				failed = fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
			}
		}
		if failed != nil {
			errs = append(errs, &BatchError{Index: i, Err: fmt.Errorf("enqueue %s: %w", e.id, failed)})
		}
	}
	if len(tasks) == 1 && len(errs) == 1 {
		return ids, errors.Unwrap(errs[0])
	}
	return ids, errors.Join(errs...)
}

// BatchError is why one job of a batch was not stored.
type BatchError struct {
	Index int
	Err   error
}

func (e *BatchError) Error() string { return fmt.Sprintf("task %d: %s", e.Index, e.Err) }
func (e *BatchError) Unwrap() error { return e.Err }

func (c *Client) line(l lane) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lines[l.tag] == nil {
		c.lines[l.tag] = &line{client: c, lane: l}
	}
	return c.lines[l.tag]
}

// Kind names a handler together with its argument, for producers and runners alike:
//
//	var Thumbnail = tasks.Kind[ThumbnailArgs]("thumbnail")
//	Thumbnail.Handle(mux, func(ctx context.Context, args ThumbnailArgs) ([]byte, error) { … })
//	id, err := Thumbnail.Enqueue(ctx, client, ThumbnailArgs{…})
//
// The argument travels as JSON.
type Kind[T any] string

// Task returns the job for EnqueueBatch.
func (k Kind[T]) Task(args T, options ...Option) (Task, error) {
	payload, err := json.Marshal(args)
	if err != nil {
		return Task{}, fmt.Errorf("arguments of %s: %w: %w", k, ErrInvalid, err)
	}
	return Task{Name: string(k), Payload: payload, Options: options}, nil
}

// Enqueue stores a job of this kind.
func (k Kind[T]) Enqueue(ctx context.Context, c *Client, args T, options ...Option) (string, error) {
	t, err := k.Task(args, options...)
	if err != nil {
		return "", err
	}
	return c.Enqueue(ctx, t.Name, t.Payload, t.Options...)
}

// Handle registers the handler. Arguments that cannot be read make the job dead at once.
func (k Kind[T]) Handle(m *Mux, handle func(ctx context.Context, args T) (result []byte, err error)) {
	m.Handle(string(k), func(ctx context.Context, job *Job) ([]byte, error) {
		var args T
		if err := json.Unmarshal(job.Payload, &args); err != nil {
			return nil, fmt.Errorf("arguments of %s: %w: %w", job.Name, ErrSkipRetry, err)
		}
		return handle(ctx, args)
	})
}
