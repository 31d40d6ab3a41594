package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// What a caller may branch on.
var (
	// ErrUnavailable says that Redis did not answer. A job may have been stored nevertheless: enqueueing the same id again
	// settles it. HTTP: 503.
	ErrUnavailable = errors.New("redis is unavailable")
	// ErrFull says that Redis is at its maxmemory and took nothing. HTTP: 503.
	ErrFull = errors.New("redis is full")
	// ErrQueueFull says that max_pending jobs wait already. HTTP: 429.
	ErrQueueFull = errors.New("the queue is full")
	// ErrNotFound says that no job has this id, or none any more.
	ErrNotFound = errors.New("no such job")
	// ErrNotDone says that a job has no result, or none yet.
	ErrNotDone = errors.New("the job is not done")
	// ErrBadID says that a string is not a job's id.
	ErrBadID = errors.New("not a job id")
	// ErrInvalid says that a job cannot be enqueued as it is.
	ErrInvalid = errors.New("invalid job")
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("the client is closed")

	// ErrSkipRetry, in a handler's error, makes the job dead at once.
	ErrSkipRetry = errors.New("not to be retried")
)

// Again says in a handler's error that nothing is wrong with the job: what it needs is away or full. The attempt does not count, the
// job waits at least for delay (0: as if the error wrapped ErrUnavailable) and runs again, as often as it takes; Status.Postponed,
// Counts and the books tell how often that was. A handler's error that wraps ErrUnavailable, ErrFull or ErrQueueFull says the
// same by itself, unless it came after the end of the attempt's own time. ErrSkipRetry is stronger.
func Again(err error, delay time.Duration) error {
	if err == nil {
		err = ErrUnavailable
	}
	return &againError{err, delay}
}

type againError struct {
	error
	delay time.Duration
}

func (e *againError) Unwrap() error { return e.error }

// postponed reports whether a handler's error is no failure of its job, and how long the handler wants to wait; 0: no wish.
func postponed(err error) (delay time.Duration, is bool) {
	var again *againError
	switch {
	case errors.Is(err, ErrSkipRetry):
		return 0, false
	case errors.As(err, &again):
		return max(again.delay, 0), true
	}
	return 0, errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFull) || errors.Is(err, ErrQueueFull)
}

// Why a handler's context ended: context.Cause. A timeout is context.DeadlineExceeded.
var (
	ErrCancelled = errors.New("the job was cancelled")
	ErrLeaseLost = errors.New("the runner lost its lease: the job may be running elsewhere")
	ErrShutdown  = errors.New("the runner is stopping")
)

// redisError turns what the library says into what a caller can branch on.
func redisError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		text := e.Error()
		switch {
		case strings.HasPrefix(text, "OOM "):
			return fmt.Errorf("%w: %w", ErrFull, err)
		// LOADING: it reads its file. MISCONF: it cannot write it. The others: a replica, or a cluster that is being repaired.
		case strings.HasPrefix(text, "LOADING"), strings.HasPrefix(text, "MISCONF"), strings.HasPrefix(text, "READONLY"),
			strings.HasPrefix(text, "MASTERDOWN"), strings.HasPrefix(text, "CLUSTERDOWN"), strings.HasPrefix(text, "TRYAGAIN"),
			strings.HasPrefix(text, "BUSY "), strings.HasPrefix(text, "NOREPLICAS"):
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrUnavailable) {
		return err
	}
	if errors.Is(context.Cause(ctx), context.Canceled) && errors.Is(err, context.Canceled) {
		return err // the caller went away
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
