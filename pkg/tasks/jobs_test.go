package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// page gives the ids of a page.
func (e *env) page(f Filter) (ids []string, next string) {
	e.t.Helper()
	p, err := e.c().Inspector().Jobs(e.t.Context(), f)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, job := range p.Jobs {
		ids = append(ids, job.ID)
	}
	return ids, p.Next
}

// pages turns all pages.
func (e *env) pages(f Filter) (ids []string) {
	for {
		some, next := e.page(f)
		ids = append(ids, some...)
		if next == "" {
			return ids
		}
		f.Cursor = next
	}
}

func TestJobsOfEachStateInPages(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var first, normal []string
		for n := range 7 {
			normal = append(normal, e.enqueue("x", Key(fmt.Sprintf("n%d", n))))
		}
		for n := range 3 {
			first = append(first, e.enqueue("x", Priority(0), Key(fmt.Sprintf("f%d", n))))
		}
		cancelled := e.enqueue("x", Key("c"))
		if state, err := e.c().Cancel(t.Context(), cancelled); state != Cancelled {
			t.Fatal(state, err)
		}
		late, soon := e.enqueue("x", In(2*time.Hour)), e.enqueue("x", In(time.Hour))
		for _, limit := range []int{1, 3, 4, 1000} {
			f := Filter{Queue: "default", State: Pending, Limit: limit}
			if got, want := e.pages(f), append(slices.Clone(first), normal...); !slices.Equal(got, want) {
				t.Errorf("pending by %d: %v, want %v", limit, got, want)
			}
			f.State = Scheduled
			if got := e.pages(f); !slices.Equal(got, []string{soon, late}) {
				t.Errorf("scheduled by %d: %v", limit, got)
			}
			f.State = Cancelled
			if got := e.pages(f); !slices.Equal(got, []string{cancelled}) {
				t.Errorf("cancelled by %d: %v", limit, got)
			}
		}
		for _, f := range []Filter{
			{Queue: "default", State: "odd"}, {Queue: "default", State: Pending, Limit: 1001}, {Queue: "default", State: Pending, Limit: -1},
			{Queue: "default", State: Pending, Cursor: "x"}, {Queue: "default", State: Pending, Cursor: "0.0.-1"}, {Queue: "no", State: Pending},
		} {
			_, err := e.c().Inspector().Jobs(t.Context(), f)
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrBadCursor) && !errors.Is(err, ErrUnknownQueue) {
				t.Errorf("%+v: %v", f, err)
			}
		}
		if got, _ := e.page(Filter{Queue: "default", State: Pending, Cursor: "0.99.5"}); got != nil {
			t.Error(got)
		}

		release := make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			if strings.HasSuffix(job.ID, ".n1") {
				return nil, fmt.Errorf("broken: %w", ErrSkipRetry)
			}
			<-release
			return []byte("made"), nil
		})
		e.run(mux, RunnerOptions{Concurrency: 20})
		e.await(normal[1], Dead)
		until(t, "all run", func() bool { return len(e.pages(Filter{Queue: "default", State: Running, Limit: 2})) == 9 })
		if got := e.pages(Filter{Queue: "default", State: Dead}); !slices.Equal(got, normal[1:2]) {
			t.Errorf("dead: %v", got)
		}
		close(release)
		e.await(normal[6], Done)
		until(t, "all are done", func() bool { return len(e.pages(Filter{Queue: "default", State: Done, Limit: 4})) == 9 })

		d, err := e.c().Inspector().Job(t.Context(), normal[0], 3)
		if err != nil || d.State != Done || string(d.Data) != "mad" || d.Size != 4 || d.Name != "x" {
			t.Errorf("%+v, %v", d, err)
		}
		d, err = e.c().Inspector().Job(t.Context(), normal[1], 100)
		if err != nil || d.State != Dead || string(d.Data) != "payload" || d.Size != 7 || !strings.HasPrefix(d.Error, "broken") {
			t.Errorf("%+v, %v", d, err)
		}
		if _, err := e.c().Inspector().Job(t.Context(), "default.0.none", 100); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := e.c().Inspector().Job(t.Context(), "none", 100); !errors.Is(err, ErrBadID) {
			t.Error(err)
		}
		e.books()
	})
}

