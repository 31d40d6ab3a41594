package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"supervisor/pkg/tasks"
)

// desk is a site with background tasks, on a miniredis that the test can break, without a runner unless it starts one.
type desk struct {
	*site
	redis *miniredis.Miniredis
	tasks *Tasks
	pool  *pgxpool.Pool // of DATABASE_URL; nil without one
}

func serveTasks(t *testing.T, more ...string) *desk {
	t.Helper()
	redis := miniredis.RunT(t)
	d := openDesk(t, "redis://"+redis.Addr(), more...)
	d.redis = redis
	return d
}

// work runs a runner until the test ends, or until the function that it gives is called.
func (d *desk) work() (stop func()) {
	d.t.Helper()
	return d.workWith(d.tasks.Handlers())
}

// workWith is work with other handlers.
func (d *desk) workWith(mux *tasks.Mux) (stop func()) {
	d.t.Helper()
	runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{Concurrency: 2, Grace: 5 * time.Second, Schedule: d.tasks.Schedule()})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	stop = func() {
		if cancel(); done != nil {
			if err := <-done; err != nil {
				d.t.Errorf("runner: %v", err)
			}
			done = nil
		}
	}
	d.t.Cleanup(stop)
	return stop
}

// submit sends an image, which must be accepted.
func (d *desk) submit(image []byte) (id string) {
	d.t.Helper()
	got := d.post("/images?width=100&height=100", image)
	if got.status != 202 {
		d.t.Fatalf("%d %s", got.status, got.body)
	}
	v := got.json()
	id, _ = v["id"].(string)
	if id == "" || v["status_url"] != "/tasks/"+id || v["result_url"] != "/tasks/"+id+"/result" || got.header.Get("Location") != "/tasks/"+id {
		d.t.Fatalf("%v, Location %q", v, got.header.Get("Location"))
	}
	got.isGuarded()
	return id
}

// await asks for the status until the job is in one of these states.
func (d *desk) await(id string, states ...string) map[string]any {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		got := d.get("/tasks/" + id)
		v := got.json()
		if state, _ := v["state"].(string); slices.Contains(states, state) {
			return v
		}
		if got.status != 200 || time.Now().After(deadline) {
			d.t.Fatalf("%d %s, want %s", got.status, got.body, states)
		}
	}
}

// keys gives the keys of the store.
func (d *desk) keys(prefix string) (found []string) {
	for _, key := range d.redis.Keys() {
		if strings.HasPrefix(key, prefix) {
			found = append(found, key)
		}
	}
	return found
}

func TestImageBecomesAJob(t *testing.T) {
	onBothStores(t, func(t *testing.T, d *desk) {
		photo := readPicture(t, "video-001.jpeg")
		id := d.submit(photo)

		status := d.get("/tasks/" + id)
		if v := status.json(); status.status != 200 || v["state"] != "pending" || v["name"] != "thumbnail" || v["queue"] != "default" || v["attempt"] != 0.0 ||
			v["error"] != nil || v["started_at"] != nil || v["enqueued_at"] == nil || status.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s", status.body)
		}
		early := d.get("/tasks/" + id + "/result")
		early.fails(409, "not_done", "pending", "/tasks/"+id)
		if early.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q", early.header.Get("Retry-After"))
		}

		d.work()
		v := d.await(id, "done")
		if v["attempt"] != 1.0 || v["progress"].(map[string]any)["percent"] != 100.0 || v["finished_at"] == nil || v["started_at"] == nil {
			t.Errorf("%v", v)
		}
		result := d.get("/tasks/" + id + "/result")
		result.shows("image/jpeg", 100, 69)
		without := serve(t, Config{}).post("/images?width=100&height=100", photo)
		if !bytes.Equal(result.body, without.body) {
			t.Error("a runner makes another thumbnail than a worker")
		}
		d.do("DELETE", "/tasks/"+id, "", nil).fails(409, "job_ended", "done")
	})
}

func TestTransparencySurvivesTheQueue(t *testing.T) {
	d := serveTasks(t)
	d.work()
	id := d.submit(readPicture(t, "gopher-doc.with-alpha.lossless.webp"))
	d.await(id, "done")
	d.get("/tasks/"+id+"/result").shows("image/png", 75, 100)
}

