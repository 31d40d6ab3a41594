package taskstest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/tasks"
	"supervisor/pkg/tasks/taskstest"
)

type mail struct{ To string }

const sendMail = tasks.Kind[mail]("mail")

func TestDrainRunsEverythingAndMovesTheClock(t *testing.T) {
	var ran []string
	mux := tasks.NewMux()
	sendMail.Handle(mux, func(ctx context.Context, m mail) ([]byte, error) {
		job := tasks.FromContext(ctx)
		ran = append(ran, m.To)
		if m.To == "busy" && job.Attempt < 3 {
			return nil, errors.New("greylisted")
		}
		return []byte(m.To), nil
	})
	mux.Handle("count", func(_ context.Context, job *tasks.Job) ([]byte, error) {
		ran = append(ran, "after "+string(job.Input))
		return nil, nil
	})
	q := taskstest.New(t, mux)
	q.Drain() // of nothing
	ctx := t.Context()
	enqueue := func(to string, options ...tasks.Option) string {
		t.Helper()
		id, err := sendMail.Enqueue(ctx, q.Client, mail{to}, options...)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	tomorrow := enqueue("tomorrow", tasks.In(24*time.Hour))
	enqueue("now", tasks.Then(tasks.Task{Name: "count", Options: []tasks.Option{tasks.Queue("other")}}))
	q.RunDue()
	if want := []string{"now", "after now"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
	if s, err := q.Client.Status(ctx, tomorrow); err != nil || s.State != tasks.Scheduled {
		t.Errorf("%+v, %v", s, err)
	}
	busy := enqueue("busy")
	late := enqueue("late", tasks.ExpireIn(time.Minute))
	q.Advance(time.Hour)
	start := time.Now()
	q.Drain()
	if want := []string{"now", "after now", "busy", "busy", "busy", "tomorrow"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a day took %s", took)
	}
	if s, err := q.Client.Status(ctx, busy); !errors.Is(err, tasks.ErrNotFound) && (err != nil || s.State != tasks.Done || s.Attempt != 3) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := q.Client.Status(ctx, late); !errors.Is(err, tasks.ErrNotFound) && (err != nil || s.State != tasks.Expired) {
		t.Errorf("%+v, %v", s, err)
	}
}

// A name that was forgotten ends the test soon, and says so.
func TestANameWithoutAHandlerIsDeadAtOnce(t *testing.T) {
	q := taskstest.New(t, tasks.NewMux())
	id, err := q.Client.Enqueue(t.Context(), "forgotten", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Drain()
	if s, err := q.Client.Status(t.Context(), id); err != nil || s.State != tasks.Dead || !strings.Contains(s.Error, `no handler for "forgotten"`) {
		t.Errorf("%+v, %v", s, err)
	}
}
