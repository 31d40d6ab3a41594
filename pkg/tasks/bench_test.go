package tasks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

var benchPayload = []byte(strings.Repeat("x", 200))

// commands counts what Redis has executed, scripts' own commands included, and the microseconds of CPU that its process took.
func (e *env) commands() (calls int64, cpu time.Duration) {
	e.t.Helper()
	text, err := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Info().Section("commandstats").Build() }).ToString()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, l := range strings.Split(text, "\r\n") {
		name, facts, ok := strings.Cut(l, ":")
		var n int64
		if !ok || !strings.HasPrefix(name, "cmdstat_") {
			continue
		}
		if _, err := fmt.Sscanf(facts, "calls=%d", &n); err != nil {
			e.t.Fatal(err)
		}
		calls += n
	}
	text, err = e.do(func(b rueidis.Builder) rueidis.Completed { return b.Info().Section("cpu").Build() }).ToString()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, l := range strings.Split(text, "\r\n") {
		if name, value, _ := strings.Cut(l, ":"); name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				e.t.Fatal(err)
			}
			cpu += time.Duration(seconds * float64(time.Second))
		}
	}
	return calls, cpu
}

func perJob(b *testing.B, d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1000 / float64(b.N)
}

func BenchmarkEnqueue(b *testing.B) {
	for _, producers := range []int{1, 64} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			e := newEnv(b, startRedis(b).url())
			c := e.c()
			if err := c.Ping(b.Context()); err != nil {
				b.Fatal(err)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			before, used := e.commands()
			own := ownCPU(b)
			b.ResetTimer()
			var all sync.WaitGroup
			for range producers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Enqueue(context.Background(), "x", benchPayload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			own = ownCPU(b) - own
			after, usedAfter := e.commands()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			b.ReportMetric(float64(after-before)/float64(b.N), "commands/job")
			b.ReportMetric(perJob(b, usedAfter-used), "redis-cpu-µs/job")
			b.ReportMetric(perJob(b, own), "own-cpu-µs/job")
		})
	}
}

