package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// State of a job as people see it.
type State string

const (
	Pending   State = "pending"   // waits for a runner
	Scheduled State = "scheduled" // waits for its time
	Running   State = "running"   // a runner has it
	// Cancelling is running, and told to end: its handler may still be at work, or may have returned before it heard of it.
	Cancelling State = "cancelling"
	Retrying   State = "retrying" // failed or postponed, waits for its next attempt
	Done       State = "done"
	Dead       State = "dead" // failed too often, or for good
	Cancelled  State = "cancelled"
	Expired    State = "expired" // its time in the queue was over before it began
)

// Terminal reports whether nothing more will happen to the job.
func (s State) Terminal() bool { return s == Done || s == Dead || s == Cancelled || s == Expired }

// Status is what is known of a job. Zero times have not come, or are not known any more.
type Status struct {
	ID        string
	Name      string
	Queue     string
	State     State
	Priority  int
	Attempt   int // attempts begun, the running one included
	Max       int
	Crashes   int       // runners that died with it
	Postponed int       // runs that ended because something was away or full: not attempts
	Enqueued  time.Time // by the enqueuer's clock, as the next two; all others by Redis'
	Expires   time.Time // it will not begin after that
	Deadline  time.Time // no attempt goes on or begins after that
	Due       time.Time // scheduled and retrying only
	Started   time.Time // the last attempt
	Finished  time.Time
	Runner    string // running and cancelling only
	Error     string // of the last attempt
	Progress  Progress
}

// Status tells where a job is. ErrNotFound: there never was one, or its record's time is over.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	l, err := parseID(c.options.Namespace, id)
	if err != nil {
		return Status{}, err
	}
	var found []string
	err = c.ask(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		found, err = run(ctx, conn, l.status(id))[0].AsStrSlice()
		return err
	})
	if err != nil {
		return Status{}, err
	}
	if len(found) < 5 {
		e, err := c.load(ctx, id)
		return e.Status, err
	}
	return readStatus(l, id, found)
}

// status is the call of status.lua.
func (l lane) status(id string) scriptCall {
	return statusScript.call([]string{l.job(id), l.act(), l.sched(), l.progress(id)}, id)
}

// readStatus reads what status.lua gave.
func readStatus(l lane, id string, found []string) (Status, error) {
	if len(found) < 5 {
		return Status{}, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	r, err := decodeHeader([]byte(found[0]))
	if err != nil {
		return Status{}, fmt.Errorf("job %s: %w", id, err)
	}
	s := r.status(id, l.queue)
	s.Progress, s.Error = decodeProgress(found[3]), decodeError([]byte(found[4]))
	if s.State == "" {
		owner, running := parseOwner(found[1])
		due, scheduled := strconv.ParseFloat(found[2], 64)
		switch {
		case running:
			s.State, s.Runner, s.Started = Running, owner.runner, moment(owner.claimed)
			if owner.cancel {
				s.State = Cancelling
			}
			s.Attempt++
		case scheduled == nil && r.attempt+r.postponed > 0:
			s.State, s.Due = Retrying, moment(int64(due))
		case scheduled == nil:
			s.State, s.Due = Scheduled, moment(int64(due))
		default:
			s.State = Pending
		}
	}
	return s, nil
}

// status is what the record itself tells: of a job that has not ended, not where it lies.
func (r *record) status(id, queue string) Status {
	s := Status{
		ID: id, Name: r.name, Queue: queue, Priority: r.priority, Attempt: r.attempt, Max: r.max, Crashes: r.crashes, Postponed: r.postponed,
		Enqueued: moment(r.enqueued), Expires: moment(r.expires), Deadline: moment(r.deadline), Started: moment(r.started), Finished: moment(r.finished),
		Error: r.failure,
	}
	switch r.state {
	case stateDone:
		s.State = Done
	case stateDead:
		s.State = Dead
	case stateCancelled:
		s.State = Cancelled
	case stateExpired:
		s.State = Expired
	}
	return s
}

// Result returns what the handler returned. ErrNotDone before the end and after another end, ErrNotFound when its time is over.
func (c *Client) Result(ctx context.Context, id string) ([]byte, error) {
	l, err := parseID(c.options.Namespace, id)
	if err != nil {
		return nil, err
	}
	var raw []byte
	err = c.ask(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		// The state first: who asks early should not be sent a payload of megabytes.
		raw, err = conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(0).End(headerSize+maxName-1).Build()).AsBytes()
		if r, bad := decodeHeader(raw); err != nil || bad != nil || r.state != stateDone {
			return err
		}
		raw, err = conn.Do(ctx, conn.B().Get().Key(l.job(id)).Build()).AsBytes()
		if rueidis.IsRedisNil(err) {
			raw, err = nil, nil
		}
		return err
	})
	if err == nil && len(raw) == 0 {
		return c.kept(ctx, id)
	}
	var r record
	if err == nil {
		r, err = decodeHeader(raw)
	}
	if err == nil && r.state != stateDone {
		err = ErrNotDone
	}
	if err == nil {
		r, err = decode(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	if len(r.payload) == 0 && c.options.Results != nil {
		e, err := c.options.Results.Load(ctx, c.options.Namespace, id)
		if errors.Is(err, ErrNotFound) {
			return nil, nil // there was none to keep
		}
		return e.Result, err
	}
	return r.payload, nil
}

// kept is the result of a job that Redis does not know any more.
func (c *Client) kept(ctx context.Context, id string) ([]byte, error) {
	e, err := c.load(ctx, id)
	if err == nil && e.Status.State != Done {
		err = fmt.Errorf("job %s: %w", id, ErrNotDone)
	}
	return e.Result, err
}

// Cancel ends a job for good, and returns what it is now: Cancelled, one that waited and never starts; Cancelling, one that runs:
// its context ends with ErrCancelled, and it is Cancelled when its runner has told its end, or Done if its handler had returned
// before it heard of it. It returns "" when there is nothing to cancel: the job has ended, or never was.
func (c *Client) Cancel(ctx context.Context, id string) (state State, err error) {
	l, err := parseID(c.options.Namespace, id)
	if err != nil {
		return "", err
	}
	unanswered := false
	err = c.ask(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		if err := c.owe(ctx, conn, l, owedAfter, id); err != nil {
			return err
		}
		state, err = l.cancel(ctx, conn, id)
		if state == "" && err == nil && unanswered {
			// The call without an answer may have been executed: then there is nothing left to cancel, because it is.
			var h string
			h, err = conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(0).End(1).Build()).ToString()
			if h == string(recordVersion)+string(stateCancelled) {
				state = Cancelled
			}
		}
		unanswered = unanswered || err != nil
		return err
	})
	return state, err
}