// The list entry is small, the upload lies in the store with a TTL until the job ends, then the result does.
func TestNothingIsKeptForEver(t *testing.T) {
	d := serveTasks(t)
	photo := encodeJPEG(t, landscape(900, 600))
	id := d.submit(photo)
	uploads := d.keys("app:upload:")
	if len(uploads) != 1 || uploads[0] != uploadKey(id) || d.redis.TTL(uploads[0]) != uploadTTL {
		t.Fatalf("uploads %v", uploads)
	}
	for _, key := range d.redis.Keys() {
		if key != uploads[0] && strings.Contains(d.redis.Dump(), key) && d.redis.Type(key) == "string" {
			if value, _ := d.redis.Get(key); len(value) > 1000 {
				t.Errorf("%s has %d bytes", key, len(value))
			}
		}
	}
	for _, key := range accountKeys[:2] {
		if d.redis.TTL(key) != uploadTTL {
			t.Errorf("%s lives for %v", key, d.redis.TTL(key))
		}
	}
	stop := d.work()
	d.await(id, "done")
	stop()
	if left := d.keys("app:"); len(left) != 1 || left[0] != resultKey(id) || d.redis.TTL(left[0]) != resultTTL {
		t.Errorf("the store has %v, want the result", left)
	}
	d.redis.FastForward(resultTTL)
	d.get("/tasks/"+id+"/result").fails(410, "result_expired", "for 1h:")
	if v := d.await(id, "done"); v["state"] != "done" {
		t.Errorf("%v", v)
	}
	d.redis.FastForward(recordTTL)
	d.get("/tasks/"+id).fails(404, "no_such_job", id)
	d.get("/tasks/"+id+"/result").fails(404, "no_such_job")
	d.do("DELETE", "/tasks/"+id, "", nil).fails(404, "no_such_job")
	if left := d.keys("app:"); len(left) > 0 {
		t.Errorf("the store still has %v", left)
	}
}

func TestDamagedImageIsADeadJobWithItsReason(t *testing.T) {
	onBothStores(t, func(t *testing.T, d *desk) {
		photo := readPicture(t, "video-001.jpeg")
		d.work()
		id := d.submit(photo[:len(photo)/2])
		v := d.await(id, "dead")
		failure := v["error"].(map[string]any)
		if failure["code"] != "truncated_image" || !strings.Contains(failure["message"].(string), "ends too early") || v["attempt"] != 1.0 {
			t.Errorf("%v", v)
		}
		d.get("/tasks/"+id+"/result").fails(409, "job_dead", "ends too early")
		if left := d.uploads(); len(left) != 1 {
			t.Errorf("there is nothing to retry it with: %v", left)
		}
	})
}

// brokenStore has a bug for a while: errors that are nobody's outage.
type brokenStore struct {
	store
	broken atomic.Bool
}

func (s *brokenStore) upload(ctx context.Context, id string) ([]byte, error) {
	if s.broken.Load() {
		return nil, errors.New("a bug of ours")
	}
	return s.store.upload(ctx, id)
}

// workAtOnce is work without pauses between attempts.
func (d *desk) workAtOnce() {
	d.t.Helper()
	runner, err := d.tasks.NewRunner(d.tasks.Handlers(), tasks.RunnerOptions{Backoff: func(int) time.Duration { return 0 }})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("runner: %v", err)
		}
	})
}

func (d *desk) retry(id string) {
	d.t.Helper()
	if got := d.do("POST", "/tasks/"+id+"/retry", "", nil, bearer(testToken)...); got.status != 200 {
		d.t.Fatalf("%d %s", got.status, got.body)
	}
}

