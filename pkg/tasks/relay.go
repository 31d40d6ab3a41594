package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// relay brings jobs from the outbox to Redis, a batch at a time, in turns of all lanes that have some: each gets its share of a batch, and one
// that takes nothing (its queue is full, its node of the cluster is away) is passed over for a while. Only used by upkeep.
type relay struct {
	client *Client
	log    *zap.Logger

	after string           // the lane that the last batch ended with; "": it was the last of all
	again bool             // one since the first of all has more
	held  map[string]*hold // lanes that refused
}

// hold is how long a lane is passed over.
type hold struct {
	until time.Time
	pause time.Duration
	err   error
}

func newRelay(c *Client, log *zap.Logger) *relay {
	return &relay{client: c, log: log, held: make(map[string]*hold)}
}

const (
	outboxAtOnce = 256
	outboxLanes  = 32      // per batch: each has eight jobs in it at least
	outboxBytes  = 8 << 20 // of records in memory; one larger job goes alone
)

// The lanes after $2 that have jobs, found by one look into the index for each.
const findLanes = `with recursive lanes as (
		(select lane from tasks_outbox where namespace = $1 and lane > $2 order by lane limit 1)
		union all
		select (select o.lane from tasks_outbox o where o.namespace = $1 and o.lane > l.lane order by o.lane limit 1) from lanes l where l.lane is not null
	) select lane from lanes where lane is not null limit $3`

// What another runner has in hands is passed over. Whoever dies lets go of it. "between": for "=" Postgres may read all lanes in the order of seq.
const lockOutbox = `select l.lane, o.seq, o.size from unnest($2::text[]) with ordinality l (lane, place) cross join lateral
		(select seq, octet_length(record) as size from tasks_outbox where namespace = $1 and lane between l.lane and l.lane order by lane, seq limit $3 for update skip locked) o
	order by l.place, o.seq`

// A job that has ended since it came into the outbox was brought to Redis before, by somebody who could not delete it any more.
const readOutbox = `select o.seq, o.id, o.lane, o.record, o.due, (extract(epoch from clock_timestamp() - o.created) * 1000)::bigint,
	exists (select from tasks_archive a where a.namespace = o.namespace and a.id = o.id and a.stored >= o.created)
	from tasks_outbox o where o.seq = any($1) order by o.seq`

// carriage is one job on its way.
type carriage struct {
	*entry
	seq  int64
	lane string
}

// batch brings one batch of jobs to Redis, and deletes those that Redis has confirmed. It reports whether there may be more. Killed on the
// way it has done no harm: the jobs come again, with the same ids. An error is about Postgres.
func (y *relay) batch(ctx context.Context, conn *pgx.Conn) (more bool, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, fault(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	lanes, err := y.lanes(ctx, tx)
	if err != nil {
		return false, err
	}
	var settled []int64
	full := false
	if len(lanes) > 0 {
		if settled, full, err = y.bring(ctx, tx, lanes); err != nil {
			return false, err
		}
	}
	if len(settled) > 0 {
		if _, err := tx.Exec(ctx, `delete from tasks_outbox where seq = any($1)`, settled); err != nil {
			return false, fault(err)
		}
		if err := tx.Commit(ctx); err != nil {
			return false, fault(err)
		}
	}
	y.again = y.again || full && len(settled) > 0
	if y.after != "" {
		return true, nil
	}
	more, y.again = y.again, false
	return more, nil
}

// lanes are the next that have jobs, but for those that are held.
func (y *relay) lanes(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, findLanes, y.client.options.Namespace, y.after, outboxLanes)
	if err != nil {
		return nil, fault(err)
	}
	lanes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fault(err)
	}
	first, last := y.after, ""
	if len(lanes) == outboxLanes {
		last = lanes[len(lanes)-1]
	}
	y.after = last
	for lane := range y.held { // of what has no jobs any more nothing need be known
		if lane > first && (last == "" || lane <= last) && !slices.Contains(lanes, lane) {
			delete(y.held, lane)
		}
	}
	now := time.Now()
	return slices.DeleteFunc(lanes, func(lane string) bool {
		h := y.held[lane]
		return h != nil && now.Before(h.until)
	}), nil
}

