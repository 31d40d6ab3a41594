package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"

	"supervisor/pkg/tracecontext"
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
	extra   extra
	job     *Job // nil: no handler ever had it
	ctx     handling
	end     context.CancelCauseFunc
	span    *span    // nil: its time is not limited
	uniques *uniques // to be given back before it begins; nil: none

	// The handler's goroutine writes it before it tells the loop; before and after that it is the loop's.
	ack      ack
	took     time.Duration // from the claim to the handler's return
	returned atomic.Bool

	// Loop only.
	slot       *slot
	told       time.Time // since when its context is known to have ended
	stuck      bool      // and the handler did not return
	abandoned  bool
	sentBefore bool // an ack got no answer

	// The exchange's that tells its end; there is one at a time.
	saved bool // who keeps ends of jobs has it
}

// handling is the context of a handler.
type handling struct {
	context.Context
	job *Job
}

func (h *handling) Value(key any) any {
	if key == (jobKey{}) {
		return h.job
	}
	return h.Context.Value(key)
}

// span is the time of attempts that began together and may take equally long: one timer for all of them. Loop only.
type span struct {
	context.Context
	end     context.CancelFunc
	timeout time.Duration
	users   int
}

// leave ends the timer with the last of them.
func (s *span) leave() {
	if s == nil {
		return
	}
	if s.users--; s.users == 0 {
		s.end()
	}
}

// load reads the job's record. What cannot be run gets its end at once.
func (a *attempt) load(raw []byte, err error) {
	if err != nil {
		a.ack = ack{op: opDrop, gone: true}
		return
	}
	a.record, err = decode(raw)
	if err == nil && len(a.record.extra) > 0 {
		a.extra, err = decodeExtra(a.record.extra)
	}
	switch {
	case err != nil:
		// It is not ours to repair and must not come back for ever. The header that replaces it says what happened.
		a.record = record{state: stateDead, priority: defaultPriority, max: 1, attempt: 1, finished: a.claimed}
		a.ack = ack{op: opDead, body: a.record.header(), after: keepDead, failure: "the record cannot be read"}
	case a.record.terminal():
		a.ack = ack{op: opDrop} // cancelled while it waited
	case a.record.late(a.claimed):
		a.ack = ack{op: opExpired}
	case a.record.overdue(a.claimed):
		late := a.record
		late.finished = a.claimed
		a.ack = late.dead(ErrDeadline.Error())
	}
}

// cancel ends the handler's context. The first cause counts.
func (a *attempt) cancel(cause error) {
	if a.end != nil {
		a.end(cause)
	}
}

// start runs the handler in a goroutine of its own, which tells the loop when it has returned. The span is that of an attempt which began
// just now, or nil.
func (a *attempt) start(r *Runner, just *span) *span {
	parent := r.values
	timeout, cause := a.record.timeout, context.DeadlineExceeded
	if a.record.deadline > 0 {
		// Redis' clock says how much time it leaves.
		left := time.Duration(a.record.deadline-a.claimed)*time.Millisecond - time.Since(a.arrived)
		if timeout == 0 || left < timeout {
			timeout, cause = max(left, 1), ErrDeadline
			just = nil
		}
	}
	if timeout > 0 {
		if just == nil || just.timeout != timeout {
			just = &span{timeout: timeout}
			just.Context, just.end = context.WithTimeoutCause(parent, timeout, cause)
		}
		just.users++
		a.span, parent = just, just
	}
	var trace tracecontext.Context
	if a.extra.trace != "" {
		if trace = decodeTrace(a.extra.trace); trace.Valid() {
			trace = trace.Child()
			parent = tracecontext.With(parent, trace)
		}
	}
	a.ctx.Context, a.end = context.WithCancelCause(parent)
	a.job = &Job{
		ID: a.key.id, Name: a.record.name, Queue: a.post.lane.queue, Priority: a.record.priority, Payload: a.record.payload,
		Attempt: a.record.attempt + 1, Max: a.record.max, Crashes: a.record.crashes, Postponed: a.record.postponed, Enqueued: moment(a.record.enqueued), Parent: a.extra.parent,
		Trace: trace,
	}
	a.ctx.job = a.job
	if own := a.extra.own; a.extra.split && own <= len(a.job.Payload) {
		a.job.Input = a.job.Payload[own:]
		if own > 0 {
			a.job.Payload = a.job.Payload[:own:own]
		}
	}
	a.job.namespace = r.client.options.Namespace
	a.job.log = r.log
	a.job.progress.write = func(p Progress) { r.writeProgress(a, p) }
	go a.run(r)
	if cause == ErrDeadline {
		return nil // its time is nobody else's
	}
	return just
}

var errGoexit = errors.New("the handler ended its goroutine")

// run calls the handler. Whatever ends this goroutine is an end of the attempt.
func (a *attempt) run(r *Runner) {
	pprof.SetGoroutineLabels(a.slot.labels)
	result, err := []byte(nil), errGoexit
	began := false
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
		if began {
			a.ack = a.outcome(result, err, r.options.Backoff, r.log)
		} else {
			a.ack = ack{op: opRequeue}
		}
		a.returned.Store(true)
		a.end(nil)
		if a.job.progress.end() {
			r.dropProgress(a)
		}
		r.returned.put(a)
	}()
	if a.uniques != nil && a.uniques.giveBack(r) != nil {
		return
	}
	began = true
	result, err = r.mux.handler(a.record.name)(&a.ctx, a.job)
}

