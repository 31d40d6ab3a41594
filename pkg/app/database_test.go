package app

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"supervisor/internal/pgtest"
	"supervisor/pkg/protocol"
	"supervisor/pkg/tasks"
)

func TestDatabaseFromTheEnvironment(t *testing.T) {
	got, err := ConfigFromEnv(env("DATABASE_URL", "postgres://u:p@h/d"))
	want := Database{URL: "postgres://u:p@h/d", Archive: 720 * time.Hour, PoolSize: 5, Instances: 1}
	if err != nil || got.Database != want {
		t.Errorf("%+v, %v", got.Database, err)
	}
	got, err = ConfigFromEnv(env("DATABASE_URL", "postgresql://h/d", "TASK_ARCHIVE", "0", "BACKEND_POOL_SIZE", "7", "BACKEND_MAX_OVERFLOW", "2",
		"BACKEND_INSTANCES", "3", "POSTGRES_MAX_CONNECTIONS", "200"))
	want = Database{URL: "postgresql://h/d", PoolSize: 7, MaxOverflow: 2, Instances: 3, MaxConnections: 200}
	if err != nil || got.Database != want {
		t.Errorf("%+v, %v", got.Database, err)
	}
	got, err = ConfigFromEnv(env("REDIS_URL", "redis://h", "TASK_RESULT_BACKEND", "postgres://h/results"))
	if err != nil || got.Results != "postgres://h/results" || got.Store != "redis://h" {
		t.Errorf("results %q, store %q, %v", got.Results, got.Store, err)
	}
	got, err = ConfigFromEnv(env("REDIS_URL", "redis://h", "TASK_RESULT_BACKEND", "redis://h"))
	if err != nil || got.Results != "" || got.Store != "redis://h" {
		t.Errorf("equal to the broker: results %q, store %q, %v", got.Results, got.Store, err)
	}
}

func TestDatabaseErrorsNameTheVariableAndNoPassword(t *testing.T) {
	for _, pair := range [][3]string{
		{"DATABASE_URL", "mysql://u:s3cret@h/d", "DATABASE_URL is not the URL of a PostgreSQL"},
		{"DATABASE_URL", "postgres://u:s3cret@h:port/d", "DATABASE_URL cannot be read"},
		{"DATABASE_URL", "postgres://u:s3%cret@h/d", "%25"},
		{"DATABASE_URL", "postgres://u:s3cret@h/d?sslmode=perhaps", "DATABASE_URL cannot be read"},
		{"TASK_RESULT_BACKEND", "postgres://u:s3cret@h:port/d", "TASK_RESULT_BACKEND cannot be read"},
		{"BACKEND_POOL_SIZE", "1", `BACKEND_POOL_SIZE="1": want a number of at least 2`},
		{"BACKEND_MAX_OVERFLOW", "-1", "BACKEND_MAX_OVERFLOW"},
		{"BACKEND_INSTANCES", "0", "BACKEND_INSTANCES"},
		{"POSTGRES_MAX_CONNECTIONS", "many", "POSTGRES_MAX_CONNECTIONS"},
		{"TASK_ARCHIVE", "30d", "720h"},
	} {
		_, err := ConfigFromEnv(env(pair[0], pair[1]))
		if err == nil || !strings.Contains(err.Error(), pair[2]) || strings.Contains(err.Error(), "cret") {
			t.Errorf("%s=%s: %v", pair[0], pair[1], err)
		}
	}
}

