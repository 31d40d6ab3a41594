package tasks

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
)

const (
	claimAtOnce = 256                    // bounds how long Redis does nothing else
	ackAtOnce   = 128                    // the same
	ackBytes    = 1 << 20                // the same for large results
	pollEvery   = time.Second            // a token that was lost with a killed runner costs at most this
	hushTime    = 250 * time.Millisecond // for Redis to end the waiting of a runner that stops
	reapEvery   = 250 * time.Millisecond
	unwindTime  = 2 * time.Second  // for handlers to heed ErrShutdown
	farewell    = 3 * time.Second  // for the last words to Redis after that
	goodbyeTime = time.Second      // for giving the name back last
	lookEvery   = 30 * time.Second // compare the books with Redis'
	lateClaim   = time.Minute      // a call that got no answer may still be executed, by a server that hung, but not after this
)

// Runner claims jobs and runs their handlers. One goroutine, loop, owns all that happens; the others ask Redis, run handlers,
// and tell it facts.
type Runner struct {
	// Set once.
	client   *Client
	mux      *Mux
	options  RunnerOptions
	log      *zap.Logger
	posts    []*post
	values   context.Context // Run's, without an end: the loop ends each handler's context itself
	work     context.Context // calls; ends after the last word
	fetching context.Context // take more; ends at the stop
	endFetch context.CancelFunc
	started  atomic.Bool
	schedule []timetable
	id       string    // in this process
	since    time.Time // of NewRunner

	// Facts for the loop.
	fetched   chan portion
	exchanged chan exchange
	rang      chan rang
	enrolled  chan *lease
	lostLease chan string // the name
	cancels   chan claimKey
	looked    chan look
	pinged    chan error
	gone      chan struct{} // closed when the loop has ended: nobody listens any more

	// Loop only.
	lease     *lease  // nil: not registered
	wards     []*ward // none before the first lease
	seq       int64
	claims    map[claimKey]*attempt // from the claim until Redis has confirmed its end
	early     map[claimKey]bool     // cancelled before their claim's answer came
	busy      int                   // handlers that have not returned
	reserved  int                   // slots kept for claims under way
	stopping  bool
	phases    phases // of the stop
	abandoned int    // handlers that were given up at the stop
	farewell  bool   // the last phase of the stop
	next      int    // the post that is asked first
	pause     *backoff.ExponentialBackOff
	away      bool
	resume    time.Time           // after an error: no calls before this
	uncertain map[int64]time.Time // claims whose answer never came, by seq
	lookAt    time.Time
	looking   bool
	settled   map[claimKey]bool // ended while a look was under way
	helpers   sync.WaitGroup
	watchAt   time.Time // when to look for stuck handlers again
	stuck     int       // handlers that are
	hearing   time.Time // when a claim last came through, or did not have to
	pinging   bool
	retired   error   // why it stops by itself
	slots     []*slot // that no handler has
	slotCount int
	spare     []*attempt // collect's, empty

	large map[string]bool // rings with more names than one question gives. Only used by reapLoop

	// Shared and safe.
	returned returns
	counts   counters
	name     atomic.Pointer[string]
	heard    atomic.Int64 // unix ns of the last claim that came through; 0: not ready
}

type claimKey struct {
	id  string
	seq int64
}

var runnerCount atomic.Int64 // of this process

