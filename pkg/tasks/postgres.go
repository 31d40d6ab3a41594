package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres keeps beside Redis what should outlive it, or be one with a transaction:
//
//	tasks_outbox    jobs of Client.EnqueueTx, until a runner has brought them to Redis
//	tasks_archive   how jobs ended, for Status and Result when Redis has forgotten them; it is also a ResultBackend
//	tasks_inbox     effects that handlers made: Once
//
// Migrations makes the tables. A Postgres that is away stops none of what needs only Redis: Enqueue, Cancel, Status of what is there. Ends
// wait until they can be archived, and runners claim nothing more meanwhile.
type Postgres struct {
	pool    *pgxpool.Pool
	options PostgresOptions
}

// PostgresOptions of a Postgres. The zero value is good.
type PostgresOptions struct {
	// Retain is how long an ended job stays in the archive, 30 days. Below 0 there is no archive.
	Retain time.Duration
}

const (
	defaultRetain = 30 * 24 * time.Hour
	// retainEffects must outlast the last run of a job: a dead one can be tried again as long as Redis keeps it.
	retainEffects = 2 * keepDead
)

// NewPostgres uses a pool, which stays the caller's, and may be shared with all else. It does not connect. A runner holds one of its
// connections, and uses another for moments.
func NewPostgres(pool *pgxpool.Pool, options PostgresOptions) (*Postgres, error) {
	if options.Retain == 0 {
		options.Retain = defaultRetain
	}
	if n := pool.Config().MaxConns; n < 2 {
		return nil, fmt.Errorf("a pool of %d connections: a runner needs 2", n)
	}
	return &Postgres{pool: pool, options: options}, nil
}

func (p *Postgres) archives() bool { return p != nil && p.options.Retain > 0 }

// postgresError says that Postgres is away, or cannot do its part for now. It is an ErrUnavailable.
type postgresError struct{ err error }

func (e *postgresError) Error() string        { return "postgres is unavailable: " + e.err.Error() }
func (e *postgresError) Unwrap() error        { return e.err }
func (e *postgresError) Is(target error) bool { return target == ErrUnavailable }

// PostgresFault names an error of pgx in a handler: ErrUnavailable, so that it is no failed attempt, if Postgres was away or could not do
// its part; nil for nil.
func PostgresFault(err error) error { return fault(err) }

// fault names what Postgres said, or that it said nothing.
func fault(err error) error {
	if err == nil {
		return nil
	}
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch class := said.Code[:min(2, len(said.Code))]; {
		case said.Code == "42P01" || said.Code == "42703": // undefined table, column
			err = fmt.Errorf("its tables are missing or old, run the migrations (app migrate): %w", err)
		case class == "08", class == "53", class == "57", class == "58", said.Code == "25006": // connection, resources, operator, system, a standby
		default:
			return fmt.Errorf("postgres: %w", err)
		}
	}
	return &postgresError{err}
}

// Check reports whether Postgres answers and has the tables.
func (p *Postgres) Check(ctx context.Context) error {
	_, err := p.pool.Exec(ctx, `select tasks_outbox.lane from tasks_outbox, tasks_archive, tasks_inbox where false`)
	return fault(err)
}

// pruneLoop prunes until ctx ends, where nobody else does.
func (p *Postgres) pruneLoop(ctx context.Context, namespace string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pruneEvery/2 + rand.N(pruneEvery)):
			_ = p.prune(ctx, namespace) // the next time will do
		}
	}
}

// prune deletes what is older than it should get, a little at a time: nobody waits for a lock, and a backlog is gone after some minutes.
func (p *Postgres) prune(ctx context.Context, namespace string) error {
	for _, t := range []struct {
		sql string
		old time.Duration
	}{
		{pruneArchive, p.options.Retain},
		{pruneInbox, retainEffects},
	} {
		if t.old <= 0 {
			continue
		}
		for range pruneRounds {
			tag, err := p.pool.Exec(ctx, t.sql, namespace, t.old, pruneAtOnce)
			if err != nil {
				return fault(err)
			}
			if tag.RowsAffected() < pruneAtOnce {
				break
			}
		}
	}
	return nil
}

const (
	pruneEvery  = time.Minute // by each runner; who finds nothing has done little
	pruneAtOnce = 1000
	pruneRounds = 100

	pruneArchive = `delete from tasks_archive where ctid in (
		select ctid from tasks_archive where stored < clock_timestamp() - $2::interval and namespace = $1 order by stored limit $3 for update skip locked)`
	pruneInbox = `delete from tasks_inbox where ctid in (
		select ctid from tasks_inbox where made < clock_timestamp() - $2::interval and namespace = $1 order by made limit $3 for update skip locked)`
)
