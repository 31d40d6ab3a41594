package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestAChainRunsInOrderWithTheResults(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.client = e.connect(Options{Shards: 2})
		said := make(chan string, 10)
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			said <- fmt.Sprintf("%s %s: %q, %q after %q", job.Queue, job.Name, job.Payload, job.Input, job.Parent)
			return append([]byte("of "), job.Payload...), nil
		})
		e.run(mux, RunnerOptions{Queues: []string{"default", "other"}})
		last := Task{Name: "x", Options: []Option{In(time.Millisecond)}}
		middle := Task{Name: "x", Payload: []byte("own"), Options: []Option{Queue("other"), Then(last), Priority(3)}}
		id, err := e.c().Enqueue(t.Context(), "x", []byte("first"), Key("a"), Then(middle))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := e.c().Enqueue(t.Context(), "x", []byte("first"), Key("a"), Then(middle)); err != nil || again != id {
			t.Errorf("%s, %v", again, err)
		}
		followed := func(key string) string { return fmt.Sprintf("other.%d.%s", shardOf(key, 2), key) }
		for _, want := range []string{
			`default x: "first", "" after ""`,
			`other x: "own", "of first" after "` + id + `"`,
			`default x: "of own", "of own" after "` + followed("a:next") + `"`,
		} {
			if got := <-said; got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		}
		if b := e.rest("default", "other"); b.Accepted != 3 || b.Done != 3 {
			t.Errorf("books %+v", b)
		}
		if s := e.status(followed("a:next")); s.State != Done || s.Priority != 3 || s.Enqueued.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestAChainEndsWithWhatIsNotDone(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	mux := NewMux()
	mux.Handle("fail", func(context.Context, *Job) ([]byte, error) { return nil, ErrSkipRetry })
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { t.Error("ran"); return nil, nil })
	then := Then(Task{Name: "x"})
	gone := e.enqueue("x", then)
	e.cancel(gone)
	id := e.enqueue("fail", then)
	e.run(mux, RunnerOptions{})
	e.await(id, Dead)
	if b := e.rest(); b.Accepted != 2 {
		t.Errorf("books %+v", b)
	}
}

// Whoever died after the end of a job was in the books and before what follows was enqueued.
func TestAnotherRunnerRelaysWhatOneLeftBehind(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began := make(chan string, 10)
		e.client = e.connect(Options{MaxPending: 5})
		plan := e.c().plan(Task{Name: "x", Payload: []byte("first"), Options: []Option{Key("a"), Then(Task{Name: "x", Payload: []byte("next")})}})
		follows, err := plan.extra.next.after(plan.id, nil, milliseconds(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		left := func() {
			t.Helper()
			err := e.do(func(b rueidis.Builder) rueidis.Completed {
				return b.Hset().Key(e.lane().out()).FieldValue().FieldValue(follows.id, follows.kept()).FieldValue("default.0.broken", "|no record").Build()
			}).Error()
			if err != nil {
				t.Fatal(err)
			}
			if b := e.books(); b.Rest() || b.Following != 2 {
				t.Errorf("books %+v", b)
			}
		}
		left()
		for i := range 5 { // it is full: what follows has to wait
			e.enqueue("x", Key(fmt.Sprint(i)), In(time.Hour))
		}
		r := e.run(noting(began), RunnerOptions{})
		until(t, "what cannot be read is gone", func() bool {
			n, err := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Hlen().Key(e.lane().out()).Build() }).AsInt64()
			return err == nil && n == 1
		})
		if _, err := e.c().Status(t.Context(), follows.id); !errors.Is(err, ErrNotFound) {
			t.Errorf("let into a full queue: %v", err)
		}
		for i := range 5 {
			e.cancel(fmt.Sprint("default.0.", i))
		}
		if got := <-began; got != "next" {
			t.Error(got)
		}
		e.rest()
		// Relayed twice: it is the same job.
		left()
		e.rest()
		if err := r.halt(); err != nil || len(began) != 0 {
			t.Errorf("%v, ran %d times more", err, len(began))
		}
	})
}

func TestWhatCannotFollowIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "redis://127.0.0.1:1") // nobody is asked
	for name, option := range map[string]Option{
		"no name":           Then(Task{}),
		"bad queue":         Then(Task{Name: "x", Options: []Option{Queue("a b")}}),
		"deeper":            Then(Task{Name: "x", Options: []Option{Then(Task{})}}),
		"too large":         Then(Task{Name: "x", Payload: make([]byte, maxExtra)}),
		"no unique key":     Unique("", UntilDone),
		"bad unique key":    Unique("a b", UntilDone),
		"no scope":          Unique("a", 0),
		"expires before":    ExpireIn(-1),
		"longest too short": Backoff(time.Minute, time.Second),
	} {
		if _, err := e.c().Enqueue(t.Context(), "x", nil, option); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := strings.Repeat("k", maxKey)
	if a, b := nextKey(long), nextKey(long[1:]); !validKey(a) || a == b {
		t.Errorf("%s, %s", a, b)
	}
}
