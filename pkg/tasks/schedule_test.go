package tasks

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A runner that takes a note of each job and when it began.
func noting(began chan<- string) *Mux {
	mux := NewMux()
	mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) { began <- string(job.Payload); return nil, nil })
	return mux
}

func TestAScheduledJobStartsWhileEveryRunnerSleeps(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.patient()
		began := make(chan string, 10)
		for range 3 {
			e.run(noting(began), RunnerOptions{})
		}
		time.Sleep(50 * time.Millisecond) // until all sleep
		var worst time.Duration
		for i := range 4 {
			due := time.Now().Add(300 * time.Millisecond)
			option := In(300 * time.Millisecond)
			if i%2 == 1 {
				option = At(due)
			}
			e.enqueue("x", option)
			<-began
			late := time.Since(due)
			if late < -2*time.Millisecond {
				t.Errorf("began %s before its time", -late)
			}
			worst = max(worst, late)
		}
		t.Logf("at most %s late", worst)
		later := e.enqueue("x", In(time.Hour)) // one that is not due before it is asked for, however slow this machine is
		if s := e.status(later); s.State != Scheduled || time.Until(s.Due) < 50*time.Minute {
			t.Errorf("%+v", s)
		}
		if got := e.cancel(later); got != Cancelled {
			t.Errorf("%q", got)
		}
		e.rest()
	})
}

func TestAnEarlierTimeOvertakesALaterOne(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.patient()
		began := make(chan string, 10)
		e.run(noting(began), RunnerOptions{Concurrency: 1})
		later := e.enqueue("x", In(time.Hour)) // the runner sleeps until then, if it may
		var batch []Task
		for _, in := range []int{250, 100} { // in one step: how long an enqueue takes must not matter
			batch = append(batch, Task{Name: "x", Payload: fmt.Append(nil, in), Options: []Option{In(time.Duration(in) * time.Millisecond)}})
		}
		if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if got := <-began + " " + <-began; got != "100 250" {
			t.Error(got)
		}
		if got := e.cancel(later); got != Cancelled {
			t.Errorf("%q", got)
		}
		e.rest()
	})
}

func TestAFullRunnerHandsTheClockToAnother(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began, hold := make(chan string, 10), make(chan struct{})
		mux := noting(began)
		mux.Handle("hold", func(context.Context, *Job) ([]byte, error) { began <- "hold"; <-hold; return nil, nil })
		first := e.run(mux, RunnerOptions{Concurrency: 1})
		until(t, "registered", func() bool { return first.Name() != "" })
		e.enqueue("x", In(400*time.Millisecond)) // the only runner watches the clock
		time.Sleep(50 * time.Millisecond)
		e.enqueue("hold") // and now it is busy
		<-began
		second := e.run(mux, RunnerOptions{Concurrency: 1})
		<-began
		close(hold)
		e.rest()
		until(t, "the second one hears that it did it", func() bool { return second.Counts().Done == 1 }) // after redis has it in its books
	})
}

func TestPrioritiesAreStrictAndEachIsInOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		for i := range 8 {
			if _, err := e.c().Enqueue(t.Context(), "x", fmt.Append(nil, 3-i%4, i), Priority(3-i%4)); err != nil {
				t.Fatal(err)
			}
		}
		began := make(chan string, 10)
		e.run(noting(began), RunnerOptions{Concurrency: 1})
		var got []string
		for range 8 {
			got = append(got, <-began)
		}
		if s := strings.Join(got, ", "); s != "0 3, 0 7, 1 2, 1 6, 2 1, 2 5, 3 0, 3 4" {
			t.Error(s)
		}
		e.rest()
	})
}

func TestARunnerServesSeveralQueuesAndShards(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		e.client = e.connect(Options{Shards: 3})
		began := make(chan string, 100)
		r := e.run(noting(began), RunnerOptions{Queues: []string{"a", "b"}, Concurrency: 2})
		var ids []string
		for i := range 40 {
			ids = append(ids, e.enqueue("x", Queue([]string{"a", "b"}[i%2])))
		}
		for _, id := range ids {
			e.await(id, Done)
		}
		if b := e.rest("a", "b"); b.Done != 40 {
			t.Errorf("books %+v", b)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
	})
}
