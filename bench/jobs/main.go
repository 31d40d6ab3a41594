// Command jobs measures pkg/tasks beside asynq: enqueue, drain, commands and CPU in Redis per job, latency on an idle system, and
// what idling costs. Both use a real redis-server of the same settings, on a unix socket, started here and new for each
// measurement. Everything runs on one machine: producers, handlers and Redis share its cores. Each job is counted; the bench fails
// if one is lost or runs twice.
//
// What is unfair to asynq: handlers that do nothing show only what the libraries cost, and let claims and ends gather into batches that
// slow handlers would not fill; many goroutines behind one client let enqueues do the same, where many processes would not; asynq polls
// once a second unless told otherwise, by design (hence the contestant with 10 ms). To pkg/tasks: its EnqueueBatch is not
// used; asynq can pause, group and list jobs by state for what it writes more, which nobody asks for here. To both: producers, handlers and
// Redis share the cores, so that a rate says as much about the Go side as about Redis.
//
//	go -C bench/jobs run .              5 rounds, about 3 minutes
//	go -C bench/jobs run . -short       a look, half a minute; its latencies are of 100 jobs
//	go -C bench/jobs run . -keep 0      nobody asks for results: asynq deletes a job at its end
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

var (
	rounds      = flag.Int("rounds", 5, "interleaved rounds")
	jobs        = flag.Int("n", 20_000, "jobs to enqueue and drain per round; a quarter of them comes from one goroutine, the rest from 64")
	concurrency = flag.Int("concurrency", 64, "handlers at once in the drain")
	samples     = flag.Int("samples", 500, "lone jobs for the latency, over all rounds")
	keep        = flag.Duration("keep", time.Hour, "retention of a result of 16 bytes; 0: no results")
	pool        = flag.Int("pool", 0, "asynq's PoolSize; 0: go-redis' default of 10 per core, which was faster here than one for each goroutine")
	idle        = flag.Duration("idle", 11*time.Second, "how long to watch idle runners")
	short       = flag.Bool("short", false, "one round of 4,000 jobs and 100 lone ones")
)

const (
	producers   = 64
	payloadSize = 200
	crowd       = 50 // idle runners
	idleSlots   = 10 // handlers at once of an idle runner
	// limit ends a run that hangs. A lost job shows earlier.
	limit = 4 * time.Minute
	// patience is how long a job may take before it counts as lost: more than any poll, lease or retry here.
	patience = 20 * time.Second
)

