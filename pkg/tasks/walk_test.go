package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

// walker does at random what clients, runners, reapers and operators do, one step after the other, without a runner's loop: so that each
// script meets what every other one leaves.
type walker struct {
	*env
	*rand.Rand
	r      *Runner
	name   string
	seq    int64
	ids    []string
	claims []*attempt // not told
	told   []*attempt // told, to be told again
	trace  []string
}

func (w *walker) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *walker) must(err error, but ...error) {
	w.t.Helper()
	if err != nil && !slices.ContainsFunc(but, func(e error) bool { return errors.Is(err, e) }) {
		w.t.Fatalf("%s: %v", w.trace[len(w.trace)-1], err)
	}
}

func (w *walker) conn() rueidis.Client {
	conn, err := w.c().calls.get(w.t.Context())
	w.must(err)
	return conn
}

// enlist registers a new name.
func (w *walker) enlist() {
	w.name = newRunnerName()
	w.must(w.r.register(w.t.Context(), w.name))
}

func (w *walker) enqueueSome() {
	options := []Option{Priority(w.IntN(4)), MaxAttempts(1 + w.IntN(3))}
	maybe := func(o Option) {
		if w.IntN(4) == 0 {
			options = append(options, o)
		}
	}
	maybe(Unique(fmt.Sprint("k", w.IntN(2)), UntilDone))
	maybe(Unique(fmt.Sprint("k", w.IntN(2)), []Scope{UntilDone, UntilStart, For(50 * time.Millisecond)}[w.IntN(3)]))
	maybe(In(time.Duration(w.IntN(3)) * time.Millisecond))
	maybe(ExpireIn(time.Millisecond))
	maybe(Deadline(time.Now().Add(time.Duration(w.IntN(20)) * time.Millisecond)))
	maybe(Then(Task{Name: "x", Options: []Option{Unique("k0", UntilDone), Then(Task{Name: "x"})}}))
	maybe(Key(fmt.Sprint("own", w.IntN(8))))
	id, err := w.c().Enqueue(w.t.Context(), "x", []byte("payload"), options...)
	w.note("enqueue %s: %v", id, err)
	w.must(err, ErrDuplicate, ErrQueueFull)
	w.ids = append(w.ids, id)
}

func (w *walker) claim(n int) {
	w.seq++
	x := exchange{post: w.r.posts[0], n: n, seq: w.seq, runner: w.name}
	ids := w.r.ask(&x)
	w.note("claim %d: %v", n, ids)
	w.must(x.claimErr)
	if x.leaseGone {
		w.t.Fatalf("%s has lost its lease", w.name)
	}
	p := portion{post: x.post, runner: w.name, seq: w.seq, now: x.now, arrived: time.Now()}
	for len(ids) > 0 {
		ids = w.r.fetch(&p, ids)
		w.must(p.err)
		w.claims = append(w.claims, p.jobs...)
	}
}

// end lets a handler return.
func (w *walker) end(a *attempt, err error) {
	if a.ack.op == 0 {
		if a.uniques != nil {
			w.must(a.uniques.giveBack(w.r))
		}
		a.ctx.Context, a.job = w.t.Context(), new(Job)
		a.ack = a.outcome([]byte("result"), err, func(int) time.Duration { return 0 }, zap.NewNop())
	}
}

func (w *walker) tell(acks []*attempt, again bool) {
	if len(acks) == 0 {
		return
	}
	x := exchange{post: w.r.posts[0], acks: acks, runner: w.name}
	w.r.ask(&x)
	for i, a := range acks {
		w.note("ack %c of %s: %v", a.ack.op, a.key.id, x.answers)
		w.must(x.ackErr)
		if again != (x.answers[i] == 0) {
			w.t.Fatalf("ack %c of %s: %d, again: %v", a.ack.op, a.key.id, x.answers[i], again)
		}
		if a.ack.op == opDoneNext && x.answers[i] == 1 && w.IntN(2) == 0 {
			w.c().follow(w.t.Context(), w.lane(), []*next{a.ack.next}, zap.NewNop())
		}
	}
}

func (w *walker) turn(s *script) {
	changed, err := w.c().Inspector().turn(w.t.Context(), "default", s)
	w.note("pause or resume: %v", changed)
	w.must(err, ErrUnknownQueue)
}