// bring enqueues the first jobs of these lanes. It gives those that need no more, and whether some lane has others.
func (y *relay) bring(ctx context.Context, tx pgx.Tx, lanes []string) (settled []int64, full bool, err error) {
	seqs, full, err := y.lock(ctx, tx, lanes)
	if err != nil || len(seqs) == 0 {
		return nil, false, err
	}
	jobs, settled, err := y.read(ctx, tx, seqs)
	if err != nil {
		return nil, false, err
	}
	entries := make([]*entry, len(jobs))
	for i, job := range jobs {
		entries[i] = job.entry
	}
	y.client.carry(ctx, entries)
	for _, job := range jobs {
		var duplicate *DuplicateError
		switch {
		case job.err == nil:
		case errors.As(job.err, &duplicate):
			y.log.Info("a job enqueued in a transaction is a duplicate: it is dropped", zap.String("job", job.id), zap.String("of", duplicate.Holder))
		default:
			continue
		}
		settled = append(settled, job.seq)
		delete(y.held, job.lane)
	}
	y.hold(jobs)
	return settled, full, nil
}

// lock takes the first jobs of each lane, in order: as many as their shares allow. full: there are others.
func (y *relay) lock(ctx context.Context, tx pgx.Tx, lanes []string) (seqs []int64, full bool, err error) {
	share := outboxAtOnce / len(lanes)
	rows, err := tx.Query(ctx, lockOutbox, y.client.options.Namespace, lanes, share)
	if err != nil {
		return nil, false, fault(err)
	}
	var lane, before string // before: the last lane that got something
	var seq, size, bytes int64
	taken, cut, stopped := 0, false, false // of this lane; cut: its next job does not fit, so those behind it must wait, too
	_, err = pgx.ForEachRow(rows, []any{&lane, &seq, &size}, func() error {
		if lane != before {
			taken, cut = 0, false
		}
		switch {
		case stopped || cut:
		case len(seqs) == 0, bytes+size <= outboxBytes:
			seqs, before = append(seqs, seq), lane
			bytes, taken = bytes+size, taken+1
			full = full || taken == share
		case taken > 0:
			cut, full = true, true
		default: // not even one of this lane: the next batch begins with it
			stopped, y.after = true, before
		}
		return nil
	})
	return seqs, full, fault(err)
}

// read makes the jobs ready for Redis, in the order of the outbox. settled are those that need not go there.
func (y *relay) read(ctx context.Context, tx pgx.Tx, seqs []int64) (jobs []carriage, settled []int64, err error) {
	rows, err := tx.Query(ctx, readOutbox, seqs)
	if err != nil {
		return nil, nil, fault(err)
	}
	var seq, age int64
	var id, lane, due string
	var record []byte
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&seq, &id, &lane, &record, &due, &age, &ended}, func() error {
		if ended {
			settled = append(settled, seq)
			return nil
		}
		e, err := y.client.outboxEntry(id, due, record, age)
		if err != nil { // nobody can run it
			y.log.Error("a job of the outbox cannot be read: it is lost", zap.String("job", id), zap.Error(err))
			settled = append(settled, seq)
			return nil
		}
		jobs = append(jobs, carriage{e, seq, lane})
		record = nil // the entry has it
		return nil
	})
	return jobs, settled, fault(err)
}

// hold has the lanes passed over whose jobs were refused, longer each time.
func (y *relay) hold(jobs []carriage) {
	seen := make(map[string]bool)
	for _, job := range jobs {
		if job.err == nil || errors.Is(job.err, ErrDuplicate) || seen[job.lane] {
			continue
		}
		seen[job.lane] = true
		h := y.held[job.lane]
		if h == nil {
			h = &hold{pause: upkeepPause}
			y.held[job.lane] = h
		}
		h.err = job.err
		h.until = time.Now().Add(h.pause/2 + rand.N(h.pause)) // not all runners at the same moment
		h.pause = min(2*h.pause, upkeepLonger)
	}
}

// trouble is why jobs wait that should not; nil: there are none, or their queue is full.
func (y *relay) trouble() error {
	for lane, h := range y.held {
		if !errors.Is(h.err, ErrQueueFull) {
			return fmt.Errorf("%s: %w", lane, h.err)
		}
	}
	return nil
}

// next is when a lane that is held may be asked again, at most outboxPoll from now.
func (y *relay) next() time.Duration {
	wait := outboxPoll
	for _, h := range y.held {
		wait = min(wait, time.Until(h.until))
	}
	return max(wait, upkeepPause/5)
}
