package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What chaos_test.go is about: job number i is the same for whoever asks, so that a producer that begins again asks for the same, and
// the checker knows what must have become of it.

// The kinds of jobs, and how they may end if nobody cancels them.
var chaosKinds = []struct {
	name  string
	share int // of 100
	ends  []State
}{
	{"plain", 34, []State{Done}},
	{"delayed", 10, []State{Done}},
	{"flaky", 8, []State{Done}},             // fails once
	{"doomed", 3, []State{Dead}},            // fails twice, and has two attempts
	{"hopeless", 2, []State{Dead}},          // ErrSkipRetry
	{"again", 3, []State{Done}},             // is postponed once
	{"chain", 8, []State{Done}},             // another follows, of some of them a third
	{"unique", 10, []State{Done}},           // few keys: most enqueues are refused
	{"slow", 6, []State{Done}},              // runs long enough to be cancelled meanwhile
	{"expiring", 5, []State{Done, Expired}}, // may not wait for long
	{"deadline", 3, []State{Done, Dead}},    // must end soon
	{"limited", 8, []State{Done}},           // in a queue with a limit
}

const (
	limitedQueue     = "limited"
	limitedAtOnce    = 8
	chaosLease       = 2 * time.Second
	chaosConcurrency = 20
)

var chaosQueues = []string{crashQueue, limitedQueue}

type chaosJob struct {
	kind   int
	id     string
	scope  Scope  // of unique
	unique string // its key
	next   []string
	inTx   bool // enqueued in a transaction, where there is a Postgres
	task   Task
}

func (j *chaosJob) name() string { return chaosKinds[j.kind].name }

func chaosJobOf(seed uint64, i int) *chaosJob {
	dice := rand.New(rand.NewPCG(seed, uint64(i)))
	key := strconv.Itoa(i)
	j := &chaosJob{id: crashQueue + ".0." + key}
	for at := dice.IntN(100) - chaosKinds[0].share; at >= 0; at -= chaosKinds[j.kind].share {
		j.kind++
	}
	queue := crashQueue
	options := []Option{Key(key), Priority(dice.IntN(4)), Keep(time.Hour)}
	some := func(longest int) time.Duration { return time.Duration(1+dice.IntN(longest)) * time.Millisecond }
	switch j.name() {
	case "plain":
		j.inTx = dice.IntN(4) == 0
	case "delayed":
		options = append(options, In(some(300)))
	case "doomed":
		options = append(options, MaxAttempts(2))
	case "chain":
		last := Task{Name: "follows", Options: []Option{Keep(time.Hour)}}
		j.next = []string{j.id + ":next"}
		if dice.IntN(3) == 0 {
			last = Task{Name: "follows", Options: []Option{Keep(time.Hour), Queue(limitedQueue), Then(last)}}
			j.next = []string{limitedQueue + ".0." + key + ":next", j.id + ":next:next"}
		}
		options = append(options, Then(last))
	case "unique":
		j.scope = []Scope{UntilDone, UntilStart, For(200 * time.Millisecond)}[dice.IntN(3)]
		j.unique = fmt.Sprintf("scope%d-%d", j.scope, dice.IntN(10))
		options = append(options, Unique(j.unique, j.scope))
	case "expiring":
		options = append(options, ExpireIn(some(400)))
	case "deadline":
		options = append(options, Deadline(time.Now().Add(some(600))))
	case "limited":
		queue = limitedQueue
		j.id = limitedQueue + ".0." + key
	}
	j.task = Task{Name: j.name(), Payload: []byte(key), Options: append(options, Queue(queue))}
	return j
}

// witness is the file in which producers and handlers note what happened: one write per line, it is whole or not there, and outlives the
// process.
type witness struct{ *os.File }

func (w witness) tell(what ...string) { _, _ = w.WriteString(strings.Join(what, " ") + "\n") }

