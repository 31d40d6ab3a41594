package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// outboxChannel is where an enqueue tells runners that there is news, when it commits. The payload is the namespace.
const outboxChannel = "tasks_outbox"

// One round trip. Postgres sends one notice for all jobs of a transaction, none when it is rolled back.
const insertOutbox = `with job as (insert into tasks_outbox (namespace, id, record, due) values ($1, $2, $3, $4)) select pg_notify('` + outboxChannel + `', $1)`

// EnqueueTx enqueues a job in a transaction: there is a job if it commits, none if it is rolled back. The job lies in Postgres until a
// runner whose client has Options.Postgres brings it to Redis, moments after the commit; until then Status says ErrNotFound. In counts from
// now. MaxPending holds it back there, and, when some hundreds wait for one full queue, those of other queues behind them; a duplicate of a Unique key is
// dropped there. The id is known at once.
//
// A job of a batch that was brought twice (its runner was killed in between) is the same job the second time, for ten minutes after its end,
// and as long as it is in the archive.
func (c *Client) EnqueueTx(ctx context.Context, tx pgx.Tx, name string, payload []byte, options ...Option) (id string, err error) {
	p := c.plan(Task{Name: name, Payload: payload, Options: traced(ctx, options)})
	if p.invalid != nil {
		return "", p.invalid
	}
	p.own = true // it may come twice: its tombstone stays as long as that of a caller's own id
	if _, err = tx.Exec(ctx, insertOutbox, c.options.Namespace, p.id, p.encode(), p.due); err != nil {
		return p.id, fmt.Errorf("enqueue %s: %w", p.id, fault(err))
	}
	return p.id, nil
}

const (
	outboxAtOnce = 256
	outboxBytes  = 8 << 20 // of records in memory; one larger job goes alone
)

// What another runner has in hands is passed over. Whoever dies lets go of it.
const lockOutbox = `select o.seq, octet_length(o.record) from tasks_outbox o where o.namespace = $1 order by o.seq limit $2 for update skip locked`

// A job that has ended since it came into the outbox was brought to Redis before, by somebody who could not delete it any more.
const readOutbox = `select o.seq, o.id, o.record, o.due, (extract(epoch from clock_timestamp() - o.created) * 1000)::bigint,
	exists (select from tasks_archive a where a.namespace = o.namespace and a.id = o.id and a.stored >= o.created)
	from tasks_outbox o where o.seq = any($1) order by o.seq`

// relay brings one batch of jobs to Redis, and deletes those that Redis has confirmed. It reports whether there may be more. Killed on the
// way it has done no harm: the jobs come again, with the same ids.
func (p *Postgres) relay(ctx context.Context, c *Client, conn *pgx.Conn, log *zap.Logger) (more bool, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, fault(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	seqs, more, err := lockedOutbox(ctx, tx, c.options.Namespace)
	if err != nil || len(seqs) == 0 {
		return false, err
	}
	rows, err := tx.Query(ctx, readOutbox, seqs)
	if err != nil {
		return false, fault(err)
	}
	entries := make([]*entry, 0, len(seqs)) // in the order of the outbox
	places := make([]int64, 0, len(seqs))   // seqs of the same
	var seq, age int64
	var id, due string
	var record []byte
	var ended bool
	var settled []int64
	_, err = pgx.ForEachRow(rows, []any{&seq, &id, &record, &due, &age, &ended}, func() error {
		if ended {
			settled = append(settled, seq)
			return nil
		}
		e, err := c.outboxEntry(id, due, record, age)
		if err != nil { // nobody can run it
			log.Error("a job of the outbox cannot be read: it is lost", zap.String("job", id), zap.Error(err))
			settled = append(settled, seq)
			return nil
		}
		entries, places = append(entries, e), append(places, seq)
		record = nil // the entry has it
		return nil
	})
	if err != nil {
		return false, fault(err)
	}
	c.carry(ctx, entries)
	var failed error
	for i, e := range entries {
		var duplicate *DuplicateError
		switch {
		case e.err == nil:
		case errors.As(e.err, &duplicate):
			log.Info("a job enqueued in a transaction is a duplicate: it is dropped", zap.String("job", e.id), zap.String("of", duplicate.Holder))
		default:
			failed = e.err
			continue
		}
		settled = append(settled, places[i])
	}
	if len(settled) > 0 {
		if _, err := tx.Exec(ctx, `delete from tasks_outbox where seq = any($1)`, settled); err != nil {
			return false, fault(err)
		}
		if err := tx.Commit(ctx); err != nil {
			return false, fault(err)
		}
	}
	return more && failed == nil, failed
}

func lockedOutbox(ctx context.Context, tx pgx.Tx, namespace string) (seqs []int64, more bool, err error) {
	rows, err := tx.Query(ctx, lockOutbox, namespace, outboxAtOnce)
	if err != nil {
		return nil, false, fault(err)
	}
	var seq, size, bytes, found int64
	_, err = pgx.ForEachRow(rows, []any{&seq, &size}, func() error {
		if found++; len(seqs) == 0 || bytes+size <= outboxBytes {
			seqs = append(seqs, seq)
			bytes += size
		} else {
			bytes = outboxBytes // only the first ones, in order
		}
		return nil
	})
	return seqs, found == outboxAtOnce || int(found) > len(seqs), fault(err)
}

// outboxEntry is a job as the enqueue takes it. In counted from when the job came into the outbox, age ms ago.
func (c *Client) outboxEntry(id, due string, record []byte, age int64) (*entry, error) {
	if wait, ok := strings.CutPrefix(due, "+"); ok {
		n, err := strconv.ParseInt(wait, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("due %q: %w", due, errBadRecord)
		}
		due = fmt.Sprintf("+%d", max(n-age, 0))
	}
	e, _, err := c.entryOf(&next{id, due, record})
	return e, err
}

// carry enqueues what has been made an entry elsewhere. Each has its own error then.
func (c *Client) carry(ctx context.Context, entries []*entry) {
	byLine := make(map[*line][]*entry, 1)
	for _, e := range entries {
		l, _ := parseID(c.options.Namespace, e.id) // entryOf has looked at it
		line := c.line(l)
		byLine[line] = append(byLine[line], e)
	}
	for line, mine := range byLine {
		line.add(ctx, mine, false)
	}
	for _, e := range entries {
		<-e.done // Options.Patience at most: what has no answer is not known to be stored, and comes again
	}
}
