package tasks

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// duplicate enqueues what must be refused, and returns who has the key.
func (e *env) duplicate(options ...Option) string {
	e.t.Helper()
	_, err := e.c().Enqueue(e.t.Context(), "x", nil, options...)
	var other *DuplicateError
	if !errors.Is(err, ErrDuplicate) || !errors.As(err, &other) {
		e.t.Fatalf("enqueued twice: %v", err)
	}
	return other.Holder
}

func TestAUniqueKeyIsHeldUntilTheEndHoweverThatIs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.client = e.connect(Options{Shards: 3}) // the key decides the shard
		only := Unique("report:7", UntilDone)
		mux := NewMux()
		release := make(chan struct{})
		mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
			switch string(job.Payload) {
			case "wait":
				select {
				case <-release:
				case <-ctx.Done():
				}
				return nil, ctx.Err()
			case "fail":
				return nil, ErrSkipRetry
			case "once more":
				if job.Attempt == 1 {
					return nil, RetryAfter(errors.New("later"), time.Hour)
				}
			}
			return nil, nil
		})
		enqueue := func(payload string, options ...Option) string {
			t.Helper()
			id := e.enqueueWith(payload, append(options, only)...)
			if holder := e.duplicate(only); holder != id {
				t.Errorf("%s is in the way, not %s", holder, id)
			}
			return id
		}
		// Before it begins: cancelled while it waits, or for its time; expired.
		for _, options := range [][]Option{nil, {In(time.Hour)}} {
			if id := enqueue("", options...); e.cancel(id) != Cancelled {
				t.Errorf("%s: not cancelled", id)
			}
		}
		late := enqueue("", ExpireIn(time.Millisecond))
		time.Sleep(5 * time.Millisecond)
		r := e.run(mux, RunnerOptions{})
		e.await(late, Expired)
		// After it has begun: done, dead, cancelled, and not while it waits for its next attempt.
		id := enqueue("wait")
		e.await(id, Running)
		if holder := e.duplicate(only); holder != id {
			t.Errorf("%s is in the way, not %s", holder, id)
		}
		release <- struct{}{}
		e.await(id, Done)
		e.await(e.enqueueWith("fail", only), Dead)
		id = enqueue("wait")
		e.await(id, Running)
		e.cancel(id)
		e.await(id, Cancelled)
		id = enqueue("once more")
		e.await(id, Retrying)
		if holder := e.duplicate(only, Key("other")); holder != id {
			t.Errorf("%s is in the way, not %s", holder, id)
		}
		e.cancel(id)
		// The same key again is the same job, and no duplicate of itself; also after its end.
		own := e.enqueueWith("wait", only, Key("mine"))
		if again := e.enqueueWith("wait", only, Key("mine")); again != own {
			t.Errorf("%s is not %s", again, own)
		}
		e.await(own, Running)
		release <- struct{}{}
		e.await(own, Done)
		next := enqueue("wait")
		if again := e.enqueueWith("", only, Key("mine")); again != own {
			t.Errorf("%s is not %s", again, own)
		}
		e.await(next, Running)
		release <- struct{}{}
		e.await(next, Done)
		if b := e.rest(); b.Accepted != 9 {
			t.Errorf("books %+v", b)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
	})
}

func (e *env) enqueueWith(payload string, options ...Option) string {
	e.t.Helper()
	id, err := e.c().Enqueue(e.t.Context(), "x", []byte(payload), options...)
	if err != nil {
		e.t.Fatal(err)
	}
	return id
}

func TestOfManyWithOneUniqueKeyOneGetsIn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var in atomic.Int64
		var all sync.WaitGroup
		c := e.c()
		for range 30 {
			all.Go(func() {
				_, err := c.Enqueue(context.Background(), "x", nil, Unique("u", UntilDone))
				if err == nil {
					in.Add(1)
				} else if !errors.Is(err, ErrDuplicate) {
					t.Error(err)
				}
			})
			all.Go(func() { e.enqueue("x") }) // they travel together
		}
		all.Wait()
		if b := e.books(); in.Load() != 1 || b.Accepted != 31 || b.Pending != 31 {
			t.Errorf("%d got in, books %+v", in.Load(), b)
		}
	})
}

