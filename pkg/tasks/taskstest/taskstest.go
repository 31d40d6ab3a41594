// Package taskstest runs a program's jobs inside its tests, without a Redis and without waiting:
//
//	q := taskstest.New(t, mux)
//	signUp(ctx, q.Client, "ann@example.org")  // the program's own code enqueues
//	q.Drain()                                 // its handlers run, retries, chains and what is scheduled included
//	mails.want(t, "ann@example.org")
//
// It is the library itself over an in-memory Redis whose clock the test has: nothing behaves otherwise than in production but time.
package taskstest

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"supervisor/pkg/tasks"
)

// Queue is a client, and the handlers for what it enqueues.
type Queue struct {
	Client *tasks.Client

	t     testing.TB
	redis *miniredis.Miniredis
	mux   *tasks.Mux
	now   time.Time
}

// patience is for what never ends: a handler that hangs, or always asks to be called again.
const patience = 30 * time.Second

// New starts with empty queues. All ends with the test.
func New(t testing.TB, mux *tasks.Mux) *Queue {
	t.Helper()
	q := &Queue{t: t, redis: miniredis.RunT(t), mux: mux, now: time.Now()}
	q.redis.SetTime(q.now)
	client, err := tasks.Connect("redis://"+q.redis.Addr(), tasks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	q.Client = client
	return q
}

// Advance moves the clock: what is due then runs in the next RunDue, and what is not kept any longer is gone.
func (q *Queue) Advance(d time.Duration) {
	q.now = q.now.Add(d)
	q.redis.SetTime(q.now)
	q.redis.FastForward(d)
}

// RunDue runs what can run now, one job at a time, until nothing can.
func (q *Queue) RunDue() {
	q.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		names := q.names()
		if q.idle(names) {
			return
		}
		q.run(names, deadline)
		if time.Now().After(deadline) {
			q.t.Fatalf("jobs do not end within %s: %+v", patience, q.books(names))
		}
	}
}

// Drain runs everything, and moves the clock to whatever is scheduled or waits for its next attempt, until nothing is left.
func (q *Queue) Drain() {
	q.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		q.RunDue()
		at, scheduled := q.next(q.names())
		if !scheduled {
			return
		}
		if d := at.Sub(q.now); d > 0 {
			q.Advance(d)
		}
		if time.Now().After(deadline) {
			q.t.Fatalf("jobs are tried again and again for %s", patience)
		}
	}
}

// run serves the queues until they have nothing that can run.
func (q *Queue) run(names []string, deadline time.Time) {
	q.t.Helper()
	runner, err := tasks.NewRunner(q.Client, q.mux, tasks.RunnerOptions{Queues: names, Concurrency: 1, Grace: patience, UnknownFor: -1})
	if err != nil {
		q.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	// What follows in a queue that is new is the next round's.
	claimed := int64(0)
	for still := 0; !q.idle(names) && time.Now().Before(deadline); {
		// Claims that come through and give nothing: a limit of the queue, whose bucket fills by the clock.
		if n := runner.Counts(); n.Claimed != claimed || n.Claims == 0 {
			claimed, still = n.Claimed, 0
		} else if still++; still%50 == 0 && q.books(names).Running == 0 {
			q.Advance(time.Second)
		}
		time.Sleep(2 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		q.t.Fatalf("runner: %s", err)
	}
}

// names of all queues.
func (q *Queue) names() []string {
	q.t.Helper()
	names, err := q.Client.Inspector().Names(context.Background())
	if err != nil {
		q.t.Fatal(err)
	}
	return names
}

func (q *Queue) books(names []string) tasks.Books {
	q.t.Helper()
	books, err := tasks.Verify(context.Background(), q.Client, names...)
	if err != nil {
		q.t.Fatal(err)
	}
	return books
}

// idle reports whether nothing in these queues can run now.
func (q *Queue) idle(names []string) bool {
	q.t.Helper()
	at, scheduled := q.next(names)
	books := q.books(names)
	return books.Pending+books.Running+books.Dropping+books.Following == 0 && (!scheduled || at.After(q.now))
}

// next tells when the next scheduled job of these queues is due.
func (q *Queue) next(names []string) (at time.Time, scheduled bool) {
	for _, name := range names {
		key := "{tasks:" + name + ":0}:sched" // T:sched of tasks' doc.go
		if !q.redis.Exists(key) {
			continue
		}
		scores, err := q.redis.SortedSet(key)
		if err != nil {
			q.t.Fatal(err)
		}
		for _, ms := range scores {
			if due := time.UnixMilli(int64(ms)); !scheduled || due.Before(at) {
				at, scheduled = due, true
			}
		}
	}
	return at, scheduled
}
