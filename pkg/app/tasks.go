package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/tasks"
)

// maxPending bounds the jobs that wait: each holds an upload, and who is ten thousandth in line is better told so.
const maxPending = 10_000

// closeTime is how long Close waits: the library would wait for a Redis that hangs, and a process that ends need not.
const closeTime = 100 * time.Millisecond

// Tasks is background work as the application sees it: EnqueueTask, GetTaskStatus, CancelTask, and the store for what is too large for
// a list. Web workers and runners have one each.
type Tasks struct {
	// Set once.
	client   *tasks.Client
	store    store
	keys     clientKeys
	pool     *pgxpool.Pool   // nil: there is no database
	postgres *tasks.Postgres // of that pool
	ends     []func()        // what Close does, from the last to the first
	closed   chan struct{}   // Close was called
	log      *zap.Logger
	debug    bool          // there are drills
	slots    chan struct{} // images that are decoded at once in this process, when it is a runner
	mailer   *Mail         // nil: off
	webhooks *Webhooks     // nil: off
	report   Report
	enqueues enqueueMeter
	database databaseMeter

	away atomic.Bool // Redis did not answer last time
}

// OpenTasks connects to the broker and the store, or gives nil when background tasks are off. It does not wait for a server that is
// away, whichever kind of Redis that is. An error is about the configuration.
func OpenTasks(config Config, log *zap.Logger) (t *Tasks, err error) {
	if !config.Tasks {
		return nil, nil
	}
	t = &Tasks{
		log: log, debug: config.Debug, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), closed: make(chan struct{}),
		mailer: config.Mail, webhooks: config.Webhooks, report: config.Report,
	}
	defer func() {
		if err != nil {
			t.Close()
			t = nil
		}
	}()
	t.enqueues.series = map[[2]string]scoreboard.Label{}
	options := tasks.Options{MaxPending: maxPending, Log: log.Named("tasks"), Enqueued: t.enqueues.enqueued}
	if err = t.openDatabases(config, &options); err != nil {
		return t, err
	}
	client, err := tasks.Connect(config.Broker, options)
	if err != nil {
		return t, errors.New("the broker's URL cannot be used") // the reason may hold the URL; ConfigFromEnv has looked at it before
	}
	t.opened(client.Close)
	t.client = client
	redis, err := openRedisStore(config.Store, config.MaxWaiting)
	if err != nil {
		return t, err
	}
	t.opened(redis.Close)
	t.store, t.keys = redis, clientKeys{redis.connection}
	if config.StoreInDatabase {
		t.store = &postgresStore{pool: t.pool, limit: config.MaxWaiting, before: redis}
	}
	return t, nil
}

// inDatabase reports whether the store is in DATABASE_URL.
func (t *Tasks) inDatabase() bool {
	_, is := t.store.(*postgresStore)
	return is
}

func (t *Tasks) opened(end func()) { t.ends = append(t.ends, end) }

// Close ends the connections. Stop runners first. Of nil there is nothing to close.
func (t *Tasks) Close() {
	if t == nil {
		return
	}
	close(t.closed)
	closed := make(chan struct{})
	go func() {
		for _, end := range slices.Backward(t.ends) {
			end()
		}
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeTime):
	}
}

// EnqueueTask stores a job for the handler of that name, and returns its id. The arguments travel as JSON.
func (t *Tasks) EnqueueTask(ctx context.Context, name string, args any, options ...tasks.Option) (id string, err error) {
	var payload bytes.Buffer
	encoder := json.NewEncoder(&payload)
	encoder.SetEscapeHTML(false) // what a client gave arrives as it wrote it
	if err := encoder.Encode(args); err != nil {
		return "", fmt.Errorf("arguments of %s: %w", name, err)
	}
	id, err = t.client.Enqueue(ctx, name, bytes.TrimSpace(payload.Bytes()), options...)
	return id, t.note(err)
}

// GetTaskStatus tells where a job is.
func (t *Tasks) GetTaskStatus(ctx context.Context, id string) (tasks.Status, error) {
	status, err := t.client.Status(ctx, id)
	return status, t.note(err)
}

