package tasks

import (
	"context"
	"errors"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// The goroutines of a runner are those of its handlers and a few, and all of them end with it.
func TestARunnerLeavesNoGoroutinesBehind(t *testing.T) {
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	e.client = e.connect(Options{Postgres: p, CallTimeout: 20 * time.Second, Patience: 20 * time.Second})
	mux := NewMux()
	mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
		job.Progress(50, "half")
		switch len(job.ID) % 3 {
		case 0:
			return nil, errors.New("no luck")
		case 1:
			return nil, Again(nil, time.Millisecond)
		}
		return []byte("result"), nil
	})
	mux.Handle("slow", func(ctx context.Context, _ *Job) ([]byte, error) { <-ctx.Done(); return nil, nil })
	const rounds, jobs = 3, 400
	for range rounds {
		r := e.run(mux, RunnerOptions{Concurrency: 20, Schedule: []Periodic{{Name: "tick", Spec: "@hourly", Task: Task{Name: "x"}}}})
		var batch []Task
		for range jobs {
			batch = append(batch, Task{Name: "x", Options: []Option{MaxAttempts(1), Timeout(time.Minute), Then(Task{Name: "x", Options: []Option{MaxAttempts(1)}})}})
		}
		batch = append(batch, Task{Name: "slow", Options: []Option{Timeout(50 * time.Millisecond)}})
		if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		until(t, "many have run", func() bool { n := r.Counts(); return n.Done+n.Dead+n.Postponed >= jobs })
		if err := r.halt(); err != nil {
			t.Fatal(err)
		}
		until(t, "its goroutines have ended", func() bool { return own() == 0 })
	}
}

// own counts the goroutines that are in this package's code and belong to a runner.
func own() (n int) {
	var all strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2)
	for block := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(block, "tasks.(*Runner)") || strings.Contains(block, "tasks.(*line)") || strings.Contains(block, "tasks.(*attempt)") || strings.Contains(block, "tasks.(*progress)") {
			n++
		}
	}
	return n
}
