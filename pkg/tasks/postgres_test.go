package tasks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"supervisor/internal/pgtest"
)

// sharedPostgres is one database for all tests that do not harm it; a namespace separates them there too.
var sharedPostgres struct {
	once sync.Once
	url  string
	err  error
}

func postgresURL(t testing.TB) string {
	t.Helper()
	s := &sharedPostgres
	s.once.Do(func() {
		s.err = errors.New("there is no server")
		s.url = pgtest.Database(t)
		s.err = migrated(s.url)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.url
}

func migrated(url string) error {
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = Migrations.Up(context.Background(), pool)
	return err
}

// ownPostgres is a server that a test may harm.
func ownPostgres(t testing.TB) *pgtest.Server {
	t.Helper()
	s := pgtest.RunT(t)
	if err := migrated(s.URL()); err != nil {
		t.Fatal(err)
	}
	return s
}

func openPostgres(t testing.TB, url string, options PostgresOptions) *Postgres {
	t.Helper()
	settings, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	settings.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	p, err := NewPostgres(pool, options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newEnvWithPostgres is a real Redis beside a Postgres.
func newEnvWithPostgres(t testing.TB, redis, postgres string) (*env, *Postgres) {
	t.Helper()
	e := newEnv(t, redis)
	p := openPostgres(t, postgres, PostgresOptions{})
	e.client = e.connect(Options{Postgres: p})
	return e, p
}

func (p *Postgres) count(t testing.TB, table, namespace string) (n int) {
	t.Helper()
	if err := p.pool.QueryRow(context.Background(), "select count(*) from "+table+" where namespace = $1", namespace).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// enqueueTx enqueues in a transaction of its own.
func (e *env) enqueueTx(p *Postgres, commit bool, name string, options ...Option) string {
	e.t.Helper()
	ctx := context.Background()
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	id, err := e.c().EnqueueTx(ctx, tx, name, []byte("payload"), options...)
	if err != nil {
		e.t.Fatal(err)
	}
	end := tx.Rollback
	if commit {
		end = tx.Commit
	}
	if err := end(ctx); err != nil {
		e.t.Fatal(err)
	}
	return id
}

// ran counts runs by id.
type ran struct {
	mu sync.Mutex
	by map[string]int
}

func (r *ran) add(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[string]int)
	}
	r.by[id]++
	return r.by[id]
}

func (r *ran) of(id string) int { r.mu.Lock(); defer r.mu.Unlock(); return r.by[id] }

func (r *ran) mux() *Mux {
	mux := NewMux()
	mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
		r.add(job.ID)
		return append([]byte("done "), job.Payload...), nil
	})
	mux.Handle("fails", func(_ context.Context, job *Job) ([]byte, error) {
		r.add(job.ID)
		return nil, errors.New("no \x00 luck\xff")
	})
	return mux
}

func TestAJobIsThereExactlyWhenItsTransactionCommits(t *testing.T) {
	t.Parallel()
	each := func(name, redis string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, p := newEnvWithPostgres(t, redis, postgresURL(t))
			var r ran
			runner := e.run(r.mux(), RunnerOptions{})
			gone := e.enqueueTx(p, false, "x")
			id := e.enqueueTx(p, true, "x", Priority(2))
			later := e.enqueueTx(p, true, "x", In(1500*time.Millisecond), Key("later"))
			e.awaitKnown(id, Done)
			if s := e.awaitKnown(later, Scheduled); time.Until(s.Due) > 1500*time.Millisecond || later != "default.0.later" {
				t.Errorf("%s is due in %s", later, time.Until(s.Due))
			}
			e.awaitKnown(later, Done)
			if _, err := e.c().Status(t.Context(), gone); !errors.Is(err, ErrNotFound) {
				t.Errorf("rolled back: %v", err)
			}
			if books := e.rest(); books.Accepted != 2 || books.Done != 2 || r.of(gone) != 0 {
				t.Errorf("books %+v, ran %v", books, r.by)
			}
			until(t, "the outbox is empty", func() bool { return p.count(t, "tasks_outbox", e.namespace) == 0 })
			if err := runner.halt(); err != nil {
				t.Error(err)
			}
		})
	}
	each("miniredis", miniURL(t))
	each("redis", realRedis(t).url())
}

