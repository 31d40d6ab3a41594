package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"supervisor/pkg/tasks"
)

// postgresStore is the store of an application with a database: tables app_uploads and app_results (migrations/00002_store.sql, 00003_failed.sql). What
// expired is not seen any more, and runners delete it a little at a time.
type postgresStore struct {
	pool   *pgxpool.Pool
	limit  int64       // bytes of all uploads
	before *redisStore // where uploads and results were before DATABASE_URL was set: their jobs still look for them
}

const (
	// announceTTL is how long room is kept for an upload whose bytes have not come: longer than storeTimeout, so that only one who was killed
	// in between leaves some, and not for long.
	announceTTL = time.Minute

	pruneEvery  = time.Minute // by each runner; who finds nothing has done little
	pruneAtOnce = 100         // a thousand chunks of 2 kB each, at most five
)

// Room is asked for in one message and one transaction: the account is the sum of the rows, and the lock is held while they are summed,
// some hundred of them as a rule, not while megabytes travel. Nor for a disk: synchronous_commit is off, as room alone promises
// nothing to anybody; the upload's own commit waits. READ COMMITTED gives the statement after the lock a view of its own. Uploads of dead jobs
// give way, the oldest first, if that makes room; one that is being revived has another row by then, which is not failed.
const (
	commitFast  = `select set_config('synchronous_commit', 'off', true)`
	lockAccount = `select pg_advisory_xact_lock('app_uploads'::regclass::bigint)`
	makeRoom    = `delete from app_uploads where failed is not null and job in (
		select job from (select job, sum(bytes) over (order by failed desc, job) as kept from app_uploads where failed is not null and expires > now()) dead,
			(select $3::bigint - $2::integer - coalesce(sum(bytes) filter (where failed is null), 0) as free
				from app_uploads where expires > now() and job <> $1) room
		where free >= 0 and kept > free)`
	reserveRoom = `insert into app_uploads (job, bytes, expires)
		select $1, $2::integer, now() + $4::interval
		where (select coalesce(sum(bytes), 0) from app_uploads where expires > now() and job <> $1) + $2::integer <= $3::bigint
		on conflict (job) do update set bytes = excluded.bytes`

	saveUpload = `insert into app_uploads (job, bytes, body, expires) values ($1, length($2::bytea), $2::bytea, now() + $3::interval)
		on conflict (job) do update set body = excluded.body, expires = excluded.expires`
	loadUpload = `select body from app_uploads where job = $1 and body is not null and expires > now()`
	dropUpload = `delete from app_uploads where job = $1`
	failUpload = `update app_uploads set failed = coalesce(failed, now()) where job = $1`
	reviveJob  = `update app_uploads set failed = null where job = $1`

	// One statement is one transaction: the upload goes exactly when the result is there. It gives how many uploads went.
	saveResult = `with gone as (delete from app_uploads where job = $1 returning job)
		insert into app_results (job, content_type, width, height, body, expires) values ($1, $2, $3, $4, $5, now() + $6::interval)
		on conflict (job) do update set content_type = excluded.content_type, width = excluded.width, height = excluded.height,
			body = excluded.body, expires = excluded.expires
		returning (select count(*) from gone)`
	loadResult = `select content_type, width, height, body from app_results where job = $1 and expires > now()`

	findTables = `select job, bytes, body, expires, failed from app_uploads where false
		union all select job, width + height, body, expires, expires from app_results where false and content_type <> ''`
)

var pruneStatements = []string{
	`delete from app_uploads where ctid in (select ctid from app_uploads where expires < now() order by expires limit $1 for update skip locked)`,
	`delete from app_results where ctid in (select ctid from app_results where expires < now() order by expires limit $1 for update skip locked)`,
}

func (s *postgresStore) saveUpload(ctx context.Context, id string, upload []byte) error {
	room := false
	err := s.try(ctx, func(ctx context.Context) (err error) {
		room, err = s.reserve(ctx, id, len(upload))
		return err
	})
	if err != nil {
		return err
	}
	if !room {
		return errUploadsFull
	}
	if err = s.exec(ctx, saveUpload, id, upload, uploadTTL); err != nil {
		s.dropUpload(ctx, id)
	}
	return err
}

func (s *postgresStore) reserve(ctx context.Context, id string, bytes int) (room bool, err error) {
	batch := &pgx.Batch{}
	batch.Queue(commitFast)
	batch.Queue(lockAccount)
	batch.Queue(makeRoom, id, bytes, s.limit)
	batch.Queue(reserveRoom, id, bytes, s.limit, announceTTL)
	answers := s.pool.SendBatch(ctx, batch)
	var last pgconn.CommandTag
	for range batch.Len() {
		if last, err = answers.Exec(); err != nil {
			break
		}
	}
	return last.RowsAffected() == 1, errors.Join(err, answers.Close()) // with Close it is committed
}

func (s *postgresStore) upload(ctx context.Context, id string) (upload []byte, err error) {
	err = s.try(ctx, func(ctx context.Context) error { return s.pool.QueryRow(ctx, loadUpload, id).Scan(&upload) })
	if errors.Is(err, errNotStored) {
		return s.before.upload(ctx, id)
	}
	return upload, err
}