func main() {
	flag.Parse()
	if *short {
		*rounds, *jobs, *samples, *idle = 1, 4000, 100, 5*time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
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
	for round := range *rounds {
		order := slices.Clone(all)
		if round%2 == 1 {
			slices.Reverse(order) // who runs after whom should not matter
		}
		for _, c := range order {
			if !c.latencyOnly {
				if err := c.throughput(ctx, dir); err != nil {
					return fmt.Errorf("%s, throughput: %w", c.name, err)
				}
			}
		}
		for _, c := range order {
			if err := c.latency(ctx, dir, 1); err != nil {
				return fmt.Errorf("%s, latency with 1 runner: %w", c.name, err)
			}
		}
		for _, c := range order {
			if err := c.latency(ctx, dir, crowd); err != nil {
				return fmt.Errorf("%s, latency with %d runners: %w", c.name, crowd, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d, %s\n", round+1, *rounds, time.Since(started).Round(time.Second))
	}
	report(all, time.Since(started))
	return nil
}

// throughput fills a queue, first from one goroutine, then from many, and drains it.
func (c *contestant) throughput(ctx context.Context, dir string) error {
	server, err := startRedis(dir)
	if err != nil {
		return err
	}
	defer server.stop()
	p, err := c.dial(server.socket)
	if err != nil {
		return err
	}
	defer p.close()
	// The first jobs dial, load scripts and register the queue.
	const warm = 2 * producers
	books := newLedger(*jobs + warm)
	if err := fill(ctx, p, books, warm, producers); err != nil {
		return err
	}

	alone, err := server.measure(func() error { return fill(ctx, p, books, *jobs/4, 1) })
	if err != nil {
		return err
	}
	c.enqueue1.add(alone, *jobs/4)
	many, err := server.measure(func() error { return fill(ctx, p, books, *jobs-*jobs/4, producers) })
	if err != nil {
		return err
	}
	c.enqueueMany.add(many, *jobs-*jobs/4)

	total := books.issued()
	var stop func() error
	drain, err := server.measure(func() (err error) {
		if stop, err = c.work(server.socket, "default", *concurrency, func(payload []byte) { books.began(payload) }); err != nil {
			return err
		}
		return c.settled(ctx, server, books, total)
	})
	if stop != nil {
		err = errors.Join(err, stop())
	}
	if err != nil {
		return err
	}
	c.drain.add(drain, total)
	return errors.Join(books.check(), c.verify(ctx, server.socket, []string{"default"}, total))
}

// fill enqueues n jobs.
func fill(ctx context.Context, p *producer, books *ledger, n, goroutines int) error {
	var all sync.WaitGroup
	failed := make(chan error, goroutines)
	for i := range goroutines {
		share := n / goroutines
		if i < n%goroutines {
			share++
		}
		all.Go(func() {
			for range share {
				if err := p.enqueue(ctx, "default", books.issue()); err != nil {
					failed <- fmt.Errorf("enqueue: %w", err)
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// settled waits until Redis' books say that n jobs have ended. Redis is asked only when all handlers have begun.
func (c *contestant) settled(ctx context.Context, server *redisServer, books *ledger, n int) error {
	progress, last := time.Now(), 0
	for {
		begun := books.runs()
		if begun > last {
			progress, last = time.Now(), begun
		}
		if begun >= n {
			ended, err := server.integer(c.ended("default"))
			if err != nil || ended >= n {
				return err
			}
		}
		if time.Since(progress) > patience {
			return fmt.Errorf("lost: %d of %d jobs have begun, and nothing moved for %s", begun, n, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// latency takes the time from before the enqueue to the handler's first line, one job at a time, while runners idle.
func (c *contestant) latency(ctx context.Context, dir string, runners int) error {
	server, err := startRedis(dir)
	if err != nil {
		return err
	}
	defer server.stop()
	p, err := c.dial(server.socket)
	if err != nil {
		return err
	}
	defer p.close()

	wanted := (*samples + *rounds - 1) / *rounds
	queues := []string{"default"}
	if runners == 1 && c.lanes > 1 {
		queues = nil
		for i := range c.lanes {
			queues = append(queues, fmt.Sprintf("lane%d", i))
		}
	}
	each := (wanted + len(queues) - 1) / len(queues)
	books := newLedger((each + 1) * len(queues))
	began := make(map[string]chan event)
	var stops []func() error
	for _, queue := range queues {
		first := make(chan event, 16)
		began[queue] = first
		for range runners {
			stop, err := c.work(server.socket, queue, idleSlots, func(payload []byte) {
				now := time.Now()
				first <- event{books.began(payload), now}
			})
			if err != nil {
				return errors.Join(err, together(stops))
			}
			stops = append(stops, stop)
		}
	}
	pause(ctx, 500*time.Millisecond+2*c.period) // until all have registered and their polls have no common beat

	lone := func(queue string) (time.Duration, error) {
		payload := books.issue()
		start := time.Now()
		if err := p.enqueue(ctx, queue, payload); err != nil {
			return 0, err
		}
		select {
		case e := <-began[queue]:
			if e.index != indexOf(payload) {
				return 0, fmt.Errorf("job %d ran while %d was awaited", e.index, indexOf(payload))
			}
			return e.at.Sub(start), nil
		case <-time.After(patience):
			return 0, fmt.Errorf("lost: job %d has not begun after %s", indexOf(payload), patience)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	var warm sync.WaitGroup // the first jobs dial and load scripts
	warmed := make(chan error, len(queues))
	for _, queue := range queues {
		warm.Go(func() {
			_, err := lone(queue)
			warmed <- err
		})
	}
	warm.Wait()
	for range queues {
		if err := <-warmed; err != nil {
			return errors.Join(err, together(stops))
		}
	}
	pause(ctx, 20*time.Millisecond)

	var mu sync.Mutex // guards took and failed
	var took []time.Duration
	var failed error
	cost, err := server.measure(func() error {
		var all sync.WaitGroup
		for _, queue := range queues {
			all.Go(func() {
				for range each {
					// 3 ms: until the runner sleeps again. The rest: at no fixed time of its polls.
					rest := 7 * time.Millisecond
					if runners == 1 {
						rest = max(rest, c.period*3/2)
					}
					pause(ctx, 3*time.Millisecond+rand.N(rest))
					d, err := lone(queue)
					mu.Lock()
					took, failed = append(took, d), errors.Join(failed, err)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		all.Wait()
		pause(ctx, 3*time.Millisecond) // for the end of the last job
		return failed
	})
	if err = errors.Join(err, together(stops)); err != nil {
		return err
	}
	if runners == 1 {
		c.latency1 = append(c.latency1, took...)
		c.lone.add(cost, len(took))
	} else {
		c.latencyCrowd = append(c.latencyCrowd, took...)
		c.loneCrowd.add(cost, len(took))
	}
	return errors.Join(books.check(), c.verify(ctx, server.socket, queues, books.issued()))
}

// watchIdle finds out what runners without jobs ask of Redis: all contestants at once, each with a server of its own.
func watchIdle(ctx context.Context, dir string, all []*contestant) error {
	var stops []func() error
	defer func() { together(stops) }()
	type seat struct {
		server *redisServer
		into   *cost
		before reading
	}
	var seats []*seat
	for _, c := range all {
		for runners, into := range map[int]*cost{1: &c.idle1, crowd: &c.idleCrowd} {
			server, err := startRedis(dir)
			if err != nil {
				return err
			}
			defer server.stop()
			for range runners {
				stop, err := c.work(server.socket, "default", idleSlots, func([]byte) {})
				if err != nil {
					return err
				}
				stops = append(stops, stop)
			}
			seats = append(seats, &seat{server: server, into: into})
		}
	}
	pause(ctx, 2*time.Second)
	for _, s := range seats {
		var err error
		if s.before, err = s.server.read(); err != nil {
			return err
		}
	}
	pause(ctx, *idle)
	for _, s := range seats {
		after, err := s.server.read()
		if err != nil {
			return err
		}
		*s.into = after.since(s.before)
	}
	err := together(stops) // before the servers
	stops = nil
	return errors.Join(err, ctx.Err())
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