// awaitKnown is await for a job that is still in the outbox.
func (e *env) awaitKnown(id string, state State) (s Status) {
	e.t.Helper()
	until(e.t, fmt.Sprintf("%s is %s", id, state), func() bool {
		var err error
		s, err = e.c().Status(context.Background(), id)
		return err == nil && s.State == state
	})
	return s
}

func TestManyTransactionsAndRunnersMakeEachJobOnce(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	var r ran
	for range 3 {
		e.run(r.mux(), RunnerOptions{Concurrency: 20})
	}
	const each, writers = 100, 4
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range each {
				e.enqueueTx(p, i%4 != 0, "x")
			}
		})
	}
	wg.Wait()
	const want = writers * each * 3 / 4
	until(t, "all are archived", func() bool { return p.count(t, "tasks_archive", e.namespace) == want })
	books := e.rest()
	if books.Accepted != want || books.Done != want || p.count(t, "tasks_outbox", e.namespace) != 0 {
		t.Errorf("books %+v: want %d", books, want)
	}
	for id, n := range r.by {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
}

// The relay stands in its delete when it is killed: its jobs are in Redis, and still in the outbox.
func TestARelayKilledBetweenEnqueueAndDeleteRepeatsHarmlessly(t *testing.T) {
	t.Parallel()
	url := postgresURL(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), url)
	sql := func(format string, args ...any) {
		t.Helper()
		if _, err := p.pool.Exec(context.Background(), fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	name := strings.ReplaceAll(e.namespace, "-", "_")
	sql(`create function slow_%s() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return old; end $$`, name)
	sql(`create trigger slow_%s before delete on tasks_outbox for each row when (old.namespace = '%s') execute function slow_%[1]s()`, name, e.namespace)
	const n = 20
	var ids []string
	for i := range n {
		ids = append(ids, e.enqueueTx(p, true, "x", Key(fmt.Sprintf("k%d-", i)))) // one that ends in 7 would fail once
	}
	facts := t.TempDir() + "/facts"
	c := e.spawn("runner", facts, "TASKS_TEST_POSTGRES="+url)
	for _, id := range ids {
		e.awaitKnown(id, Done)
	}
	if left := p.count(t, "tasks_outbox", e.namespace); left != n {
		t.Fatalf("%d rows are left before the kill", left)
	}
	c.kill()
	// Its backend notices the death when it writes: it would hold the rows for a minute.
	sql(`select pg_terminate_backend(pid) from pg_stat_activity where query like 'delete from tasks_outbox%%' and wait_event = 'PgSleep'`)
	until(t, "the killed one has let go", func() bool {
		_, err := p.pool.Exec(context.Background(), fmt.Sprintf(`set lock_timeout = '100ms'; drop trigger slow_%s on tasks_outbox`, name))
		return err == nil
	})
	sql(`drop function slow_%s`, name)

	// The worst case: all that Redis knew of the first half is over by now. The archive knows.
	conn, err := e.c().calls.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[:n/2] {
		l, _ := parseID(e.namespace, id)
		if err := conn.Do(t.Context(), conn.B().Del().Key(l.job(id)).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	var again ran
	e.run(again.mux(), RunnerOptions{})
	until(t, "the outbox is empty", func() bool { return p.count(t, "tasks_outbox", e.namespace) == 0 })
	books := e.rest()
	if books.Accepted != n || books.Done != n || len(again.by) != 0 {
		t.Errorf("books %+v, ran again: %v", books, again.by)
	}
	lines, err := os.ReadFile(facts)
	if err != nil || strings.Count(string(lines), "ran ") != n {
		t.Errorf("%v\n%s", err, lines)
	}
}

func TestPostgresAwayDuringADrainLosesNothing(t *testing.T) {
	t.Parallel()
	server := ownPostgres(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), server.URL())
	const n = 600
	var r ran
	mux := r.mux()
	mux.Use(func(next Handler) Handler {
		return func(ctx context.Context, job *Job) ([]byte, error) {
			time.Sleep(2 * time.Millisecond)
			return next(ctx, job)
		}
	})
	first := e.run(mux, RunnerOptions{Concurrency: 8})
	second := e.run(mux, RunnerOptions{Concurrency: 8})
	claimed := func() int64 { return first.Counts().Claimed + second.Counts().Claimed }
	done := func() int64 { return first.Counts().Done + second.Counts().Done }
	tasks := make([]Task, n)
	for i := range tasks {
		tasks[i] = Task{Name: "x", Payload: []byte("payload")}
	}
	ids, err := e.c().EnqueueBatch(t.Context(), tasks)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a part is done", func() bool { return done() > n/10 })
	server.Stop()
	// Backpressure: what runs ends, and then nothing more is claimed.
	before := int64(-1)
	until(t, "nothing is claimed any more", func() bool {
		time.Sleep(300 * time.Millisecond)
		now := claimed()
		still := now == before
		before = now
		return still
	})
	if before == n || done() == n {
		t.Fatalf("claimed %d, done %d of %d: nothing was held back", before, done(), n)
	}
	if held := before - done(); held == 0 || held > 2*2*8 {
		t.Errorf("%d jobs are held back: want some, and not more than twice the slots", held)
	}
	// What needs only Redis goes on.
	if id, err := e.c().Enqueue(t.Context(), "x", []byte("payload")); err != nil {
		t.Errorf("enqueue: %v", err)
	} else {
		ids = append(ids, id)
	}
	if _, err := e.c().Status(t.Context(), "default.0.nobody"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "postgres") {
		t.Errorf("status of what only the archive could know: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the rest is done", func() bool { return done() == n+1 })
	books := e.rest()
	if books.Accepted != n+1 || books.Done != n+1 || p.count(t, "tasks_archive", e.namespace) != n+1 {
		t.Errorf("books %+v, archived %d: want %d", books, p.count(t, "tasks_archive", e.namespace), n+1)
	}
	for _, id := range ids {
		if r.of(id) != 1 {
			t.Errorf("%s ran %d times", id, r.of(id))
		}
	}
	for _, x := range []*running{first, second} {
		if err := x.halt(); err != nil {
			t.Error(err)
		}
	}
}

func TestARunnerThatStopsWhilePostgresIsAwayGivesItsEndsBack(t *testing.T) {
	t.Parallel()
	server := ownPostgres(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), server.URL())
	var r ran
	until(t, "postgres answers", func() bool { return p.pool.Ping(t.Context()) == nil })
	server.Stop()
	runner := e.run(r.mux(), RunnerOptions{Grace: 100 * time.Millisecond})
	id := e.enqueue("x")
	until(t, "it ran", func() bool { return r.of(id) == 1 })
	if err := runner.halt(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if s := e.status(id); s.State != Pending || s.Crashes != 0 || s.Attempt != 0 {
		t.Errorf("after the stop: %+v", s)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	e.run(r.mux(), RunnerOptions{})
	e.await(id, Done)
	if books := e.rest(); books.Done != 1 || books.Crashed != 0 || r.of(id) != 2 || p.count(t, "tasks_archive", e.namespace) != 1 {
		t.Errorf("books %+v, ran %d times", books, r.of(id))
	}
}

func TestTheArchiveAnswersWhenRedisHasForgotten(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	e, p := newEnvWithPostgres(t, redis.url(), postgresURL(t))
	var r ran
	mux := r.mux()
	begun := make(chan struct{})
	mux.Handle("waits", func(ctx context.Context, _ *Job) ([]byte, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	waiting := e.enqueue("x", In(time.Hour))
	if state, err := e.c().Cancel(t.Context(), waiting); err != nil || state != Cancelled {
		t.Fatalf("%s, %v", state, err)
	}
	e.run(mux, RunnerOptions{})
	done, none, dead, running := e.enqueue("x"), e.enqueue("x", Keep(time.Minute)), e.enqueue("fails", MaxAttempts(1), Priority(3)), e.enqueue("waits")
	<-begun
	if state, err := e.c().Cancel(t.Context(), running); err != nil || state != Cancelling {
		t.Fatalf("%s, %v", state, err)
	}
	want := map[string]State{done: Done, none: Done, dead: Dead, running: Cancelled}
	was := make(map[string]Status)
	for id, state := range want {
		was[id] = e.await(id, state)
	}
	e.owedNow() // nobody told the end of this one
	until(t, "all are archived", func() bool { return p.count(t, "tasks_archive", e.namespace) == 5 })
	conn, err := e.c().calls.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Do(t.Context(), conn.B().Flushall().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	want[waiting] = Cancelled
	for id, state := range want {
		s := e.status(id)
		if s.State != state || s.Queue != "default" || s.Max == 0 || s.Enqueued.IsZero() || s.Finished.IsZero() {
			t.Errorf("%s: %+v", id, s)
		}
		if before := was[id]; id != waiting && (s.Name != before.Name || s.Attempt != before.Attempt || s.Priority != before.Priority || !s.Finished.Equal(before.Finished) && state != Cancelled) {
			t.Errorf("%s is archived as %+v, was %+v", id, s, before)
		}
		result, err := e.c().Result(t.Context(), id)
		if state == Done && (err != nil || string(result) != "done payload") || state != Done && !errors.Is(err, ErrNotDone) {
			t.Errorf("result of %s, %s: %q, %v", id, state, result, err)
		}
	}
	if s := e.status(dead); s.Error != "no ? luck?" {
		t.Errorf("error %q", s.Error)
	}
	for _, ask := range []func() error{
		func() error { _, err := e.c().Status(t.Context(), "default.0.nobody"); return err },
		func() error { _, err := e.c().Result(t.Context(), "default.0.nobody"); return err },
	} {
		if err := ask(); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
}

// owedNow lets what somebody else than a runner ended be looked at now, not in some seconds.
func (e *env) owedNow() {
	e.t.Helper()
	conn, err := e.c().calls.get(context.Background())
	if err != nil {
		e.t.Fatal(err)
	}
	key := newLane(e.namespace, "default", 0).owed()
	ids, err := conn.Do(context.Background(), conn.B().Zrange().Key(key).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, id := range ids {
		conn.Do(context.Background(), conn.B().Zadd().Key(key).ScoreMember().ScoreMember(1, id).Build())
	}
}

func TestAPoisonedJobIsArchivedByWhoFoundIt(t *testing.T) {
	t.Parallel()
	url := postgresURL(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), url)
	id := e.enqueue("wait", Key("poison"))
	facts := t.TempDir() + "/facts"
	c := e.spawn("runner", facts)
	e.await(id, Running)
	var r ran
	c.kill()
	e.run(r.mux(), RunnerOptions{MaxCrashes: -1, Lease: 500 * time.Millisecond}) // none is allowed
	e.await(id, Dead)
	e.owedNow()
	until(t, "it is archived", func() bool { return p.count(t, "tasks_archive", e.namespace) == 1 })
	found, err := p.Load(t.Context(), e.namespace, id)
	if err != nil || found.Status.State != Dead || !strings.Contains(found.Status.Error, "poison") {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestResultsAreKeptWhereTheBackendIs(t *testing.T) {
	t.Parallel()
	other := startRedis(t)
	redisResults, err := NewRedisResults(other.url(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redisResults.Close)
	for name, backend := range map[string]ResultBackend{"redis": redisResults, "postgres": openPostgres(t, postgresURL(t), PostgresOptions{})} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, realRedis(t).url())
			e.client = e.connect(Options{Results: backend})
			mux := new(ran).mux()
			mux.Handle("nothing", func(context.Context, *Job) ([]byte, error) { return nil, nil })
			e.run(mux, RunnerOptions{})
			id, none := e.enqueue("x"), e.enqueue("nothing")
			e.await(id, Done)
			e.await(none, Done)
			if result, err := e.c().Result(t.Context(), id); err != nil || string(result) != "done payload" {
				t.Errorf("%q, %v", result, err)
			}
			if result, err := e.c().Result(t.Context(), none); err != nil || len(result) != 0 {
				t.Errorf("no result: %q, %v", result, err)
			}
			conn, err := e.c().calls.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			l, _ := parseID(e.namespace, id)
			raw, err := conn.Do(t.Context(), conn.B().Get().Key(l.job(id)).Build()).AsBytes()
			if err != nil || strings.Contains(string(raw), "done payload") {
				t.Errorf("the job's own record holds it too: %q, %v", raw, err)
			}
			// The job's record may go before its result does.
			conn.Do(t.Context(), conn.B().Del().Key(l.job(id)).Build())
			if result, err := e.c().Result(t.Context(), id); err != nil || string(result) != "done payload" {
				t.Errorf("without the job: %q, %v", result, err)
			}
			if s := e.status(id); s.State != Done || s.Name != "x" {
				t.Errorf("without the job: %+v", s)
			}
		})
	}
}

func TestAnEffectHappensOnceHoweverOftenItsJobRuns(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	account := "account_" + strings.ReplaceAll(e.namespace, "-", "_")
	if _, err := p.pool.Exec(t.Context(), "create table "+account+" (job text)"); err != nil {
		t.Fatal(err)
	}
	var runs, firsts atomic.Int32
	mux := NewMux()
	mux.Handle("charge", func(ctx context.Context, job *Job) ([]byte, error) {
		// Each run is two at once: a runner that lost the job and does not know it yet goes on with it.
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
					first, err := Once(ctx, tx, job, "charge")
					if err != nil || !first {
						return err
					}
					firsts.Add(1)
					time.Sleep(20 * time.Millisecond)
					_, err = tx.Exec(ctx, "insert into "+account+" values ($1)", job.ID)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if runs.Add(1); job.Attempt < 3 {
			return nil, errors.New("the effect is made, its job fails")
		}
		return nil, nil
	})
	e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Millisecond }})
	e.await(e.enqueue("charge"), Done)
	var made int
	if err := p.pool.QueryRow(t.Context(), "select count(*) from "+account).Scan(&made); err != nil || made != 1 || runs.Load() != 3 || firsts.Load() != 1 {
		t.Errorf("made %d times in %d runs, first %d times, %v", made, runs.Load(), firsts.Load(), err)
	}
	// Of a transaction that is rolled back nothing is remembered.
	job := &Job{ID: "default.0.other", namespace: e.namespace}
	for range 2 {
		tx, err := p.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first, err := Once(t.Context(), tx, job, "charge"); err != nil || !first {
			t.Errorf("after a roll back: %v, %v", first, err)
		}
		_ = tx.Rollback(t.Context())
	}
}

func TestALaterRunWinsInTheArchive(t *testing.T) {
	t.Parallel()
	p := openPostgres(t, postgresURL(t), PostgresOptions{})
	ns := newEnv(t, "").namespace
	at := func(minute int, state State) Ended {
		return Ended{Status: Status{ID: "q.0.k", Queue: "q", Name: "x", State: state, Started: time.Unix(int64(60*minute), 0)}, Result: []byte(state)}
	}
	save := func(certain bool, ends ...Ended) {
		t.Helper()
		if err := p.save(t.Context(), ns, ends, certain); err != nil {
			t.Fatal(err)
		}
	}
	is := func(state State) {
		t.Helper()
		if found, err := p.Load(t.Context(), ns, "q.0.k"); err != nil || found.Status.State != state || string(found.Result) != string(state) {
			t.Errorf("%+v, %v: want %s", found, err, state)
		}
	}
	save(false, at(2, Dead))
	save(false, at(1, Done)) // of a runner that had lost the job
	is(Dead)
	save(false, at(3, Cancelled), at(2, Done)) // one batch with both
	is(Cancelled)
	save(true, at(1, Done)) // Redis itself says so
	is(Done)
}

func TestWithoutTablesEndsWaitAndTheErrorSaysWhatToDo(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	e, p := newEnvWithPostgres(t, realRedis(t).url(), url)
	if _, err := e.c().Status(t.Context(), "default.0.nobody"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "app migrate") {
		t.Error(err)
	}
	var r ran
	e.run(r.mux(), RunnerOptions{})
	id := e.enqueue("x")
	until(t, "it ran", func() bool { return r.of(id) == 1 })
	if s := e.status(id); s.State != Running {
		t.Errorf("%+v", s)
	}
	if err := migrated(url); err != nil {
		t.Fatal(err)
	}
	e.await(id, Done)
	if p.count(t, "tasks_archive", e.namespace) != 1 || r.of(id) != 1 {
		t.Errorf("ran %d times", r.of(id))
	}
}

func TestOldRowsAreDeleted(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	p := openPostgres(t, postgresURL(t), PostgresOptions{Retain: time.Hour})
	old := func(table, column string) {
		t.Helper()
		if _, err := p.pool.Exec(t.Context(), "update "+table+" set "+column+" = "+column+" - interval '61 days' where namespace = $1 and id like '%old%'", e.namespace); err != nil {
			t.Fatal(err)
		}
	}
	var ends []Ended
	for i := range 2500 {
		ends = append(ends, Ended{Status: Status{ID: fmt.Sprintf("q.0.old%d", i), Queue: "q", Name: "x", State: Done}})
	}
	ends = append(ends, Ended{Status: Status{ID: "q.0.new", Queue: "q", Name: "x", State: Done}})
	if err := p.Save(t.Context(), e.namespace, ends); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"q.0.old", "q.0.new"} {
		tx, err := p.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Once(t.Context(), tx, &Job{ID: id, namespace: e.namespace}, "x"); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	old("tasks_archive", "stored")
	old("tasks_inbox", "made")
	if err := p.prune(t.Context(), e.namespace); err != nil {
		t.Fatal(err)
	}
	if a, i := p.count(t, "tasks_archive", e.namespace), p.count(t, "tasks_inbox", e.namespace); a != 1 || i != 1 {
		t.Errorf("%d archived, %d effects are left", a, i)
	}
}

func TestARefusedEndIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	release := make(chan struct{})
	mux := NewMux()
	var runs atomic.Int32
	mux.Handle("x", func(ctx context.Context, _ *Job) ([]byte, error) {
		if runs.Add(1) == 1 {
			<-release
			return []byte("stale"), nil
		}
		return nil, fmt.Errorf("truth: %w", ErrSkipRetry)
	})
	first := e.run(mux, RunnerOptions{Lease: time.Minute})
	id := e.enqueue("x")
	e.await(id, Running)
	// Somebody takes it away, as from a runner that stood still; another one ends it, and its archive row is lost by an accident.
	conn, err := e.c().calls.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, _ := parseID(e.namespace, id)
	conn.Do(t.Context(), conn.B().Hdel().Key(l.act()).Field(id).Build())
	conn.Do(t.Context(), conn.B().Lpush().Key(l.pending(1)).Element(id).Build())
	conn.Do(t.Context(), conn.B().Rpush().Key(l.bell()).Element("1").Build())
	e.await(id, Dead)
	if _, err := p.pool.Exec(t.Context(), `delete from tasks_archive where namespace = $1`, e.namespace); err != nil {
		t.Fatal(err)
	}
	close(release)
	until(t, "the first end is refused", func() bool { return first.Counts().Refused == 1 })
	until(t, "the archive says what redis says", func() bool {
		found, err := p.Load(t.Context(), e.namespace, id)
		return err == nil && found.Status.State == Dead
	})
}

func TestTransactionsKnowUniqueKeysChainsAndExpiry(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, realRedis(t).url(), postgresURL(t))
	first := e.enqueueTx(p, true, "x", Unique("u", UntilDone), In(500*time.Millisecond))
	second := e.enqueueTx(p, true, "x", Unique("u", UntilDone))
	expired := e.enqueue("x", ExpireIn(time.Millisecond))
	time.Sleep(20 * time.Millisecond)
	parent := e.enqueueTx(p, true, "x", Then(Task{Name: "x"}))
	var r ran
	e.run(r.mux(), RunnerOptions{})
	e.await(expired, Expired)
	e.awaitKnown(parent, Done)
	child := e.awaitKnown(parent+":next", Done)
	e.awaitKnown(first, Done)
	until(t, "the outbox is empty", func() bool { return p.count(t, "tasks_outbox", e.namespace) == 0 })
	if _, err := e.c().Status(t.Context(), second); !errors.Is(err, ErrNotFound) || r.of(second) != 0 {
		t.Errorf("the duplicate: %v, ran %d times", err, r.of(second))
	}
	for id, state := range map[string]State{first: Done, parent: Done, child.ID: Done, expired: Expired} {
		until(t, "it is archived", func() bool {
			found, err := p.Load(t.Context(), e.namespace, id)
			return err == nil && found.Status.State == state && !found.Status.Finished.IsZero()
		})
	}
	if found, err := p.Load(t.Context(), e.namespace, child.ID); err != nil || string(found.Result) != "done done payload" {
		t.Errorf("the one that follows: %q, %v", found.Result, err)
	}
	if books := e.rest(); books.Accepted != 4 || books.Done != 3 {
		t.Errorf("books %+v", books)
	}
}
