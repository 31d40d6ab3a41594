package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const bulk = 1000 // jobs of one EnqueueBatch

// throughput fills a queue, first from one goroutine, then from many, then in bulk, and drains it.
func (c *contestant) throughput(ctx context.Context, t *table, dir string, keeps persistence) error {
	server, p, end, err := c.alone(dir, keeps)
	if err != nil {
		return err
	}
	defer end()
	// The first jobs dial, load scripts and register the queue.
	const warm = 2 * producers
	books := newLedger(*jobs + warm)
	if err := fill(ctx, p, books, warm, producers); err != nil {
		return err
	}
	note := func(what string, spent cost, jobs int) {
		n := float64(jobs)
		t.add(c, keeps.String()+": "+what+", jobs/s", "%.0f", n/spent.took.Seconds())
		t.add(c, keeps.String()+": "+what+", Redis commands/job", "%.2f", float64(spent.commands)/n)
		t.add(c, keeps.String()+": "+what+", Redis CPU µs/job", "%.1f", float64(spent.cpu.Nanoseconds())/1000/n)
	}

	alone, many := *jobs/8, *jobs*3/8
	rest := *jobs - alone - many
	spent, err := server.measure(func() error { return fill(ctx, p, books, alone, 1) })
	if err != nil {
		return err
	}
	note("enqueue, 1 goroutine", spent, alone)
	if spent, err = server.measure(func() error { return fill(ctx, p, books, many, producers) }); err != nil {
		return err
	}
	note(fmt.Sprintf("enqueue, %d goroutines", producers), spent, many)
	if spent, err = server.measure(func() error { return fillBulk(ctx, p, books, rest) }); err != nil {
		return err
	}
	note("enqueue in bulk", spent, rest)

	total := books.issued()
	var stop func() error
	spent, err = server.measure(func() (err error) {
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
	note("drain", spent, total)
	c.drained = append(c.drained, float64(total)/spent.took.Seconds())
	return errors.Join(books.check(), c.verify(ctx, server.socket, []string{"default"}, total))
}

// sleepers runs handlers that only wait for a second: how much longer than that do they take?
func (c *contestant) sleepers(ctx context.Context, t *table, dir string) error {
	const each, waves = 1000, 3
	server, p, end, err := c.alone(dir, aof)
	if err != nil {
		return err
	}
	defer end()
	books := newLedger(each * waves)
	if err := fillBulk(ctx, p, books, each*waves); err != nil {
		return err
	}
	start := time.Now()
	stop, err := c.work(server.socket, "default", each, func(payload []byte) {
		books.began(payload)
		time.Sleep(time.Second)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(c.settled(ctx, server, books, each*waves), stop()); err != nil {
		return err
	}
	t.add(c, fmt.Sprintf("%d jobs of 1 s, %d at once (ideal %d), s", each*waves, each, waves), "%.2f", time.Since(start).Seconds())
	return books.check()
}

// fillBulk enqueues n jobs as fast as the library can.
func fillBulk(ctx context.Context, p *producer, books *ledger, n int) error {
	if p.batch == nil {
		return fill(ctx, p, books, n, producers)
	}
	for n > 0 {
		payloads := make([][]byte, min(n, bulk))
		for i := range payloads {
			payloads[i] = books.issue()
		}
		if err := p.batch(ctx, "default", payloads); err != nil {
			return fmt.Errorf("enqueue in bulk: %w", err)
		}
		n -= len(payloads)
	}
	return nil
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
