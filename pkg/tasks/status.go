package tasks

import (
	"context"
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
)

// Terminal reports whether nothing more will happen to the job.
func (s State) Terminal() bool { return s == Done || s == Dead || s == Cancelled }

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
	Enqueued  time.Time // by the enqueuer's clock, all others by Redis'
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
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return Status{}, err
	}
	found, err := run(ctx, conn, statusScript.call([]string{l.job(id), l.act(), l.sched(), l.progress(id)}, id))[0].AsStrSlice()
	if err != nil {
		return Status{}, redisError(ctx, err)
	}
	if len(found) < 5 {
		return Status{}, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	r, err := decodeHeader([]byte(found[0]))
	if err != nil {
		return Status{}, fmt.Errorf("job %s: %w", id, err)
	}
	s := Status{
		ID: id, Name: r.name, Queue: l.queue, Priority: r.priority, Attempt: r.attempt, Max: r.max, Crashes: r.crashes, Postponed: r.postponed,
		Enqueued: moment(r.enqueued), Started: moment(r.started), Finished: moment(r.finished),
		Progress: decodeProgress(found[3]), Error: decodeError([]byte(found[4])),
	}
	switch r.state {
	case stateDone:
		s.State = Done
	case stateDead:
		s.State = Dead
	case stateCancelled:
		s.State = Cancelled
	default:
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

// Result returns what the handler returned. ErrNotDone before the end and after another end, ErrNotFound when its time is over.
func (c *Client) Result(ctx context.Context, id string) ([]byte, error) {
	l, err := parseID(c.options.Namespace, id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return nil, err
	}
	// The state first: who asks early should not be sent a payload of megabytes.
	head, err := conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(0).End(headerSize+maxName-1).Build()).AsBytes()
	if err != nil {
		return nil, redisError(ctx, err)
	}
	if len(head) == 0 {
		return nil, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	r, err := decodeHeader(head)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	if r.state != stateDone {
		return nil, fmt.Errorf("job %s: %w", id, ErrNotDone)
	}
	whole, err := conn.Do(ctx, conn.B().Get().Key(l.job(id)).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, redisError(ctx, err)
	}
	if r, err = decode(whole); err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	return r.payload, nil
}

// Cancel ends a job for good, and returns what it is now: Cancelled, one that waited and never starts; Cancelling, one that runs:
// its context ends with ErrCancelled, and it is Cancelled when its runner has told its end, or Done if its handler had returned
// before it heard of it. It returns "" when there is nothing to cancel: the job has ended, or never was.
func (c *Client) Cancel(ctx context.Context, id string) (State, error) {
	l, err := parseID(c.options.Namespace, id)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return "", err
	}
	runner := ""
	for {
		// The list of messages to a runner bears its name, and a script must declare its keys: look first, then act if it is
		// still so. The first look is a guess: most cancelled jobs wait.
		keys := []string{l.job(id), l.act(), l.sched(), l.stat(), l.gone(), l.ctl(runner)}
		said, err := run(ctx, conn, cancelScript.call(keys, id, runner, strconv.FormatInt(keepOwn.Milliseconds(), 10)))[0].AsInt64()
		if err != nil {
			return "", redisError(ctx, err)
		}
		switch said {
		case 0:
			return "", nil
		case 1:
			return Cancelled, nil
		case 2:
			return Cancelling, nil
		}
		value, err := conn.Do(ctx, conn.B().Hget().Key(l.act()).Field(id).Build()).ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return "", redisError(ctx, err)
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
