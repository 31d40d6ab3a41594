package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"supervisor/internal/pgtest"
	"supervisor/pkg/tasks"
)

// onBothStores runs a test with each store. There is no archive: what Redis forgets is forgotten.
func onBothStores(t *testing.T, do func(t *testing.T, d *desk), more ...string) {
	t.Helper()
	more = append([]string{"TASK_ARCHIVE", "0"}, more...)
	t.Run("redis", func(t *testing.T) { do(t, serveTasks(t, more...)) })
	t.Run("postgres", func(t *testing.T) { do(t, serveContacts(t, more...).desk) })
}

// uploads gives the ids of those that are stored, wherever that is.
func (d *desk) uploads() (ids []string) {
	d.t.Helper()
	for _, key := range d.keys("app:upload:") {
		ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(key, "app:upload:{"), "}"))
	}
	return append(ids, d.rows("app_uploads")...)
}

// stored gives the keys and rows of the store.
func (d *desk) stored() []string {
	d.t.Helper()
	return append(d.keys("app:"), append(d.rows("app_uploads"), d.rows("app_results")...)...)
}

func (d *desk) rows(table string) (ids []string) {
	d.t.Helper()
	if d.pool == nil {
		return nil
	}
	if err := d.pool.QueryRow(context.Background(), `select array_agg(job) from `+table).Scan(&ids); err != nil {
		d.t.Fatal(err)
	}
	return ids
}

// age lets time pass for all that is stored.
func (d *desk) age(by time.Duration) {
	d.t.Helper()
	d.redis.FastForward(by)
	if d.pool == nil {
		return
	}
	for _, table := range []string{"app_uploads", "app_results"} {
		if _, err := d.pool.Exec(context.Background(), `update `+table+` set expires = expires - $1::interval`, by); err != nil {
			d.t.Fatal(err)
		}
	}
}

func TestStoreIsChosenByTheEnvironment(t *testing.T) {
	const database, redis = "postgres://h/d", "redis://r"
	for asked, want := range map[string]bool{"": true, database: true, "postgres://other/d": true, redis: false, "redis://s": false} {
		config, err := ConfigFromEnv(env("REDIS_URL", redis, "DATABASE_URL", database, "TASK_RESULT_BACKEND", asked))
		if err != nil || config.StoreInDatabase != want {
			t.Errorf("TASK_RESULT_BACKEND=%s: %t, %v", asked, config.StoreInDatabase, err)
		}
	}
	if config, err := ConfigFromEnv(env("REDIS_URL", redis, "TASK_RESULT_BACKEND", database)); err != nil || config.StoreInDatabase {
		t.Errorf("without DATABASE_URL: %t, %v", config.StoreInDatabase, err)
	}
}

