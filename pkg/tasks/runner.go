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

// RunnerOptions of a pool of handlers. The zero value serves the queue "default".
type RunnerOptions struct {
	Queues      []string // served in turn; {"default"}
	Concurrency int      // handlers at once; 10
	// Lease is how long the runner's silence counts as life, 10 s. Its siblings on the same machine notice its death at once; this
	// is for the others.
	Lease time.Duration
	// Grace is how long handlers may go on after Run's context ended, 20 s. Then their contexts end with ErrShutdown.
	Grace time.Duration
	// StopBy, if set, is asked when that happens: by when Run has to be back. The grace is what it leaves, instead of Grace; the
	// zero time leaves that in force.
	StopBy func() time.Time
	// Backoff returns the wait before the next attempt, given the number of failed ones. Nil: 5 s doubling up to an hour, ± 25 %.
	Backoff func(failed int) time.Duration
	// Weights of the priorities: how often each is asked first. The zero value is strict: 0 before 1 before 2 before 3; a weight of 0
	// among others comes last.
	Weights Weights
	// Schedule is what this runner enqueues by the clock, whatever queues it serves.
	Schedule []Periodic
	// StuckAfter is how long a handler may go on after its context has ended, 10 s: then its stack is logged, the runner stops as if
	// Run's context had ended, and Run returns ErrStuck. Below 0: for ever.
	StuckAfter time.Duration
	// Deaf is how long no claim may come through while Redis answers, 60 s: then the runner stops, and Run returns ErrDeaf. Below 0: for
	// ever.
	Deaf time.Duration
	// UnknownFor is how long a job waits for a runner that has a handler of its name, a day: in a rolling deployment another may. Until then
	// it is postponed, after that dead. Below 0: dead at once.
	UnknownFor time.Duration
	// MaxCrashes is how many runners may die with one job before it is dead, 5: it kills them.
	MaxCrashes int
	Meter      Meter       // nil: none
	Log        *zap.Logger // nil: the client's
}

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

func (o RunnerOptions) withDefaults() RunnerOptions {
	if len(o.Queues) == 0 {
		o.Queues = []string{defaultQueue}
	}
	if o.Concurrency == 0 {
		o.Concurrency = 10
	}
	if o.Lease == 0 {
		o.Lease = 10 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 20 * time.Second
	}
	if o.Backoff == nil {
		o.Backoff = retryDelay
	}
	if o.StuckAfter == 0 {
		o.StuckAfter = 10 * time.Second
	}
	if o.Deaf == 0 {
		o.Deaf = time.Minute
	}
	if o.UnknownFor == 0 {
		o.UnknownFor = 24 * time.Hour
	}
	if o.MaxCrashes == 0 {
		o.MaxCrashes = 5
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	return o
}

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

// post is a lane that the runner serves. Loop only.
type post struct {
	index  int
	lane   lane
	want   bool       // something may be claimable
	bound  bool       // its limit of concurrency is reached: who ends a job asks again
	due    time.Time  // when this runner must look for a scheduled job; zero: not its task
	acks   []*attempt // ended, Redis does not know yet
	deep   bool       // the last claim got all that it asked for
	calls  int        // exchanges under way, at most mostCalls
	open   []int64    // claims whose jobs have not all come, by seq
	coming int        // of them those of which a part has: ends are told meanwhile, but nothing is claimed
	newest int64      // the seq of the latest claim that was answered
	large  int        // bytes of the largest record, lately; 0 unknown
	asked  time.Time  // when it was last asked for jobs
}

// ward is a group of bells that one call can wait for: in a cluster each is alone, for they lie on several nodes. Loop only.
type ward struct {
	posts     []*post // set once
	listening bool
}

// newWards groups the posts. Redis has answered: now it is known what it is.
func (r *Runner) newWards() (wards []*ward) {
	if !r.client.calls.Cluster() {
		return []*ward{{posts: r.posts}}
	}
	for _, p := range r.posts {
		wards = append(wards, &ward{posts: []*post{p}})
	}
	return wards
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

// ErrAbandoned says that handlers did not heed ErrShutdown, or that Redis was away at the end: their jobs run again elsewhere.
var ErrAbandoned = errors.New("jobs were left behind")

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

// phases is how long each part of a stop may take.
type phases struct{ grace, unwind, farewell, goodbye time.Duration }

// stopWithin divides what a stop may take in all. Three times goodbye: for calls that are still under way, for the goodbye itself, and for
// a busy machine. Where there is little time, handlers get half of it.
func stopWithin(all time.Duration) phases {
	p := phases{unwind: unwindTime, farewell: farewell, goodbye: goodbyeTime}
	rest := p.unwind + p.farewell + 3*p.goodbye
	if all < 2*rest {
		all = max(all, 0)
		shrink := func(d time.Duration) time.Duration {
			return time.Duration(float64(all) / 2 * float64(d) / float64(rest))
		}
		p.unwind, p.farewell, p.goodbye = shrink(p.unwind), shrink(p.farewell), shrink(p.goodbye)
		rest = all / 2
	}
	p.grace = all - rest
	return p
}

// stopPhases tells how long the stop that begins may take.
func (r *Runner) stopPhases() phases {
	if r.options.StopBy != nil {
		if by := r.options.StopBy(); !by.IsZero() {
			return stopWithin(time.Until(by))
		}
	}
	return phases{r.options.Grace, unwindTime, farewell, goodbyeTime}
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
