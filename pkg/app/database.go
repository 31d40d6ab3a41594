package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"supervisor/pkg/tasks"
)

const (
	// defaultPoolSize: four web workers and two runners, twice while they are replaced, fit into PostgreSQL's 100 connections.
	defaultPoolSize = 5
	// poolIdle closes what only a burst needed. Opening takes milliseconds; each costs the server some megabytes.
	poolIdle = time.Minute

	databaseTimeout = 3 * time.Second // to connect: an answer later than that comes from a server that hangs
)

// Database is what the environment says of Postgres.
type Database struct {
	URL     string        // DATABASE_URL; may hold a password: it never reaches a log or an error
	Archive time.Duration // TASK_ARCHIVE: how long ends of jobs are kept; 0: they are not

	// Budget, field by field.
	PoolSize, MaxOverflow, Instances, MaxConnections int
}

// defaultArchive is how long a finished job can be looked up.
const defaultArchive = 30 * 24 * time.Hour

func databaseFromEnv(getenv func(string) string) (d Database, err error) {
	var errs [6]error
	d.URL, errs[0] = postgresURL(getenv, "DATABASE_URL")
	d.PoolSize, errs[1] = number(getenv, "BACKEND_POOL_SIZE", defaultPoolSize, 2) // a runner waits for news on one of them
	d.MaxOverflow, errs[2] = number(getenv, "BACKEND_MAX_OVERFLOW", 0, 0)
	d.Instances, errs[3] = number(getenv, "BACKEND_INSTANCES", 1, 1)
	d.MaxConnections, errs[4] = number(getenv, "POSTGRES_MAX_CONNECTIONS", 0, 1)
	d.Archive = defaultArchive
	if value := getenv("TASK_ARCHIVE"); value != "" {
		if d.Archive, errs[5] = time.ParseDuration(value); errs[5] != nil || d.Archive < 0 {
			errs[5] = fmt.Errorf("TASK_ARCHIVE=%q: want a time such as 720h, or 0 for no archive", value)
		}
	}
	if d.URL == "" && !isPostgres(getenv("TASK_RESULT_BACKEND")) {
		d = Database{} // the rest says nothing then
	}
	return d, errors.Join(errs[:]...)
}

func number(getenv func(string) string, name string, otherwise, least int) (int, error) {
	value := getenv(name)
	if value == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > 1e6 {
		return 0, fmt.Errorf("%s=%q: want a number of at least %d", name, value, least)
	}
	return n, nil
}

// postgresURL reads an address. The error does not repeat it.
func postgresURL(getenv func(string) string, name string) (string, error) {
	value := getenv(name)
	if value == "" {
		return "", nil
	}
	if !isPostgres(value) {
		return "", fmt.Errorf("%s is not the URL of a PostgreSQL: want postgres://user:password@host:5432/database", name)
	}
	if _, err := pgxpool.ParseConfig(value); err != nil {
		return "", fmt.Errorf("%s cannot be read: want postgres://user:password@host:5432/database; in a password write %% / ? # : @ as %%25 %%2F %%3F %%23 %%3A %%40", name)
	}
	return value, nil
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// openPool prepares connections; none is made before one is needed.
func (d Database) openPool(url, who string, meter *databaseMeter) (*pgxpool.Pool, error) {
	settings, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("the database's URL cannot be used") // the reason may hold it
	}
	settings.MaxConns, settings.MinConns, settings.MinIdleConns = int32(d.PoolSize+d.MaxOverflow), 0, 0
	settings.MaxConnIdleTime = poolIdle
	if settings.ConnConfig.ConnectTimeout == 0 || settings.ConnConfig.ConnectTimeout > databaseTimeout {
		settings.ConnConfig.ConnectTimeout = databaseTimeout
	}
	if settings.ConnConfig.RuntimeParams["application_name"] == "" {
		settings.ConnConfig.RuntimeParams["application_name"] = who // whose it is, in pg_stat_activity
	}
	if meter != nil {
		settings.ConnConfig.Tracer = meter
	}
	return pgxpool.NewWithConfig(context.Background(), settings)
}