// CancelTask ends a job that has not ended: tasks.Cancelled, or tasks.Cancelling until its runner has told its end. "" when there is
// nothing to cancel.
func (t *Tasks) CancelTask(ctx context.Context, id string) (state tasks.State, err error) {
	state, err = t.client.Cancel(ctx, id)
	if state != "" {
		t.store.dropUpload(ctx, id) // of other jobs there is none
	}
	return state, t.note(err)
}

// RetryTask makes a dead job pending again (tasks.Inspector.Retry), with its upload if there still is one.
func (t *Tasks) RetryTask(ctx context.Context, id string) error {
	status, err := t.client.Status(ctx, id)
	if err == nil && t.kindOf(status.Name).upload {
		err = t.store.reviveUpload(ctx, id)
	}
	if err == nil {
		err = t.Inspector().Retry(ctx, id)
	}
	return t.note(err)
}

// GetTaskResult gives what the handler of a job returned: JSON, where handlers keep to the form of EnqueueTask. tasks.ErrNotDone and
// tasks.ErrNotFound tell why there is none.
func (t *Tasks) GetTaskResult(ctx context.Context, id string) (result []byte, err error) {
	result, err = t.client.Result(ctx, id)
	return result, t.note(err)
}

// note logs when Redis stops answering and when it is back: a line per change, not one per request. It gives err back.
func (t *Tasks) note(err error) error {
	away := errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull)
	if t.away.Swap(away) != away {
		if away {
			t.log.Warn("redis, or postgres, does not take requests: clients get 503 until it does", zap.Error(err))
		} else {
			t.log.Info("requests are taken again")
		}
	}
	return err
}

// Check asks broker and store whether they can be used, and logs what makes the broker unsafe. An error that IsRefusal is about the
// configuration; others pass.
func (t *Tasks) Check(ctx context.Context) error {
	if err := t.client.Ping(ctx); err != nil {
		return err
	}
	if err := t.store.ping(ctx); err != nil {
		return err
	}
	warnings, err := t.client.Check(ctx)
	for _, w := range warnings {
		t.log.Warn("redis: " + w)
	}
	return err
}

// WatchRedis logs what Check says, once, as soon as there is an answer: for those who start without waiting for it. It warns only.
func (t *Tasks) WatchRedis() {
	if t == nil {
		return
	}
	said := false
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		err := t.Check(ctx)
		cancel()
		switch {
		case err == nil:
			return
		case IsRefusal(err):
			t.log.Error("redis or postgres refuses this worker, see REDIS_URL, TASK_BROKER_URL, TASK_RESULT_BACKEND or DATABASE_URL", zap.Error(err))
			return
		case !said:
			said = true
			t.log.Warn("redis, or what keeps uploads, does not answer: trying again", zap.Error(err))
		}
		select {
		case <-t.closed:
			return
		case <-time.After(pause):
		}
	}
}

// NewRunner prepares a runner of these handlers.
func (t *Tasks) NewRunner(mux *tasks.Mux, options tasks.RunnerOptions) (*tasks.Runner, error) {
	return tasks.NewRunner(t.client, mux, options)
}

// taskError is why a job failed, in the words that its status shows: {"code": …, "message": …}. All other errors are our own affair: a
// status says only that there was one.
type taskError struct {
	problem *problem
	cause   error // what the queue makes of it, for example tasks.ErrSkipRetry: trying again would not help
}

func (e *taskError) Error() string {
	text, _ := json.Marshal(errorBody{Code: e.problem.code, Message: e.problem.message})
	return string(text)
}

func (e *taskError) Unwrap() error { return e.cause }

// errorOf reads what a job's status says of its last error; nil if there was none.
func errorOf(text string) *errorBody {
	if text == "" {
		return nil
	}
	var body errorBody
	if json.Unmarshal([]byte(text), &body) != nil || body.Code == "" {
		return &errorBody{Code: "internal", Message: "the job failed on our side, the log of its runner says why"}
	}
	return &body
}
