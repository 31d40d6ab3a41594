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

// byHand is a registered runner whose loop is the test.
func byHand(e *env, concurrency int) *Runner {
	e.t.Helper()
	r, err := NewRunner(e.c(), NewMux(), RunnerOptions{Concurrency: concurrency})
	if err != nil {
		e.t.Fatal(err)
	}
	r.work, r.fetching = context.Background(), context.Background()
	conn, err := e.c().calls.get(r.work)
	if err != nil {
		e.t.Fatal(err)
	}
	name, l := "r1", e.lane()
	if err := run(r.work, conn, registerScript.call([]string{l.lease(name), l.wk()}, name, "60000", "1"))[0].Error(); err != nil {
		e.t.Fatal(err)
	}
	r.lease = &lease{name: name}
	return r
}

// Redis works for one call while the jobs of the other run here, where many wait; nobody claims more than it has slots for.
func TestTwoCallsShareTheFreeSlotsOfADeepQueue(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	for range 100 {
		e.enqueue("x")
	}
	r := byHand(e, 64)
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

// Of a queue at its limit who ends a job asks for the next. Redis may have seen the claim that is under way beside such ends before them.
func TestTheRoomThatEndsLeaveBesideAClaimIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, endsFirst := range map[string]bool{"the ends are answered first": true, "the claim is": false} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, miniURL(t))
			r := byHand(e, 64)
			p := r.posts[0]
			a := &attempt{post: p, key: claimKey{"default.0.x", 1}, ack: ack{op: opDrop}}
			claim := exchange{post: p, seq: 2, runner: "r1", n: 40, bound: true, sleep: -1, portion: portion{post: p}}
			ends := exchange{post: p, acks: []*attempt{a}, answers: []int64{1}}
			p.calls, p.bound, p.open, p.asked, r.reserved, r.seq = 2, true, []int64{2}, time.Now(), 40, 2
			if endsFirst {
				r.settle(ends)
				r.settle(claim)
			} else {
				r.settle(claim)
				r.settle(ends)
			}
			if !r.call(p, p.asked) || len(p.open) != 1 {
				t.Fatal("nobody asks")
			}
			r.settle(<-r.exchanged)
			p.bound = true
			if r.call(p, p.asked) {
				t.Error("somebody asks again, though nobody has ended a job")
			}
		})
	}
}

// An end that cannot be saved stops all claims of its lane, also those of a second call.
func TestWhileAnEndCannotBeSavedNoOtherCallClaims(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	r := byHand(e, 64)
	p := r.posts[0]
	a := &attempt{post: p, key: claimKey{"default.0.x", 1}, owner: "r1|1|", ack: ack{op: opDrop}}
	p.calls, p.deep, p.want, r.reserved = 1, true, true, 32
	r.settle(exchange{post: p, held: []*attempt{a}, n: 32, seq: 1, runner: "r1", claimErr: ErrUnavailable, portion: portion{post: p}})
	if !r.call(p, time.Now()) || r.call(p, time.Now()) {
		t.Errorf("%d calls: want one, which has the end", p.calls)
	}
	x := <-r.exchanged
	if len(x.acks) != 1 {
		t.Errorf("%d ends in it", len(x.acks))
	}
	p.want, p.deep = true, true
	r.settle(x)
	if p.held {
		t.Error("it is saved, and yet holds up claims")
	}
}

// Redis may have the later of two claims first. Then what the other says of the timer counts: this runner has it.
func TestTheTimerThatTheOlderOfTwoClaimsTookIsKept(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	r := byHand(e, 64)
	p := r.posts[0]
	p.calls, r.reserved = 2, 64
	r.settle(exchange{post: p, seq: 2, runner: "r1", n: 32, sleep: -1, portion: portion{post: p}})
	r.settle(exchange{post: p, seq: 1, runner: "r1", n: 32, sleep: time.Hour, portion: portion{post: p}})
	if p.due.IsZero() {
		t.Error("nobody watches the clock")
	}
}