func (s *postgresStore) dropUpload(ctx context.Context, id string) {
	ctx = context.WithoutCancel(ctx)
	if here, _ := s.touch(ctx, dropUpload, id); !here {
		s.before.dropUpload(ctx, id)
	}
}

func (s *postgresStore) failUpload(ctx context.Context, id string) {
	ctx = context.WithoutCancel(ctx)
	if here, _ := s.touch(ctx, failUpload, id); !here {
		s.before.failUpload(ctx, id)
	}
}

func (s *postgresStore) reviveUpload(ctx context.Context, id string) error {
	here, err := s.touch(ctx, reviveJob, id)
	if err == nil && !here {
		err = s.before.reviveUpload(ctx, id)
	}
	return err
}

// touch runs a statement about one upload, and reports whether it is here.
func (s *postgresStore) touch(ctx context.Context, statement, id string) (here bool, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, statement, id)
		here = tag.RowsAffected() > 0
		return err
	})
	return here, err
}

func (s *postgresStore) saveResult(ctx context.Context, id string, made *product) error {
	gone := 0
	err := s.try(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, saveResult, id, made.contentType, made.width, made.height, made.body, resultTTL).Scan(&gone)
	})
	if err == nil && gone == 0 {
		s.before.dropUpload(ctx, id)
	}
	return err
}

func (s *postgresStore) result(ctx context.Context, id string) (*product, error) {
	made := &product{}
	err := s.try(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, loadResult, id).Scan(&made.contentType, &made.width, &made.height, &made.body)
	})
	if errors.Is(err, errNotStored) {
		return s.before.result(ctx, id)
	}
	return made, err
}

func (s *postgresStore) ping(ctx context.Context) error { return s.exec(ctx, findTables) }

// prune deletes what expired.
func (s *postgresStore) prune(ctx context.Context) error {
	for _, statement := range pruneStatements {
		for {
			tag, err := s.pool.Exec(ctx, statement, pruneAtOnce)
			if err != nil {
				return databaseFault(err)
			}
			if tag.RowsAffected() < pruneAtOnce {
				break
			}
		}
	}
	return nil
}

// KeepTidy deletes what expired in the database, if the store is there, until ctx ends. Runners call it.
func (t *Tasks) KeepTidy(ctx context.Context) {
	s, is := t.store.(*postgresStore)
	for is {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pruneEvery/2 + rand.N(pruneEvery)):
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				t.log.Debug("expired uploads and results stay for now", zap.Error(err))
			}
		}
	}
}

func (s *postgresStore) exec(ctx context.Context, statement string, args ...any) error {
	return s.try(ctx, func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, statement, args...)
		return err
	})
}

// try makes a call that may be made twice, and gives its error a name that callers know. No row is errNotStored.
func (s *postgresStore) try(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return databaseFault(storePatience.Again(ctx, passing, func() error {
		err := do(ctx)
		var refused *pgconn.ConnectError
		if code := sqlState(err); (code == "57P01" || code == "57P02") && !errors.As(err, &refused) { // the server's last words on this connection
			return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
		}
		return err
	}))
}

// passing reports whether the next call may go better.
func passing(err error) bool {
	code := sqlState(err)
	return !errors.Is(err, pgx.ErrNoRows) && (code == "" || code[:2] == "57")
}

// sqlState is the code of what the server said, "" if it said nothing.
func sqlState(err error) string {
	var said *pgconn.PgError
	if errors.As(err, &said) && len(said.Code) == 5 {
		return said.Code
	}
	return ""
}

// databaseError says why the store in the database cannot be used: an ErrUnavailable. advice: it will not be until somebody follows it.
type databaseError struct {
	advice string
	err    error
}

func (e *databaseError) Error() string {
	if e.advice != "" {
		return "store: " + e.advice + ": " + e.err.Error()
	}
	return "store: " + e.err.Error()
}
func (e *databaseError) Unwrap() error        { return e.err }
func (e *databaseError) Is(target error) bool { return target == tasks.ErrUnavailable }

func databaseFault(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return errNotStored
	}
	switch code := sqlState(err); {
	case code == "42P01", code == "42703":
		return &databaseError{"the database lacks tables of this version, run app migrate", err}
	case code == "42501":
		return &databaseError{"the database's user may not use the tables, grant it that", err}
	case code == "3D000", code != "" && code[:2] == "28":
		return &databaseError{"the database refuses the user, the password or the name of the database, set them right in DATABASE_URL", err}
	}
	if err = tasks.PostgresFault(err); errors.Is(err, tasks.ErrUnavailable) {
		return &databaseError{err: err}
	}
	return fmt.Errorf("store: %w", err)
}

// elsewhere says that a job's upload lies in a database that this process does not use. The job is postponed for one who does: a
// rolling deployment that sets DATABASE_URL has both for a while.
func elsewhere() error {
	return &databaseError{"the upload lies in PostgreSQL, where this runner does not look: give it DATABASE_URL as the web workers have", errNotStored}
}