// chaosRunner runs jobs until TERM.
func chaosRunner(c *Client, w witness) error {
	pid := strconv.Itoa(os.Getpid())
	mux := NewMux()
	mux.Use(func(next Handler) Handler {
		return func(ctx context.Context, job *Job) ([]byte, error) {
			w.tell("ran", job.ID, pid)
			result, err := next(ctx, job)
			w.tell("left", job.ID, pid)
			if context.Cause(ctx) == ErrLeaseLost {
				w.tell("stale", pid)
			}
			return result, err
		}
	})
	work := func(ctx context.Context, job *Job) ([]byte, error) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(rand.N(60 * time.Millisecond)):
			return []byte("result of " + job.ID), nil
		}
	}
	slow := func(ctx context.Context, job *Job) ([]byte, error) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(rand.N(100 * time.Millisecond)):
			return work(ctx, job)
		}
	}
	special := map[string]Handler{
		"flaky": func(ctx context.Context, job *Job) ([]byte, error) {
			if job.Attempt == 1 {
				return nil, errors.New("fails once")
			}
			return work(ctx, job)
		},
		"doomed":   func(context.Context, *Job) ([]byte, error) { return nil, errors.New("fails always") },
		"hopeless": func(context.Context, *Job) ([]byte, error) { return nil, ErrSkipRetry },
		"again": func(ctx context.Context, job *Job) ([]byte, error) {
			if job.Postponed == 0 {
				return nil, Again(nil, 10*time.Millisecond)
			}
			return work(ctx, job)
		},
		"unique": slow,
		"slow":   slow,
	}
	for _, kind := range chaosKinds {
		if handle := special[kind.name]; handle != nil {
			mux.Handle(kind.name, handle)
		} else {
			mux.Handle(kind.name, work)
		}
	}
	mux.Handle("follows", func(ctx context.Context, job *Job) ([]byte, error) {
		if string(job.Input) != "result of "+job.Parent {
			return nil, fmt.Errorf("after %s came %q: %w", job.Parent, job.Input, ErrSkipRetry)
		}
		return work(ctx, job)
	})
	r, err := NewRunner(c, mux, RunnerOptions{
		Queues: chaosQueues, Concurrency: chaosConcurrency, Lease: chaosLease, Grace: 5 * time.Second, MaxCrashes: 98,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w.tell("ready", pid)
	return r.Run(ctx)
}

// chaosProducer enqueues the jobs from TASKS_TEST_FIRST to before TASKS_TEST_LAST, each until somebody has said yes, or no.
func chaosProducer(c *Client, pool *pgxpool.Pool, w witness) error {
	number := func(name string) int {
		n, _ := strconv.Atoi(os.Getenv(name))
		return n
	}
	first, last := number("TASKS_TEST_FIRST"), number("TASKS_TEST_LAST")
	seed, _ := strconv.ParseUint(os.Getenv("TASKS_TEST_SEED"), 10, 64)
	largest := number("TASKS_TEST_BATCH")
	for first < last {
		var jobs, inTx []*chaosJob
		for n := 1 + rand.IntN(largest); n > 0 && first < last; n-- {
			j := chaosJobOf(seed, first)
			if first++; j.inTx && pool != nil {
				inTx = append(inTx, j)
			} else {
				jobs = append(jobs, j)
			}
		}
		for len(jobs) > 0 {
			jobs = offer(c, jobs, w)
		}
		for len(inTx) > 0 && offerTx(c, pool, inTx) != nil {
			time.Sleep(50 * time.Millisecond)
		}
		for _, j := range inTx {
			w.tell("accepted", j.id)
		}
		time.Sleep(rand.N(100 * time.Millisecond))
	}
	return nil
}

// offer enqueues jobs, and returns those of which nobody knows.
func offer(c *Client, jobs []*chaosJob, w witness) (open []*chaosJob) {
	batch := make([]Task, len(jobs), len(jobs)+1)
	for i, j := range jobs {
		batch[i] = j.task
	}
	_, err := c.EnqueueBatch(context.Background(), batch)
	errs := make([]error, len(jobs))
	if len(jobs) == 1 {
		errs[0] = err
	} else if err != nil {
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			var failed *BatchError
			if errors.As(err, &failed) {
				errs[failed.Index] = failed.Err
			}
		}
	}
	for i, j := range jobs {
		var duplicate *DuplicateError
		switch err := errs[i]; {
		case err == nil:
			w.tell("accepted", j.id)
		case errors.As(err, &duplicate):
			w.tell("duplicate", j.id, duplicate.Holder)
		case errors.Is(err, ErrUnavailable):
			open = append(open, j)
		default:
			w.tell("error", j.id, strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	return open
}

// offerTx enqueues jobs in one transaction. Without an answer to its commit they may be there or not: they come again, as the same jobs.
func offerTx(c *Client, pool *pgxpool.Pool, jobs []*chaosJob) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, j := range jobs {
			if _, err := c.EnqueueTx(ctx, tx, j.task.Name, j.task.Payload, j.task.Options...); err != nil {
				return err
			}
		}
		return nil
	})
}