// NewRunner prepares a runner. The client may be shared with others and with enqueuers.
func NewRunner(c *Client, mux *Mux, options RunnerOptions) (*Runner, error) {
	options = options.withDefaults()
	if options.Log == nil {
		options.Log = c.options.Log
	}
	if options.Concurrency < 1 || options.Concurrency > 1<<16 {
		return nil, fmt.Errorf("concurrency %d: between 1 and %d", options.Concurrency, 1<<16)
	}
	for p, n := range options.Weights {
		if n < 0 || n > 1<<20 {
			return nil, fmt.Errorf("weight %d of priority %d: between 0 and %d", n, p, 1<<20)
		}
	}
	if options.Lease < 100*time.Millisecond {
		return nil, fmt.Errorf("lease %s: at least 100ms", options.Lease)
	}
	r := &Runner{
		client: c, mux: mux, options: options, log: options.Log, since: time.Now(),
		returned:  returns{wake: make(chan struct{}, 1)},
		fetched:   make(chan portion),
		exchanged: make(chan exchange),
		rang:      make(chan rang),
		enrolled:  make(chan *lease),
		lostLease: make(chan string),
		cancels:   make(chan claimKey),
		looked:    make(chan look),
		pinged:    make(chan error),
		id:        strconv.FormatInt(runnerCount.Add(1), 10),
		gone:      make(chan struct{}),
		claims:    make(map[claimKey]*attempt),
		early:     make(map[claimKey]bool),
		large:     make(map[string]bool),
		uncertain: make(map[int64]time.Time),
		pause:     backoff.NewExponentialBackOff(),
	}
	r.pause.InitialInterval, r.pause.MaxInterval = 50*time.Millisecond, time.Second
	for _, p := range options.Schedule {
		t, err := p.read()
		if err != nil {
			return nil, err
		}
		r.schedule = append(r.schedule, t)
	}
	seen := make(map[string]bool)
	for _, queue := range options.Queues {
		if !validQueue(queue) || seen[queue] {
			return nil, fmt.Errorf("queue %.100q: named twice, or has other characters than letters, digits, '_' and '-'", queue)
		}
		seen[queue] = true
		for shard := range c.options.Shards {
			r.posts = append(r.posts, &post{index: len(r.posts), lane: newLane(c.options.Namespace, queue, shard)})
		}
	}
	return r, nil
}

// Name is the runner's name as Status tells it, "" before its first lease.
func (r *Runner) Name() string {
	if name := r.name.Load(); name != nil {
		return *name
	}
	return ""
}

// Run works until ctx ends; then it takes no more, lets handlers finish within the grace, ends the contexts of the rest with
// ErrShutdown and puts their jobs back to the front. It returns nil if every job's end is in Redis. It stops by itself, and returns ErrStuck
// or ErrDeaf, when another process would do better. A runner runs once.
func (r *Runner) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("a runner runs only once")
	}
	// Values pass on to handlers, the end does not: they get their grace.
	r.values = context.WithoutCancel(ctx)
	work, endWork := context.WithCancel(r.values)
	defer endWork()
	r.work = work
	fetch, endFetch := context.WithCancel(ctx)
	defer endFetch()
	r.fetching, r.endFetch = fetch, endFetch

	// Others rely on this runner's watch as long as its name is there, also while it drains.
	watching, endWatching := context.WithCancel(work)
	defer endWatching()

	go r.enrol(work)
	r.helpers.Go(func() { r.reapLoop(watching) })
	if r.client.options.Postgres != nil {
		r.helpers.Go(func() { r.upkeep(watching) })
	}
	if p, ok := r.client.options.Results.(*Postgres); ok && p != r.client.options.Postgres {
		r.helpers.Go(func() { p.pruneLoop(watching, r.client.options.Namespace) })
	}
	for _, t := range r.schedule {
		r.helpers.Go(func() { r.keepTime(fetch, t) })
	}
	err := r.loop(fetch)
	r.heard.Store(0)
	clean := err == nil
	if r.retired != nil {
		err = errors.Join(r.retired, err)
	}

	// Nobody may renew the lease or wait for a bell once it is given back.
	endFetch()
	endWatching()
	if r.lease != nil {
		r.lease.end()
	}
	close(r.gone)
	helped := make(chan struct{})
	go func() {
		r.helpers.Wait()
		close(helped)
	}()
	cut := time.AfterFunc(r.phases.goodbye, endWork) // their last calls, to a Redis that hangs
	select {
	case <-helped:
	case <-time.After(2 * r.phases.goodbye):
		// A call without a pipeline does not hear that its context has ended. It ends by its own CallTimeout, and finds no lease.
	}
	cut.Stop()
	r.leave(clean)
	return err
}