func TestBudgetSaysItsArithmetic(t *testing.T) {
	pools := protocol.Pools{{Name: "web", Workers: 4, Surge: 4}, {Name: "redis", Workers: 1}, {Name: "jobs", Workers: 2, Surge: 2}}
	fits := Budget{Pools: pools, Instances: 1, Size: 5, Max: 100, Reserved: 3}
	if fits.Need() != 64 || fits.Have() != 97 || fits.check() != nil {
		t.Errorf("%s: %v", fits, fits.check())
	}
	// The guides' example: three instances of four workers with 5 + 10 each, against PostgreSQL's default.
	guides := Budget{Pools: protocol.Pools{{Name: "web", Workers: 4, Surge: 4}}, Instances: 3, Size: 5, Overflow: 10, Max: 100, Reserved: 3}
	err := guides.check()
	if err == nil {
		t.Fatal("3 × 8 × 15 fits into 97")
	}
	for _, want := range []string{
		"need 364 = 3 instances (BACKEND_INSTANCES) × 8 processes (web 4 + 4 while it is replaced) × 15 (BACKEND_POOL_SIZE 5 + BACKEND_MAX_OVERFLOW 10) + 4",
		"have 97 = max_connections 100 − 3 reserved", "max_connections of at least 367", "at most 3", "PgBouncer",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	guides.Size, guides.Overflow = 3, 0
	if err := guides.check(); err != nil {
		t.Errorf("its own advice does not fit: %v", err)
	}
	if alone := (Budget{Instances: 1, Size: 5}); alone.Need() != 9 || !alone.Fits() {
		t.Errorf("alone: %s", alone)
	}
}

func TestTooFewSaidConnectionsAreRefused(t *testing.T) {
	config, err := ConfigFromEnv(env("DATABASE_URL", "postgres://h/d", "POSTGRES_MAX_CONNECTIONS", "50"))
	if err != nil {
		t.Fatal(err)
	}
	worker := Worker{Pools: protocol.Pools{{Name: "web", Workers: 4, Surge: 4}}}
	if err := config.CheckBudget(worker); err != nil {
		t.Errorf("44 of 47: %v", err)
	}
	worker.Pools[0].Workers = 6
	if err := config.CheckBudget(worker); err == nil || !strings.Contains(err.Error(), "need 54") {
		t.Errorf("54 of 47: %v", err)
	}
	config.Database.URL = ""
	if err := config.CheckBudget(worker); err != nil {
		t.Errorf("without a database: %v", err)
	}
}

// The server says what there really is, as soon as it answers, also when it was away at the start.
func TestTheServersOwnLimitIsWarnedOf(t *testing.T) {
	t.Parallel()
	server := pgtest.RunT(t, "max_connections=20", "superuser_reserved_connections=2")
	server.Stop()
	config, err := ConfigFromEnv(env("REDIS_URL", "redis://127.0.0.1:1", "DATABASE_URL", server.URL(), "POSTGRES_MAX_CONNECTIONS", "100"))
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.WarnLevel)
	background, err := OpenTasks(config, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer background.Close()
	background.Begin(config, Worker{Pools: protocol.Pools{{Name: "web", Workers: 2, Surge: 2}}})
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for deadline := time.Now().Add(20 * time.Second); len(lines) < 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		lines = nil
		for _, entry := range logs.All() {
			if strings.HasPrefix(entry.Message, "postgres:") {
				lines = append(lines, entry.Message)
			}
		}
	}
	all := strings.Join(lines, "\n")
	for _, want := range []string{"POSTGRES_MAX_CONNECTIONS is not what the server has", "need 24", "have 18 = max_connections 20 − 2 reserved", "at most 3"} {
		if !strings.Contains(all, want) {
			t.Errorf("the log lacks %q:\n%s", want, all)
		}
	}
}

// A pool never opens more than its configuration allows, so a budget that fits is kept.
func TestThePoolKeepsToItsSize(t *testing.T) {
	config, err := ConfigFromEnv(env("DATABASE_URL", pgtest.Database(t), "BACKEND_POOL_SIZE", "2", "BACKEND_MAX_OVERFLOW", "1"))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := config.Database.openPool(config.Database.URL, "app test", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for range 3 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if conn, err := pool.Acquire(ctx); err == nil {
		conn.Release()
		t.Error("a fourth connection")
	}
	other, err := config.Database.openPool(config.Database.URL, "somebody", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var open int
	if err := other.QueryRow(t.Context(), `select count(*) from pg_stat_activity where application_name = 'app test' and datname = current_database()`).Scan(&open); err != nil || open != 3 {
		t.Errorf("%d connections are open, %v", open, err)
	}
}

// A job of the app is in the archive as soon as it is done, and is answered from there when Redis has lost everything.
func TestAFinishedJobOutlivesRedis(t *testing.T) {
	redis, err := StartMemoryRedis("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config, err := ConfigFromEnv(env("REDIS_URL", redis.URL(), "DATABASE_URL", pgtest.Database(t), "APP_DEBUG", "1"))
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.WarnLevel)
	background, err := OpenTasks(config, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer background.Close()
	background.Begin(config, Standalone())
	for deadline := time.Now().Add(20 * time.Second); logs.FilterMessage("postgres does not take jobs").Len() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nobody says that the tables are missing: %v", logs.All())
		}
	}
	if _, err := tasks.Migrations.Up(t.Context(), background.Database()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	runner, err := background.NewRunner(background.Handlers(), tasks.RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- runner.Run(ctx) }()
	var id string
	err = pgx.BeginFunc(t.Context(), background.Database(), func(tx pgx.Tx) (err error) {
		id, err = background.client.EnqueueTx(t.Context(), tx, drillTask, []byte(`{}`))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var status tasks.Status
	for deadline := time.Now().Add(20 * time.Second); !status.State.Terminal(); time.Sleep(10 * time.Millisecond) {
		if status, err = background.GetTaskStatus(t.Context(), id); time.Now().After(deadline) {
			t.Fatalf("%+v, %v", status, err)
		}
	}
	redis.server.FlushAll()
	again, err := background.GetTaskStatus(t.Context(), id)
	if err != nil || again.State != status.State || again.Name != drillTask {
		t.Errorf("%+v, %v: was %+v", again, err, status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	redis.Close()
}