func TestUntilStartAndForAreOverWhenTheySaySo(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, release := make(chan string, 10), make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
			// What changed until now is this job's; for the rest there is another.
			id, err := e.c().Enqueue(ctx, "next", nil, Unique("start", UntilStart))
			began <- id
			<-release
			return nil, err
		})
		mux.Handle("next", func(context.Context, *Job) ([]byte, error) { return nil, nil })
		first := e.enqueue("x", Unique("start", UntilStart))
		if holder := e.duplicate(Unique("start", UntilStart)); holder != first {
			t.Errorf("%s is in the way, not %s", holder, first)
		}
		e.run(mux, RunnerOptions{})
		second := <-began
		e.await(second, Done)
		close(release)
		e.await(first, Done)

		throttled := e.enqueue("next", Unique("for", For(400*time.Millisecond)))
		e.await(throttled, Done)
		if holder := e.duplicate(Unique("for", For(time.Second))); holder != throttled {
			t.Errorf("%s is in the way, not %s", holder, throttled)
		}
		until(t, "the time is over", func() bool {
			_, err := e.c().Enqueue(t.Context(), "next", nil, Unique("for", For(time.Millisecond)))
			return err == nil
		})
		e.rest()
	})
}

// Redis executed that the keys are given back, and its answer was lost: the jobs go back without having begun, and have their keys again. Where
// another job took one meanwhile, it counts as begun.
func TestAJobThatGoesBackBeforeItBeganHasItsUniqueKeyAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		l := e.lane()
		back, taken := e.enqueue("x", Unique("back", UntilStart)), e.enqueue("x", Unique("taken", UntilStart))
		const name = "elsewhere/1/7-7/1"
		e.claimAs(name, time.Minute)
		conn, _ := e.c().calls.get(t.Context())
		if err := run(t.Context(), conn, releaseScript.call([]string{l.unique("back"), l.unique("taken")}, back, taken))[0].Error(); err != nil {
			t.Fatal(err)
		}
		other := e.enqueue("x", Unique("taken", UntilStart))
		// Nor is it a begin that nobody knew its name.
		if err := conn.Do(t.Context(), conn.B().Setrange().Key(l.job(back)).Offset(79).Value("0001").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		for id, key := range map[string]string{back: "back", taken: "taken"} {
			a := attempt{key: claimKey{id, 1}, owner: name + "|1|", ack: ack{op: opRequeue}, record: record{holds: true}, extra: extra{unique: key, scope: UntilStart}}
			if err := run(t.Context(), conn, l.ack([]*attempt{&a}))[0].Error(); err != nil {
				t.Fatal(err)
			}
		}
		e.books()
		if holder := e.duplicate(Unique("back", UntilStart)); holder != back {
			t.Errorf("%s has the key of %s", holder, back)
		}
		if holder := e.duplicate(Unique("taken", UntilStart)); holder != other {
			t.Errorf("%s has the key of %s", holder, other)
		}
		if a, b := e.status(back), e.status(taken); !a.Started.IsZero() || b.Started.IsZero() {
			t.Errorf("%+v, %+v", a, b)
		}
	})
}

// A runner that does not learn whether the keys were given back begins none of these jobs, and they do later.
func TestAJobWhoseUniqueKeyIsNotGivenBackForCertainBeginsLater(t *testing.T) {
	t.Parallel()
	p := startProxy(t, realRedis(t).url())
	e := newEnv(t, p.url())
	e.client = e.connect(Options{CallTimeout: time.Second, Patience: 10 * time.Second})
	var r ran
	x := e.run(r.mux(), RunnerOptions{})
	e.await(e.enqueue("x", Unique("first", UntilStart)), Done) // now Redis knows the scripts
	p.loseAnswer(releaseScript)
	id := e.enqueue("x", Unique("u", UntilStart))
	e.await(id, Done)
	if n := x.Counts(); n.Requeued != 1 || r.of(id) != 1 || p.lost.Load() != 1 {
		t.Errorf("%+v, ran %d times", n, r.of(id))
	}
	e.rest()
}

// A record that Redis lost, or a failover that brought the key back: nobody would ever give it back.
func TestAUniqueKeyWhoseHolderIsGoneIsTakenOver(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		l := e.lane()
		for _, holder := range []string{"default.0.gone", e.enqueue("x", Key("ended"))} {
			e.cancel(holder)
			if err := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Set().Key(l.unique("u")).Value(holder).Build() }).Error(); err != nil {
				t.Fatal(err)
			}
			if b, err := Verify(t.Context(), e.c(), "default"); err != nil || len(b.Problems) != 1 {
				t.Errorf("%v, problems %q", err, b.Problems)
			}
			id := e.enqueue("x", Unique("u", UntilDone))
			e.books()
			if got := e.duplicate(Unique("u", UntilDone)); got != id {
				t.Errorf("%s is in the way, not %s", got, id)
			}
			e.cancel(id)
		}
	})
}