// The operator repairs what was wrong, and retries what died of it.
func TestDeadJobIsRetriedWithItsUpload(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, d *desk) {
		store := &brokenStore{store: d.tasks.store}
		d.tasks.store = store
		store.broken.Store(true)
		d.workAtOnce()
		ids := []string{d.submit(readPicture(t, "video-001.jpeg"))}
		if d.pool != nil {
			ids = append(ids, (&archive{desk: d}).imports("email\nada@example.org\n"))
		}
		for _, id := range ids {
			if v := d.await(id, "dead"); v["attempt"] != 5.0 {
				t.Errorf("%v", v)
			}
		}
		if left := d.uploads(); len(left) != len(ids) {
			t.Fatalf("uploads: %v", left)
		}
		store.broken.Store(false)
		for _, id := range ids {
			d.retry(id)
			d.await(id, "done")
		}
		d.get("/tasks/"+ids[0]+"/result").shows("image/jpeg", 100, 69)
		if left := append(d.uploads(), d.keys("app:{")...); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}, "APP_ADMIN_TOKEN", testToken)
}

// What dead jobs keep takes no room from those that wait, and is not more than the limit with them.
func TestUploadsOfDeadJobsGiveWay(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, d *desk) {
		damaged := func(size int) []byte {
			return append(readPicture(t, "video-001.jpeg")[:2000:2000], make([]byte, size-2000)...)
		}
		stays := func(want ...string) {
			t.Helper()
			left := d.uploads()
			slices.Sort(left)
			slices.Sort(want)
			if !slices.Equal(left, want) {
				t.Errorf("uploads %v, want %v", left, want)
			}
		}
		stop := d.work()
		oldest, younger := d.submit(damaged(6<<20)), ""
		d.await(oldest, "dead")
		younger = d.submit(damaged(3 << 20))
		d.await(younger, "dead")
		stop()
		stays(oldest, younger)
		first := d.submit(padded(t, 6<<20))
		stays(younger, first)
		d.post("/images", padded(t, 5<<20)).fails(429, "uploads_full") // it would not help
		stays(younger, first)
		d.retry(younger)
		d.post("/images", padded(t, 2<<20)).fails(429, "uploads_full") // it waits again
		second := d.submit(padded(t, 1<<20))
		stays(younger, first, second)
		d.work()
		d.await(first, "done")
		d.await(second, "done")
		d.await(younger, "dead")
		d.retry(oldest)
		if v := d.await(oldest, "dead"); v["error"].(map[string]any)["code"] != "upload_expired" {
			t.Errorf("%v", v)
		}
		stays(younger)
		if gone, err := d.tasks.Purge(t.Context(), "default", tasks.Dead); err != nil || gone != 2 {
			t.Errorf("%d, %v", gone, err)
		}
		if left := append(d.uploads(), d.keys("app:{")...); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}, "APP_ADMIN_TOKEN", testToken, "APP_MAX_WAITING", "10MiB")
}

