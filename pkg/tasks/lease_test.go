package tasks

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// do runs a command as an outsider.
func (e *env) do(build func(b rueidis.Builder) rueidis.Completed) rueidis.RedisResult {
	e.t.Helper()
	conn, err := e.c().calls.get(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	return conn.Do(context.Background(), build(conn.B()))
}

func (e *env) lane() lane { return newLane(e.namespace, "default", 0) }

// reap is what a proof of death that is wrong would do: the worst that may happen.
func (e *env) reap(runner string) {
	e.t.Helper()
	conn, err := e.c().calls.get(context.Background())
	if err == nil {
		err = e.c().reap(context.Background(), conn, e.lane(), runner, true, 5, func(string, bool, int64, int64, int64) {})
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func TestALostLeaseEndsContextsAndTheRunnerTakesANewName(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		causes, began := make(chan error, 10), make(chan int32, 10)
		var runs atomic.Int32
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
			n := runs.Add(1)
			began <- n
			if n > 1 {
				return nil, nil // the second time it passes
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		})
		r := e.run(mux, RunnerOptions{Lease: 300 * time.Millisecond})
		id := e.enqueue("x")
		<-began
		name := r.Name()
		e.reap(name)
		if cause := <-causes; !errors.Is(cause, ErrLeaseLost) {
			t.Errorf("cause %v", cause)
		}
		e.await(id, Done)
		if r.Name() == name {
			t.Error("it goes on under the dead name")
		}
		b := e.rest()
		if b.Done != 1 || b.Retried != 0 {
			t.Errorf("books %+v", b)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
	})
}

// A runner that stands still beyond its lease, while another reaps it and the job begins again; then the first one finishes.
func TestAnEndByAnOlderClaimChangesNothingAndIsReported(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, release := make(chan int, 10), []chan struct{}{make(chan struct{}), make(chan struct{})}
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			began <- job.Crashes
			<-release[job.Crashes]
			return []byte("of run " + strconv.Itoa(job.Crashes)), nil
		})
		a := e.run(mux, RunnerOptions{})
		id := e.enqueue("x")
		<-began
		e.reap(a.Name())
		if got := <-began; got != 1 {
			t.Errorf("%d crashes", got)
		}
		close(release[0])
		until(t, "the late end is refused", func() bool { return a.Counts().Refused == 1 })
		if s := e.status(id); s.State != Running || s.Attempt != 1 || s.Crashes != 1 {
			t.Errorf("%+v", s)
		}
		close(release[1])
		e.await(id, Done)
		if result, err := e.c().Result(t.Context(), id); err != nil || string(result) != "of run 1" {
			t.Errorf("%q, %v", result, err)
		}
		if b := e.rest(); b.Done != 1 || b.Crashed != 1 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestAnAckSentTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		id := e.enqueue("x")
		l, conn := e.lane(), func() rueidis.Client { c, _ := e.c().calls.get(t.Context()); return c }()
		name := newRunnerName()
		mustRun := func(c scriptCall) []rueidis.RedisMessage {
			t.Helper()
			answer, err := run(t.Context(), conn, c)[0].ToArray()
			if err != nil {
				t.Fatal(err)
			}
			return answer
		}
		if err := run(t.Context(), conn, registerScript.call([]string{l.lease(name), l.wk()}, name, "5000", "1"))[0].Error(); err != nil {
			t.Fatal(err)
		}
		claim := mustRun(l.claim(name, 7, 5, 5*time.Second, "0123"))
		if len(claim) != 5 {
			t.Fatalf("claimed %v", claim)
		}
		r := record{state: stateDone, name: "x"}
		ack := func(owner string, op byte) int64 {
			a := &attempt{key: claimKey{id: id}, owner: owner, ack: ack{op: op, after: time.Minute}}
			if op == opDone {
				a.ack.body = r.encode()
			}
			n, _ := mustRun(l.ack([]*attempt{a}))[0].AsInt64()
			return n
		}
		for _, stranger := range []string{name + "|6|", name + "|77|", "other|7|"} {
			if n := ack(stranger, opDone); n != 0 {
				t.Errorf("%s ended it", stranger)
			}
		}
		if n := ack(name+"|7|", opDone); n != 1 {
			t.Errorf("the owner could not end it: %d", n)
		}
		for _, op := range []byte{opRequeue, opCancelled, opDrop} {
			if n := ack(name+"|7|", op); n != 0 {
				t.Errorf("%c after the end: %d", op, n)
			}
		}
		if n := ack(name+"|7|", opDone); n != 0 {
			t.Errorf("done twice: %d", n)
		}
		if b := e.books(); b.Done != 1 || b.Pending != 0 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestARunnerThatStopsFinishesWhatFitsAndGivesTheRestBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, finish := make(chan string, 10), make(chan struct{})
		mux := NewMux()
		mux.Handle("quick", func(context.Context, *Job) ([]byte, error) { began <- "quick"; <-finish; return nil, nil })
		mux.Handle("long", func(ctx context.Context, _ *Job) ([]byte, error) {
			began <- "long"
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		quick, long := e.enqueue("quick"), e.enqueue("long")
		r := e.run(mux, RunnerOptions{Concurrency: 2, Grace: 200 * time.Millisecond})
		<-began
		<-began
		later := e.enqueue("quick")
		r.stop()
		close(finish)
		if err := <-r.end; err != nil {
			t.Errorf("run: %v", err)
		}
		if s := e.status(quick); s.State != Done {
			t.Errorf("%+v", s)
		}
		// At the front, and not counted as an attempt.
		if s := e.status(long); s.State != Pending || s.Attempt != 0 || s.Crashes != 0 || s.Error != "" {
			t.Errorf("%+v", s)
		}
		front, _ := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Lrange().Key(e.lane().pending(defaultPriority)).Start(0).Stop(-1).Build()
		}).AsStrSlice()
		if strings.Join(front, " ") != long+" "+later {
			t.Errorf("pending: %v", front)
		}
		if b := e.books(); b.Pending != 2 || b.Running != 0 || b.Done != 1 {
			t.Errorf("books %+v", b)
		}
		if left, _ := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Zcard().Key(e.lane().wk()).Build() }).AsInt64(); left != 0 {
			t.Errorf("%d names left", left)
		}
	})
}

