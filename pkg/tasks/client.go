package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Client enqueues jobs and tells what became of them. It is safe for concurrent use.
type Client struct {
	options Options
	calls   link
	waits   link
	sends   link // lone enqueues, exchanges: without a pipeline

	keepers []ResultBackend // who keeps ends of jobs, each once

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

// Enqueue stores a job and returns its id. When ctx ends it returns (a cancel is noticed after Options.CallTimeout at the latest). Whatever it returned nil for is in Redis. With ErrUnavailable the job may be stored
// or not; the id comes with the error when one was made, and enqueueing again with Key settles it.
func (c *Client) Enqueue(ctx context.Context, name string, payload []byte, options ...Option) (id string, err error) {
	ids, err := c.EnqueueBatch(ctx, []Task{{Name: name, Payload: payload, Options: options}})
	return ids[0], err
}

// EnqueueBatch stores many jobs in few round trips. ids[i] belongs to tasks[i]; the error joins one BatchError for each that was
// not stored, or not for certain. Jobs wait in the order of tasks, but of more than 128 parts travel two at a time, and a later part may come first.
func (c *Client) EnqueueBatch(ctx context.Context, tasks []Task) (ids []string, err error) {
	ids = make([]string, len(tasks))
	entries := make([]*entry, len(tasks))
	byLine := make(map[*line][]*entry, 1)
	var errs []error
	now := time.Now()
	for i, task := range tasks {
		task.Options = traced(ctx, task.Options)
		p := c.plan(task)
		if p.invalid != nil {
			errs = append(errs, &BatchError{Index: i, Err: p.invalid})
			continue
		}
		ids[i] = p.id
		entries[i] = newEntry(p.id, p.due, &p.record, &p.extra, p.encode(), now)
		line := c.line(p.lane)
		mine := append(byLine[line], entries[i])
		if len(mine) == flightJobs && i+1 < len(tasks) { // these fly while the next are made
			line.add(ctx, mine, false)
			mine = nil
		}
		byLine[line] = mine
	}
	for line, mine := range byLine {
		if len(mine) > 0 {
			line.add(ctx, mine, len(byLine) == 1)
		}
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