// So with a thousand of them: each round asks for some.
func TestRoomIsMadeOfManySmallUploads(t *testing.T) {
	const many, size = 500, 1000
	openStores(t, many*size, func(t *testing.T, s store) {
		for i := range many {
			id := fmt.Sprintf("%03d", i)
			if err := s.saveUpload(t.Context(), id, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				s.failUpload(t.Context(), id)
			}
		}
		if err := s.reviveUpload(t.Context(), "001"); err != nil {
			t.Fatal(err)
		}
		if err := s.saveUpload(t.Context(), "large", make([]byte, (many-1)*size)); !errors.Is(err, errUploadsFull) {
			t.Errorf("%v", err)
		}
		if err := s.saveUpload(t.Context(), "fits", make([]byte, (many-2)*size)); err != nil {
			t.Errorf("%v", err)
		}
		for i := range many {
			if _, err := s.upload(t.Context(), fmt.Sprintf("%03d", i)); (err == nil) != (i < 2) {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func TestWhatIsNoImageIsNotEnqueued(t *testing.T) {
	d := serveTasks(t)
	d.post("/images", []byte("hello")).fails(415, "not_an_image")
	d.post("/images?width=0", readPicture(t, "video-001.jpeg")).fails(400, "bad_request")
	d.post("/images", nil).fails(400, "empty_body")
	d.post("/images", pngClaiming(50_000, 50_000)).fails(422, "too_many_pixels")
	d.post("/images", make([]byte, maxUploadBytes+1)).fails(413, "too_large")
	if keys := d.redis.Keys(); len(keys) > 0 {
		t.Errorf("Redis holds %v", keys)
	}
}

func TestCancelledJobHasNoResult(t *testing.T) {
	onBothStores(t, func(t *testing.T, d *desk) {
		id := d.submit(readPicture(t, "video-001.jpeg"))
		got := d.do("DELETE", "/tasks/"+id, "", nil)
		if v := got.json(); got.status != 200 || v["state"] != "cancelled" || v["id"] != id || v["status_url"] != "/tasks/"+id {
			t.Fatalf("%d %s", got.status, got.body)
		}
		d.await(id, "cancelled")
		d.get("/tasks/"+id+"/result").fails(409, "job_cancelled")
		d.do("DELETE", "/tasks/"+id, "", nil).fails(409, "job_ended", "cancelled")
		if left := d.stored(); len(left) > 0 {
			t.Errorf("the store still has %v", left)
		}
	})
}

// A running job is told to end; it is cancelled when its runner has heard of it.
func TestRunningJobIsCancelling(t *testing.T) {
	d := serveTasks(t)
	began, heard := make(chan struct{}), make(chan struct{})
	mux := tasks.NewMux()
	mux.Handle("slow", func(ctx context.Context, _ *tasks.Job) ([]byte, error) {
		close(began)
		<-ctx.Done()
		<-heard
		return nil, context.Cause(ctx)
	})
	runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	defer func() { cancel(); <-done }()
	id, err := d.tasks.EnqueueTask(t.Context(), "slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-began
	for range 2 { // to ask twice changes nothing
		got := d.do("DELETE", "/tasks/"+id, "", nil)
		if v := got.json(); got.status != 202 || v["state"] != "cancelling" {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	d.await(id, "cancelling")
	d.get("/tasks/"+id+"/result").fails(409, "not_done", "cancelling")
	close(heard)
	d.await(id, "cancelled")
	d.do("DELETE", "/tasks/"+id, "", nil).fails(409, "job_ended", "cancelled")
}

func TestDrillIsAJob(t *testing.T) {
	d := serveTasks(t, "APP_DEBUG", "1")
	d.work()
	got := d.do("POST", "/debug/job?ms=40", "", nil)
	id, _ := got.json()["id"].(string)
	d.await(id, "done")
	if result := d.get("/tasks/" + id + "/result"); result.json()["took_ms"] != 40.0 {
		t.Errorf("%s", result.body)
	}
	d.do("POST", "/debug/job?ms=x", "", nil).fails(400, "bad_request", "ms=x")
	serve(t, Config{Debug: true}).do("POST", "/debug/job", "", nil).fails(503, "tasks_off", "REDIS_URL")
}

// Whatever the route: a Redis that refuses us for its settings is 503, with what to set.
func TestRefusalOfRedisSaysWhatToSet(t *testing.T) {
	redis := miniredis.RunT(t)
	redis.RequireAuth("right")
	for password, words := range map[string]string{"": "wants a password", ":s3cret@": "set them right in its URL"} {
		d := openDesk(t, "redis://"+password+redis.Addr())
		for _, got := range []answer{
			d.post("/images", readPicture(t, "video-001.jpeg")), d.get("/tasks/default.0.x"), d.get("/tasks/default.0.x/result"),
			d.do("DELETE", "/tasks/default.0.x", "", nil),
		} {
			got.fails(503, "broker_unavailable", words)
			if got.header.Get("Retry-After") != "2" || strings.Contains(string(got.body), "s3cret") {
				t.Errorf("%v %s", got.header, got.body)
			}
		}
	}
	// The store alone.
	d := serveTasks(t, "TASK_RESULT_BACKEND", "redis://"+redis.Addr())
	d.post("/images", readPicture(t, "video-001.jpeg")).fails(503, "broker_unavailable", "wants a password")
	if err := d.tasks.Check(t.Context()); !IsRefusal(err) {
		t.Errorf("check: %v", err)
	}
}

func TestUploadThatExpiredIsSaid(t *testing.T) {
	onBothStores(t, func(t *testing.T, d *desk) {
		id := d.submit(readPicture(t, "video-001.jpeg"))
		d.age(uploadTTL)
		d.work()
		failure := d.await(id, "dead")["error"].(map[string]any)
		if failure["code"] != "upload_expired" || !strings.Contains(failure["message"].(string), "24h") {
			t.Errorf("%v", failure)
		}
	})
}

// A run that was killed between its last write and the end in the books is run again, and finds its work done.
func TestRepeatedRunFindsItsResult(t *testing.T) {
	onBothStores(t, func(t *testing.T, d *desk) {
		id := d.submit(readPicture(t, "video-001.jpeg"))
		if err := d.tasks.makeThumbnail(t.Context(), id, box{100, 100}); err != nil {
			t.Fatal(err)
		}
		if left := d.uploads(); len(left) > 0 {
			t.Fatalf("the upload is still there: %v", left)
		}
		d.work()
		d.await(id, "done")
		d.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 69)
	})
}

func TestOutsidersDoNotSeeOurErrors(t *testing.T) {
	d := serveTasks(t)
	id := d.submit(readPicture(t, "video-001.jpeg"))
	mux := tasks.NewMux()
	mux.Handle(thumbnailTask, func(context.Context, *tasks.Job) ([]byte, error) { panic("secret at 10.0.0.7") })
	runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{Backoff: func(int) time.Duration { return time.Hour }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	v := d.await(id, "retrying")
	cancel()
	<-done
	failure := v["error"].(map[string]any)
	if failure["code"] != "internal" || strings.Contains(failure["message"].(string), "secret") || v["due_at"] == nil || v["attempt"] != 1.0 || v["max_attempts"] != 5.0 {
		t.Errorf("%v", v)
	}
}

func TestBadAndUnknownIDs(t *testing.T) {
	d := serveTasks(t)
	for _, id := range []string{"x", "a.b.c", "default.0.", "default.00.x", "default.0.%20", "..", "default.0." + strings.Repeat("x", 200)} {
		for _, path := range []string{"/tasks/" + id, "/tasks/" + id + "/result"} {
			if got := d.get(path); got.status != 400 && got.status != 404 {
				t.Errorf("%s: %d %s", path, got.status, got.body)
			}
		}
	}
	d.get("/tasks/x").fails(400, "bad_request", "default.0.")
	d.do("DELETE", "/tasks/x", "", nil).fails(400, "bad_request")
	d.get("/tasks/default.0.nobody").fails(404, "no_such_job", "default.0.nobody")
	d.do("DELETE", "/tasks/default.0.nobody", "", nil).fails(404, "no_such_job")
}

func TestRedisAwayIs503AndWorkersAreWell(t *testing.T) {
	d := serveTasks(t)
	photo := readPicture(t, "video-001.jpeg")
	id := d.submit(photo)
	d.redis.Close()
	for _, got := range []answer{
		d.post("/images", photo), d.get("/tasks/" + id), d.get("/tasks/" + id + "/result"), d.do("DELETE", "/tasks/"+id, "", nil),
	} {
		got.fails(503, "broker_unavailable", "again")
		if got.header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
		}
	}
	for _, path := range []string{"/health/live", "/health/ready", "/health"} {
		if got := d.get(path); got.status != 200 {
			t.Errorf("%s is %d", path, got.status)
		}
	}
	if err := d.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	d.await(id, "pending") // with the first request: no client pays for a connection that broke meanwhile
	d.submit(photo)
	if away, back := d.logs.FilterMessageSnippet("does not take requests").Len(), d.logs.FilterMessage("requests are taken again").Len(); away != 1 || back != 1 {
		t.Errorf("%d lines say that it is away, %d that it is back: want one each", away, back)
	}
}

// padded is a photograph of that many bytes: what follows the picture is nobody's business.
func padded(t testing.TB, size int) []byte {
	t.Helper()
	return append(readPicture(t, "video-001.jpeg"), make([]byte, size)...)[:size]
}

func TestBytesThatWaitHaveALimit(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, d *desk) {
		d.redis.SetTime(time.Now())
		big := padded(t, 6<<20)
		first := d.submit(big)
		full := d.post("/images", big)
		full.fails(429, "uploads_full", "APP_MAX_WAITING", "10 MiB")
		if full.header.Get("Retry-After") != "10" {
			t.Errorf("Retry-After is %q", full.header.Get("Retry-After"))
		}
		second := d.submit(padded(t, 3<<20))
		if uploads := d.uploads(); len(uploads) != 2 {
			t.Errorf("uploads: %v", uploads)
		}

		// What waits no more does not count: cancelled, done, purged, expired.
		d.do("DELETE", "/tasks/"+first, "", nil)
		first = d.submit(big)
		stop := d.work()
		d.await(first, "done")
		d.await(second, "done")
		dead := d.submit(readPicture(t, "video-001.jpeg")[:2000])
		d.await(dead, "dead")
		stop()
		if _, err := d.tasks.Purge(t.Context(), "default", tasks.Dead); err != nil {
			t.Error(err)
		}
		if left := append(d.uploads(), d.keys("app:{")...); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		d.submit(big)
		d.submit(padded(t, 1<<20))
		d.age(uploadTTL)
		d.redis.SetTime(time.Now().Add(uploadTTL + time.Second))
		d.submit(big)
	}, "APP_MAX_WAITING", "10MiB")
}

// Where the queue is full nobody sends 10 MiB first; and an upload whose job was refused after all does not stay.
func TestRefusedJobLeavesNoUpload(t *testing.T) {
	d := serveTasks(t)
	photo := readPicture(t, "video-001.jpeg")
	d.submit(photo)
	client, err := tasks.Connect("redis://"+d.redis.Addr(), tasks.Options{MaxPending: 1})
	if err != nil {
		t.Fatal(err)
	}
	d.tasks.client.Close()
	d.tasks.client = client
	var sets atomic.Int64
	full := false
	d.redis.Server().SetPreHook(func(c *server.Peer, command string, args ...string) bool {
		switch {
		case command == "SET":
			sets.Add(1)
		case full && strings.HasPrefix(command, "EVAL") && strings.Contains(strings.Join(args, " "), ":default:0}:sched"):
			c.WriteError("OOM command not allowed when used memory > 'maxmemory'.")
			return true
		case full && command == "LLEN":
			c.WriteInt(0)
			return true
		}
		return false
	})
	d.post("/images", photo).fails(429, "queue_full")
	if n := sets.Load(); n != 0 {
		t.Errorf("%d uploads were sent to be refused", n)
	}
	full = true
	d.post("/images", photo).fails(503, "broker_full", "nothing was stored")
	if n := sets.Load(); n != 1 {
		t.Errorf("%d uploads were sent", n)
	}
	if uploads := d.keys("app:upload:"); len(uploads) != 1 {
		t.Errorf("uploads: %v, want that of the first", uploads)
	}
	if total := d.redis.HGet(accountKeys[0], "total"); total != strconv.Itoa(len(photo)) {
		t.Errorf("the account says %s", total)
	}
}

func TestUploadIsFailedWithTheLastAttempt(t *testing.T) {
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	away, full, own := fmt.Errorf("store: %w", tasks.ErrUnavailable), fmt.Errorf("store: %w", tasks.ErrFull), errors.New("own")
	for name, c := range map[string]struct {
		ctx     context.Context
		attempt int
		err     error
		want    bool
	}{
		"done":                        {t.Context(), 5, nil, false},
		"to be tried again":           {t.Context(), 4, own, false},
		"last attempt":                {t.Context(), 5, own, true},
		"final":                       {t.Context(), 1, &taskError{&problem{}, tasks.ErrSkipRetry}, true},
		"postponed: away":             {t.Context(), 5, away, false},
		"postponed: full":             {t.Context(), 5, full, false},
		"its own time is over":        {late, 4, away, false},
		"the same, last attempt":      {late, 5, away, true},
		"cancelled":                   {ended(tasks.ErrCancelled), 1, context.Canceled, true},
		"the runner stops":            {ended(tasks.ErrShutdown), 5, own, false},
		"the runner lost its lease":   {ended(tasks.ErrLeaseLost), 5, own, false},
		"cancelled, but done already": {ended(tasks.ErrCancelled), 1, nil, false},
	} {
		if got := endsWith(c.ctx, &tasks.Job{Attempt: c.attempt, Max: 5}, c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}

	d := serveTasks(t)
	id := d.submit(readPicture(t, "video-001.jpeg"))
	d.redis.Del(uploadKey(id))
	d.redis.HSet(uploadKey(id), "not", "an image") // Redis answers with an error that is neither away nor full
	runner, err := d.tasks.NewRunner(d.tasks.Handlers(), tasks.RunnerOptions{Backoff: func(int) time.Duration { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	v := d.await(id, "dead")
	stop()
	<-done
	if v["attempt"] != 5.0 || v["error"].(map[string]any)["code"] != "internal" {
		t.Errorf("%v", v)
	}
	if failed, _ := d.redis.ZMembers(accountKeys[2]); len(failed) != 1 || failed[0] != id {
		t.Errorf("failed: %v", failed)
	}
}

// A store that is away in the middle of a job costs no attempt, and the status says why it waits.
func TestJobOutlastsItsStore(t *testing.T) {
	t.Parallel()
	store := miniredis.RunT(t)
	d := serveTasks(t, "TASK_RESULT_BACKEND", "redis://"+store.Addr())
	id := d.submit(readPicture(t, "video-001.jpeg"))
	store.SetError("LOADING Redis is loading the dataset in memory")
	d.work()
	v := d.await(id, "retrying")
	if failure := v["error"].(map[string]any); failure["code"] != "store_unavailable" || v["attempt"] != 0.0 || v["postponed"] != 1.0 {
		t.Errorf("%v", v)
	}
	d.post("/images", readPicture(t, "video-001.jpeg")).fails(503, "broker_unavailable")
	store.SetError("")
	if v := d.await(id, "done"); v["attempt"] != 1.0 {
		t.Errorf("%v", v)
	}
	d.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 69)
}

// Other kinds of jobs return what they have to say; queue and shard are parts of an id.
func TestResultsOfOtherJobs(t *testing.T) {
	d := serveTasks(t)
	mux := d.tasks.Handlers()
	for name, result := range map[string]string{"summary": `{"rows":3}`, "plain": "a;b\n", "silent": ""} {
		mux.Handle(name, func(context.Context, *tasks.Job) ([]byte, error) { return []byte(result), nil })
	}
	runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{Queues: []string{"default", "slow"}})
	if err != nil {
		t.Fatal(err)
	}
	image := d.submit(readPicture(t, "video-001.jpeg"))
	ids := map[string]string{}
	for _, name := range []string{"summary", "plain", "silent"} {
		// The same key in another queue is another job.
		id, err := d.tasks.EnqueueTask(t.Context(), name, nil, tasks.Queue("slow"), tasks.Key(name+image[len("default.0."):]))
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	twin, err := d.tasks.EnqueueTask(t.Context(), "summary", nil, tasks.Queue("slow"), tasks.Key(image[len("default.0."):]), tasks.In(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	d.do("DELETE", "/tasks/"+twin, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	defer func() { cancel(); <-done }()

	for name, want := range map[string]struct {
		status            int
		contentType, body string
	}{
		"summary": {200, "application/json", `{"rows":3}`},
		"plain":   {200, "application/octet-stream", "a;b\n"},
		"silent":  {204, "", ""},
	} {
		d.await(ids[name], "done")
		got := d.get("/tasks/" + ids[name] + "/result")
		if got.status != want.status || got.header.Get("Content-Type") != want.contentType || string(got.body) != want.body {
			t.Errorf("%s: %d %v %q", name, got.status, got.header, got.body)
		}
	}
	d.await(image, "done")
	d.get("/tasks/"+image+"/result").shows("image/jpeg", 100, 69)
	d.get("/tasks/"+twin+"/result").fails(409, "job_cancelled")
}

func TestTasksAreOffWithoutABroker(t *testing.T) {
	off := serve(t, Config{})
	disabled := serve(t, Config{Broker: "redis://127.0.0.1:1"})
	for _, c := range []struct{ method, path string }{
		{"GET", "/tasks/default.0.x"}, {"GET", "/tasks/default.0.x/result"}, {"DELETE", "/tasks/default.0.x"},
	} {
		off.do(c.method, c.path, "", nil).fails(503, "tasks_off", "REDIS_URL", "app work")
		disabled.do(c.method, c.path, "", nil).fails(503, "tasks_off", "ENABLE_BACKGROUND_TASKS=true")
	}
	if tasks, err := OpenTasks(Config{Broker: "redis://127.0.0.1:1"}, zap.NewNop()); tasks != nil || err != nil {
		t.Errorf("%v, %v", tasks, err)
	}
}

func TestPageFollowsJobs(t *testing.T) {
	if page := string(serveTasks(t).get("/", "Accept", browser).body); strings.Contains(page, "jobs are off") || !strings.Contains(page, "background jobs") {
		t.Error("the page does not know that jobs are on")
	}
	if page := string(serve(t, Config{}).get("/", "Accept", browser).body); !strings.Contains(page, "jobs are off") {
		t.Error("the page does not know that jobs are off")
	}
}

// The guides' interface, for other kinds of jobs.
func TestEnqueueStatusCancel(t *testing.T) {
	d := serveTasks(t)
	id, err := d.tasks.EnqueueTask(t.Context(), "summary", map[string]int{"year": 2026}, tasks.Queue("slow"), tasks.In(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if v := d.await(id, "scheduled"); v["name"] != "summary" || v["queue"] != "slow" || v["due_at"] == nil {
		t.Errorf("%v", v)
	}
	if status, err := d.tasks.GetTaskStatus(t.Context(), id); err != nil || status.State != tasks.Scheduled {
		t.Errorf("%+v, %v", status, err)
	}
	for _, want := range []tasks.State{tasks.Cancelled, ""} {
		if got, err := d.tasks.CancelTask(t.Context(), id); got != want || err != nil {
			t.Errorf("cancel: %v, %v", got, err)
		}
	}
	if _, err := d.tasks.EnqueueTask(t.Context(), "summary", func() {}); err == nil {
		t.Error("a function was taken for an argument")
	}
}

func TestWrongPasswordIsARefusalAndAnOutageIsNot(t *testing.T) {
	redis := miniredis.RunT(t)
	redis.RequireAuth("right")
	addr := redis.Addr()
	check := func(url string) error {
		tasks, err := OpenTasks(Config{Tasks: true, Broker: url, Store: url}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer tasks.Close()
		return tasks.Check(t.Context())
	}
	for _, url := range []string{"redis://:wrong@" + addr, "redis://" + addr} {
		if err := check(url); !IsRefusal(err) || strings.Contains(err.Error(), "wrong@") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := check("redis://:right@" + addr); err != nil {
		t.Errorf("the right password: %v", err)
	}
	redis.Close()
	if err := check("redis://:right@" + addr); err == nil || IsRefusal(err) {
		t.Errorf("a server that is away: %v", err)
	}
}

func TestTaskErrorSurvivesTheQueue(t *testing.T) {
	e := &taskError{newProblem(422, "damaged_image", `the "JPEG" is damaged`), tasks.ErrSkipRetry}
	if got := errorOf(e.Error()); got == nil || *got != (errorBody{Code: "damaged_image", Message: `the "JPEG" is damaged`}) {
		t.Errorf("%+v", got)
	}
	if !errors.Is(e, tasks.ErrSkipRetry) || errors.Is(&taskError{problem: e.problem}, tasks.ErrSkipRetry) {
		t.Error("only a final error ends the job")
	}
	if errorOf("") != nil {
		t.Error("no error is an error")
	}
	for _, text := range []string{"dial tcp 10.0.0.7:6379", "{", "{}", `"text"`, "panic: x\n{}"} {
		if got := errorOf(text); got == nil || got.Code != "internal" {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if text, _ := json.Marshal(errorOf(e.Error())); !json.Valid(text) {
		t.Errorf("%s", text)
	}
}

func TestMemoryRedis(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "redis.sock")
	m, err := StartMemoryRedis("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StartMemoryRedis("unix:" + path); err == nil || !strings.Contains(err.Error(), "answers there already") {
		t.Errorf("a second one on the same socket: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s, err := openRedisStore(m.URL(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// TTLs move without help.
	if err := s.set(t.Context(), "k", "v", 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := s.get(t.Context(), "k"); err == errNotStored {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the key never expires")
		}
	}
	s.Close()
	m.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left")
	}

	// What a killed one leaves is replaced, what is no socket is not.
	_, listener, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if m, err = StartMemoryRedis("unix:" + path); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartMemoryRedis("unix:" + path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("on a file: %v", err)
	}
}
