package tasks

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"supervisor/pkg/tracecontext"
)

// A trace goes from the enqueue through the job's attempts and whatever they enqueue, into its log lines, and can be looked up while the job's
// record is there.
func TestATraceGoesThroughJobsAndWhatFollowsFromThem(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	trace := tracecontext.New()
	trace.State = "vendor=x y,b=2"
	type seen struct {
		name string
		tracecontext.Context
	}
	ran := make(chan seen, 10)
	mux := NewMux()
	tell := func(ctx context.Context, job *Job) {
		from, _ := tracecontext.From(ctx)
		if from != job.Trace {
			t.Errorf("%s: the context has %v, the job %v", job.Name, from, job.Trace)
		}
		ran <- seen{job.Name, job.Trace}
	}
	mux.Handle("first", func(ctx context.Context, job *Job) ([]byte, error) {
		tell(ctx, job)
		if job.Attempt == 1 {
			return nil, errors.New("once more")
		}
		Logger(ctx).Info("working")
		_, err := e.c().Enqueue(ctx, "child", nil)
		return nil, err
	})
	for _, name := range []string{"next", "last", "child", "plain"} {
		mux.Handle(name, func(ctx context.Context, job *Job) ([]byte, error) { tell(ctx, job); return nil, nil })
	}
	core, logs := observer.New(zap.InfoLevel)
	e.client = e.connect(Options{Log: zap.New(core)})
	e.run(mux, RunnerOptions{Backoff: func(int) time.Duration { return time.Millisecond }})
	ctx := tracecontext.With(t.Context(), trace)
	id, err := e.c().Enqueue(ctx, "first", nil, Keep(time.Hour), Then(Task{Name: "next", Options: []Option{Then(Task{Name: "last"})}}))
	if err != nil {
		t.Fatal(err)
	}
	e.enqueue("plain")
	spans := map[tracecontext.SpanID]bool{trace.Span: true}
	var names []string
	for range 6 {
		s := <-ran
		names = append(names, s.name)
		if s.name == "plain" {
			if s.Valid() {
				t.Errorf("a job without a trace has %v", s)
			}
			continue
		}
		if s.Trace != trace.Trace || s.State != trace.State || s.Flags != trace.Flags || spans[s.Span] {
			t.Errorf("%s: %v of %v", s.name, s, trace)
		}
		spans[s.Span] = true
	}
	slices.Sort(names)
	if want := "child first first last next plain"; strings.Join(names, " ") != want {
		t.Errorf("%v, want %s", names, want)
	}
	e.await(id, Done)
	e.rest()
	for message, level := range map[string]int{"working": 1, "job failed, it will be tried again": 1} {
		lines := logs.FilterMessage(message).All()
		if len(lines) != level || lines[0].ContextMap()["trace_id"] != trace.Trace.String() {
			t.Errorf("%q: %v", message, lines)
		}
	}
	if d, err := e.c().Inspector().Job(t.Context(), id, 10); err != nil || d.Trace != trace {
		t.Errorf("%v, %v, want %v", d.Trace, err, trace)
	}
}

func TestATraceIsTheOneOfTheOptionOrOfTheContext(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	a, b := tracecontext.New(), tracecontext.New()
	of := func(ctx context.Context, options ...Option) tracecontext.Context {
		t.Helper()
		id, err := e.c().Enqueue(ctx, "x", []byte("payload"), options...)
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.c().Inspector().Job(t.Context(), id, 100)
		if err != nil || string(d.Data) != "payload" {
			t.Fatalf("%+v, %v", d, err)
		}
		return d.Trace
	}
	with := tracecontext.With(t.Context(), a)
	for i, c := range []struct{ got, want tracecontext.Context }{
		{of(t.Context()), tracecontext.Context{}},
		{of(with), a},
		{of(t.Context(), Trace(b)), b},
		{of(with, Trace(b)), b},
		{of(with, Trace(tracecontext.Context{})), tracecontext.Context{}},
	} {
		if c.got != c.want {
			t.Errorf("%d: %v, want %v", i, c.got, c.want)
		}
	}
	for _, bad := range []string{"", " ", "00-x", "nonsense", a.Parent() + "x"} {
		if c := decodeTrace(bad); c.Valid() {
			t.Errorf("%q is %v", bad, c)
		}
	}
	if c := decodeTrace(a.Parent() + " A=1"); c != a {
		t.Errorf("a bad state makes %v of %v", c, a)
	}
}

func TestATraceGoesThroughTheOutbox(t *testing.T) {
	t.Parallel()
	e, p := newEnvWithPostgres(t, miniURL(t), postgresURL(t))
	trace := tracecontext.New()
	got := make(chan tracecontext.Context, 1)
	mux := NewMux()
	mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) { got <- job.Trace; return nil, nil })
	tx, err := p.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.c().EnqueueTx(tracecontext.With(t.Context(), trace), tx, "x", nil); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.run(mux, RunnerOptions{})
	if c := <-got; c.Trace != trace.Trace {
		t.Errorf("%v of %v", c, trace)
	}
}

// Whoever stores a job, it is counted once.
func TestEnqueuedIsToldOfEachJobOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t, miniURL(t))
	var mu sync.Mutex
	told := map[string]int{}
	e.client = e.connect(Options{MaxPending: 4, Enqueued: func(queue, name string) {
		mu.Lock()
		defer mu.Unlock()
		told[queue+" "+name]++
	}})
	e.enqueue("x", Key("same"))
	e.enqueue("x", Key("same"))
	if _, err := e.c().EnqueueBatch(t.Context(), []Task{{Name: "y"}, {Name: "y", Options: []Option{Queue("other")}}, {Name: ""}}); err == nil {
		t.Error("a job without a name was stored")
	}
	e.enqueue("x", Unique("u", UntilDone), Then(Task{Name: "after"}))
	e.duplicate(Unique("u", UntilDone))
	e.enqueue("x")
	if _, err := e.c().Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a fifth job: %v", err)
	}
	want := map[string]int{"default x": 3, "default y": 1, "other y": 1}
	mu.Lock()
	if !reflect.DeepEqual(told, want) {
		t.Errorf("%v, want %v", told, want)
	}
	mu.Unlock()
	mux := NewMux()
	for _, name := range []string{"x", "y", "after"} {
		mux.Handle(name, func(context.Context, *Job) ([]byte, error) { return nil, nil })
	}
	e.run(mux, RunnerOptions{Queues: []string{"default", "other"}})
	e.rest("default", "other")
	want["default after"] = 1
	mu.Lock()
	defer mu.Unlock()
	if !reflect.DeepEqual(told, want) {
		t.Errorf("%v, want %v", told, want)
	}
}