func (w *walker) step() {
	ctx := w.t.Context()
	some := func() string { return w.ids[w.IntN(len(w.ids))] }
	switch n := w.IntN(100); {
	case n < 30 || len(w.ids) == 0:
		w.enqueueSome()
	case n < 45:
		w.claim(1 + w.IntN(4))
	case n < 65 && len(w.claims) > 0:
		n := 1 + w.IntN(len(w.claims))
		acks := w.claims[:n:n]
		w.claims = w.claims[n:]
		for _, a := range acks {
			w.end(a, []error{nil, nil, errors.New("no luck"), ErrSkipRetry, Again(nil, 1), RetryAfter(nil, 1)}[w.IntN(6)])
			if w.IntN(8) == 0 {
				a.ack = ack{op: []byte{opRequeue, opBack}[w.IntN(2)]}
			}
		}
		w.tell(acks, false)
		w.told = append(w.told, acks...)
	case n < 68:
		w.tell(w.told, true)
		w.told = nil
	case n < 80:
		id := some()
		state, err := w.c().Cancel(ctx, id)
		w.note("cancel %s: %s", id, state)
		w.must(err)
	case n < 86:
		id := some()
		err := w.c().Inspector().Retry(ctx, id)
		w.note("retry %s: %v", id, err)
		w.must(err, ErrNotDead, ErrNotFound, ErrDuplicate)
	case n < 89:
		state := Purgeable[w.IntN(len(Purgeable))]
		n, err := w.c().Inspector().Purge(ctx, "default", state, nil)
		w.note("purge %s: %d", state, n)
		w.must(err)
	case n < 93:
		w.note("reap %s", w.name)
		w.must(w.c().reap(ctx, w.conn(), w.lane(), w.name, true, w.IntN(2), func(string, bool, int64, int64, int64) {}))
		w.told, w.claims = append(w.told, w.claims...), nil
		for _, a := range w.told {
			w.end(a, nil)
		}
		w.enlist()
	case n < 95:
		w.turn(pauseScript)
	case n < 97:
		w.turn(resumeScript)
	case n < 99:
		w.note("limit")
		w.limited(Limit{Concurrency: w.IntN(4), PerSecond: float64(w.IntN(2)) * 500})
	default:
		w.note("sweep")
		w.must(w.r.sweep(ctx, w.conn(), w.lane()))
	}
}

func (w *walker) check() {
	w.t.Helper()
	if w.books(); w.t.Failed() {
		w.t.Fatalf("after:\n%s", join(w.trace[max(0, len(w.trace)-60):]))
	}
}

func join(lines []string) (text string) {
	for _, l := range lines {
		text += l + "\n"
	}
	return text
}

func TestWhateverFollowsWhateverTheBooksBalance(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		for range 4 {
			seed := rand.Uint64()
			e := &env{t: t, url: e.url, namespace: newEnv(t, "").namespace}
			e.client = e.connect(Options{MaxPending: 30, CallTimeout: 20 * time.Second, Patience: 20 * time.Second})
			r, err := NewRunner(e.client, NewMux(), RunnerOptions{Lease: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			r.work, r.fetching = t.Context(), t.Context()
			w := &walker{env: e, Rand: rand.New(rand.NewPCG(seed, 0)), r: r}
			w.note("seed %d", seed)
			w.enlist()
			for range 150 {
				w.step()
				w.check()
			}
			w.turn(resumeScript)
			w.limited(Limit{})
			for b := (Books{Pending: 1}); !b.Rest(); {
				w.claim(100)
				for _, a := range w.claims {
					w.end(a, nil)
				}
				w.tell(w.claims, false)
				w.claims = nil
				w.must(r.sweep(t.Context(), w.conn(), w.lane()))
				w.check()
				b = w.books()
			}
			keys, err := scan(context.Background(), w.conn(), w.lane(), "u:*")
			w.must(err)
			for _, key := range keys {
				if ttl, _ := w.conn().Do(t.Context(), w.conn().B().Pttl().Key(key).Build()).AsInt64(); ttl == -1 {
					t.Errorf("at rest %s is there, after:\n%s", key, join(w.trace))
				}
			}
		}
	})
}
