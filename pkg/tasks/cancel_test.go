package tasks

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func (e *env) cancel(id string) State {
	e.t.Helper()
	state, err := e.c().Cancel(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	return state
}

func TestACancelledJobNeverRuns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var ran atomic.Int32
		mux := NewMux()
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { ran.Add(1); return nil, nil })
		pending, scheduled := e.enqueue("x"), e.enqueue("x", In(50*time.Millisecond))
		for _, id := range []string{pending, scheduled} {
			if got := e.cancel(id); got != Cancelled {
				t.Errorf("%s: %q", id, got)
			}
			if s := e.status(id); s.State != Cancelled || s.Finished.IsZero() || s.Name != "x" {
				t.Errorf("%+v", s)
			}
			if e.cancel(id) != "" {
				t.Errorf("%s: cancelled twice", id)
			}
		}
		if b := e.books(); b.Dropping != 1 || b.Cancelled != 2 || b.Pending != 0 {
			t.Errorf("books %+v", b)
		}
		e.run(mux, RunnerOptions{})
		last := e.enqueue("x", Priority(3))
		e.await(last, Done)
		if e.cancel(last) != "" {
			t.Error("cancelled after the end")
		}
		if got, err := e.c().Cancel(t.Context(), "default.0.nobody"); got != "" || err != nil {
			t.Errorf("cancel of what never was: %q, %v", got, err)
		}
		if b := e.rest(); b.Done != 1 || b.Cancelled != 2 || ran.Load() != 1 {
			t.Errorf("books %+v, ran %d", b, ran.Load())
		}
	})
}

func TestCancelEndsTheContextOfARunningJobForGood(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, causes, hold := make(chan string, 2), make(chan error, 2), make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
			began <- job.ID
			<-ctx.Done()
			causes <- context.Cause(ctx)
			<-hold
			if job.Priority == 0 {
				return []byte("too late"), nil // what it returns does not count any more
			}
			return nil, ctx.Err()
		})
		e.run(mux, RunnerOptions{})
		for _, priority := range []int{0, 1} {
			id := e.enqueue("x", Priority(priority))
			<-began
			// Until the runner has ended it, nobody says that it is cancelled.
			for range 2 {
				if got := e.cancel(id); got != Cancelling {
					t.Fatalf("cancel: %q", got)
				}
			}
			if cause := <-causes; !errors.Is(cause, ErrCancelled) {
				t.Errorf("cause %v", cause)
			}
			if s := e.status(id); s.State != Cancelling || s.Runner == "" {
				t.Errorf("%+v", s)
			}
			hold <- struct{}{}
			if s := e.await(id, Cancelled); s.Error != "" || s.Attempt != 1 || s.Started.IsZero() {
				t.Errorf("%+v", s)
			}
		}
		if b := e.rest(); b.Cancelled != 2 || b.Retried != 0 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestACancelMarkIsFoundWhenItsMessageWasLost(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	began := make(chan string, 1)
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
		began <- job.ID
		<-ctx.Done()
		return nil, ctx.Err()
	})
	r := e.run(mux, RunnerOptions{})
	id := e.enqueue("x")
	<-began
	l, _ := parseID(e.namespace, id)
	conn, _ := e.c().calls.get(t.Context())
	value, _ := conn.Do(t.Context(), conn.B().Hget().Key(l.act()).Field(id).Build()).ToString()
	conn.Do(t.Context(), conn.B().Hset().Key(l.act()).FieldValue().FieldValue(id, value+"|X").Build())
	r.cancels <- claimKey{} // as if the connection had broken
	e.await(id, Cancelled)
	e.rest()
}

func TestAMessageLostDuringALookIsLookedForAgain(t *testing.T) {
	t.Parallel()
	r, err := NewRunner(newEnv(t, miniURL(t)).c(), NewMux(), RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.lease = &lease{name: "a"}
	r.looking, r.lookAt = true, now.Add(lookEvery)
	r.lookBy(now)
	r.compare(look{runner: "a"}) // which may have read the job before it was marked
	if r.looking || r.lookAt.After(now) {
		t.Errorf("the next look is in %v", r.lookAt.Sub(now))
	}
}

func TestWhatWasCancelledLeavesItsPlaceToOthers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.client = e.connect(Options{MaxPending: 3})
		var ids []string
		for range 3 {
			ids = append(ids, e.enqueue("x"))
		}
		full := func(want bool) {
			t.Helper()
			if _, err := e.c().Room(t.Context(), Key("room")); errors.Is(err, ErrQueueFull) != want {
				t.Errorf("no room: %v, want %v", err, want)
			}
			if _, err := e.c().Enqueue(t.Context(), "x", nil); errors.Is(err, ErrQueueFull) != want {
				t.Errorf("full: %v, want %v", err, want)
			}
		}
		full(true)
		for _, id := range ids[:2] {
			if got := e.cancel(id); got != Cancelled {
				t.Errorf("%s: %q", id, got)
			}
		}
		full(false)
		full(false)
		full(true)
		e.books()
		// A claim takes them out of the list; one that cannot be read and goes back is dropped there.
		e.claimAs("elsewhere/1/7-7/1", time.Minute)
		full(false)
		e.books()
		l := e.lane()
		conn, _ := e.c().calls.get(t.Context())
		for _, id := range ids {
			a := attempt{key: claimKey{id, 1}, owner: "elsewhere/1/7-7/1|1|", ack: ack{op: opRequeue}}
			if err := run(t.Context(), conn, l.ack([]*attempt{&a}))[0].Error(); err != nil {
				t.Fatal(err)
			}
		}
		if b := e.books(); b.Pending != 2 || b.Dropping != 0 || b.Running != 2 {
			t.Errorf("books %+v", b)
		}
	})
}
