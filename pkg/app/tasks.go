package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/tasks"
)

// maxPending bounds the jobs that wait: each holds an upload in Redis, and who is ten thousandth in line is better told so.
const maxPending = 10_000

// closeTime is how long Close waits: the library would wait for a Redis that hangs, and a process that ends need not.
const closeTime = 100 * time.Millisecond

// Tasks is background work as the application sees it: EnqueueTask, GetTaskStatus, CancelTask, and the store for what is too large for
// a list. Web workers and runners have one each.
type Tasks struct {
	// Set once.
	client *tasks.Client
	store  *store
	log    *zap.Logger
	debug  bool          // there are drills
	slots  chan struct{} // images that are decoded at once in this process, when it is a runner

	away atomic.Bool // Redis did not answer last time
}

// OpenTasks connects to the broker and the store, or gives nil when background tasks are off. It does not wait for a server that is
// away, whichever kind of Redis that is. An error is about the configuration.
func OpenTasks(config Config, log *zap.Logger) (*Tasks, error) {
	if !config.Tasks {
		return nil, nil
	}
	client, err := tasks.Connect(config.Broker, tasks.Options{MaxPending: maxPending, Log: log.Named("tasks")})
	if err != nil {
		return nil, errors.New("the broker's URL cannot be used") // the reason may hold the URL; ConfigFromEnv has looked at it before
	}
	store, err := openStore(config.Store, config.MaxWaiting)
	if err != nil {
		client.Close()
		return nil, err
	}
	return &Tasks{client: client, store: store, log: log, debug: config.Debug, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}, nil
}

// Close ends the connections. Stop runners first. Of nil there is nothing to close.
func (t *Tasks) Close() {
	if t == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		t.client.Close()
		t.store.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeTime):
	}
}

// EnqueueTask stores a job for the handler of that name, and returns its id. The arguments travel as JSON.
func (t *Tasks) EnqueueTask(ctx context.Context, name string, args any, options ...tasks.Option) (id string, err error) {
	payload, err := json.Marshal(args)
	if err != nil {
		return "", fmt.Errorf("arguments of %s: %w", name, err)
	}
	id, err = t.client.Enqueue(ctx, name, payload, options...)
	return id, t.note(err)
}

// GetTaskStatus tells where a job is.
func (t *Tasks) GetTaskStatus(ctx context.Context, id string) (tasks.Status, error) {
	var status tasks.Status
	err := again(ctx, isUnavailable, func() (err error) {
		status, err = t.client.Status(ctx, id)
		return err
	})
	return status, t.note(err)
}

// CancelTask ends a job that has not ended: tasks.Cancelled, or tasks.Cancelling until its runner has told its end. "" when there is
// nothing to cancel.
func (t *Tasks) CancelTask(ctx context.Context, id string) (state tasks.State, err error) {
	unanswered := false
	err = again(ctx, isUnavailable, func() (err error) {
		state, err = t.client.Cancel(ctx, id)
		if state == "" && err == nil && unanswered {
			// The call without an answer may have been executed: then there is nothing left to cancel, because it is.
			var status tasks.Status
			if status, err = t.client.Status(ctx, id); status.State == tasks.Cancelled {
				state = tasks.Cancelled
			}
		}
		unanswered = unanswered || err != nil
		return err
	})
	if state != "" {
		t.store.dropUpload(ctx, id) // of other jobs there is none
	}
	return state, t.note(err)
}

// GetTaskResult gives what the handler of a job returned: JSON, where handlers keep to the form of EnqueueTask. tasks.ErrNotDone and
// tasks.ErrNotFound tell why there is none.
func (t *Tasks) GetTaskResult(ctx context.Context, id string) (result []byte, err error) {
	err = again(ctx, isUnavailable, func() (err error) {
		result, err = t.client.Result(ctx, id)
		return err
	})
	return result, t.note(err)
}

func isUnavailable(err error) bool { return errors.Is(err, tasks.ErrUnavailable) }

// note logs when Redis stops answering and when it is back: a line per change, not one per request. It gives err back.
func (t *Tasks) note(err error) error {
	away := errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull)
	if t.away.Swap(away) != away {
		if away {
			t.log.Warn("redis does not take requests: clients get 503 until it does", zap.Error(err))
		} else {
			t.log.Info("redis is back")
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

// Handlers gives what a runner of this application can do, by name.
func (t *Tasks) Handlers() *tasks.Mux {
	mux := tasks.NewMux()
	tasks.Kind[thumbnailArgs](thumbnailTask).Handle(mux, t.thumbnail)
	if t.debug {
		tasks.Kind[drillArgs](drillTask).Handle(mux, drill)
	}
	return mux
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
	text, _ := json.Marshal(errorBody{e.problem.code, e.problem.message})
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
		return &errorBody{"internal", "the job failed on our side, the log of its runner says why"}
	}
	return &body
}
