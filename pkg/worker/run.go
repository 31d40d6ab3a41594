package worker

import (
	"context"
	"errors"
	"time"

	"supervisor/pkg/scoreboard"
)

// ErrDraining is the cause of the end of Run's context.
var ErrDraining = errors.New("worker: told to stop")

// Run runs a program without a listener, a job runner for instance. It says READY=1 and calls f. When the supervisor (or TERM) stops
// this worker, the context ends with ErrDraining: f takes nothing more, finishes what it has, and returns before Worker.Deadline. Run gives f's error, or nil
// when f is not back at the drain's deadline (the process is to exit then; see Worker.Ended). When a drain is taken back after f
// returned nil, f is called again.
func Run(f func(ctx context.Context) error) error { return Join().run(f, (*Worker).Ready) }

// RunReady is Run for a program that finds out while it runs that it is ready: it says READY=1 by Worker.Ready. Until then it may fail, and
// the supervisor keeps the workers that it was to replace.
func RunReady(f func(ctx context.Context) error) error {
	return Join().run(f, func(*Worker) {})
}

func (w *Worker) run(f func(ctx context.Context) error, begin func(*Worker)) error {
	w.begun.Store(true)
	w.busy.Add(1)
	defer func() {
		w.busy.Add(-1)
		w.tellSettled()
	}()
	begin(w)
	for {
		ctx, cancel := context.WithCancelCause(context.Background())
		done := w.Done()
		result := make(chan error, 1)
		go func() { result <- f(ctx) }()
		go func() {
			select {
			case <-done:
				cancel(ErrDraining)
			case <-ctx.Done():
			}
		}()
		select {
		case err := <-result:
			drained := ctx.Err() != nil
			cancel(nil)
			if err != nil || !drained || w.Draining() {
				return err
			}
		case <-w.end:
			cancel(ErrDraining)
			return nil
		}
	}
}

// Job counts one job of a program without connections: it shows on the scoreboard and counts for the pool's max_requests. Call end once,
// when the job is over; failed says that it went wrong. The pool's timeout is about requests and does not apply.
func (w *Worker) Job() (end func(failed bool)) {
	c := w.board.Open()
	c.Add(scoreboard.Started, 1)
	began := w.board.Now()
	return func(failed bool) {
		if failed {
			c.Add(scoreboard.Errors, 1)
		} else {
			c.Add(scoreboard.Succeeded, 1)
		}
		shard := c.Shard()
		n := c.End(time.Duration(w.board.Now() - began))
		w.board.Release(c)
		if n >= w.limits[shard].next.Load() {
			w.overLimit(shard, n)
		}
	}
}
