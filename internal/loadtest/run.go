package loadtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Load is a run under way.
type Load struct {
	// Set once.
	plan    Plan
	to      endpoint
	started time.Time
	noise   []byte // random bytes that bodies are cut from
	clients []*client
	done    chan struct{} // closed when all clients have ended; elapsed and the clients' counts may be read then
	ended   context.Context
	stop    context.CancelFunc

	// Shared by all clients.
	left   atomic.Int64 // requests that may still be sent
	closed atomic.Int64 // closes that net/http's connections saw, see standard.go
	reset  atomic.Int64

	elapsed time.Duration
}

// Run starts a run and waits for its end.
func Run(ctx context.Context, plan Plan) (Result, error) {
	load, err := Start(ctx, plan)
	if err != nil {
		return Result{}, err
	}
	return load.Wait(), nil
}

// Start starts the clients. The end of ctx means that no more requests are sent.
func Start(ctx context.Context, plan Plan) (*Load, error) {
	plan, to, err := plan.complete()
	if err != nil {
		return nil, fmt.Errorf("load test: %w", err)
	}
	seed := plan.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	l := &Load{plan: plan, to: to, started: time.Now(), done: make(chan struct{})}
	l.ended, l.stop = context.WithTimeout(ctx, plan.Duration)
	l.left.Store(1<<62 - 1)
	if plan.Requests > 0 {
		l.left.Store(plan.Requests)
	}
	noise := rand.New(rand.NewPCG(seed, 0))
	l.noise = make([]byte, 2*max(plan.MaxBody, plan.LargeBody)+8)
	for i := 0; i+8 <= len(l.noise); i += 8 {
		r := noise.Uint64()
		for j := range 8 {
			l.noise[i+j] = byte(r >> (8 * j))
		}
	}

	transport := newTransport(l)
	for kind, n := range plan.Mix.counts() {
		for range n {
			l.clients = append(l.clients, newClient(l, Kind(kind), len(l.clients), seed, transport))
		}
	}
	var running sync.WaitGroup
	for _, c := range l.clients {
		running.Go(c.run)
	}
	go func() {
		running.Wait()
		l.stop()
		transport.CloseIdleConnections()
		l.elapsed = time.Since(l.started)
		close(l.done)
	}()
	return l, nil
}

// take reserves up to want requests; 0 means that the run is over.
func (l *Load) take(want int) int {
	if l.ended.Err() != nil {
		return 0
	}
	rest := l.left.Add(-int64(want))
	if rest < 0 {
		want += int(max(rest, -int64(want)))
	}
	return want
}

// OK is the number of right answers so far.
func (l *Load) OK() (n int64) {
	for _, c := range l.clients {
		n += c.ok.Load()
	}
	return n
}

// Failed is the number of failed requests so far.
func (l *Load) Failed() (n int64) {
	for _, c := range l.clients {
		n += c.failed.Load()
	}
	return n
}

// Elapsed is the time since the start: what Failure's times are measured by.
func (l *Load) Elapsed() time.Duration { return time.Since(l.started) }

// Await returns when n more right answers have come, and reports whether they did before the run ended.
func (l *Load) Await(n int64) bool {
	for goal := l.OK() + n; l.OK() < goal; {
		select {
		case <-l.done:
			return l.OK() >= goal
		case <-time.After(2 * time.Millisecond):
		}
	}
	return true
}

// Stop lets the requests under way finish, and returns the result.
func (l *Load) Stop() Result {
	l.stop()
	return l.Wait()
}

// Wait returns the result when the run has ended.
func (l *Load) Wait() Result {
	<-l.done
	r := Result{
		Elapsed: l.elapsed,
		Workers: map[string]int64{},
		Latency: newHistogram(),
	}
	for _, c := range l.clients {
		r.Kinds[c.kind].add(c.counts)
		r.Latency.Merge(c.latency)
		for worker, n := range c.workers {
			r.Workers[worker] += *n
		}
		r.Failures = append(r.Failures, c.failures...)
	}
	// A connection of net/http's client belongs to no one client. What it announced, it did not do in silence.
	r.Kinds[Standard].Silent += l.closed.Load()
	r.Kinds[Standard].Reset += l.reset.Load()
	for kind, counts := range r.Kinds {
		r.Counts.add(counts)
		if Kind(kind) != OneShot {
			r.KeptAlive.add(counts)
		}
	}
	slices.SortStableFunc(r.Failures, func(a, b Failure) int { return int(a.After - b.After) })
	return r
}

// newHistogram counts from 1 µs to 10 min in steps of about 1 %: 20 KB.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600e6, 2) }

// yield lets the servers on the same cores go first, after something failed.
func yield() {
	runtime.Gosched()
	time.Sleep(5 * time.Millisecond)
}