// What ended so long ago that its record is gone is still told of, by name and time.
func TestRecentJobsOutliveTheirRecords(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { return nil, nil })
	id := e.enqueue("x")
	e.run(mux, RunnerOptions{})
	e.await(id, Done)
	e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().job(id)).Build() })
	p, err := e.c().Inspector().Jobs(t.Context(), Filter{Queue: "default", State: Done})
	if err != nil || len(p.Jobs) != 1 || p.Jobs[0].ID != id || p.Jobs[0].Name != "x" || p.Jobs[0].State != Done || time.Since(p.Jobs[0].Finished) > time.Minute ||
		!p.Jobs[0].Enqueued.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestRecentJobsAreBounded(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	var batch []Task
	for range 1100 {
		batch = append(batch, Task{Name: "x"})
	}
	ids, err := e.c().EnqueueBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := e.c().Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	got := e.pages(Filter{Queue: "default", State: Cancelled, Limit: 300})
	if len(got) < 1000 || len(got) >= 1064 || got[0] != ids[1099] {
		t.Errorf("%d, the last %s", len(got), got[0])
	}
	e.books()
}

func TestRetryOfADeadJobBeginsAnew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		broken := make(chan bool, 1)
		broken <- true
		var attempts []int
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			attempts = append(attempts, job.Attempt)
			is := <-broken
			broken <- is
			if is {
				return nil, errors.New("broken")
			}
			return nil, nil
		})
		r := e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Millisecond }, Concurrency: 1})
		id := e.enqueue("x", MaxAttempts(2))
		e.await(id, Dead)
		inspector := e.c().Inspector()
		e.pause("default")
		if err := inspector.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if s := e.status(id); s.State != Pending || s.Attempt != 0 || s.Error != "broken" || !s.Finished.IsZero() || s.Max != 2 {
			t.Errorf("%+v", s)
		}
		if err := inspector.Retry(t.Context(), id); !errors.Is(err, ErrNotDead) {
			t.Error(err)
		}
		if err := inspector.Retry(t.Context(), "default.0.none"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if b := e.books(); b.Pending != 1 || b.Dead != 1 || b.Revived != 1 {
			t.Errorf("%+v", b)
		}
		e.resume("default")
		e.await(id, Dead) // fails twice again
		if err := inspector.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		<-broken
		broken <- false
		until(t, "it ends", func() bool { s := e.status(id).State; return s == Done || s == Dead })
		if err := r.halt(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(attempts[:4], []int{1, 2, 1, 2}) {
			t.Errorf("attempts %v", attempts)
		}
		if b := e.rest(); b.Revived != 2 || b.Accepted != 1 || b.Done+b.Dead != 3 {
			t.Errorf("%+v", b)
		}
		if q := e.queue("default"); q.Dead != b2i(e.status(id).State == Dead) {
			t.Errorf("%+v", q)
		}
	})
}

func b2i(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

func TestPurgeEmptiesAStateAndKeepsTheBooks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.patient() // the in-memory one needs a second for a batch under the race detector
		inspector := e.c().Inspector()
		purge := func(state State, want int64) {
			t.Helper()
			var told int64
			n, err := inspector.Purge(t.Context(), "default", state, func(ids []string) { told += int64(len(ids)) })
			if err != nil || n != want || told != want {
				t.Errorf("purge %s: %d, told %d, %v; want %d", state, n, told, err, want)
			}
			e.books()
		}
		var batch []Task
		for n := range 250 {
			batch = append(batch, Task{Name: "x", Options: []Option{Priority(n % 2)}})
		}
		ids, err := e.c().EnqueueBatch(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		e.enqueue("x", In(time.Hour))
		if _, err := e.c().Cancel(t.Context(), ids[7]); err != nil {
			t.Fatal(err)
		}
		purge(Pending, 249)
		if q := e.queue("default"); q.Waiting != 0 || q.Pending != [4]int64{} || q.Dropped != 0 || q.Scheduled != 1 {
			t.Errorf("%+v", q)
		}
		if s := e.status(ids[0]).State; s != Cancelled {
			t.Error(s)
		}
		purge(Pending, 0)
		purge(Scheduled, 1)
		mux := NewMux()
		mux.Handle("bad", func(context.Context, *Job) ([]byte, error) { return nil, ErrSkipRetry })
		e.run(mux, RunnerOptions{})
		dead := e.enqueue("bad", Key("a"))
		e.enqueue("bad")
		until(t, "both are dead", func() bool { return e.queue("default").Dead == 2 })
		purge(Dead, 2)
		if q := e.queue("default"); q.Dead != 0 {
			t.Errorf("%+v", q)
		}
		if s := e.status(dead).State; s != Dead { // its id stays taken for a while
			t.Error(s)
		}
		for _, state := range []State{Running, Done, Cancelled, "odd"} {
			if _, err := inspector.Purge(t.Context(), "default", state, nil); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", state, err)
			}
		}
		e.rest()
	})
}

