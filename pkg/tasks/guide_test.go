package tasks

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestTheThreeCalls(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		mux := NewMux()
		mux.Handle("none", func(_ context.Context, job *Job) ([]byte, error) { return job.Payload, job.Args() })
		mux.Handle("one", func(_ context.Context, job *Job) ([]byte, error) {
			var list []int
			return job.Payload, job.Args(&list)
		})
		mux.Handle("two", func(_ context.Context, job *Job) ([]byte, error) {
			var name string
			var n int
			err := job.Args(&name, &n)
			return fmt.Append(nil, name, n), err
		})
		e.run(mux, RunnerOptions{})
		c, ctx := e.c(), t.Context()
		for name, want := range map[string]string{"none": "", "one": "[1,2]", "two": "a7"} {
			args := map[string][]any{"none": {}, "one": {[]int{1, 2}}, "two": {"a", Priority(3), 7}}[name]
			id, err := c.EnqueueTask(ctx, name, args...)
			if err != nil {
				t.Fatal(err)
			}
			e.await(id, Done)
			if got, err := c.Result(ctx, id); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if id, _ := c.EnqueueTask(ctx, "two", "a", "b"); e.await(id, Dead).Attempt != 1 {
			t.Error("arguments that cannot be read were tried again")
		}
		if id, _ := c.EnqueueTask(ctx, "two", "a", 1, 2); e.await(id, Dead).Attempt != 1 {
			t.Error("too many arguments were tried again")
		}
		if _, err := c.EnqueueTask(ctx, "one", make(chan int)); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		id, err := c.EnqueueTask(ctx, "none", Queue("nobody"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			if was, err := c.CancelTask(ctx, id); was != want || err != nil {
				t.Errorf("%v, %v", was, err)
			}
		}
		if s, err := c.GetTaskStatus(ctx, id); err != nil || s.State != Cancelled || s.Queue != "nobody" {
			t.Errorf("%+v, %v", s, err)
		}
		e.books("nobody")
	})
}