// openDatabases prepares the shared pool, and where the results of jobs are to be.
func (t *Tasks) openDatabases(config Config, options *tasks.Options) error {
	d := config.Database
	if d.URL != "" {
		pool, err := d.openPool(d.URL, "app", &t.database)
		if err != nil {
			return err
		}
		t.opened(pool.Close)
		t.pool = pool
		retain := d.Archive
		if retain == 0 {
			retain = -1 // none; 0 is its default
		}
		if t.postgres, err = tasks.NewPostgres(pool, tasks.PostgresOptions{Retain: retain}); err != nil {
			return err
		}
		options.Postgres = t.postgres
	}
	switch {
	case config.Results == "":
	case config.Results == d.URL && d.Archive > 0:
		options.Results = options.Postgres
	case isPostgres(config.Results):
		d.PoolSize, d.MaxOverflow = 2, 0 // a runner saves one batch at a time
		pool, err := d.openPool(config.Results, "app results", nil)
		if err != nil {
			return err
		}
		t.opened(pool.Close)
		if options.Results, err = tasks.NewPostgres(pool, tasks.PostgresOptions{}); err != nil {
			return err
		}
	default:
		results, err := tasks.NewRedisResults(config.Results, 0)
		if err != nil {
			return errors.New("the URL of TASK_RESULT_BACKEND cannot be used")
		}
		t.opened(results.Close)
		options.Results = results
	}
	return nil
}

// withoutDatabase is what is missing then.
const withoutDatabase = "DATABASE_URL is not set: status and results of jobs end with their time in Redis, no job can be enqueued in a database transaction"

// OpenDatabase connects to DATABASE_URL for a command of its own, such as app migrate.
func OpenDatabase(config Config) (*pgxpool.Pool, error) {
	if config.Database.URL == "" {
		return nil, errors.New("DATABASE_URL is not set, as in postgres://user:password@host:5432/database")
	}
	d := config.Database
	d.PoolSize, d.MaxOverflow = 2, 0 // outsiders counts on it
	return d.openPool(d.URL, "app migrate", nil)
}

// BudgetOf counts the connections that the configuration asks for; the server, when it answers, says how many it has.
func BudgetOf(ctx context.Context, config Config, worker Worker, pool *pgxpool.Pool) (Budget, error) {
	return config.budget(worker).ask(ctx, pool)
}

func (c Config) budget(worker Worker) Budget {
	d := c.Database
	b := Budget{Pools: worker.Pools, Instances: d.Instances, Size: d.PoolSize, Overflow: d.MaxOverflow, Max: d.MaxConnections}
	if b.Max > 0 {
		b.Reserved = usuallyReserved
	}
	return b
}

// CheckBudget refuses a configuration whose workers may open more connections than POSTGRES_MAX_CONNECTIONS says that there are. Without
// that the server is asked later, and there is only a warning.
func (c Config) CheckBudget(worker Worker) error {
	if c.Database.URL == "" {
		return nil
	}
	return c.budget(worker).check()
}

// HasDatabase reports whether DATABASE_URL is set.
func (t *Tasks) HasDatabase() bool { return t != nil && t.pool != nil }

// Begin says at the start of a program what its configuration lacks, or watches the database's connections, and counts from then on. It comes before
// all else and does not wait for a server.
func (t *Tasks) Begin(config Config, worker Worker) {
	if t == nil {
		return
	}
	if worker.Label != nil {
		t.enqueues.label = worker.Label
	}
	if !t.HasDatabase() {
		t.log.Debug(withoutDatabase) // each worker of each generation would say it; at info "database": false does
		return
	}
	t.database.begin(worker.Label, t.pool, t.closed)
	go t.watchBudget(config.budget(worker))
}

// watchBudget compares the budget with what the server really gives, once, as soon as it answers, and looks for the tables. It warns only: a worker that refused to
// start would turn a shortage that may come into an outage that is there.
func (t *Tasks) watchBudget(b Budget) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		ask, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		real, err := b.ask(ask, t.pool)
		cancel()
		if err == nil {
			t.database.server(real.Max)
			if b.Max > 0 && b.Max != real.Max {
				t.log.Warn("postgres: POSTGRES_MAX_CONNECTIONS is not what the server has", zap.Int("said", b.Max), zap.Int("has", real.Max))
			}
			if err := real.check(); err != nil {
				t.log.Warn("postgres: " + err.Error())
			}
			ask, cancel := context.WithTimeout(context.Background(), databaseTimeout)
			defer cancel()
			if err := t.postgres.Check(ask); err != nil {
				t.log.Warn("postgres does not take jobs", zap.Error(err))
			}
			if t.inDatabase() {
				if err := t.store.ping(ask); err != nil {
					t.log.Error("postgres does not take uploads: clients get 503", zap.Error(err))
				}
			}
			return
		}
		select {
		case <-t.closed:
			return
		case <-time.After(pause):
		}
	}
}

// Database gives the shared pool, nil without DATABASE_URL.
func (t *Tasks) Database() *pgxpool.Pool { return t.pool }