// cancelOn is the call of cancel.lua for a job that runner is believed to have ("": nobody), with the key of its unique key ("": none).
func (l lane) cancelOn(id, runner, unique string) scriptCall {
	keys := []string{l.job(id), l.act(), l.sched(), l.stat(), l.gone(), l.ctl(runner), l.recent(stateCancelled)}
	if unique != "" {
		keys = append(keys, unique)
	}
	return cancelScript.call(keys, id, runner, ms(keepOwn))
}

func (l lane) cancel(ctx context.Context, conn rueidis.Client, id string) (State, error) {
	runner, unique := "", ""
	for {
		// The list of messages to a runner bears its name, and a script must declare its keys: look first, then act if it is
		// still so. The first look is a guess: most cancelled jobs wait.
		said, err := run(ctx, conn, l.cancelOn(id, runner, unique))[0].AsInt64()
		if err != nil {
			return "", err
		}
		switch said {
		case 0:
			return "", nil
		case 1:
			return Cancelled, nil
		case 2:
			return Cancelling, nil
		case 4:
			found, err := l.uniqueKeys(ctx, conn, id)
			if err != nil {
				return "", err
			}
			if unique = found[0]; unique == "" { // gone meanwhile, or the record is broken
				return "", nil
			}
			continue
		}
		value, err := conn.Do(ctx, conn.B().Hget().Key(l.act()).Field(id).Build()).ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return "", err
		}
		owner, _ := parseOwner(value)
		runner = owner.runner
	}
}

// owner is what act says of a claim.
type owner struct {
	runner   string
	seq      int64
	priority int
	claimed  int64 // unix ms of Redis' clock
	cancel   bool
}

// prefix is what an ack must know to end the claim.
func (o owner) prefix() string { return o.runner + "|" + strconv.FormatInt(o.seq, 10) + "|" }

func parseOwner(value string) (owner, bool) {
	parts := strings.Split(value, "|")
	if len(parts) < 4 {
		return owner{}, false
	}
	seq, err1 := strconv.ParseInt(parts[1], 10, 64)
	priority, err2 := strconv.Atoi(parts[2])
	claimed, err3 := strconv.ParseInt(parts[3], 10, 64)
	if parts[0] == "" || err1 != nil || err2 != nil || err3 != nil {
		return owner{}, false
	}
	return owner{parts[0], seq, priority, claimed, len(parts) > 4 && parts[4] == "X"}, true
}