func TestAStopFitsInTheTimeThatThereIs(t *testing.T) {
	t.Parallel()
	for _, all := range []time.Duration{-time.Second, 0, time.Second, 5 * time.Second, 15 * time.Second, 16 * time.Second, 30 * time.Second, time.Hour} {
		p := stopWithin(all)
		if sum := p.grace + p.unwind + p.farewell + p.goodbye; sum > max(all, 0) || p.grace < max(all, 0)/2 || p.unwind < 0 {
			t.Errorf("%v: %+v", all, p)
		}
	}
	if p := stopWithin(30 * time.Second); p != (phases{22 * time.Second, unwindTime, farewell, goodbyeTime}) {
		t.Errorf("%+v", p)
	}

	e := newEnv(t, miniURL(t))
	began, ended := make(chan bool, 1), make(chan time.Time, 1)
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, _ *Job) ([]byte, error) {
		began <- true
		<-ctx.Done()
		ended <- time.Now()
		return nil, context.Cause(ctx)
	})
	var by time.Time // asked only when it stops
	r := e.run(mux, RunnerOptions{Grace: time.Hour, StopBy: func() time.Time { return by }})
	id := e.enqueue("x")
	<-began
	start := time.Now()
	by = start.Add(2 * time.Second)
	if err := r.halt(); err != nil {
		t.Error(err)
	}
	if grace := (<-ended).Sub(start); grace < 900*time.Millisecond {
		t.Errorf("the handler had %v of 2s", grace)
	}
	if s := e.status(id); s.State != Pending {
		t.Errorf("%+v", s)
	}
}

func TestAHandlerThatDoesNotHeedTheStopIsLeftBehind(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	began, never := make(chan bool, 1), make(chan struct{})
	defer close(never)
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { began <- true; <-never; return nil, nil })
	r := e.run(mux, RunnerOptions{Grace: time.Millisecond})
	id := e.enqueue("x")
	<-began
	if err := r.halt(); !errors.Is(err, ErrAbandoned) {
		t.Errorf("run: %v", err)
	}
	if s := e.status(id); s.State != Pending {
		t.Errorf("%+v", s)
	}
	e.books()
}

