package tasks

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// A queue with a lasting backlog does not starve another one of the same runner.
func TestABackloggedQueueDoesNotStarveAnother(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	const backlog = 1500
	var began atomic.Int64
	when := make(chan int64, 1)
	mux := NewMux()
	mux.Handle("a", func(context.Context, *Job) ([]byte, error) {
		began.Add(1)
		time.Sleep(10 * time.Millisecond)
		return nil, nil
	})
	mux.Handle("b", func(context.Context, *Job) ([]byte, error) {
		when <- began.Load()
		return nil, nil
	})
	var batch []Task
	for range backlog {
		batch = append(batch, Task{Name: "a", Options: []Option{Queue("a")}})
	}
	if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	e.run(mux, RunnerOptions{Queues: []string{"a", "b"}, Concurrency: 2})
	until(t, "a runs", func() bool { return began.Load() > 10 })
	e.enqueue("b", Queue("b"))
	if n := <-when; n == backlog {
		t.Error("b began after all of a")
	}
}

// A cancel can overtake the answer of the claim: then the job goes back unstarted, and Redis, which knows of the cancel, ends it.
func TestCancelThatOvertakesTheClaimKeepsTheJobFromStarting(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	r, err := NewRunner(e.c(), NewMux(), RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.lease = &lease{name: "me"}
	for _, c := range []struct {
		runner string
		cancel bool
	}{{"me", true}, {"somebody whose lease is lost", false}} {
		p, key := r.posts[0], claimKey{id: "default.0.x", seq: int64(len(c.runner))}
		p.acks = nil
		if c.cancel {
			r.cancelEarly(key)
		}
		r.settle(exchange{post: p, runner: c.runner, n: 1, seq: key.seq, portion: portion{post: p, runner: c.runner, jobs: []*attempt{{post: p, key: key}}}})
		if r.busy != 0 || len(p.acks) != 1 || p.acks[0].ack.op != opRequeue {
			t.Errorf("%+v: %d run, %d go back", c, r.busy, len(p.acks))
		}
	}
}
