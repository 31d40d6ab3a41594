package tasks

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func ignoresItsContext(block <-chan struct{}) { <-block }

func TestAHandlerThatDoesNotReturnIsReportedWithItsStackAndTheRunnerRetires(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	core, logs := observer.New(zap.InfoLevel)
	block, hold := make(chan struct{}), make(chan struct{})
	defer close(block)
	mux := NewMux()
	mux.Handle("stuck", func(context.Context, *Job) ([]byte, error) { ignoresItsContext(block); return nil, nil })
	mux.Handle("slow", func(context.Context, *Job) ([]byte, error) { <-hold; return nil, nil })
	r := e.run(mux, RunnerOptions{StuckAfter: 20 * time.Millisecond, Log: zap.New(core)})
	slow := e.enqueue("slow")
	e.await(slow, Running)
	until(t, "ready", r.Ready)
	id := e.enqueue("stuck", Timeout(time.Millisecond))
	until(t, "the report", func() bool { return logs.FilterMessageSnippet("does not heed its context, the runner").Len() > 0 })
	until(t, "not ready any more", func() bool { return !r.Ready() })
	close(hold) // it waits for its other jobs, not for that one
	if err := <-r.end; !errors.Is(err, ErrStuck) || !errors.Is(err, ErrAbandoned) {
		t.Errorf("%v", err)
	}
	line := logs.FilterMessageSnippet("does not heed its context, the runner").All()[0].ContextMap()
	if stack, _ := line["goroutine"].(string); line["job"] != id || !strings.Contains(stack, "ignoresItsContext") || strings.Contains(stack, "watchOver") {
		t.Errorf("%v", line)
	}
	if a, b := e.status(slow), e.status(id); a.State != Done || b.State != Pending {
		t.Errorf("%s and %s", a.State, b.State)
	}
	e.books()
}

func TestARunnerWhoseClaimsDoNotComeThroughRetires(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		// Another's key: every claim fails, everything else is answered.
		do := func(build func(b rueidis.Builder) rueidis.Completed) {
			t.Helper()
			if err := e.do(build).Error(); err != nil {
				t.Fatal(err)
			}
		}
		do(func(b rueidis.Builder) rueidis.Completed {
			return b.Set().Key(e.lane().sched()).Value("broken").Build()
		})
		r := e.run(NewMux(), RunnerOptions{Deaf: 300 * time.Millisecond})
		if err := <-r.end; !errors.Is(err, ErrDeaf) || errors.Is(err, ErrAbandoned) || r.Ready() {
			t.Errorf("%v, ready: %v", err, r.Ready())
		}
		do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().sched()).Build() })
		e.rest()
	})
}

func TestARunnerIsNotDeafWhileItsSlotsAreTakenOrRedisIsAway(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEnv(t, s.url())
	impatient := e.connect(Options{CallTimeout: 500 * time.Millisecond})
	e.patient() // the test's own questions may take as long as they do
	hold := make(chan struct{})
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { <-hold; return nil, nil })
	r := e.runOn(impatient, mux, RunnerOptions{Concurrency: 1, Deaf: 4 * time.Second})
	id := e.enqueue("x")
	e.await(id, Running)
	time.Sleep(6 * time.Second) // it looks once a second
	if !r.Ready() {
		t.Error("a runner with all its slots taken is not ready")
	}
	close(hold)
	e.await(id, Done)
	s.stop()
	time.Sleep(6 * time.Second)
	if !s.start() {
		t.Fatal("redis does not start")
	}
	claims := r.Counts().Claims
	until(t, "it claims again", func() bool { return r.Counts().Claims > claims+1 })
	if !r.Ready() {
		t.Error("not ready again")
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}

func TestTheLoggerKnowsItsJob(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	core, logs := observer.New(zap.InfoLevel)
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, _ *Job) ([]byte, error) { Logger(ctx).Info("hello"); return nil, nil })
	e.run(mux, RunnerOptions{Log: zap.New(core)})
	id := e.enqueue("x")
	e.await(id, Done)
	said := logs.FilterMessage("hello").All()
	if len(said) != 1 || said[0].ContextMap()["job"] != id || said[0].ContextMap()["name"] != "x" || said[0].ContextMap()["attempt"] != int64(1) {
		t.Errorf("%v", said)
	}
	Logger(t.Context()).Info("nobody hears this")
}

// While Postgres is away ends wait, and claims with them: the runner keeps its jobs, is not deaf, and goes on when it is back.
func TestARunnerIsNotDeafWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	server := ownPostgres(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), server.URL())
	mux := NewMux()
	began, hold := make(chan struct{}, 10), make(chan struct{})
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { began <- struct{}{}; <-hold; return nil, nil })
	r := e.run(mux, RunnerOptions{Concurrency: 2, Deaf: 3 * time.Second})
	first := e.enqueue("x")
	<-began
	server.Stop()
	close(hold)
	second := e.enqueue("x")
	select {
	case err := <-r.end:
		t.Fatalf("the runner ended: %v", err)
	case <-time.After(6 * time.Second): // it tries again, and looks, once a second
	}
	if s := e.status(first); s.State != Running {
		t.Errorf("%s, though its end cannot be saved", s.State)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	e.await(first, Done)
	e.await(second, Done)
	until(t, "it is ready again", r.Ready)
	if n := p.count(t, "tasks_archive", e.namespace); n != 2 {
		t.Errorf("%d of 2 ends are in the archive", n)
	}
	if err := r.halt(); err != nil {
		t.Error(err)
	}
}
