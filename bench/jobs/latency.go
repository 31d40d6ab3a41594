package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// latency takes the time from before the enqueue to the handler's first line, one job at a time, while runners idle.
func (c *contestant) latency(ctx context.Context, dir string, runners int) error {
	server, p, end, err := c.alone(dir, aof)
	if err != nil {
		return err
	}
	defer end()

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

// levels are the parts of the slower contestant's drain rate at which the latency under load is taken.
var levels = []int{10, 50, 80}

// load enqueues at a fixed rate, whatever comes of it, and takes the time from when each job should have been enqueued to its handler's
// first line.
func (c *contestant) load(ctx context.Context, t *table, dir string, level int, perSecond float64) error {
	server, p, end, err := c.alone(dir, aof)
	if err != nil {
		return err
	}
	defer end()
	n := int(perSecond * loadFor.Seconds())
	const warm = producers
	books := newLedger(n + warm)
	began := make([]time.Time, n+warm) // each by its own handler; read when all have begun
	stop, err := c.work(server.socket, "default", *concurrency, func(payload []byte) {
		now := time.Now()
		if i := indexOf(payload); i >= 0 && i < len(began) {
			began[i] = now
		}
		books.began(payload)
	})
	if err != nil {
		return err
	}
	err = fill(ctx, p, books, warm, producers)
	pause(ctx, 300*time.Millisecond+c.period)

	type order struct {
		at      time.Time
		payload []byte
	}
	orders := make(chan order, n) // as long as can be: a slow enqueue holds up no later one's time
	due := make([]time.Time, n+warm)
	failed := make(chan error, producers)
	var all sync.WaitGroup
	for range producers {
		all.Go(func() {
			for o := range orders {
				if err := p.enqueue(ctx, "default", o.payload); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	start := time.Now()
	for i := range n {
		at := start.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		pause(ctx, time.Until(at))
		payload := books.issue()
		due[indexOf(payload)] = at
		orders <- order{at, payload}
	}
	close(orders)
	all.Wait()
	select {
	case broken := <-failed:
		err = errors.Join(err, broken)
	default:
	}
	if err == nil {
		err = c.settled(ctx, server, books, n+warm)
	}
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	if err := books.check(); err != nil {
		return err
	}
	took := make([]time.Duration, 0, n)
	for i := warm; i < len(due); i++ {
		took = append(took, began[i].Sub(due[i]))
	}
	for _, p := range []int{50, 99} {
		t.add(c, fmt.Sprintf("due to handler at %d %% of the slower drain, p%d, ms", level, p), "%.2f", percentile(took, p))
	}
	t.add(c, fmt.Sprintf("due to handler at %d %% of the slower drain, jobs/s offered", level), "%.0f", perSecond)
	return nil
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
			server, err := startRedis(dir, aof)
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
