package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// attempt is one claim of one job and what comes of it.
type attempt struct {
	// Set once, before the handler starts.
	post    *post
	key     claimKey
	owner   string // what ack.lua compares
	claimed int64  // unix ms of Redis' clock
	arrived time.Time
	record  record
	job     *Job
	ctx     context.Context
	end     context.CancelCauseFunc
	free    context.CancelFunc

	// The handler's goroutine writes it before it tells the loop; before and after that it is the loop's.
	ack      ack
	returned atomic.Bool

	// Loop only.
	abandoned  bool
	sentBefore bool // an ack got no answer
}

// load reads the job's record. What cannot be run gets its end at once.
func (a *attempt) load(raw []byte, err error) {
	if err != nil {
		a.ack = ack{op: opDrop, gone: true}
		return
	}
	a.record, err = decode(raw)
	switch {
	case err != nil:
		// It is not ours to repair and must not come back for ever. The header that replaces it says what happened.
		a.record = record{state: stateDead, priority: defaultPriority, max: 1, attempt: 1, finished: a.claimed}
		a.ack = ack{op: opDead, body: a.record.header(), after: keepDead, failure: "the record cannot be read"}
	case a.record.terminal():
		a.ack = ack{op: opDrop} // cancelled while it waited
	}
}

// cancel ends the handler's context. The first cause counts.
func (a *attempt) cancel(cause error) {
	if a.end != nil {
		a.end(cause)
	}
}

// start runs the handler in a goroutine of its own, which tells the loop when it has returned.
func (a *attempt) start(r *Runner) {
	ctx, end := context.WithCancelCause(r.work)
	a.end, a.free = end, func() {}
	if a.record.timeout > 0 {
		ctx, a.free = context.WithTimeout(ctx, a.record.timeout)
	}
	a.job = &Job{
		ID: a.key.id, Name: a.record.name, Queue: a.post.lane.queue, Priority: a.record.priority, Payload: a.record.payload,
		Attempt: a.record.attempt + 1, Max: a.record.max, Crashes: a.record.crashes, Postponed: a.record.postponed, Enqueued: moment(a.record.enqueued),
	}
	a.job.progress.write = func(p Progress) { r.writeProgress(a, p) }
	a.ctx = context.WithValue(ctx, jobKey{}, a.job)
	go a.run(r)
}

var errGoexit = errors.New("the handler ended its goroutine")

// run calls the handler. Whatever ends this goroutine is an end of the attempt.
func (a *attempt) run(r *Runner) {
	result, err := []byte(nil), errGoexit
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
		a.ack = a.outcome(result, err, r.options.Backoff, r.log)
		a.returned.Store(true)
		a.end(nil)
		a.free()
		if a.job.progress.end() {
			r.dropProgress(a)
		}
		select {
		case r.finished <- a:
		case <-r.gone:
		}
	}()
	result, err = r.mux.handler(a.record.name)(a.ctx, a.job)
}

// outcome decides how the claim ends. Called when the handler has just returned: what ends its context later does not count.
func (a *attempt) outcome(result []byte, err error, wait func(int) time.Duration, log *zap.Logger) ack {
	cause := context.Cause(a.ctx)
	rec := a.record
	rec.started = a.claimed
	rec.finished = a.claimed + time.Since(a.arrived).Milliseconds()
	if err == nil && len(result) > maxPayload {
		err = fmt.Errorf("result of %d bytes, limit %d: %w", len(result), maxPayload, ErrSkipRetry)
	}
	switch {
	case cause == ErrCancelled:
		return ack{op: opCancelled}
	case err == nil:
		rec.attempt++
		rec.state, rec.payload = stateDone, result
		return ack{op: opDone, body: rec.encode(), after: rec.keepFor(len(result) > 0)}
	case cause == ErrShutdown || cause == ErrLeaseLost:
		return ack{op: opRequeue}
	}
	text := strings.ToValidUTF8(err.Error(), "?")
	// A call that the attempt's own timeout cut off says that Redis is away, too: it counts, or the job would never end.
	if delay, is := postponed(err); is && cause != context.DeadlineExceeded {
		rec.postponed++
		if delay == 0 {
			delay = againDelay(rec.postponed)
		}
		log.Warn("job is postponed: what it needs is away or full", zap.String("job", a.key.id), zap.String("name", rec.name),
			zap.Int("postponed", rec.postponed), zap.Duration("for", delay), zap.Error(err))
		rec.finished = 0
		return ack{op: opAgain, body: rec.header(), after: delay, failure: text}
	}
	rec.attempt++
	fields := []zap.Field{zap.String("job", a.key.id), zap.String("name", rec.name), zap.Int("attempt", rec.attempt), zap.Error(err)}
	if rec.attempt >= rec.max || errors.Is(err, ErrSkipRetry) {
		log.Error("job is dead", fields...)
		rec.state = stateDead
		return ack{op: opDead, body: rec.header(), after: keepDead, failure: text}
	}
	log.Info("job failed, it will be tried again", fields...)
	rec.finished = 0
	return ack{op: opRetry, body: rec.header(), after: max(wait(rec.attempt), 0), failure: text}
}

// retryDelay doubles from 5 s up to an hour. The jitter keeps jobs that failed together from coming back together.
func retryDelay(failed int) time.Duration {
	d := 5 * time.Second << min(max(failed-1, 0), 10)
	d = min(d, time.Hour)
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// againDelay doubles from 1 s up to a minute: what is away should not be asked by all at once when it is back, nor be waited for long.
func againDelay(postponed int) time.Duration {
	d := min(time.Second<<min(max(postponed-1, 0), 10), time.Minute)
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

func (r *Runner) writeProgress(a *attempt, p Progress) {
	r.side(func(ctx context.Context) {
		if conn, err := r.client.calls.get(ctx); err == nil {
			conn.Do(ctx, conn.B().Set().Key(a.post.lane.progress(a.key.id)).Value(p.encode()).Px(progressTTL).Build())
		}
	})
}

func (r *Runner) dropProgress(a *attempt) {
	go r.side(func(ctx context.Context) {
		if conn, err := r.client.calls.get(ctx); err == nil {
			conn.Do(ctx, conn.B().Del().Key(a.post.lane.progress(a.key.id)).Build())
		}
	})
}

// side does what nobody waits for, and what may fail.
func (r *Runner) side(do func(context.Context)) {
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	do(ctx)
}
