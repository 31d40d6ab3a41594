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
	// ErrUnavailable says that Redis (or Postgres, of what is its part: the text says which) did not answer. A job may have been stored
	// nevertheless: enqueueing the same id again settles it. HTTP: 503.
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
	// ErrInvalid says that a job, a limit or a filter is not one: the text says what would be.
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

// RetryAfter says in a handler's error when the next attempt is worth it: after delay, instead of the back-off. The attempt counts.
func RetryAfter(err error, delay time.Duration) error {
	if err == nil {
		err = errors.New("not now")
	}
	return &retryError{err, delay}
}

type retryError struct {
	error
	delay time.Duration
}

func (e *retryError) Unwrap() error { return e.error }

func retryAfter(err error) (delay time.Duration, is bool) {
	var retry *retryError
	if !errors.As(err, &retry) {
		return 0, false
	}
	return max(retry.delay, 0), true
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
	ErrDeadline  = errors.New("the job's deadline has come")
)

// refusals are the answers by which a server serves nobody, or not us: what it means, or what to set. The word begins the answer.
var refusals = []struct{ word, why string }{
	{"NOAUTH", "it wants a password, set one in its URL (redis://:password@host)"},
	{"WRONGPASS", "it does not know this user or password, set them right in its URL (redis://user:password@host)"},
	{"NOPERM", "its ACL forbids this user what jobs need, grant it ~* +@all -@dangerous +info +role +client|unblock, or what docs/jobs.md lists"},
	{"max number of clients reached", "it has no connection left, set a higher maxclients or start fewer processes"},
	{"DENIED Redis is running in protected mode", "it serves nobody from other machines, set a password (requirepass or an ACL user) and bind, or protected-mode no"},
	{"SELECT is not allowed in cluster mode", "it is a cluster, which has only database 0, leave the number out of its URL"},
	{"This instance has cluster support disabled", "it is no cluster, name one address in its URL, or Sentinels with master_set=NAME"},
	{"No such master with that name", "its Sentinels know no such set, set the right master_set in its URL"},
	{"LOADING", "it still loads its file"},
	{"MISCONF", "it cannot write its file, look at its disk"},
	{"READONLY", "it is a replica, set the URL of the primary"},
	{"MASTERDOWN", "it is a replica that lost its primary, set the URL of the primary"},
	{"NOREPLICAS", "it has fewer replicas than its min-replicas-to-write"},
	{"CLUSTERDOWN", "its cluster is being repaired"},
	{"TRYAGAIN", "its cluster moves these keys"},
	{"BUSY ", "a script keeps it busy"},
}

// refusal says why a server answers like this, "" if it is another error.
func refusal(answer string) string {
	answer = strings.TrimPrefix(answer, "ERR ") // the library leaves it out
	for _, r := range refusals {
		if strings.HasPrefix(answer, r.word) {
			return r.why
		}
	}
	return ""
}

// Refusal says, for its operator, why the Redis that answered with err serves nobody, or not us, and what to set; "" for any other
// error.
func Refusal(err error) string {
	var said *rueidis.RedisError
	if !errors.As(err, &said) {
		return ""
	}
	return refusal(said.Error())
}

// redisError turns what the library says into what a caller can branch on.
func redisError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		// Redis before 7 puts other words before what a command in a script answered.
		if strings.Contains(e.Error(), "OOM command not allowed") {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		if why := refusal(e.Error()); why != "" {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, why, err)
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
