package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/tasks"
)

// What jobs do is on the scoreboard, where the supervisor reads it.
func TestJobsAreOnTheScoreboard(t *testing.T) {
	t.Parallel()
	redis := miniredis.RunT(t)
	client, err := tasks.Connect("redis://"+redis.Addr(), tasks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	mux := tasks.NewMux()
	hold := make(chan struct{})
	for name, do := range map[string]tasks.Handler{
		"good": func(context.Context, *tasks.Job) ([]byte, error) { time.Sleep(30 * time.Millisecond); return nil, nil },
		"bad":  func(context.Context, *tasks.Job) ([]byte, error) { return nil, errors.New("no") },
		"away": func(_ context.Context, job *tasks.Job) ([]byte, error) {
			if job.Postponed == 0 {
				return nil, tasks.Again(nil, time.Millisecond)
			}
			return nil, nil
		},
		"hold": func(context.Context, *tasks.Job) ([]byte, error) { <-hold; return nil, nil },
	} {
		mux.Handle(name, do)
	}
	writer, reader := scoreboard.NewMemory(scoreboard.Settings{})
	runner, err := tasks.NewRunner(client, mux, tasks.RunnerOptions{
		Concurrency: 3, Meter: newMeter(writer.Label, 3), Backoff: func(int) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	enqueue := func(name string, options ...tasks.Option) {
		t.Helper()
		if _, err := client.Enqueue(ctx, name, nil, options...); err != nil {
			t.Fatal(err)
		}
	}
	enqueue("good")
	enqueue("good")
	enqueue("bad", tasks.MaxAttempts(3))
	enqueue("away")
	enqueue("hold")
	enqueue("later", tasks.In(time.Hour))
	await := func(want map[string]int64) {
		t.Helper()
		var wrong string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			got := reader.Labels()
			wrong = ""
			for name, n := range want {
				if got[name] != n {
					wrong += fmt.Sprintf("%s is %d, want %d\n", name, got[name], n)
				}
			}
			if wrong == "" {
				return
			}
		}
		t.Fatal(wrong)
	}
	await(map[string]int64{
		`jobs_slots`:                          3,
		`jobs_claimed_total{queue="default"}`: 8, // good 2, bad 3, away 2, hold
		`jobs_crashed_total{queue="default"}`: 0,
		`jobs_in_progress{queue="default"}`:   1,
		`jobs_processed_total{queue="default",task="good",status="succeeded"}`: 2,
		`jobs_processed_total{queue="default",task="bad",status="retried"}`:    2,
		`jobs_processed_total{queue="default",task="bad",status="failed"}`:     1,
		`jobs_processed_total{queue="default",task="away",status="postponed"}`: 1,
		`jobs_processed_total{queue="default",task="away",status="succeeded"}`: 1,
		`jobs_duration_seconds_bucket{queue="default",task="good",le="0.025"}`: 0,
		`jobs_duration_seconds_bucket{queue="default",task="good",le="600"}`:   0,
	})
	observed := func(name string, labels string) (n int64) {
		for label, count := range reader.Labels() {
			if strings.HasPrefix(label, name+"_bucket{"+labels+",le=") {
				n += count
			}
		}
		return n
	}
	for _, h := range []struct {
		name, labels string
		n            int64
	}{
		{"jobs_start_latency_seconds", `queue="default"`, 5}, // first begins only
		{"jobs_done_latency_seconds", `queue="default"`, 3},
		{"jobs_duration_seconds", `queue="default",task="good"`, 2},
	} {
		if n := observed(h.name, h.labels); n != h.n {
			t.Errorf("%s has %d observations, want %d, each in one bucket", h.name, n, h.n)
		}
	}
	if us := reader.Labels()[`jobs_duration_seconds_sum{queue="default",task="good"}`]; us < 60_000 || us > 20_000_000 {
		t.Errorf("two jobs of 30 ms took %d µs", us)
	}
	enqueue("hold")
	enqueue("hold")
	enqueue("hold")
	enqueue("good")
	go reportQueues(ctx, writer.Label, client.Inspector(), []string{"default", "unknown"})
	await(map[string]int64{
		`jobs_in_progress{queue="default"}`: 3, `jobs_running{queue="default"}`: 3, `jobs_queue_length{queue="default"}`: 2,
		`jobs_scheduled{queue="default"}`: 1, `jobs_dead{queue="default"}`: 1, `jobs_paused{queue="default"}`: 0, `jobs_runners{queue="default"}`: 1,
		"jobs_broker_up": 1,
	})
	close(hold)
	await(map[string]int64{`jobs_in_progress{queue="default"}`: 0})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	await(map[string]int64{`jobs_scheduled{queue="default"}`: 0, `jobs_runners{queue="default"}`: 0}) // others say that now

	redis.Close()
	go reportQueues(t.Context(), writer.Label, client.Inspector(), []string{"default"})
	await(map[string]int64{"jobs_broker_up": 0})
}

// However many tasks there are, and whatever their names, the scoreboard has room and no name is cut.
func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	writer, reader := scoreboard.NewMemory(scoreboard.Settings{})
	m := newMeter(writer.Label, 1)
	for i := range 1000 {
		m.Ended(tasks.Measured{Queue: "default", Name: fmt.Sprint("task", i), State: tasks.Done, Took: time.Second})
		m.Ended(tasks.Measured{Queue: "default", Name: strings.Repeat("x", i%300) + `"`, State: tasks.Dead})
	}
	m.Began(strings.Repeat("q", 64), "x", time.Second)
	m.Ended(tasks.Measured{Queue: strings.Repeat("q", 64), Name: "x", State: tasks.Done, Took: time.Second})
	labels := reader.Labels()
	if len(labels) >= scoreboard.MaxLabels || labels["other"] != 0 {
		t.Errorf("%d labels, %d in the last", len(labels), labels["other"])
	}
	for name := range labels {
		if name != "jobs_slots" && (!strings.HasSuffix(name, "}") || strings.Count(name, `"`)%2 != 0) {
			t.Errorf("%s was cut", name)
		}
	}
	if n := labels[`jobs_processed_total{queue="default",task="other",status="failed"}`]; n != 1000 {
		t.Errorf("%d of 1000 odd ones were counted", n)
	}
}