func TestAReaperGivesBackUniqueKeysOfWhatEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		l := e.lane()
		back, poison, cancelled := e.enqueue("x", Unique("back", UntilDone)), e.enqueue("x", Unique("poison", UntilDone)), e.enqueue("x", Unique("cancelled", UntilDone))
		if err := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Setrange().Key(l.job(poison)).Offset(10).Value("05").Build()
		}).Error(); err != nil {
			t.Fatal(err)
		}
		const name = "elsewhere/1/7-7/1"
		e.claimAs(name, time.Minute)
		if e.cancel(cancelled) != Cancelling {
			t.Error("not running")
		}
		e.reap(name)
		for id, want := range map[string]State{back: Pending, poison: Dead, cancelled: Cancelled} {
			if s := e.status(id); s.State != want {
				t.Errorf("%s: %+v", id, s)
			}
		}
		if s := e.status(cancelled); s.Attempt != 1 || s.Started.IsZero() {
			t.Errorf("it had begun: %+v", s)
		}
		e.books()
		e.enqueue("x", Unique("poison", UntilDone))
		e.enqueue("x", Unique("cancelled", UntilDone))
		if holder := e.duplicate(Unique("back", UntilDone)); holder != back {
			t.Error(holder)
		}
		e.books()
	})
}

// A handler that heeds nothing is left behind by a stop: its job, which was cancelled before, has ended, and gives its key back.
func TestACancelledJobThatIsLeftBehindGivesItsUniqueKeyBack(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	began, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { close(began); <-release; return nil, nil })
	id := e.enqueue("x", Unique("k", UntilDone))
	r := e.run(mux, RunnerOptions{StopBy: func() time.Time { return time.Now().Add(time.Second) }})
	<-began
	if state := e.cancel(id); state != Cancelling {
		t.Errorf("cancel: %q", state)
	}
	if err := r.halt(); !errors.Is(err, ErrAbandoned) {
		t.Error(err)
	}
	if s := e.status(id); s.State != Cancelled {
		t.Errorf("%+v", s)
	}
	e.books() // says so if the key is still there
}

// Until start is over with the first attempt: another one that goes back before it began takes no key again.
func TestAJobThatHasBegunOnceTakesNoUntilStartKeyAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		id := e.enqueue("x", Unique("k", UntilStart))
		const name = "elsewhere/1/7-7/1"
		e.claimAs(name, time.Minute)
		conn, _ := e.c().calls.get(t.Context())
		if err := run(t.Context(), conn, releaseScript.call([]string{e.lane().unique("k")}, id))[0].Error(); err != nil {
			t.Fatal(err)
		}
		if err := conn.Do(t.Context(), conn.B().Setrange().Key(e.lane().job(id)).Offset(4).Value("001").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		a := attempt{key: claimKey{id, 1}, owner: name + "|1|", ack: ack{op: opRequeue}, record: record{holds: true}, extra: extra{unique: "k", scope: UntilStart}}
		if err := run(t.Context(), conn, e.lane().ack([]*attempt{&a}))[0].Error(); err != nil {
			t.Fatal(err)
		}
		e.enqueue("x", Unique("k", UntilStart))
	})
}

// One call gives back the unique keys of all jobs of a claim that begin; not that of one whose name nobody knows here.
func TestAJobWithoutAHandlerKeepsItsUniqueKeyWhenOthersOfItsClaimBegin(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	batch := []Task{{Name: "x"}} // the first of all is read alone
	for i := range 10 {
		batch = append(batch, Task{Name: "x", Options: []Option{Unique("k"+strconv.Itoa(i), UntilStart)}})
	}
	batch = append(batch, Task{Name: "unknown", Options: []Option{Unique("k", UntilStart)}})
	ids, err := e.c().EnqueueBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	e.run(new(ran).mux(), RunnerOptions{Concurrency: len(batch)})
	for _, id := range ids[:11] {
		e.await(id, Done)
	}
	e.await(ids[11], Retrying)
	if holder := e.duplicate(Unique("k", UntilStart)); holder != ids[11] {
		t.Errorf("%s has the key of %s", holder, ids[11])
	}
	e.books()
}
