package tasks

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// All of them together take five times as long as a call may.
func TestLargePayloadsOnASlowLineDoNotGoRoundInVain(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	const jobs, size = 40, 256 << 10
	batch := make([]Task, jobs)
	for i := range batch {
		batch[i] = Task{Name: "x", Payload: []byte(strings.Repeat("x", size))}
	}
	if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, e.url)
	p.rate = 4 << 20
	through := newEnv(t, p.url())
	through.namespace = e.namespace
	through.client = through.connect(Options{CallTimeout: 500 * time.Millisecond})
	var ran atomic.Int32
	mux := NewMux()
	mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
		if len(job.Payload) == size {
			ran.Add(1)
		}
		return nil, nil
	})
	through.run(mux, RunnerOptions{Concurrency: jobs})
	until(t, "all are done", func() bool { b, err := Verify(t.Context(), e.c(), "default"); return err == nil && b.Done == jobs })
	if b := e.rest(); b.Done != jobs || b.Crashed != 0 || ran.Load() != jobs {
		t.Errorf("books %+v, ran %d", b, ran.Load())
	}
}

func TestWhatWasReadStartsEvenIfTheRestCannotBeRead(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	first, second := e.enqueue("x"), e.enqueue("x")
	p := startProxy(t, e.url)
	through := newEnv(t, p.url())
	through.namespace = e.namespace
	began, hold := make(chan string, 2), make(chan struct{})
	mux := NewMux()
	mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) { began <- job.ID; <-hold; return nil, nil })
	p.lose.Store(&second) // the claim does not name it, the reading of its record does
	r := through.run(mux, RunnerOptions{})
	if got := <-began; got != first {
		t.Errorf("%s began before %s", got, first)
	}
	if got := <-began; got != second || p.lost.Load() != 1 {
		t.Errorf("%s began, %d answers lost", got, p.lost.Load())
	}
	close(hold)
	if b := e.rest(); b.Done != 2 || b.Crashed != 0 {
		t.Errorf("books %+v", b)
	}
	if err := r.halt(); err != nil || r.Counts().Refused != 0 {
		t.Errorf("%v, %+v", err, r.Counts())
	}
}

func TestAPortionFitsWhatWasSeenOfLate(t *testing.T) {
	t.Parallel()
	for largest, want := range map[int]int{0: 1, 1: claimAtOnce, 300: claimAtOnce, 8 << 10: 128, portionBytes: 1, maxPayload: 1} {
		if got := portionSize(largest); got != want {
			t.Errorf("records of up to %d bytes: %d at once, want %d", largest, got, want)
		}
	}
}