// A purge and runners and producers do not harm each other.
func TestPurgeUnderWay(t *testing.T) {
	e := newEnv(t, realRedis(t).url())
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { return nil, nil })
	e.enqueue("x")
	e.run(mux, RunnerOptions{Concurrency: 4})
	done := make(chan error, 1)
	go func() {
		var batch []Task
		for range 50 {
			batch = append(batch, Task{Name: "x"})
		}
		for range 200 {
			if _, err := e.c().EnqueueBatch(context.Background(), batch); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for producing := true; producing; {
		if _, err := e.c().Inspector().Purge(t.Context(), "default", Pending, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if producing = false; err != nil {
				t.Fatal(err)
			}
		default:
		}
	}
	if b := e.rest(); b.Cancelled == 0 || b.Done+b.Cancelled != b.Accepted {
		t.Errorf("%+v", b)
	}
}

// fill enqueues many, as fast as it can be.
func (e *env) fill(n int) {
	e.t.Helper()
	batch := make([]Task, 1000)
	for i := range batch {
		batch[i] = Task{Name: "x", Payload: []byte("p")}
	}
	for left := n; left > 0; left -= len(batch) {
		if _, err := e.c().EnqueueBatch(context.Background(), batch[:min(left, len(batch))]); err != nil {
			e.t.Fatal(err)
		}
	}
}

// looks are what a page of a hundred thousand jobs asks for, and must not cost more than one of a thousand.
var looks = []struct {
	name string
	ask  func(ctx context.Context, i *Inspector, jobs int) error
}{
	{"queues", func(ctx context.Context, i *Inspector, _ int) error { _, err := i.Queues(ctx); return err }},
	{"first page", func(ctx context.Context, i *Inspector, _ int) error {
		_, err := i.Jobs(ctx, Filter{Queue: "default", State: Pending})
		return err
	}},
	{"page in the middle", func(ctx context.Context, i *Inspector, jobs int) error {
		p, err := i.Jobs(ctx, Filter{Queue: "default", State: Pending, Cursor: fmt.Sprintf("0.1.%d", jobs/2)})
		if err == nil && len(p.Jobs) != 50 {
			err = fmt.Errorf("%d jobs", len(p.Jobs))
		}
		return err
	}},
}

func TestLooksCostTheSameHoweverManyJobsWait(t *testing.T) {
	server := startRedis(t, "--appendonly", "no")
	few, many := newEnv(t, server.url()), newEnv(t, server.url())
	few.fill(1_000)
	many.fill(100_000)
	for _, look := range looks {
		cost := func(e *env, jobs int) int64 {
			before, _ := e.commands()
			if err := look.ask(t.Context(), e.c().Inspector(), jobs); err != nil {
				t.Fatalf("%s: %v", look.name, err)
			}
			after, _ := e.commands()
			return after - before
		}
		cost(few, 1_000) // the scripts are loaded
		if a, b := cost(few, 1_000), cost(many, 100_000); a != b {
			t.Errorf("%s: %d commands with 1,000 jobs, %d with 100,000", look.name, a, b)
		}
	}
}

func BenchmarkLook(b *testing.B) {
	server := startRedis(b, "--appendonly", "no")
	for _, jobs := range []int{1_000, 1_000_000} {
		e := newEnv(b, server.url())
		e.fill(jobs)
		for _, look := range looks {
			b.Run(fmt.Sprintf("%s/%d", look.name, jobs), func(b *testing.B) {
				for range b.N {
					if err := look.ask(b.Context(), e.c().Inspector(), jobs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A retried job takes its unique key again, unless another one has it by now.
func TestRetryHeedsTheUniqueKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("bad", func(context.Context, *Job) ([]byte, error) { return nil, ErrSkipRetry })
		e.run(mux, RunnerOptions{})
		unique := Unique("one", UntilDone)
		dead := e.enqueue("bad", unique)
		e.await(dead, Dead)
		e.pause("default")
		second := e.enqueue("bad", unique)
		var duplicate *DuplicateError
		if err := e.c().Inspector().Retry(t.Context(), dead); !errors.As(err, &duplicate) || duplicate.Holder != second {
			t.Errorf("%v", err)
		}
		if n, err := e.c().Inspector().Purge(t.Context(), "default", Pending, nil); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if err := e.c().Inspector().Retry(t.Context(), dead); err != nil {
			t.Fatal(err)
		}
		if _, err := e.c().Enqueue(t.Context(), "bad", nil, unique); !errors.As(err, &duplicate) || duplicate.Holder != dead {
			t.Errorf("%v", err)
		}
		e.books()
		e.resume("default")
		e.rest()
	})
}
