package tasks

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// outboxChannel is where an enqueue tells runners that there is news, when it commits. The payload is the namespace.
const outboxChannel = "tasks_outbox"

// One round trip. Postgres sends one notice for all jobs of a transaction, none when it is rolled back.
const insertOutbox = `with job as (insert into tasks_outbox (namespace, id, record, due) values ($1, $2, $3, $4)) select pg_notify('` + outboxChannel + `', $1)`

// EnqueueTx enqueues a job in a transaction: there is a job if it commits, none if it is rolled back. The job lies in Postgres until a
// runner whose client has Options.Postgres brings it to Redis, moments after the commit; until then Status says ErrNotFound. In counts from
// now. MaxPending holds it back there, and none of another queue; a duplicate of a Unique key is dropped there. The id is known at once.
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
