package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	pageSize = 50
	looks    = 200  // of each question
	taken    = 3000 // jobs that are drained from the pile
)

// flat asks what jobs cost while many others wait: claim and end, status, a page of the list.
func (c *contestant) flat(ctx context.Context, t *table, dir string, waiting int) error {
	server, p, end, err := c.alone(dir, none)
	if err != nil {
		return err
	}
	defer end()
	books := newLedger(waiting + taken)
	if err := fillBulk(ctx, p, books, waiting); err != nil {
		return err
	}
	ids, err := p.page(ctx, "default")
	if err != nil || len(ids) != pageSize {
		return fmt.Errorf("page of %d: %w", len(ids), err)
	}
	ask := func(what string, question func() error) error {
		spent, err := server.measure(func() error {
			for range looks {
				if err := question(); err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
			}
			return nil
		})
		t.add(c, fmt.Sprintf("%d wait: %s, µs", waiting, what), "%.0f", float64(spent.took.Microseconds())/looks)
		t.add(c, fmt.Sprintf("%d wait: %s, Redis CPU µs", waiting, what), "%.0f", float64(spent.cpu.Microseconds())/looks)
		return err
	}
	n := 0
	if err := ask("status", func() error { n++; return p.status(ctx, "default", ids[n%len(ids)]) }); err != nil {
		return err
	}
	if err := ask(fmt.Sprintf("page of %d", pageSize), func() error { _, err := p.page(ctx, "default"); return err }); err != nil {
		return err
	}

	// As many more as are drained, so that the pile stays as high as its name says.
	if err := fillBulk(ctx, p, books, taken); err != nil {
		return err
	}
	var left atomic.Int64
	left.Store(taken)
	enough, hold := make(chan struct{}), make(chan struct{})
	var stop func() error
	spent, err := server.measure(func() (err error) {
		stop, err = c.work(server.socket, "default", *concurrency, func([]byte) {
			switch n := left.Add(-1); {
			case n == 0:
				close(enough)
			case n < 0:
				<-hold // no more is taken while the others are counted
			}
		})
		if err != nil {
			return err
		}
		select {
		case <-enough:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(patience):
			return fmt.Errorf("lost: of %d jobs %d have not begun", taken, left.Load())
		}
		return nil
	})
	close(hold)
	if stop != nil {
		err = errors.Join(err, stop())
	}
	t.add(c, fmt.Sprintf("%d wait: claim and end, µs", waiting), "%.0f", float64(spent.took.Microseconds())/taken)
	t.add(c, fmt.Sprintf("%d wait: claim and end, Redis CPU µs", waiting), "%.1f", float64(spent.cpu.Nanoseconds())/1000/taken)
	return err
}
