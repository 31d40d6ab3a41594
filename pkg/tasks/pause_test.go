package tasks

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func (e *env) pause(queue string) {
	e.t.Helper()
	if changed, err := e.c().Inspector().Pause(e.t.Context(), queue); err != nil || !changed {
		e.t.Fatalf("pause: %v, %v", changed, err)
	}
}

func (e *env) resume(queue string) {
	e.t.Helper()
	if changed, err := e.c().Inspector().Resume(e.t.Context(), queue); err != nil || !changed {
		e.t.Fatalf("resume: %v, %v", changed, err)
	}
}

func (e *env) queue(name string) QueueInfo {
	e.t.Helper()
	q, err := e.c().Inspector().Queue(e.t.Context(), name)
	if err != nil {
		e.t.Fatal(err)
	}
	return q
}

func TestOfAPausedQueueNothingIsClaimedNorPromoted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		release := make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { return nil, nil })
		mux.Handle("long", func(context.Context, *Job) ([]byte, error) { <-release; return nil, nil })
		r := e.run(mux, RunnerOptions{})
		long := e.enqueue("long")
		e.await(long, Running)
		e.pause("default")
		if changed, err := e.c().Inspector().Pause(t.Context(), "default"); err != nil || changed {
			t.Errorf("paused twice: %v, %v", changed, err)
		}
		ids := []string{e.enqueue("x"), e.enqueue("x", In(time.Millisecond)), e.enqueue("x", Priority(0))}
		for begin := r.Counts().Claims; r.Counts().Claims < begin+2; { // it looks once a second
			time.Sleep(10 * time.Millisecond)
		}
		q := e.queue("default")
		if q.Waiting != 2 || q.Pending != [4]int64{1, 1} || q.Scheduled != 1 || q.Running != 1 || q.Runners != 1 || q.Counters.Accepted != 4 ||
			q.Paused.IsZero() || q.Now.Sub(q.Paused) > time.Minute || q.Oldest.IsZero() || time.Since(q.Oldest) > time.Minute {
			t.Errorf("%+v", q)
		}
		close(release)
		e.await(long, Done) // what runs goes on
		if b := e.books(); b.Pending != 2 || b.Scheduled != 1 {
			t.Errorf("%+v", b)
		}
		e.resume("default")
		for _, id := range ids {
			e.await(id, Done)
		}
		if changed, err := e.c().Inspector().Resume(t.Context(), "default"); err != nil || changed {
			t.Errorf("resumed twice: %v, %v", changed, err)
		}
		if q := e.rest(); q.Done != 4 {
			t.Errorf("%+v", q)
		}
		if q := e.queue("default"); !q.Paused.IsZero() || !q.Oldest.IsZero() {
			t.Errorf("%+v", q)
		}
	})
}

// Enqueueing, retrying, and giving back wake nobody while the queue is paused; the resume does.
func TestAPausedQueueCostsNoMoreThanAnIdleOne(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { return nil, nil })
		first := e.enqueue("x")
		r := e.run(mux, RunnerOptions{})
		e.await(first, Done)
		e.pause("default")
		claims, begin := r.Counts().Claims, time.Now()
		const jobs = 300
		for range jobs {
			e.enqueue("x")
		}
		made, seconds := r.Counts().Claims-claims, int64(time.Since(begin)/time.Second)
		if most := seconds + 3; made > most {
			t.Errorf("%d claims in %d s", made, seconds)
		}
		if q := e.queue("default"); q.Waiting != jobs {
			t.Errorf("%+v", q)
		}
		conn, err := e.c().calls.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Do(t.Context(), conn.B().Llen().Key(e.lane().bell()).Build()).AsInt64(); n != 0 || err != nil {
			t.Errorf("%d tokens, %v", n, err)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		e.resume("default")
		if n, err := conn.Do(t.Context(), conn.B().Llen().Key(e.lane().bell()).Build()).AsInt64(); n != 1 || err != nil {
			t.Errorf("%d tokens after the resume, %v", n, err)
		}
		e.books()
	})
}

func TestQueuesAreKnownByName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		if queues, err := e.c().Inspector().Queues(t.Context()); err != nil || len(queues) != 0 {
			t.Errorf("%v, %v", queues, err)
		}
		for _, err := range []error{
			func() error { _, err := e.c().Inspector().Pause(t.Context(), "no"); return err }(),
			func() error { _, err := e.c().Inspector().Queue(t.Context(), "no"); return err }(),
		} {
			if !errors.Is(err, ErrUnknownQueue) {
				t.Error(err)
			}
		}
		e.enqueue("x", Queue("b"))
		e.run(NewMux(), RunnerOptions{Queues: []string{"a"}})
		until(t, "both are known", func() bool {
			names, err := e.c().Inspector().Names(t.Context())
			return err == nil && fmt.Sprint(names) == "[a b]"
		})
	})
}

// A Redis that lost its data (a restart without a file) learns its queues again.
func TestQueuesAreAnnouncedAgain(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	e.enqueue("x")
	e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(queuesKey(e.namespace)).Build() })
	e.c().line(e.lane()).known.at.Add(-announceEvery)
	e.enqueue("x")
	if names, err := e.c().Inspector().Names(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}