func BenchmarkEnqueueBatch(b *testing.B) {
	e := newEnv(b, startRedis(b).url())
	c := e.c()
	batch := make([]Task, 1000)
	for i := range batch {
		batch[i] = Task{Name: "x", Payload: benchPayload}
	}
	_, used := e.commands()
	own := ownCPU(b)
	b.ResetTimer()
	for left := b.N; left > 0; left -= len(batch) {
		if _, err := c.EnqueueBatch(context.Background(), batch[:min(left, len(batch))]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	own = ownCPU(b) - own
	_, usedAfter := e.commands()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(perJob(b, usedAfter-used), "redis-cpu-µs/job")
	b.ReportMetric(perJob(b, own), "own-cpu-µs/job")
}

// Counted in Redis, not in handlers: from the first claim until the last end is in the books.
func BenchmarkDrain(b *testing.B) {
	for _, concurrency := range []int{1, 10, 64, 256} {
		b.Run(fmt.Sprint(concurrency), func(b *testing.B) { drain(b, newEnv(b, startRedis(b).url()), concurrency) })
	}
}

// The same with an archive: a row of Postgres (without fsync) for each job, one statement per batch.
func BenchmarkDrainArchived(b *testing.B) {
	for _, concurrency := range []int{64, 256} {
		b.Run(fmt.Sprint(concurrency), func(b *testing.B) {
			e, _ := newEnvWithPostgres(b, startRedis(b).url(), postgresURL(b))
			drain(b, e, concurrency)
		})
	}
}

func drain(b *testing.B, e *env, concurrency int) {
	c := e.c()
	batch := make([]Task, 1000)
	for i := range batch {
		batch[i] = Task{Name: "x", Payload: benchPayload}
	}
	for left := b.N; left > 0; left -= len(batch) {
		if _, err := c.EnqueueBatch(context.Background(), batch[:min(left, len(batch))]); err != nil {
			b.Fatal(err)
		}
	}
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { return nil, nil })
	before, used := e.commands()
	own := ownCPU(b)
	b.ResetTimer()
	r := e.run(mux, RunnerOptions{Concurrency: concurrency})
	for r.Counts().Done < int64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	own = ownCPU(b) - own
	after, usedAfter := e.commands()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(float64(after-before)/float64(b.N), "commands/job")
	b.ReportMetric(perJob(b, usedAfter-used), "redis-cpu-µs/job")
	b.ReportMetric(perJob(b, own), "own-cpu-µs/job")
	b.ReportMetric(float64(r.Counts().Claims)/float64(b.N), "claims/job")
	if err := r.halt(); err != nil {
		b.Error(err)
	}
}

// From the call of Enqueue to the handler's first line, on a system that has nothing else to do.
func BenchmarkIdleLatency(b *testing.B) {
	for _, runners := range []int{1, 50} {
		b.Run(fmt.Sprint(runners), func(b *testing.B) {
			e := newEnv(b, startRedis(b).url())
			c := e.c()
			began := make(chan time.Time, 1)
			mux := NewMux()
			mux.Handle("x", func(context.Context, *Job) ([]byte, error) { began <- time.Now(); return nil, nil })
			var all []*running
			for range runners {
				all = append(all, e.run(mux, RunnerOptions{}))
			}
			until(b, "all registered", func() bool { return !slices.ContainsFunc(all, func(r *running) bool { return r.Name() == "" }) })
			time.Sleep(100 * time.Millisecond)
			sum := func() (n Counts) {
				for _, r := range all {
					n.Claims += r.Counts().Claims
					n.Done += r.Counts().Done
				}
				return n
			}
			took := make([]time.Duration, 0, b.N)
			before := sum()
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				if _, err := c.Enqueue(context.Background(), "x", benchPayload); err != nil {
					b.Fatal(err)
				}
				took = append(took, (<-began).Sub(start))
				time.Sleep(3 * time.Millisecond) // until it sleeps again
			}
			b.StopTimer()
			after := sum()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(after.Claims-before.Claims)/float64(b.N), "claims/job")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// What runners cost that have nothing to do: each a process of its own as far as Redis can tell.
func BenchmarkIdle(b *testing.B) {
	for _, runners := range []int{1, 10, 50} {
		b.Run(fmt.Sprint(runners), func(b *testing.B) {
			e := newEnv(b, startRedis(b).url())
			var all []*running
			for range runners {
				all = append(all, e.run(NewMux(), RunnerOptions{}))
			}
			until(b, "all registered", func() bool { return !slices.ContainsFunc(all, func(r *running) bool { return r.Name() == "" }) })
			time.Sleep(time.Second)
			before, _ := e.commands()
			b.ResetTimer()
			for range b.N {
				time.Sleep(time.Second)
			}
			b.StopTimer()
			after, _ := e.commands()
			b.ReportMetric(float64(after-before)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(float64(after-before)/b.Elapsed().Seconds()/float64(runners), "commands/s/runner")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// Handlers that only wait: how much longer than their own time do they take, when there are thousands of them?
func BenchmarkSleepers(b *testing.B) {
	const concurrency, rounds = 4000, 3
	for range b.N {
		e := newEnv(b, startRedis(b).url())
		batch := make([]Task, concurrency*rounds)
		for i := range batch {
			batch[i] = Task{Name: "x", Payload: benchPayload}
		}
		if _, err := e.c().EnqueueBatch(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
		mux := NewMux()
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { time.Sleep(time.Second); return nil, nil })
		start := time.Now()
		r := e.run(mux, RunnerOptions{Concurrency: concurrency})
		for r.Counts().Done < int64(len(batch)) {
			time.Sleep(time.Millisecond)
		}
		took := time.Since(start)
		b.ReportMetric(float64(took.Milliseconds())/rounds, "ms/round")
		b.ReportMetric(float64(len(batch))/took.Seconds(), "jobs/s")
		if err := r.halt(); err != nil {
			b.Error(err)
		}
	}
}
