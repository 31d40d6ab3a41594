package tasks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// enrol makes a runner that does nothing.
func (e *env) enrol(name string, lease time.Duration) {
	e.t.Helper()
	conn, err := e.c().calls.get(context.Background())
	if err == nil {
		err = run(context.Background(), conn, registerScript.call([]string{e.lane().lease(name), e.lane().wk()}, name, ms(lease), "1"))[0].Error()
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) names() (names []string) {
	e.t.Helper()
	names, err := e.do(func(b rueidis.Builder) rueidis.Completed {
		return b.Zrange().Key(e.lane().wk()).Min("0").Max("-1").Build()
	}).AsStrSlice()
	if err != nil {
		e.t.Fatal(err)
	}
	return names
}

func TestWatchingCostsTheSameHoweverManyRunnersThereAre(t *testing.T) {
	t.Parallel()
	e := newEnv(t, startRedis(t).url())
	r, err := NewRunner(e.c(), NewMux(), RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	self := "elsewhere/1/500-7/1"
	r.name.Store(&self)
	cost := make(map[int]int64)
	for n := 1; n <= 1000; n++ {
		e.enrol(fmt.Sprintf("elsewhere/1/%d-7/1", n), time.Minute)
		if n == 10 || n == 1000 {
			before, _ := e.commands()
			if err := r.watch(t.Context(), e.lane(), true); err != nil {
				t.Fatal(err)
			}
			after, _ := e.commands()
			cost[n] = after - before
		}
	}
	// At most one question more: the ring's end, or a page without one that lives.
	if cost[1000] > cost[10]+1 || len(e.names()) != 1000 {
		t.Errorf("commands by runners: %v", cost)
	}
	t.Logf("commands by runners: %v", cost)
}

func TestOneRunnerReapsAllTheDeadOfItsMachineOnBothSidesOfItself(t *testing.T) {
	t.Parallel()
	if here.machine == "" {
		t.Skip("deaths cannot be proved here")
	}
	each(t, func(t *testing.T, e *env) {
		for n := range 30 { // their leases live for long: only the proof counts
			e.enrol(fmt.Sprintf("%s/9%d-7/1", here.machine, 1<<22+n), time.Minute) // after any living pid
			e.enrol(fmt.Sprintf("%s/1-%d/1", here.machine, 1<<40+n), time.Minute)  // and before them: pid 1 did not start then
		}
		e.enrol("0/elsewhere/1-1/1", time.Minute)
		e.enrol("~/elsewhere/1-1/1", time.Minute)
		r := e.run(NewMux(), RunnerOptions{})
		until(t, "only the living are left", func() bool { return r.Name() != "" && len(e.names()) == 3 })
	})
}

func TestOneRunnerReapsAllWhoseLeasesHaveEnded(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		for n := range 20 {
			e.enrol(fmt.Sprintf("0/elsewhere/%d-1/1", n), 200*time.Millisecond)
			e.enrol(fmt.Sprintf("~/elsewhere/%d-1/1", n), 200*time.Millisecond)
		}
		e.enrol("~/elsewhere/99-1/1", time.Minute)
		r := e.run(NewMux(), RunnerOptions{Lease: 300 * time.Millisecond})
		until(t, "only the living are left", func() bool { return r.Name() != "" && len(e.names()) == 2 })
		e.books()
	})
}

func TestALeaseThatEndedWhileNobodyCouldReapGoesOn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, hold := make(chan string, 2), make(chan struct{})
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
		r := e.run(mux, RunnerOptions{Lease: 600 * time.Millisecond})
		id := e.enqueue("x")
		<-began
		name := r.Name()
		for range 3 { // a beat or a claim finds it, whichever comes first
			e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().lease(name)).Build() })
			other := e.enqueue("x")
			<-began
			until(t, "the lease is there again", func() bool {
				n, _ := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Exists().Key(e.lane().lease(name)).Build() }).AsInt64()
				return n == 1
			})
			if s := e.status(other); s.State != Running {
				t.Errorf("%+v", s)
			}
		}
		if s := e.status(id); s.State != Running || s.Runner != name || s.Crashes != 0 {
			t.Errorf("%+v", s)
		}
		close(hold)
		if b := e.rest(); b.Done != 4 || b.Crashed != 0 {
			t.Errorf("books %+v", b)
		}
		if err := r.halt(); err != nil || r.Counts().Refused != 0 {
			t.Errorf("%v, %+v", err, r.Counts())
		}
	})
}

// The mark of a reaper forbids it, also when the reaper died before it had taken anything.
func TestALeaseThatAReaperHasCutIsLost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.enqueue("x")
		e.claimAs("elsewhere/1/7-7/1", time.Minute)
		l := e.lane()
		conn, _ := e.c().calls.get(t.Context())
		name := "elsewhere/1/7-7/1"
		renew := func() int64 {
			n, err := run(t.Context(), conn, renewScript.call([]string{l.lease(name), l.cut(name), l.wk()}, name, "60000"))[0].AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if renew() != 1 {
			t.Error("a living lease cannot be renewed")
		}
		if err := run(t.Context(), conn, expireScript.call([]string{l.lease(name), l.cut(name)}, "1", "60000"))[0].Error(); err != nil {
			t.Fatal(err)
		}
		if renew() != 0 {
			t.Error("renewed while a reaper takes its jobs")
		}
		answer, err := run(t.Context(), conn, l.claim(name, 2, 5, time.Minute, "0123"))[0].ToArray()
		if first, _ := answer[0].AsInt64(); err != nil || first != 0 {
			t.Errorf("claimed: %v, %v", answer, err)
		}
		e.reap(name)
		if renew() != 0 {
			t.Error("renewed after it was reaped")
		}
		if b := e.books(); b.Pending != 1 || b.Crashed != 1 {
			t.Errorf("books %+v", b)
		}
	})
}