// goBack is how a claim ends that comes to nothing: its job goes to the front.
func (a *attempt) goBack() ack {
	if a.job != nil {
		return ack{op: opBack}
	}
	return ack{op: opRequeue} // no handler ever had it
}

// outcome decides how the claim ends. Called when the handler has just returned: what ends its context later does not count.
func (a *attempt) outcome(result []byte, err error, wait func(int) time.Duration, log *zap.Logger) ack {
	cause := context.Cause(&a.ctx)
	rec := a.record
	a.took = time.Since(a.arrived)
	rec.started = a.claimed
	rec.finished = a.claimed + a.took.Milliseconds()
	if err == nil && len(result) > maxPayload {
		err = fmt.Errorf("result of %d bytes, limit %d: %w", len(result), maxPayload, ErrSkipRetry)
	}
	switch {
	case cause == ErrCancelled:
		return ack{op: opCancelled}
	case err == nil:
		return a.done(rec, result, log)
	case cause == ErrShutdown || cause == ErrLeaseLost:
		return ack{op: opBack}
	}
	text := strings.ToValidUTF8(err.Error(), "?")
	// A call that the attempt's own timeout cut off says that Redis is away, too: it counts, or the job would never end.
	if delay, is := postponed(err); is && cause != context.DeadlineExceeded && cause != ErrDeadline {
		rec.postponed++
		if delay == 0 {
			delay = againDelay(rec.postponed)
		}
		log.Warn("job is postponed: what it needs is away or full", zap.String("job", a.key.id), zap.String("name", rec.name),
			zap.Int("postponed", rec.postponed), zap.Duration("for", delay), zap.Error(err), a.job.traceField())
		rec.finished = 0
		return ack{op: opAgain, body: rec.header(), after: delay, failure: text}
	}
	rec.attempt++
	fields := []zap.Field{zap.String("job", a.key.id), zap.String("name", rec.name), zap.Int("attempt", rec.attempt), zap.Error(err), a.job.traceField()}
	again, wished := retryAfter(err)
	switch {
	case wished:
	case a.extra.backoff > 0:
		again = jitter(min(a.extra.backoff<<min(rec.attempt-1, 20), a.extra.longest))
	default:
		again = max(wait(rec.attempt), 0)
	}
	hopeless := rec.overdue(rec.finished + again.Milliseconds()) // the next attempt could not begin
	if hopeless {
		text = ErrDeadline.Error() + ": " + text
	}
	if rec.attempt >= rec.max || errors.Is(err, ErrSkipRetry) || hopeless {
		log.Error("job is dead", fields...)
		return rec.dead(text)
	}
	log.Info("job failed, it will be tried again", fields...)
	rec.finished = 0
	return ack{op: opRetry, body: rec.header(), after: again, failure: text}
}

// done is the end of a job that succeeded.
func (a *attempt) done(rec record, result []byte, log *zap.Logger) ack {
	rec.attempt++
	rec.state, rec.payload, rec.extra, rec.holds = stateDone, result, nil, false
	end := ack{op: opDone, after: rec.keepFor(len(result) > 0)}
	if a.extra.next != nil {
		follows, err := a.extra.next.after(a.key.id, result, rec.finished)
		if err != nil {
			log.Error("a job that follows another cannot be read: it is lost", zap.String("job", a.key.id), zap.Error(err))
		} else {
			end.op, end.next = opDoneNext, follows
		}
	}
	if a.extra.parent != "" || a.extra.trace != "" {
		rec.extra = (&extra{parent: a.extra.parent, trace: a.extra.trace}).encode()
	}
	end.body = rec.encode()
	return end
}

// dead is the end of a job that failed for good.
func (r record) dead(why string) ack {
	r.state = stateDead
	return ack{op: opDead, body: r.header(), after: keepDead, failure: why}
}

// retryDelay doubles from 5 s up to an hour. The jitter keeps jobs that failed together from coming back together.
func retryDelay(failed int) time.Duration {
	return jitter(min(5*time.Second<<min(max(failed-1, 0), 10), time.Hour))
}

func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// againDelay doubles from 1 s up to a minute: what is away should not be asked by all at once when it is back, nor be waited for long.
func againDelay(postponed int) time.Duration {
	return jitter(min(time.Second<<min(max(postponed-1, 0), 10), time.Minute))
}

func (r *Runner) writeProgress(a *attempt, p Progress) {
	_ = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
		return conn.Do(ctx, conn.B().Set().Key(a.post.lane.progress(a.key.id)).Value(p.encode()).Px(progressTTL).Build()).Error()
	})
}

func (r *Runner) dropProgress(a *attempt) {
	go r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
		return conn.Do(ctx, conn.B().Del().Key(a.post.lane.progress(a.key.id)).Build()).Error()
	})
}
