package tasks

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestAJobThatWaitedTooLongExpiresAndOneThatHasBegunDoesNot(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began := make(chan string, 10)
		mux := noting(began)
		mux.Handle("twice", func(_ context.Context, job *Job) ([]byte, error) {
			if job.Attempt == 1 {
				return nil, errors.New("once more")
			}
			return nil, nil
		})
		late, soon := e.enqueue("x", ExpireIn(time.Millisecond)), e.enqueue("x", In(100*time.Millisecond), ExpireIn(time.Hour))
		if s := e.status(late); s.State != Pending || s.Expires.IsZero() {
			t.Errorf("%+v", s)
		}
		twice := e.enqueue("twice", ExpireIn(time.Minute))
		time.Sleep(10 * time.Millisecond)
		r := e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Millisecond }})
		if s := e.await(late, Expired); !s.State.Terminal() || s.Finished.IsZero() || s.Attempt != 0 || s.Name != "x" {
			t.Errorf("%+v", s)
		}
		e.await(soon, Done)
		e.await(twice, Done)
		if e.cancel(late) != "" {
			t.Error("an expired job was cancelled")
		}
		if _, err := e.c().Result(t.Context(), late); !errors.Is(err, ErrNotDone) {
			t.Errorf("result of an expired job: %v", err)
		}
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		if b := e.rest(); b.Accepted != 3 || b.Expired != 1 || b.Done != 2 || len(began) != 1 || r.Counts().Expired != 1 {
			t.Errorf("books %+v, began %d, counts %+v", b, len(began), r.Counts())
		}
	})
}

// A runner that stopped took a job to the front which had begun: it has not waited in vain, however late it is. One that had not begun has.
func TestAJobThatAStopSentBackDoesNotExpire(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		expired := func(id string) {
			t.Helper()
			if err := e.do(func(b rueidis.Builder) rueidis.Completed {
				return b.Setrange().Key(e.lane().job(id)).Offset(83).Value("0000000000001").Build()
			}).Error(); err != nil {
				t.Fatal(err)
			}
		}
		began := make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, _ *Job) ([]byte, error) {
			close(began)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		id := e.enqueue("x", ExpireIn(time.Hour))
		r := e.run(mux, RunnerOptions{Grace: time.Millisecond})
		<-began
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		if s := e.status(id); s.State != Pending || s.Started.IsZero() || s.Attempt != 0 {
			t.Errorf("%+v", s)
		}
		unread := e.enqueue("x", ExpireIn(time.Hour))
		const name = "elsewhere/1/7-7/1"
		e.claimAs(name, time.Minute)
		conn, _ := e.c().calls.get(t.Context())
		for job, op := range map[string]byte{id: opBack, unread: opRequeue} {
			a := attempt{key: claimKey{job, 1}, owner: name + "|1|", ack: ack{op: op}}
			if err := run(t.Context(), conn, e.lane().ack([]*attempt{&a}))[0].Error(); err != nil {
				t.Fatal(err)
			}
		}
		expired(id)
		expired(unread)
		e.run(noting(make(chan string, 10)), RunnerOptions{})
		e.await(id, Done)
		e.await(unread, Expired)
		e.rest()
	})
}

func TestNoAttemptGoesOnOrBeginsAfterTheDeadline(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		causes := make(chan error, 10)
		mux := NewMux()
		mux.Handle("wait", func(ctx context.Context, _ *Job) ([]byte, error) {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		})
		mux.Handle("fail", func(context.Context, *Job) ([]byte, error) { return nil, errors.New("no luck") })
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { t.Error("began after its deadline"); return nil, nil })
		past := e.enqueue("x", Deadline(time.Now().Add(-time.Second)))
		e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Hour }})
		if s := e.await(past, Dead); s.Attempt != 0 || s.Error != ErrDeadline.Error() || s.Finished.IsZero() {
			t.Errorf("%+v", s)
		}
		// Its deadline comes before its timeout; a shorter timeout is a timeout; and a retry that could not begin is not waited for.
		running := e.enqueue("wait", Deadline(time.Now().Add(200*time.Millisecond)))
		if s := e.await(running, Dead); s.Attempt != 1 || s.Deadline.IsZero() {
			t.Errorf("%+v", s)
		}
		if cause := <-causes; cause != ErrDeadline {
			t.Errorf("cause %v", cause)
		}
		short := e.enqueue("wait", Deadline(time.Now().Add(3*time.Hour)), Timeout(time.Millisecond))
		e.await(short, Retrying)
		if cause := <-causes; cause != context.DeadlineExceeded {
			t.Errorf("cause %v", cause)
		}
		e.cancel(short)
		if s := e.await(e.enqueue("fail", Deadline(time.Now().Add(time.Minute))), Dead); s.Attempt != 1 {
			t.Errorf("%+v", s)
		}
		if b := e.rest(); b.Dead != 3 {
			t.Errorf("books %+v", b)
		}
	})
}
