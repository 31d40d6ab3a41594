package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTheSameKeyIsTheSameJobAlsoAfterItsEnd(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		a, b := e.enqueue("x", Key("order:17")), e.enqueue("x", Key("order:17"))
		if a != b || a != "default.0.order:17" {
			t.Errorf("%q and %q", a, b)
		}
		began := make(chan string, 10)
		r := e.run(noting(began), RunnerOptions{})
		e.await(a, Done)
		e.enqueue("x", Key("order:17"))
		if got := e.rest(); got.Accepted != 1 || got.Done != 1 {
			t.Errorf("books %+v", got)
		}
		if err := r.halt(); err != nil || len(began) != 1 {
			t.Errorf("%v, ran %d times", err, len(began))
		}
	})
}

func TestJobsThatArriveTogetherTravelTogether(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var all sync.WaitGroup
		c := e.c()
		for range 64 {
			all.Go(func() {
				for range 5 {
					if _, err := c.Enqueue(context.Background(), "x", nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if b := e.books(); b.Accepted != 320 || b.Pending != 320 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestAFullQueueRefusesWhatIsNewAndKnowsWhatItHas(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.client = e.connect(Options{MaxPending: 3})
		ids, err := e.c().EnqueueBatch(t.Context(), []Task{
			{Name: "x", Options: []Option{Key("a")}}, {Name: "x", Options: []Option{Key("b"), In(time.Hour)}},
			{Name: "x", Options: []Option{Key("c")}}, {Name: "x", Options: []Option{Key("d")}},
		})
		var one *BatchError
		if !errors.Is(err, ErrQueueFull) || !errors.As(err, &one) || one.Index != 3 {
			t.Errorf("%v, %v", ids, err)
		}
		if _, err := e.c().Enqueue(t.Context(), "x", nil, Key("a")); err != nil {
			t.Errorf("enqueued before, refused now: %v", err)
		}
		if _, err := e.c().Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrQueueFull) {
			t.Error(err)
		}
		if b := e.books(); b.Accepted != 3 || b.Pending != 2 || b.Scheduled != 1 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestWhatCannotBeAJobIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "redis://127.0.0.1:1") // nobody is asked
	for name, task := range map[string]Task{
		"no name":       {},
		"long name":     {Name: strings.Repeat("x", 256)},
		"queue":         {Name: "x", Options: []Option{Queue("a.b")}},
		"no queue":      {Name: "x", Options: []Option{Queue("")}},
		"key":           {Name: "x", Options: []Option{Key("a b")}},
		"no key":        {Name: "x", Options: []Option{Key("")}},
		"long key":      {Name: "x", Options: []Option{Key(strings.Repeat("k", 129))}},
		"priority":      {Name: "x", Options: []Option{Priority(4)}},
		"no attempts":   {Name: "x", Options: []Option{MaxAttempts(0)}},
		"long timeout":  {Name: "x", Options: []Option{Timeout(12 * 24 * time.Hour)}},
		"large payload": {Name: "x", Payload: make([]byte, maxPayload+1)},
	} {
		if _, err := e.c().Enqueue(t.Context(), task.Name, task.Payload, task.Options...); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"", "x", "a.b", "a.0.", "a.00.k", "a.-1.k", "a.0.k k", ".0.k", "a.99999.k", "{a}.0.k"} {
		if _, err := e.c().Status(t.Context(), id); !errors.Is(err, ErrBadID) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestAJobOfEveryShapeComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for i, r := range []record{
		{state: statePending, name: "x"},
		{
			state: stateDead, priority: 3, own: true, attempt: 999, max: 999, crashes: 99, timeout: 11 * 24 * time.Hour,
			enqueued: 1, started: 2, finished: 9_999_999_999_999, keep: 365 * 24 * time.Hour, expires: 3, deadline: 4, holds: true,
			name: strings.Repeat("n", 255), extra: []byte("\x00 extra"), payload: []byte("\x00\xff payload"),
		},
	} {
		raw := r.encode()
		got, err := decode(append(raw, encodeError("it broke")+" rest of a longer one"...))
		if err != nil || got.failure != "it broke" {
			t.Errorf("%d: %v, failure %q", i, err, got.failure)
		}
		got.failure = ""
		r.size, r.extraSize = len(r.payload), len(r.extra)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", r) && len(r.payload) > 0 {
			t.Errorf("%d:\n%+v\n%+v", i, got, r)
		}
		for cut := range len(raw) {
			if _, err := decode(raw[:cut]); err == nil && cut < len(raw) {
				t.Errorf("%d: %d of %d bytes were taken for a record", i, cut, len(raw))
			}
		}
	}
}

func TestLargePayloadsAndResultsPass(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("echo", func(_ context.Context, job *Job) ([]byte, error) { return job.Payload, nil })
		mux.Handle("grow", func(context.Context, *Job) ([]byte, error) { return make([]byte, maxPayload+1), nil })
		e.run(mux, RunnerOptions{})
		var ids []string
		for i := range 4 {
			id, err := e.c().Enqueue(t.Context(), "echo", []byte(strings.Repeat(fmt.Sprint(i), 3<<20)))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		for i, id := range ids {
			e.await(id, Done)
			if result, err := e.c().Result(t.Context(), id); err != nil || string(result) != strings.Repeat(fmt.Sprint(i), 3<<20) {
				t.Errorf("result of %d bytes, %v", len(result), err)
			}
		}
		id := e.enqueue("grow")
		if s := e.await(id, Dead); s.Attempt != 1 || !strings.Contains(s.Error, "limit") {
			t.Errorf("%+v", s)
		}
	})
}

// A large batch flies in parts while the rest is made.
func TestEachOfALargeBatchIsAnsweredForItself(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		for _, n := range []int{flightJobs, flightJobs + 1, 5*flightJobs + 7} {
			batch := make([]Task, n)
			for i := range batch {
				batch[i] = Task{Name: "x", Options: []Option{Priority(i % 4)}}
			}
			batch[n-1].Name = "" // alone behind the last full part
			batch[3].Options = []Option{Queue("other")}
			ids, err := e.c().EnqueueBatch(t.Context(), batch)
			if failed := new(BatchError); !errors.As(err, &failed) || failed.Index != n-1 {
				t.Fatalf("of %d: %v", n, err)
			}
			for i, id := range ids[:n-1] {
				if s := e.status(id); s.State != Pending {
					t.Errorf("%d of %d: %q is %q", i, n, id, s.State)
				}
			}
		}
	})
}
