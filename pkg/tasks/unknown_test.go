package tasks

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// In a rolling deployment a runner meets a job of the next version: it costs no attempt, and is done when one comes that knows it.
func TestAJobThatNobodyKnowsYetWaitsForWhoDoes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		began := make(chan string, 10)
		older := e.run(noting(began), RunnerOptions{})
		id := e.enqueue("next", MaxAttempts(1), Unique("u", UntilStart))
		s := e.await(id, Retrying)
		if s.Attempt != 0 || s.Postponed != 1 || !s.Started.IsZero() || s.Due.IsZero() || !strings.HasPrefix(s.Error, `no handler for "next" here since 2`) || !strings.HasSuffix(s.Error, `: known are "x"`) {
			t.Errorf("%+v", s)
		}
		if holder := e.duplicate(Unique("u", UntilStart)); holder != id {
			t.Errorf("%s has its unique key", holder)
		}
		e.books()
		if err := older.halt(); err != nil {
			t.Error(err)
		}
		mux := noting(began)
		mux.Handle("next", func(context.Context, *Job) ([]byte, error) { return nil, nil })
		e.run(mux, RunnerOptions{})
		if s := e.await(id, Done); s.Attempt != 1 {
			t.Errorf("%+v", s)
		}
		if b := e.rest(); b.Postponed < 1 || b.Done != 1 {
			t.Errorf("books %+v", b)
		}
	})
}

func TestAJobThatNobodyKnowsIsDeadAfterAWhile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		l := e.lane()
		// What its runner wrote a day ago, in place of the last error.
		ids := []string{e.enqueue("next", In(time.Hour)), e.enqueue("next", In(time.Hour))}
		for i, since := range []time.Duration{-23 * time.Hour, -25 * time.Hour} {
			text := `no handler for "next" here since ` + time.Now().UTC().Add(since).Format(time.RFC3339) + ": known are none"
			if err := e.do(func(b rueidis.Builder) rueidis.Completed {
				return b.Append().Key(l.job(ids[i])).Value(encodeError(text)).Build()
			}).Error(); err != nil {
				t.Fatal(err)
			}
			if err := e.do(func(b rueidis.Builder) rueidis.Completed {
				return b.Zadd().Key(l.sched()).ScoreMember().ScoreMember(1, "1"+ids[i]).Build()
			}).Error(); err != nil {
				t.Fatal(err)
			}
		}
		expired := e.enqueue("next", ExpireIn(time.Hour))
		e.run(NewMux(), RunnerOptions{})
		s := e.await(ids[1], Dead)
		if s.Attempt != 0 || s.Finished.IsZero() || !strings.Contains(s.Error, "no handler") {
			t.Errorf("%+v", s)
		}
		until(t, "the other is postponed", func() bool { return e.status(ids[0]).Postponed == 1 })
		if s := e.status(ids[0]); time.Since(unknownTime(t, s.Error)) < 22*time.Hour {
			t.Errorf("it begins anew: %+v", s)
		}
		// Its time in the queue goes on.
		e.await(expired, Retrying)
		if err := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Setrange().Key(l.job(expired)).Offset(83).Value("0000000000001").Build()
		}).Error(); err != nil {
			t.Fatal(err)
		}
		e.await(expired, Expired)
		e.books()
	})
}

func unknownTime(t *testing.T, text string) time.Time {
	t.Helper()
	found := unknownSince.FindStringSubmatch(text)
	if found == nil {
		t.Fatal(text)
	}
	at, err := time.Parse(time.RFC3339, found[1])
	if err != nil {
		t.Fatal(err)
	}
	return at
}
