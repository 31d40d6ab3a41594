package app

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"supervisor/internal/pgtest"
	"supervisor/pkg/scoreboard"
)

func TestThePoolIsOnTheScoreboard(t *testing.T) {
	t.Parallel()
	config, err := ConfigFromEnv(env("REDIS_URL", "redis://127.0.0.1:1", "DATABASE_URL", pgtest.Database(t), "BACKEND_POOL_SIZE", "2"))
	if err != nil {
		t.Fatal(err)
	}
	background, err := OpenTasks(config, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer background.Close()
	labels := newLabels()
	background.Begin(config, Worker{Label: labels.Label})
	until := func(series string, want int64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); labels.read()[series] != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %d, want %d of %v", series, labels.read()[series], want, labels.read())
			}
		}
	}
	until("db_server_max_connections", 100)
	until("db_pool_max_connections", 2)
	for range 2 {
		conn, err := background.Database().Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	background.database.look(background.Database())
	until(`db_pool_connections{state="in_use"}`, 2)
	until(`db_pool_connections{state="idle"}`, 0)
	before := durationsOf(labels.read())
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if conn, err := background.Database().Acquire(short); err == nil {
		conn.Release()
		t.Fatal("a third connection")
	}
	got := labels.read()
	if got["db_pool_acquire_timeouts_total"] != 1 || durationsOf(got) != before+1 || got["db_pool_acquire_duration_seconds_sum"] < 30_000 ||
		got[`db_pool_acquire_duration_seconds_bucket{le="0.025"}`]+got[`db_pool_acquire_duration_seconds_bucket{le="0.01"}`] > before {
		t.Errorf("%v", got)
	}
}

func durationsOf(labels map[string]int64) (n int64) {
	for name, value := range labels {
		if strings.HasPrefix(name, "db_pool_acquire_duration_seconds_bucket") {
			n += value
		}
	}
	return n
}

func TestStoredJobsAreOnTheScoreboard(t *testing.T) {
	t.Parallel()
	d := serveTasks(t, "APP_DEBUG", "1")
	labels := newLabels()
	d.tasks.enqueues.label = labels.Label
	for range 2 {
		if got := d.do("POST", "/debug/job?ms=1", "", nil); got.status != 202 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if got := labels.read(); len(got) != 1 || got[`jobs_enqueued_total{queue="default",task="drill"}`] != 2 {
		t.Errorf("%v", got)
	}
}

func TestSeriesOfStoredJobsAreBounded(t *testing.T) {
	t.Parallel()
	labels := newLabels()
	m := enqueueMeter{label: labels.Label, series: map[[2]string]scoreboard.Label{}}
	all := int64(0)
	for i := range 200 {
		for _, name := range []string{"mail", fmt.Sprint("task", i), strings.Repeat("x", i+1), "a\"b", "ü"} {
			m.enqueued(strings.Repeat("q", i%64+1), name)
			all++
		}
	}
	got := labels.read()
	sum := int64(0)
	for name, n := range got {
		sum += n
		if !strings.HasSuffix(name, `"}`) || len(name) > 112 {
			t.Errorf("%s is too long", name)
		}
	}
	if len(got) > 2*mostEnqueued+1 || sum != all || got["other"] != 0 {
		t.Errorf("%d series, %d of %d", len(got), sum, all)
	}
	(&enqueueMeter{}).enqueued("default", "mail")
}
