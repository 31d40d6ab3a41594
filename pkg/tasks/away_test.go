//go:build unix

package tasks

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestALostAnswerLosesNoJobAndRunsNoneTwice(t *testing.T) {
	t.Parallel()
	for _, b := range []backend{backends[0], backends[2]} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			url := b.url(t)
			p := startProxy(t, url)
			e, through := newEnv(t, url), newEnv(t, p.url())
			through.namespace = e.namespace
			var ran atomic.Int32
			mux := NewMux()
			mux.Handle("x", func(context.Context, *Job) ([]byte, error) { ran.Add(1); return nil, nil })
			r := through.run(mux, RunnerOptions{Lease: 600 * time.Millisecond})
			e.await(e.enqueue("x"), Done) // now Redis knows the scripts
			for i, s := range []*script{claimScript, ackScript, claimScript, ackScript} {
				p.loseAnswer(s)
				e.await(e.enqueue("x"), Done)
				until(t, "the answer is lost", func() bool { return p.lost.Load() == int32(i+1) })
			}
			if _, err := through.c().Enqueue(t.Context(), "x", nil); err != nil {
				t.Error(err)
			}
			p.loseAnswer(enqueueScript)
			if _, err := through.c().Enqueue(t.Context(), "x", nil); err != nil {
				t.Error(err)
			}
			books := e.rest()
			if books.Accepted != 7 || books.Done != 7 || ran.Load() != 7 || p.lost.Load() != 5 {
				t.Errorf("books %+v, ran %d, lost answers %d", books, ran.Load(), p.lost.Load())
			}
			if err := r.halt(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRedisAwayIsAnErrorAndRunnersComeBackByThemselves(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--appendfsync", "always")
	e := newEnv(t, s.url())
	var ran atomic.Int32
	hold, began := make(chan struct{}), make(chan bool, 10)
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { ran.Add(1); return nil, nil })
	mux.Handle("hold", func(context.Context, *Job) ([]byte, error) { began <- true; <-hold; return []byte("kept"), nil })
	r := e.run(mux, RunnerOptions{})
	e.await(e.enqueue("x"), Done)
	held := e.enqueue("hold")
	<-began
	s.stop()

	id, err := e.c().Enqueue(t.Context(), "x", nil, Key("a"))
	if !errors.Is(err, ErrUnavailable) || id != "default.0.a" {
		t.Errorf("enqueue: %q, %v", id, err)
	}
	// A crowd has its answer together, not one after another.
	var crowd sync.WaitGroup
	var told atomic.Int32
	c, start := e.c(), time.Now()
	for range 1000 {
		crowd.Go(func() {
			if _, err := c.Enqueue(context.Background(), "x", nil); errors.Is(err, ErrUnavailable) {
				told.Add(1)
			}
		})
	}
	crowd.Wait()
	if told.Load() != 1000 {
		t.Errorf("%d of 1000 know that redis is away", told.Load())
	}
	t.Logf("1000 callers know after %s that redis is away", time.Since(start).Round(time.Millisecond))
	if _, err := e.c().Status(t.Context(), held); !errors.Is(err, ErrUnavailable) {
		t.Errorf("status: %v", err)
	}
	if _, err := e.c().Cancel(t.Context(), held); !errors.Is(err, ErrUnavailable) {
		t.Errorf("cancel: %v", err)
	}
	close(hold) // it ends while nobody can take note
	time.Sleep(100 * time.Millisecond)
	if !s.start() { // its script cache is empty
		t.Fatal("redis does not come back")
	}
	e.await(held, Done)
	if result, err := e.c().Result(t.Context(), held); err != nil || string(result) != "kept" {
		t.Errorf("%q, %v", result, err)
	}
	e.await(e.enqueue("x", Key("a")), Done)
	if b := e.rest(); b.Accepted != 3 || b.Done != 3 || ran.Load() != 2 {
		t.Errorf("books %+v, ran %d", b, ran.Load())
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

func TestARunnerAndAClientStartBeforeRedis(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.stop()
	e := newEnv(t, s.url())
	began := make(chan string, 10)
	r := e.run(noting(began), RunnerOptions{})
	if _, err := e.c().Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if !s.start() {
		t.Fatal("redis does not start")
	}
	e.enqueue("x")
	<-began
	e.rest()
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

func TestAServerThatHangsIsAnErrorInTime(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEnv(t, s.url())
	e.client = e.connect(Options{CallTimeout: 300 * time.Millisecond, Patience: 100 * time.Millisecond})
	began := make(chan string, 10)
	r := e.run(noting(began), RunnerOptions{})
	e.await(e.enqueue("x"), Done)
	s.signal(syscall.SIGSTOP)
	id, err := e.c().Enqueue(t.Context(), "x", nil)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("enqueue: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // the runner's calls hang too
	s.signal(syscall.SIGCONT)
	// What hung may have been executed now: sent again it settles.
	until(t, "redis is back", func() bool { return e.c().Ping(t.Context()) == nil })
	e.enqueue("x", Key(strings.TrimPrefix(id, "default.0.")))
	e.await(id, Done)
	if b := e.rest(); b.Accepted != 2 || b.Done != 2 {
		t.Errorf("books %+v", b)
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	if len(began) != 2 {
		t.Errorf("ran %d times", len(began))
	}
}

func TestOnAFullRedisRunningJobsEndAndNothingIsAccepted(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEnv(t, s.url())
	hold, began := make(chan struct{}), make(chan string, 100)
	mux := NewMux()
	mux.Handle("hold", func(ctx context.Context, job *Job) ([]byte, error) {
		began <- job.ID
		<-hold
		switch string(job.Payload) {
		case "cancel": // one that returns before it hears of its cancel is done
			<-ctx.Done()
		case "fail":
			return nil, errors.New("no luck")
		case "dead":
			return nil, ErrSkipRetry
		}
		return []byte("result"), nil
	})
	r := e.run(mux, RunnerOptions{Concurrency: 4, Backoff: func(int) time.Duration { return time.Millisecond }})
	var ids []string
	for _, what := range []string{"done", "fail", "dead", "cancel", "waits", "waits", "cancel"} {
		id, err := e.c().Enqueue(t.Context(), "hold", []byte(what), MaxAttempts(2))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for range 4 {
		<-began
	}
	set := func(memory string) {
		t.Helper()
		if err := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.ConfigSet().ParameterValue().ParameterValue("maxmemory", memory).Build()
		}).Error(); err != nil {
			t.Fatal(err)
		}
	}
	set("1mb")
	if _, err := e.c().Enqueue(t.Context(), "hold", nil); !errors.Is(err, ErrFull) {
		t.Errorf("enqueue: %v", err)
	}
	if e.cancel(ids[3]) != Cancelling || e.cancel(ids[6]) != Cancelled {
		t.Error("a full redis cannot cancel")
	}
	// Another runner can start: runners are what empties a full Redis.
	other := e.run(mux, RunnerOptions{})
	until(t, "another runner registers", func() bool { return other.Name() != "" })
	close(hold)
	for i, want := range []State{Done, Dead, Dead, Cancelled, Done, Done, Cancelled} {
		e.await(ids[i], want)
	}
	b := e.rest()
	if b.Accepted != 7 || b.Done != 3 || b.Dead != 2 || b.Cancelled != 2 || b.Retried != 1 {
		t.Errorf("books %+v", b)
	}
	set("0")
	e.await(e.enqueue("hold"), Done)
	for _, x := range []*running{r, other} {
		if err := x.halt(); err != nil {
			t.Error(err)
		}
	}
}

func TestAUnixSocketIsAnAddressToo(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "tasks") // short: a socket's path holds 107 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	startRedis(t, "--unixsocket", dir+"/s")
	e := newEnv(t, "unix://"+dir+"/s?db=1")
	began := make(chan string, 1)
	r := e.run(noting(began), RunnerOptions{})
	e.await(e.enqueue("x"), Done)
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

func TestTheStartCheckSaysWhatIsWrongWithTheServer(t *testing.T) {
	t.Parallel()
	bad := newEnv(t, startRedis(t, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru").url())
	warnings, err := bad.c().Check(t.Context())
	if text := strings.Join(warnings, "\n"); err != nil || len(warnings) != 2 ||
		!strings.Contains(text, "allkeys-lru") || !strings.Contains(text, "appendonly") {
		t.Errorf("%q, %v", warnings, err)
	}
	good := newEnv(t, realRedis(t).url())
	if warnings, err := good.c().Check(t.Context()); err != nil || len(warnings) != 0 {
		t.Errorf("%q, %v", warnings, err)
	}
	mini := newEnv(t, miniURL(t))
	if warnings, err := mini.c().Check(t.Context()); err != nil || len(warnings) != 1 {
		t.Errorf("%q, %v", warnings, err)
	}
	for version, old := range map[string]bool{"6.0.16": true, "6.2.0": false, "7.0.15": false, "5.9": true, "8": false, "10.1.1": false} {
		if older(version, 6, 2) != old {
			t.Error(version)
		}
	}
	for _, url := range []string{"", "http://x", "redis://h/x", "redis://h/1/2"} {
		if _, err := Connect(url, Options{}); err == nil {
			t.Errorf("%q was taken", url)
		}
	}
	for _, url := range []string{"redis://h", "redis://h/", "redis://u:p@h:1/3", "rediss://h", "unix:///run/redis.sock?db=1", "redis://h/?db=2"} {
		if _, err := Connect(url, Options{}); err != nil {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestAnOutageLongerThanTheLeaseEndsNoHandler(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--appendfsync", "always")
	e := newEnv(t, s.url())
	const lease = 300 * time.Millisecond
	began, hold := make(chan string, 4), make(chan struct{})
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
		began <- job.ID
		select {
		case <-hold:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	// Two that could reap each other: by their leases only, as if they lived on two machines.
	a, b := e.run(mux, RunnerOptions{Lease: lease, Concurrency: 1}), e.run(mux, RunnerOptions{Lease: lease, Concurrency: 1})
	e.enqueue("x")
	e.enqueue("x")
	<-began
	<-began
	names := [2]string{a.Name(), b.Name()}
	s.stop()
	time.Sleep(3 * lease)
	if !s.start() {
		t.Fatal("redis does not come back")
	}
	until(t, "both leases live again", func() bool {
		n, _ := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Exists().Key(e.lane().lease(names[0]), e.lane().lease(names[1])).Build()
		}).AsInt64()
		return n == 2
	})
	close(hold)
	until(t, "both are done", func() bool { return a.Counts().Done+b.Counts().Done == 2 })
	if books := e.rest(); books.Done != 2 || books.Crashed != 0 || a.Name() != names[0] || b.Name() != names[1] || len(began) != 0 {
		t.Errorf("books %+v, %s and %s, then %s and %s", books, names[0], names[1], a.Name(), b.Name())
	}
}

func TestARunnerThatWasCutOffAloneLosesItsLeaseWhenItComesBack(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	p := startProxy(t, e.url)
	through := newEnv(t, p.url())
	through.namespace = e.namespace
	causes, began := make(chan error, 1), make(chan int, 2)
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
		began <- job.Crashes
		if job.Crashes > 0 {
			return nil, nil
		}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	lonely := through.run(mux, RunnerOptions{Lease: 300 * time.Millisecond})
	id := e.enqueue("x")
	<-began
	name := lonely.Name()
	p.close(true)
	// The other one's lease is shorter than what it must have seen of Redis: it may believe that an ended lease is a death.
	other := e.run(mux, RunnerOptions{Lease: 300 * time.Millisecond})
	e.await(id, Done)
	select {
	case cause := <-causes:
		t.Errorf("ended while it could not know: %v", cause)
	default:
	}
	p.close(false)
	if cause := <-causes; !errors.Is(cause, ErrLeaseLost) {
		t.Errorf("cause %v", cause)
	}
	until(t, "it has a new name", func() bool { return lonely.Name() != name })
	until(t, "the other one has counted it", func() bool { return other.Counts().Reaped == 1 })
	if b := e.rest(); b.Done != 1 || b.Crashed != 1 {
		t.Errorf("books %+v", b)
	}
}

// A lone enqueue is made by its caller's own goroutine; what comes meanwhile goes together, and nobody is forgotten.
func TestACallerWhoGivesUpLearnsThatTheJobMayBeStored(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEnv(t, s.url())
	c := e.c()
	e.enqueue("x")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if id, err := c.Enqueue(gone, "x", nil); !errors.Is(err, ErrUnavailable) || id == "" {
		t.Errorf("%q, %v", id, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.signal(syscall.SIGSTOP)
	first, err := c.Enqueue(short, "x", nil, Key("a"))
	s.signal(syscall.SIGCONT)
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", first, err)
	}
	if again := e.enqueue("x", Key("a")); again != first {
		t.Errorf("%q and %q", first, again)
	}
	books := e.books()
	if books.Accepted < 2 || books.Accepted > 3 || books.Accepted != books.Pending {
		t.Errorf("books %+v", books)
	}
}
