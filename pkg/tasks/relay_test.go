package tasks

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// enqueueMany enqueues in one transaction: so many jobs for each queue, in this order, with payloads of that size.
func (e *env) enqueueMany(p *Postgres, size int, queues []string, each int) {
	e.t.Helper()
	err := pgx.BeginFunc(context.Background(), p.pool, func(tx pgx.Tx) error {
		for _, queue := range queues {
			for range each {
				if _, err := e.c().EnqueueTx(context.Background(), tx, "x", bytes.Repeat([]byte("x"), size), Queue(queue)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
}

// waiting counts what waits in a queue.
func (e *env) waiting(queue string) int64 {
	e.t.Helper()
	infos, err := e.c().Inspector().Queues(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	for _, info := range infos {
		if info.Name == queue {
			return info.Waiting
		}
	}
	return 0
}

// More jobs than a batch takes wait for a queue that is full: those of another one pass them by, and all of them arrive when there is room.
func TestAFullQueueHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	const n, room = 2*outboxAtOnce + 10, 100
	e.client = e.connect(Options{Postgres: p, MaxPending: room})
	e.enqueueMany(p, 7, []string{"full"}, n)
	var r ran
	e.run(r.mux(), RunnerOptions{})
	until(t, "the queue is full", func() bool { return e.waiting("full") == room })
	id := e.enqueueTx(p, true, "x")
	e.awaitKnown(id, Done)
	if left := p.count(t, "tasks_outbox", e.namespace); left != n-room {
		t.Errorf("%d rows are left: want %d", left, n-room)
	}
	e.run(r.mux(), RunnerOptions{Queues: []string{"full"}})
	until(t, "the outbox is empty", func() bool { return p.count(t, "tasks_outbox", e.namespace) == 0 })
	books := e.rest("full", "default")
	if books.Accepted != n+1 || books.Done != n+1 || len(r.by) != n+1 {
		t.Errorf("books %+v, %d ran: want %d", books, len(r.by), n+1)
	}
}

// batches counts how many it takes to bring all.
func (e *env) batches(p *Postgres, y *relay, after func(batch int)) (n int) {
	e.t.Helper()
	conn, err := p.pool.Acquire(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	defer conn.Release()
	for more := true; more; {
		if more, err = y.batch(context.Background(), conn.Conn()); err != nil {
			e.t.Fatal(err)
		}
		n++
		after(n)
	}
	return n
}

// There are more lanes than a batch has room for, and one has more jobs than its share.
func TestTheOutboxServesAllLanesInTurn(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	var queues []string
	for i := range 2*outboxLanes + 5 {
		queues = append(queues, fmt.Sprintf("q%03d", i))
	}
	const long = 3 * outboxAtOnce / outboxLanes
	e.enqueueMany(p, 7, queues[:1], long)
	e.enqueueMany(p, 7, queues, 2)
	e.batches(p, newRelay(e.c(), zap.NewNop()), func(batch int) {
		if share := int64(outboxAtOnce / outboxLanes); batch == 1 && e.waiting(queues[0]) != share {
			t.Errorf("the first lane got %d, its share is %d", e.waiting(queues[0]), share)
		}
		if batch == 3 && e.waiting(queues[len(queues)-1]) != 2 {
			t.Error("the last lane waits for the first")
		}
	})
	if left := p.count(t, "tasks_outbox", e.namespace); left != 0 || e.waiting(queues[0]) != long+2 {
		t.Errorf("%d rows are left, %d wait", left, e.waiting(queues[0]))
	}
}

// More queues are full than a batch looks at.
func TestManyFullQueuesHoldUpNoOther(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	e.client = e.connect(Options{Postgres: p, MaxPending: 1})
	var queues []string
	for i := range outboxLanes + 5 {
		queues = append(queues, fmt.Sprintf("q%03d", i))
	}
	e.enqueueMany(p, 7, queues, 2)
	e.batches(p, newRelay(e.c(), zap.NewNop()), func(int) {})
	if n := e.waiting(queues[len(queues)-1]); n != 1 {
		t.Errorf("%d wait in the last", n)
	}
	if left := p.count(t, "tasks_outbox", e.namespace); left != len(queues) {
		t.Errorf("%d rows are left", left)
	}
}

// Jobs of megabytes share what may be in memory.
func TestLargeJobsOfTheOutboxHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	const large = 5 << 20
	e.enqueueMany(p, large, []string{"a"}, 3)
	e.enqueueMany(p, large, []string{"b"}, 1)
	e.enqueueMany(p, 7, []string{"c"}, 1)
	batches := e.batches(p, newRelay(e.c(), zap.NewNop()), func(batch int) {
		if a, b, c := e.waiting("a"), e.waiting("b"), e.waiting("c"); batch == 2 && (a != 1 || b != 1 || c != 1) {
			t.Errorf("after two batches there are %d, %d and %d", a, b, c)
		}
	})
	if left := p.count(t, "tasks_outbox", e.namespace); left != 0 || batches < 4 {
		t.Errorf("%d rows are left after %d batches", left, batches)
	}
}

// An outage is said, and its end.
func TestTheOutboxSaysWhenRedisIsAway(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	e, p := newEnvWithPostgres(t, redis.url(), postgresURL(t))
	core, logs := observer.New(zap.InfoLevel)
	var r ran
	e.run(r.mux(), RunnerOptions{Log: zap.New(core)})
	e.awaitKnown(e.enqueueTx(p, true, "x"), Done)
	redis.kill()
	id := e.enqueueTx(p, true, "x")
	until(t, "it is said", func() bool { return logs.FilterMessageSnippet("jobs enqueued in transactions wait").Len() == 1 })
	redis.start()
	e.awaitKnown(id, Done)
	until(t, "its end is said", func() bool { return logs.FilterMessageSnippet("do their part again").Len() == 1 })
	if n := p.count(t, "tasks_outbox", e.namespace); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}