// free is how many more jobs may be claimed.
func (r *Runner) free() int { return r.options.Concurrency - r.busy - r.reserved }

// enough is how many handlers must have returned before there is a call to make; 0: the answer to one must come first.
func (r *Runner) enough() int {
	enough := 0
	for _, p := range r.posts {
		switch {
		case p.calls == 0:
			return 1
		case p.calls < mostCalls:
			enough = overlapAt
		}
	}
	return enough
}

func (r *Runner) loop(fetch context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	hearing, cut := context.WithCancel(r.work)
	defer cut()
	r.hearing = time.Now()
	var (
		stop     = fetch.Done()
		deadline time.Time // of the phase of the stop that is under way
		phase    int       // 1 grace, 2 unwinding, 3 farewell
	)
	for {
		r.collect()
		now := time.Now()
		r.watchOver(now)
		r.dispatch(now)
		if !r.stopping {
			r.listen(hearing, now)
		} else if r.idle() {
			if r.abandoned > 0 {
				return fmt.Errorf("%w: %d handlers do not heed their contexts", ErrAbandoned, r.abandoned)
			}
			return nil
		}
		timer.Reset(r.nextWake(now, deadline))
		r.returned.sleep(r.enough())

		select {
		case <-r.returned.wake:
			// Others that end now go into the same call. Yielding once costs a lone job nothing: nobody else is ready then.
			runtime.Gosched()
		case x := <-r.fetched:
			if x.rest == 0 {
				x.post.coming--
				x.post.closes(x.seq)
			}
			r.arrive(x)
			if x.err != nil {
				r.stumble(x.err)
			}
		case x := <-r.exchanged:
			r.settle(x)
		case x := <-r.rang:
			r.hear(x)
		case l := <-r.enrolled:
			r.lease = l
			if r.wards == nil {
				r.wards = l.wards
			}
			r.log.Info("runner registered", zap.String("runner", l.name))
			for _, p := range r.posts {
				p.want = true
			}
		case name := <-r.lostLease:
			r.loseLease(name)
		case key := <-r.cancels:
			if a := r.claims[key]; a != nil {
				a.cancel(ErrCancelled)
			} else if key.id == "" { // messages may have been lost: act says the same
				r.lookBy(time.Now())
			} else {
				r.cancelEarly(key)
			}
		case l := <-r.looked:
			r.compare(l)
		case err := <-r.pinged:
			r.heardOf(err)
		case <-timer.C:
		case <-stop:
			stop, r.stopping, phase = nil, true, 1
			r.heard.Store(0)
			r.phases = r.stopPhases()
			deadline = time.Now().Add(r.phases.grace)
			r.log.Info("runner stops", zap.Int("running", r.busy), zap.Duration("grace", r.phases.grace.Round(time.Millisecond)))
			for _, p := range r.posts {
				p.due = time.Time{}
				r.passOn(p)
			}
			r.hush(cut)
		}

		if phase > 0 && phase < 3 && r.stuck > 0 && r.busy == r.stuck {
			phase, deadline = 2, time.Now() // only those are left that nobody waits for
		}
		if phase > 0 && !time.Now().Before(deadline) {
			phase++
			switch phase {
			case 2:
				deadline = time.Now().Add(r.phases.unwind)
				for _, a := range r.claims {
					a.cancel(ErrShutdown)
				}
			case 3:
				deadline = time.Now().Add(r.phases.farewell)
				r.abandon()
				r.farewell, r.resume = true, time.Time{}
			default:
				return fmt.Errorf("%w: redis did not take the end of %d", ErrAbandoned, len(r.claims))
			}
		}
	}
}