// openStores gives each store, with room for that many bytes.
func openStores(t *testing.T, limit int64, do func(t *testing.T, s store)) {
	t.Helper()
	server := miniredis.RunT(t)
	redis, err := openRedisStore("redis://"+server.Addr(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	t.Run("redis", func(t *testing.T) { do(t, redis) })
	t.Run("postgres", func(t *testing.T) {
		do(t, &postgresStore{pool: migrated(t, pgtest.Database(t)), limit: limit, before: redis})
	})
}

func migrated(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := Migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestStoreGivesBackWhatItGot(t *testing.T) {
	openStores(t, 64<<20, func(t *testing.T, s store) {
		ctx := t.Context()
		if err := s.ping(ctx); err != nil {
			t.Fatal(err)
		}
		all := make([]byte, maxUploadBytes)
		for i := range all {
			all[i] = byte(i * 7)
		}
		for range 2 { // a call whose answer was lost comes again
			if err := s.saveUpload(ctx, "a", all); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.upload(ctx, "a"); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		want := &product{contentType: "image/png", width: 7, height: 9, body: []byte("\x00\nnot text\xff")}
		for range 2 {
			if err := s.saveResult(ctx, "a", want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.result(ctx, "a"); err != nil || got.contentType != want.contentType || got.width != 7 || got.height != 9 || !bytes.Equal(got.body, want.body) {
			t.Errorf("%+v, %v", got, err)
		}
		for _, id := range []string{"a", "nobody"} {
			if _, err := s.upload(ctx, id); !errors.Is(err, errNotStored) {
				t.Errorf("upload of %s: %v", id, err)
			}
			s.dropUpload(ctx, id)
		}
		if _, err := s.result(ctx, "nobody"); !errors.Is(err, errNotStored) {
			t.Errorf("result: %v", err)
		}
	})
}

// Many ask at once, and no more get in than there is room for; what goes makes room.
func TestRoomIsExact(t *testing.T) {
	const size, fit, ask = 100_000, 7, 40
	openStores(t, fit*size+size/2, func(t *testing.T, s store) {
		for round := range 2 {
			var wg sync.WaitGroup
			var in, full atomic.Int64
			for i := range ask {
				wg.Go(func() {
					switch err := s.saveUpload(t.Context(), fmt.Sprint(round, ".", i), make([]byte, size)); {
					case err == nil:
						in.Add(1)
					case errors.Is(err, errUploadsFull):
						full.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if in.Load() != fit || full.Load() != ask-fit {
				t.Errorf("%d got in, %d did not: want %d", in.Load(), full.Load(), fit)
			}
			for i := range ask {
				s.dropUpload(t.Context(), fmt.Sprint(round, ".", i))
			}
		}
	})
}

// Who asks while another's room is not committed waits for it, and counts it.
func TestRoomThatIsBeingGivenCounts(t *testing.T) {
	pool := migrated(t, pgtest.Database(t))
	s := &postgresStore{pool: pool, limit: 1000}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), lockAccount); err != nil {
		t.Fatal(err)
	}
	if tag, err := tx.Exec(t.Context(), reserveRoom, "first", 700, s.limit, announceTTL); err != nil || tag.RowsAffected() != 1 {
		t.Fatal(tag, err)
	}
	second := make(chan bool, 1)
	go func() {
		room, err := s.reserve(context.Background(), "second", 700)
		second <- room || err != nil
	}()
	for waits := 0; waits == 0 && len(second) == 0; time.Sleep(time.Millisecond) {
		if err := pool.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-second {
		t.Error("1400 bytes got into 1000")
	}
}

// An upload that is on its way does not keep others from asking for room.
func TestRoomIsNotHeldUpByMegabytesThatTravel(t *testing.T) {
	pool := migrated(t, pgtest.Database(t))
	redis, err := openRedisStore("redis://"+miniredis.RunT(t).Addr(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	s := &postgresStore{pool: pool, limit: 1 << 20, before: redis}
	if room, err := s.reserve(t.Context(), "slow", 1000); !room || err != nil {
		t.Fatal(room, err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), saveUpload, "slow", make([]byte, 1000), uploadTTL); err != nil {
		t.Fatal(err)
	}
	if err := s.saveUpload(t.Context(), "fast", make([]byte, 1000)); err != nil {
		t.Errorf("beside it: %v", err)
	}
	if _, err := s.upload(t.Context(), "slow"); !errors.Is(err, errNotStored) {
		t.Errorf("half of it is seen: %v", err)
	}
	var storage string
	if err := pool.QueryRow(t.Context(), `select string_agg(distinct attstorage::text, '') from pg_attribute
		where attrelid in ('app_uploads'::regclass, 'app_results'::regclass) and attname = 'body'`).Scan(&storage); err != nil || storage != "e" {
		t.Errorf("storage %q, %v", storage, err)
	}
}

// Of what expired nothing is seen, and all of it goes, however much it is; the rest stays.
func TestExpiredRowsAreDeleted(t *testing.T) {
	d := serveContacts(t)
	for _, table := range []string{"app_uploads (job, bytes, body, expires) select 'u' || n, 1, 'x', ", "app_results select 'r' || n, 'text/csv', 0, 0, 'x', "} {
		if _, err := d.pool.Exec(t.Context(), "insert into "+table+"now() + case when n <= 3 then interval '1 min' else interval '-1 s' end from generate_series(1, 250) n"); err != nil {
			t.Fatal(err)
		}
	}
	s := d.tasks.store.(*postgresStore)
	if _, err := s.upload(t.Context(), "u4"); !errors.Is(err, errNotStored) {
		t.Errorf("%v", err)
	}
	if err := s.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := d.stored(); len(left) != 6 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.result(t.Context(), "r3"); err != nil {
		t.Error(err)
	}
}

// DATABASE_URL was set by a reload: jobs whose upload is in Redis are done, and their upload goes.
func TestUploadsInRedisAreFoundAfterTheChange(t *testing.T) {
	a := serveContacts(t)
	older, err := openRedisStore("redis://"+a.redis.Addr(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	now := a.tasks.store
	a.tasks.store = older
	ids := []string{a.submit(readPicture(t, "video-001.jpeg")), a.submit(readPicture(t, "video-001.jpeg"))}
	a.tasks.store = now
	if len(a.keys("app:upload:")) != 2 || len(a.rows("app_uploads")) != 0 {
		t.Fatalf("%v", a.stored())
	}
	a.do("DELETE", "/tasks/"+ids[1], "", nil)
	a.work()
	a.await(ids[0], "done")
	a.get("/tasks/"+ids[0]+"/result").shows("image/jpeg", 100, 69)
	if left := a.keys("app:"); len(left) > 0 {
		t.Errorf("Redis still has %v", left)
	}
	if err := older.saveResult(t.Context(), ids[0]+"x", &product{contentType: "image/png", body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if made, err := now.result(t.Context(), ids[0]+"x"); err != nil || string(made.body) != "x" {
		t.Errorf("a result of before: %+v, %v", made, err)
	}
}

// During that reload a runner that has no DATABASE_URL yet leaves the new jobs to those that have.
func TestRunnerWithoutTheDatabaseLeavesTheJobToOthers(t *testing.T) {
	t.Parallel()
	a := serveContacts(t)
	id := a.submit(readPicture(t, "video-001.jpeg"))
	table := a.imports("email\nada@example.org\n")
	older := openDesk(t, "redis://"+a.redis.Addr())
	stop := older.work()
	for _, id := range []string{id, table} {
		if v := a.await(id, "retrying"); v["attempt"] != 0.0 || v["postponed"] == nil {
			t.Errorf("%v", v)
		}
	}
	stop()
	a.work()
	a.await(table, "done")
	a.await(id, "done")
	a.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 69)
}

// Postgres is restarted while images wait, and while results do: nothing is lost, nothing that was refused is left, no attempt is counted.
func TestImagesOutlastTheirDatabase(t *testing.T) {
	t.Parallel()
	a := serveContactsAlone(t, "TASK_ARCHIVE", "0")
	photo := readPicture(t, "video-001.jpeg")
	ids := []string{a.submit(photo), a.submit(photo)}
	a.server.Stop()
	refused := a.post("/images", photo)
	refused.fails(503, "store_unavailable", "PostgreSQL does not answer")
	if refused.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After is %q", refused.header.Get("Retry-After"))
	}
	if page, err := a.tasks.Inspector().Jobs(t.Context(), tasks.Filter{Queue: "default", State: tasks.Pending}); err != nil || len(page.Jobs) != 2 {
		t.Errorf("%d jobs wait, %v", len(page.Jobs), err)
	}
	a.work()
	for _, id := range ids {
		if v := a.await(id, "retrying"); v["error"].(map[string]any)["code"] != "store_unavailable" || v["attempt"] != 0.0 {
			t.Errorf("%v", v)
		}
	}
	if err := a.server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if v := a.await(id, "done"); v["attempt"] != 1.0 {
			t.Errorf("%v", v)
		}
	}
	// All connections break at once, and the next call does not notice.
	a.server.Stop()
	a.get("/tasks/"+ids[0]+"/result").fails(503, "store_unavailable")
	if err := a.server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		a.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 69)
	}
	if uploads := a.uploads(); len(uploads) > 0 {
		t.Errorf("left over: %v", uploads)
	}
}

// A restart that nobody heard of breaks the connections of the pool: no client pays for it.
func TestBrokenConnectionsCostNobodyARequest(t *testing.T) {
	t.Parallel()
	a := serveContacts(t)
	photo := readPicture(t, "video-001.jpeg")
	for range 5 {
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _, _ = a.tasks.store.upload(t.Context(), "nobody") })
		}
		wg.Wait()
		if _, err := a.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'app' and datname = current_database()`); err != nil {
			t.Fatal(err)
		}
		a.submit(photo)
	}
}

func TestMissingTablesAreSaid(t *testing.T) {
	t.Parallel()
	server := pgtest.RunT(t)
	d := serveTasks(t, "DATABASE_URL", server.URL())
	photo := readPicture(t, "video-001.jpeg")
	d.post("/images", photo).fails(503, "store_unavailable", "run app migrate")
	for _, key := range d.redis.Keys() {
		if d.redis.Type(key) == "list" {
			t.Errorf("a job was stored: %s", key)
		}
	}
	if err := d.tasks.Check(t.Context()); !IsRefusal(err) || !strings.Contains(err.Error(), "run app migrate") {
		t.Errorf("check: %v", err)
	}
	config, err := ConfigFromEnv(env("REDIS_URL", "redis://"+d.redis.Addr(), "DATABASE_URL", server.URL()))
	if err != nil {
		t.Fatal(err)
	}
	d.tasks.log = zap.New(d.app.log.Core())
	d.tasks.Begin(config, Standalone())
	for deadline := time.Now().Add(20 * time.Second); d.logs.FilterMessageSnippet("does not take uploads").Len() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nobody says so: %v", d.logs.All())
		}
	}
	server.Stop()
	if err := d.tasks.Check(t.Context()); err == nil || IsRefusal(err) {
		t.Errorf("a server that is away: %v", err)
	}
}

// BenchmarkStores compares the stores from POST /images to a stored thumbnail, in turns, so that what else the machine does hits both. An
// operation is twelve images of 1 MiB on each. Redis keeps them in memory alone, PostgreSQL waits for its disk.
func BenchmarkStores(b *testing.B) {
	const images, clients = 12, 4
	server := pgtest.RunT(b, "fsync=on", "full_page_writes=on")
	pool := migrated(b, server.URL())
	if _, err := tasks.Migrations.Up(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	names, desks := []string{"redis", "postgres"}, [2]*desk{}
	for i, more := range [][]string{nil, {"DATABASE_URL", server.URL(), "TASK_ARCHIVE", "0"}} {
		port := freePorts(b, 1)[0]
		realRedis(b, port)
		desks[i] = openDesk(b, "redis://"+addrOf(port), more...)
		desks[i].work()
	}
	photo := padded(b, 1<<20)
	var accepted, done [2]time.Duration
	round := func(i int) {
		d, start := desks[i], time.Now()
		before := d.done()
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for range images / clients {
					if got := d.post("/images?width=100&height=100", photo); got.status != 202 {
						b.Errorf("%d %s", got.status, got.body)
					}
				}
			})
		}
		wg.Wait()
		accepted[i] += time.Since(start)
		for d.done() < before+images && !b.Failed() {
			time.Sleep(time.Millisecond)
		}
		done[i] += time.Since(start)
	}
	round(0)
	round(1)
	accepted, done = [2]time.Duration{}, [2]time.Duration{}
	for b.Loop() {
		round(0)
		round(1)
	}
	n := float64(b.N * (images / clients * clients))
	for i, name := range names {
		b.ReportMetric(n/accepted[i].Seconds(), name+"-posts/s")
		b.ReportMetric(n/done[i].Seconds(), name+"-thumbnails/s")
	}
}

// done is how many jobs are.
func (d *desk) done() int64 {
	queues, err := d.tasks.Inspector().Queues(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, q := range queues {
		if q.Name == "default" {
			return q.Counters.Done
		}
	}
	return 0
}
