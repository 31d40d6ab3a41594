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

// Redis works for one call while the jobs of the other run here, where many wait; nobody claims more than it has slots for.
func TestTwoCallsShareTheFreeSlotsOfADeepQueue(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	for range 100 {
		e.enqueue("x")
	}
	r, err := NewRunner(e.c(), NewMux(), RunnerOptions{Concurrency: 64})
	if err != nil {
		t.Fatal(err)
	}
	r.work, r.fetching = t.Context(), t.Context()
	name := "r1"
	l := e.lane()
	conn, err := e.c().calls.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), conn, registerScript.call([]string{l.lease(name), l.wk()}, name, "60000", "1"))[0].Error(); err != nil {
		t.Fatal(err)
	}
	r.lease = &lease{name: name}
	p := r.posts[0]
	p.want = true
	calls := func() (n int) {
		for p.calls < mostCalls && r.call(p, time.Now()) {
			n++
		}
		return n
	}
	if n := calls(); n != 1 || r.free() != 0 {
		t.Fatalf("of a queue that may be empty: %d calls, %d slots left; one asks for all", n, r.free())
	}
	x := <-r.exchanged
	if got := len(x.portion.jobs) + x.portion.rest; got != 64 {
		t.Fatalf("%d jobs", got)
	}
	for x.portion.rest > 0 {
		x.portion = <-r.fetched
	}
	p.calls, p.open, r.reserved, p.deep = 0, nil, 0, true
	if n := calls(); n != 2 || r.free() != 0 || len(p.open) != 2 {
		t.Fatalf("of a deep one: %d calls, %d slots left, open %v", n, r.free(), p.open)
	}
	for want := mostCalls - 1; want >= 0; want-- {
		x := <-r.exchanged
		if x.n != 32 {
			t.Errorf("a call for %d", x.n)
		}
		x.portion.jobs = nil // they are not to run here
		for x.portion.rest > 0 {
			x.portion = <-r.fetched
		}
		x.portion.jobs = nil
		r.settle(x)
		if p.calls != want || len(p.open) != want {
			t.Errorf("%d calls under way, open %v", p.calls, p.open)
		}
	}
	if p.deep {
		t.Error("the last claim got less than it asked for")
	}
}
