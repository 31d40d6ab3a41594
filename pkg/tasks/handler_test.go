package tasks

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAPanicIsAFailedAttemptWithItsStack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("panic", func(context.Context, *Job) ([]byte, error) { panic("oh no") })
		mux.Handle("exit", func(context.Context, *Job) ([]byte, error) { runtime.Goexit(); return nil, nil })
		r := e.run(mux, RunnerOptions{Concurrency: 1})
		id, other := e.enqueue("panic", MaxAttempts(1)), e.enqueue("exit", MaxAttempts(1))
		if s := e.await(id, Dead); !strings.Contains(s.Error, "oh no") || !strings.Contains(s.Error, "handler_test.go") {
			t.Errorf("error %q", s.Error)
		}
		if s := e.await(other, Dead); !strings.Contains(s.Error, "ended its goroutine") {
			t.Errorf("error %q", s.Error)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		e.books()
	})
}

func TestATimeoutEndsAnAttemptAndAHandlerThatIgnoresItKeepsItsSlot(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	stuck, began := make(chan struct{}), make(chan string, 2)
	mux := NewMux()
	mux.Handle("slow", func(ctx context.Context, _ *Job) ([]byte, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	mux.Handle("deaf", func(_ context.Context, job *Job) ([]byte, error) {
		began <- job.ID
		<-stuck
		return nil, errors.New("late")
	})
	e.run(mux, RunnerOptions{Concurrency: 1})
	id := e.enqueue("slow", Timeout(20*time.Millisecond), MaxAttempts(1))
	if s := e.await(id, Dead); s.Error != context.DeadlineExceeded.Error() {
		t.Errorf("error %q", s.Error)
	}
	first, second := e.enqueue("deaf", Timeout(10*time.Millisecond), MaxAttempts(1)), e.enqueue("deaf", MaxAttempts(1))
	if got := <-began; got != first {
		t.Fatalf("%s began before %s", got, first)
	}
	time.Sleep(100 * time.Millisecond) // long past its timeout
	if a, b := e.status(first), e.status(second); a.State != Running || b.State != Pending {
		t.Errorf("%s and %s: the slot of a handler that ignores its context was given away", a.State, b.State)
	}
	close(stuck)
	e.await(second, Dead)
	e.rest()
}

func TestMiddlewareWrapsHandlersFromOutsideIn(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	var order []string
	wrap := func(name string) Middleware {
		return func(next Handler) Handler {
			return func(ctx context.Context, job *Job) ([]byte, error) {
				order = append(order, name)
				return next(ctx, job)
			}
		}
	}
	mux := NewMux()
	mux.Use(wrap("outer"), wrap("inner"))
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { order = append(order, "handler"); return nil, nil })
	r := e.run(mux, RunnerOptions{})
	e.await(e.enqueue("x"), Done)
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(order, " "); got != "outer inner handler" {
		t.Error(got)
	}
}

func TestAKindCarriesItsArgumentsAndADeadJobTellsBadOnes(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	type args struct{ Width int }
	kind := Kind[args]("resize")
	got := make(chan int, 1)
	mux := NewMux()
	kind.Handle(mux, func(_ context.Context, a args) ([]byte, error) { got <- a.Width; return nil, nil })
	e.run(mux, RunnerOptions{})
	if _, err := kind.Enqueue(t.Context(), e.c(), args{Width: 280}); err != nil {
		t.Fatal(err)
	}
	if w := <-got; w != 280 {
		t.Error(w)
	}
	id := e.enqueue("resize") // its payload is no JSON
	if s := e.await(id, Dead); s.Attempt != 1 {
		t.Errorf("%+v", s)
	}
}

func TestProgressIsSeenWhileAJobRunsAndGoneAfter(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		goOn := make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, _ *Job) ([]byte, error) {
			for i := range 1000 { // far more often than it is written
				FromContext(ctx).Progress(i/10, "busy")
			}
			FromContext(ctx).Progress(100, "almost there")
			<-goOn
			return nil, nil
		})
		r := e.run(mux, RunnerOptions{})
		id := e.enqueue("x")
		until(t, "the last word of progress", func() bool { return e.status(id).Progress == Progress{100, "almost there"} })
		close(goOn)
		e.await(id, Done)
		until(t, "the progress is gone", func() bool { return e.status(id).Progress == Progress{} })
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		e.rest()
	})
}

func TestWhatIsAwayOrFullDoesNotCostAnAttempt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			if job.Attempt != 1 {
				return nil, ErrSkipRetry
			}
			if job.Postponed < 3 {
				return nil, Again(errors.New("the disk is full"), time.Millisecond)
			}
			return nil, nil
		})
		for name, err := range map[string]error{
			"away": fmt.Errorf("store: %w", ErrUnavailable), "full": fmt.Errorf("store: %w", ErrFull), "queue": ErrQueueFull,
		} {
			mux.Handle(name, func(context.Context, *Job) ([]byte, error) { return nil, err })
		}
		mux.Handle("final", func(context.Context, *Job) ([]byte, error) {
			return nil, Again(fmt.Errorf("%w, and %w", ErrFull, ErrSkipRetry), 0)
		})
		// A call that the attempt's own timeout cut off: else it would run for ever.
		mux.Handle("late", func(ctx context.Context, _ *Job) ([]byte, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		})
		r := e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Hour }})
		if s := e.await(e.enqueue("x", MaxAttempts(1)), Done); s.Attempt != 1 || s.Postponed != 3 {
			t.Errorf("%+v", s)
		}
		for _, name := range []string{"away", "full", "queue"} {
			s := e.await(e.enqueue(name, MaxAttempts(1)), Retrying)
			if s.Attempt != 0 || s.Postponed != 1 || s.Due.IsZero() || s.Error == "" {
				t.Errorf("%s: %+v", name, s)
			}
			if e.cancel(s.ID) != Cancelled {
				t.Errorf("%s: not cancelled", name)
			}
		}
		if s := e.await(e.enqueue("final"), Dead); s.Attempt != 1 || s.Postponed != 0 {
			t.Errorf("%+v", s)
		}
		if s := e.await(e.enqueue("late", Timeout(time.Millisecond)), Retrying); s.Attempt != 1 || s.Postponed != 0 {
			t.Errorf("%+v", s)
		} else {
			e.cancel(s.ID)
		}
		until(t, "the runner has counted them", func() bool { return r.Counts().Postponed == 6 })
		if b := e.rest(); b.Postponed != 6 || b.Retried != 1 {
			t.Errorf("books %+v", b)
		}
	})
}
