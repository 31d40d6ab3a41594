package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAJobRunsAndItsResultIsKept(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("greet", func(_ context.Context, job *Job) ([]byte, error) {
			if job.Attempt != 1 || job.Queue != "default" || job.Name != "greet" {
				return nil, fmt.Errorf("job %+v", job)
			}
			return append([]byte("hello "), job.Payload...), nil
		})
		e.run(mux, RunnerOptions{})
		id, err := e.c().Enqueue(t.Context(), "greet", []byte("world"))
		if err != nil {
			t.Fatal(err)
		}
		s := e.await(id, Done)
		if s.Name != "greet" || s.Attempt != 1 || s.Started.IsZero() || s.Finished.Before(s.Started) || s.Enqueued.IsZero() {
			t.Errorf("status %+v", s)
		}
		result, err := e.c().Result(t.Context(), id)
		if err != nil || string(result) != "hello world" {
			t.Errorf("result %q, %v", result, err)
		}
		if b := e.rest(); b.Accepted != 1 || b.Done != 1 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestManyJobsRunOnceEach(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		const jobs = 500
		var ran [jobs]atomic.Int32
		mux := NewMux()
		mux.Handle("count", func(_ context.Context, job *Job) ([]byte, error) {
			var n int
			if _, err := fmt.Sscan(string(job.Payload), &n); err != nil {
				return nil, err
			}
			ran[n].Add(1)
			return nil, nil
		})
		for range 3 {
			e.run(mux, RunnerOptions{Concurrency: 7})
		}
		batch := make([]Task, jobs)
		for i := range batch {
			batch[i] = Task{Name: "count", Payload: fmt.Append(nil, i)}
		}
		if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		b := e.rest()
		for i := range ran {
			if n := ran[i].Load(); n != 1 {
				t.Errorf("job %d ran %d times", i, n)
			}
		}
		if b.Accepted != jobs || b.Done != jobs {
			t.Errorf("books %+v", b)
		}
	})
}

func TestAFailedJobIsTriedAgainThenDead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var attempts atomic.Int32
		mux := NewMux()
		mux.Handle("fail", func(_ context.Context, job *Job) ([]byte, error) {
			if n := attempts.Add(1); int(n) != job.Attempt {
				t.Errorf("attempt %d calls itself %d", n, job.Attempt)
			}
			return nil, fmt.Errorf("no luck %d", job.Attempt)
		})
		mux.Handle("hopeless", func(context.Context, *Job) ([]byte, error) {
			return nil, fmt.Errorf("bad input: %w", ErrSkipRetry)
		})
		e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return 30 * time.Millisecond }})
		id, other := e.enqueue("fail", MaxAttempts(3)), e.enqueue("hopeless")
		if s := e.await(id, Dead); s.Attempt != 3 || s.Error != "no luck 3" || s.Finished.IsZero() {
			t.Errorf("status %+v", s)
		}
		if s := e.await(other, Dead); s.Attempt != 1 {
			t.Errorf("status %+v", s)
		}
		if _, err := e.c().Result(t.Context(), id); !errors.Is(err, ErrNotDone) {
			t.Errorf("result of a dead job: %v", err)
		}
		if b := e.rest(); b.Dead != 2 || b.Retried != 2 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestBadAddressDoesNotRepeatThePassword(t *testing.T) {
	_, err := Connect("redis://user:s3cret@[::1", Options{})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
}