func TestAPoisonousJobIsDeadAfterItHasKilledEnoughRunners(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		id := e.enqueue("x")
		l := e.lane()
		conn, _ := e.c().calls.get(t.Context())
		for i := range 3 {
			name := newRunnerName()
			run(t.Context(), conn, registerScript.call([]string{l.lease(name), l.wk()}, name, "5000", "1"))
			run(t.Context(), conn, l.claim(name, 1, 5, 5*time.Second, "0123"))
			if s := e.status(id); s.State != Running || s.Crashes != i || s.Runner != name {
				t.Errorf("%+v", s)
			}
			if err := e.c().reap(t.Context(), conn, l, name, true, 2, func(string, bool, int64, int64, int64) {}); err != nil {
				t.Fatal(err)
			}
		}
		if s := e.status(id); s.State != Dead || s.Crashes != 3 || !strings.Contains(s.Error, "poison") || s.Attempt != 0 {
			t.Errorf("%+v", s)
		}
		if b := e.rest(); b.Dead != 1 || b.Crashed != 2 {
			t.Errorf("books %+v", b)
		}
	})
}

// claimAs claims everything for a runner that does nothing else.
func (e *env) claimAs(name string, lease time.Duration) {
	e.t.Helper()
	l := e.lane()
	conn, err := e.c().calls.get(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, c := range []scriptCall{
		registerScript.call([]string{l.lease(name), l.wk()}, name, ms(lease), "1"),
		l.claim(name, 1, 100, lease, "0123"),
	} {
		if err := run(context.Background(), conn, c)[0].Error(); err != nil {
			e.t.Fatal(err)
		}
	}
}

func TestARunnerOfAnotherMachineIsReapedWhenItsLeaseHasEnded(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		id, cancelled, dropped := e.enqueue("x"), e.enqueue("x"), e.enqueue("x")
		if e.cancel(dropped) != Cancelled { // before it is claimed
			t.Error("not cancelled")
		}
		e.claimAs("elsewhere/1/7-7/1", 600*time.Millisecond)
		if e.cancel(cancelled) != Cancelling {
			t.Error("not cancelled")
		}
		// Its last sign of life may have been the first half of a stop.
		e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Rpush().Key(e.lane().wake("elsewhere/1/7-7/1")).Element("1").Build()
		})
		began := make(chan string, 10)
		r := e.run(noting(began), RunnerOptions{Lease: 600 * time.Millisecond})
		until(t, "registered", func() bool { return r.Name() != "" })
		if s := e.status(id); s.State != Running || s.Runner != "elsewhere/1/7-7/1" {
			t.Errorf("taken from a runner whose lease lives: %+v", s)
		}
		if s := e.status(cancelled); s.State != Cancelling {
			t.Errorf("%+v", s)
		}
		if s := e.await(id, Done); s.Crashes != 1 {
			t.Errorf("%+v", s)
		}
		e.await(cancelled, Cancelled)
		if b := e.rest(); b.Done != 1 || b.Cancelled != 2 || b.Crashed != 1 {
			t.Errorf("books %+v", b)
		}
		if err := r.halt(); err != nil || len(began) != 1 {
			t.Errorf("%v, ran %d", err, len(began))
		}
	})
}

func TestADeathIsProvedByPidAndStartTime(t *testing.T) {
	t.Parallel()
	if here.machine == "" {
		t.Skip("deaths cannot be proved here")
	}
	pid, start, near := processOf(newRunnerName())
	if !near || pid != os.Getpid() || processGone(pid, start) {
		t.Errorf("%d %s %v: this process is taken for dead", pid, start, near)
	}
	if !processGone(pid, start+"1") {
		t.Error("a pid that was given to another is taken for the first")
	}
	if !provedDead(here.machine + "/" + strconv.Itoa(1<<22+5) + "-77/1") {
		t.Error("a pid that nobody has is taken for alive")
	}
	for _, name := range []string{"", "x", "other/1/5-77/1", here.machine + "/", here.machine + "/x-1/1", here.machine + "/-5-1/1", "-/-/5-7/1"} {
		if provedDead(name) {
			t.Errorf("%q: nothing is proved", name)
		}
	}
}
