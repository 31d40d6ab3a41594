// Command jobs measures pkg/tasks beside asynq: enqueue, drain, commands and CPU in Redis per job, latency on an idle system, and
// what idling costs. Both use a real redis-server of the same settings, on a unix socket, started here and new for each
// measurement. Everything runs on one machine: producers, handlers and Redis share its cores. Each job is counted; the bench fails
// if one is lost or runs twice.
//
// What is unfair to asynq: handlers that do nothing show only what the libraries cost, and let claims and ends gather into batches that
// slow handlers would not fill; many goroutines behind one client let enqueues do the same, where many processes would not; asynq polls
// once a second unless told otherwise, by design (hence the contestant with 10 ms); it has no bulk enqueue, its 64 goroutines stand for it.
// To pkg/tasks: asynq can pause, group and list jobs by state for what it writes more, which nobody asks for here. To both: producers, handlers and
// Redis share the cores, so that a rate says as much about the Go side as about Redis.
//
//	go -C bench/jobs run .              3 rounds, about 5 minutes
//	go -C bench/jobs run . -short       a look, about a minute; its latencies are of 100 jobs
//	go -C bench/jobs run . -rounds 1 -n 200000 -pending 1000,100000,1000000
//	go -C bench/jobs run . -keep 0      nobody asks for results: asynq deletes a job at its end
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"supervisor/bench/rig"
)

var (
	rounds      = flag.Int("rounds", 3, "interleaved rounds")
	jobs        = flag.Int("n", 40_000, "jobs to enqueue and drain per round: an eighth of them from one goroutine, three from 64, half in bulk")
	pending     = flag.String("pending", "1000,100000", "how many jobs wait while others are claimed, asked for and listed; \"\": skip that")
	loadFor     = flag.Duration("load", 3*time.Second, "how long to enqueue at a fixed rate, for each latency under load")
	budget      = flag.Duration("budget", 15*time.Minute, "give up after this long: a run that hangs. A lost job shows earlier")
	concurrency = flag.Int("concurrency", 64, "handlers at once in the drain")
	samples     = flag.Int("samples", 500, "lone jobs for the latency, over all rounds")
	keep        = flag.Duration("keep", time.Hour, "retention of a result of 16 bytes; 0: no results")
	pool        = flag.Int("pool", 0, "asynq's PoolSize; 0: go-redis' default of 10 per core, which was faster here than one for each goroutine")
	idle        = flag.Duration("idle", 11*time.Second, "how long to watch idle runners")
	short       = flag.Bool("short", false, "one round of 4,000 jobs and 100 lone ones")

	piles []int // -pending
)

const (
	producers   = 64
	payloadSize = 200
	crowd       = 50 // idle runners
	idleSlots   = 10 // handlers at once of an idle runner
	// patience is how long a job may take before it counts as lost: more than any poll, lease or retry here.
	patience = 20 * time.Second
)

func main() {
	flag.Parse()
	if *short {
		*rounds, *jobs, *samples, *idle, *loadFor = 1, 4000, 100, 5*time.Second, time.Second
	}
	for _, n := range strings.FieldsFunc(*pending, func(r rune) bool { return r == ',' }) {
		waiting, err := strconv.Atoi(n)
		if err != nil || waiting < pageSize {
			fmt.Fprintf(os.Stderr, "jobs: -pending %q: numbers from %d on, with commas\n", *pending, pageSize)
			os.Exit(2)
		}
		piles = append(piles, waiting)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *budget, fmt.Errorf("not done after %s", *budget))
	defer cancel()
	if err := run(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		fmt.Fprintln(os.Stderr, "jobs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bench-jobs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	started := time.Now()
	all := contestants()
	if err := watchIdle(ctx, dir, all); err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	figures := new(table)
	for round := range *rounds {
		if err := oneRound(ctx, dir, all, figures, round); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "round %d of %d, %s\n", round+1, *rounds, time.Since(started).Round(time.Second))
	}
	bare, err := raw(dir)
	if err != nil {
		return err
	}
	report(all, figures, bare, time.Since(started))
	return nil
}

// oneRound takes all figures once, the contestants in turn.
func oneRound(ctx context.Context, dir string, all []*contestant, figures *table, round int) error {
	order := slices.Clone(all)
	if round%2 == 1 {
		slices.Reverse(order) // who runs after whom should not matter
	}
	each := func(what string, rivals bool, measure func(*contestant) error) error {
		for _, c := range order {
			if rivals && c.latencyOnly {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d: %s: %s\n", round+1, what, c.name)
			if err := measure(c); err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, what, err)
			}
		}
		return nil
	}
	for _, keeps := range []persistence{none, aof} {
		if err := each("throughput, "+keeps.String(), true, func(c *contestant) error { return c.throughput(ctx, figures, dir, keeps) }); err != nil {
			return err
		}
	}
	slower := math.Inf(1)
	for _, c := range all {
		if !c.latencyOnly {
			slower = min(slower, rig.Median(c.drained))
		}
	}
	for _, level := range levels {
		what := fmt.Sprintf("latency at %d %%", level)
		if err := each(what, true, func(c *contestant) error { return c.load(ctx, figures, dir, level, slower*float64(level)/100) }); err != nil {
			return err
		}
	}
	if err := each("sleepers", true, func(c *contestant) error { return c.sleepers(ctx, figures, dir) }); err != nil {
		return err
	}
	for _, waiting := range piles {
		if err := each(fmt.Sprintf("flat, %d wait", waiting), true, func(c *contestant) error { return c.flat(ctx, figures, dir, waiting) }); err != nil {
			return err
		}
	}
	for _, runners := range []int{1, crowd} {
		if err := each(fmt.Sprintf("latency, idle, %d runners", runners), false, func(c *contestant) error { return c.latency(ctx, dir, runners) }); err != nil {
			return err
		}
	}
	return nil
}

// together stops runners all at once.
func together(stops []func() error) error {
	errs := make([]error, len(stops))
	var all sync.WaitGroup
	for i, stop := range stops {
		all.Go(func() { errs[i] = stop() })
	}
	all.Wait()
	return errors.Join(errs...)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
