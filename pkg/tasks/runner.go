package tasks

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
	// Backoff returns the wait before the next attempt, given the number of failed ones. Nil: 5 s doubling up to an hour, ± 25 %.
	Backoff func(failed int) time.Duration
	// MaxCrashes is how many runners may die with one job before it is dead, 5: it kills them.
	MaxCrashes int
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
	if o.MaxCrashes == 0 {
		o.MaxCrashes = 5
	}
	return o
}

// Counts of a runner since it started.
type Counts struct {
	Claimed, Done, Retried, Dead, Cancelled, Requeued int64
	Postponed                                         int64 // went back because something was away or full: not an attempt
	Refused                                           int64 // ends that came too late: the job had been taken away
	Reaped                                            int64 // jobs taken from dead runners
	Claims                                            int64 // claim calls
}

type counters struct {
	claimed, done, retried, postponed, dead, cancelled, requeued, refused, reaped, claims atomic.Int64
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
	wards    []*ward
	work     context.Context // handlers and calls; ends after the last word
	fetching context.Context // take more; ends at the stop
	started  atomic.Bool

	// Facts for the loop.
	finished  chan *attempt
	fetched   chan portion
	exchanged chan exchange
	rang      chan rang
	enrolled  chan *lease
	lostLease chan string // the name
	cancels   chan claimKey
	looked    chan look
	gone      chan struct{} // closed when the loop has ended: nobody listens any more

	// Loop only.
	lease     *lease // nil: not registered
	seq       int64
	claims    map[claimKey]*attempt // from the claim until Redis has confirmed its end
	early     map[claimKey]bool     // cancelled before their claim's answer came
	busy      int                   // handlers that have not returned
	reserved  int                   // slots kept for claims under way
	stopping  bool
	abandoned int // handlers that were given up at the stop
	next      int // the post that is asked first
	pause     *backoff.ExponentialBackOff
	away      bool
	resume    time.Time           // after an error: no calls before this
	uncertain map[int64]time.Time // claims whose answer never came, by seq
	lookAt    time.Time
	looking   bool
	settled   map[claimKey]bool // ended while a look was under way
	helpers   sync.WaitGroup

	large map[string]bool // rings with more names than one question gives. Only used by reapLoop

	// Shared and safe.
	counts counters
	name   atomic.Pointer[string]
}

// post is a lane that the runner serves. Loop only.
type post struct {
	index    int
	lane     lane
	want     bool       // something may be claimable
	due      time.Time  // when this runner must look for a scheduled job; zero: not its task
	acks     []*attempt // ended, Redis does not know yet
	call     bool       // an exchange is under way
	fetching bool       // more of the last claim is to come: ends are told meanwhile, but nothing is claimed
	fetch    int64      // the seq of that claim
	large    int        // bytes of the largest record, lately; 0 unknown. The exchange's
	asked    time.Time  // when it was last asked for jobs
}

// ward is a group of bells that one call can wait for. Loop only.
type ward struct {
	index     int
	posts     []*post
	listening bool
}

type claimKey struct {
	id  string
	seq int64
}

// NewRunner prepares a runner. The client may be shared with others and with enqueuers.
func NewRunner(c *Client, mux *Mux, options RunnerOptions) (*Runner, error) {
	options = options.withDefaults()
	if options.Log == nil {
		options.Log = c.options.Log
	}
	if options.Concurrency < 1 || options.Concurrency > 1<<16 {
		return nil, fmt.Errorf("concurrency %d: between 1 and %d", options.Concurrency, 1<<16)
	}
	if options.Lease < 100*time.Millisecond {
		return nil, fmt.Errorf("lease %s: at least 100ms", options.Lease)
	}
	r := &Runner{
		client: c, mux: mux, options: options, log: options.Log,
		finished:  make(chan *attempt, min(options.Concurrency, 1024)),
		fetched:   make(chan portion),
		exchanged: make(chan exchange),
		rang:      make(chan rang),
		enrolled:  make(chan *lease),
		lostLease: make(chan string),
		cancels:   make(chan claimKey),
		looked:    make(chan look),
		gone:      make(chan struct{}),
		claims:    make(map[claimKey]*attempt),
		early:     make(map[claimKey]bool),
		large:     make(map[string]bool),
		uncertain: make(map[int64]time.Time),
		pause:     backoff.NewExponentialBackOff(),
	}
	r.pause.InitialInterval, r.pause.MaxInterval = 50*time.Millisecond, time.Second
	seen := make(map[string]bool)
	for _, queue := range options.Queues {
		if !validQueue(queue) || seen[queue] {
			return nil, fmt.Errorf("queue %.100q: named twice, or has other characters than letters, digits, '_' and '-'", queue)
		}
		seen[queue] = true
		for shard := range c.options.Shards {
			p := &post{index: len(r.posts), lane: newLane(c.options.Namespace, queue, shard)}
			r.posts = append(r.posts, p)
			if c.oneSlot && len(r.wards) > 0 {
				r.wards[0].posts = append(r.wards[0].posts, p)
			} else {
				r.wards = append(r.wards, &ward{index: len(r.wards), posts: []*post{p}})
			}
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

// Counts since the start.
func (r *Runner) Counts() Counts {
	c := &r.counts
	return Counts{
		Claimed: c.claimed.Load(), Done: c.done.Load(), Retried: c.retried.Load(), Dead: c.dead.Load(), Cancelled: c.cancelled.Load(),
		Requeued: c.requeued.Load(), Postponed: c.postponed.Load(), Refused: c.refused.Load(), Reaped: c.reaped.Load(), Claims: c.claims.Load(),
	}
}

// ErrAbandoned says that handlers did not heed ErrShutdown, or that Redis was away at the end: their jobs run again elsewhere.
var ErrAbandoned = errors.New("jobs were left behind")

// Run works until ctx ends; then it takes no more, lets handlers finish within the grace, ends the contexts of the rest with
// ErrShutdown and puts their jobs back to the front. It returns nil if every job's end is in Redis. A runner runs once.
func (r *Runner) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("a runner runs only once")
	}
	// Values pass on to handlers, the end does not: they get their grace.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	r.work = work
	fetch, endFetch := context.WithCancel(ctx)
	defer endFetch()
	r.fetching = fetch

	// Others rely on this runner's watch as long as its name is there, also while it drains.
	watching, endWatching := context.WithCancel(work)
	defer endWatching()

	go r.enrol(work)
	r.helpers.Go(func() { r.reapLoop(watching) })
	err := r.loop(fetch)

	// Nobody may renew the lease or wait for a bell once it is given back.
	endFetch()
	endWatching()
	if r.lease != nil {
		r.lease.end()
	}
	close(r.gone)
	r.helpers.Wait()
	r.leave(err == nil)
	return err
}

// free is how many more jobs may be claimed.
func (r *Runner) free() int { return r.options.Concurrency - r.busy - r.reserved }

func (r *Runner) loop(fetch context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	hearing, cut := context.WithCancel(r.work)
	defer cut()
	var (
		stop     = fetch.Done()
		deadline time.Time // of the phase of the stop that is under way
		phase    int       // 1 grace, 2 unwinding, 3 farewell
	)
	for {
		now := time.Now()
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

		select {
		case a := <-r.finished:
			r.finish(a)
			// Others that end now go into the same call. Yielding once costs a lone job nothing: nobody else is ready then.
			runtime.Gosched()
			for more := true; more; {
				select {
				case a := <-r.finished:
					r.finish(a)
				default:
					more = false
				}
			}
		case x := <-r.fetched:
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
				r.lookAt = time.Now()
			} else {
				r.cancelEarly(key)
			}
		case l := <-r.looked:
			r.compare(l)
		case <-timer.C:
		case <-stop:
			stop, r.stopping, phase = nil, true, 1
			deadline = time.Now().Add(r.options.Grace)
			r.log.Info("runner stops", zap.Int("running", r.busy), zap.Duration("grace", r.options.Grace))
			for _, p := range r.posts {
				p.due = time.Time{}
				r.passOn(p)
			}
			r.hush(cut)
		}

		if phase > 0 && !time.Now().Before(deadline) {
			phase++
			switch phase {
			case 2:
				deadline = time.Now().Add(unwindTime)
				for _, a := range r.claims {
					a.cancel(ErrShutdown)
				}
			case 3:
				deadline = time.Now().Add(farewell)
				r.abandon()
			default:
				return fmt.Errorf("%w: redis did not take the end of %d", ErrAbandoned, len(r.claims))
			}
		}
	}
}

// dispatch starts every call that can be made: ends that Redis does not know yet, claims for free slots.
func (r *Runner) dispatch(now time.Time) {
	if now.Before(r.resume) {
		return
	}
	for i := range r.posts {
		p := r.posts[(r.next+i)%len(r.posts)]
		if p.call {
			continue
		}
		x := exchange{post: p, acks: p.board()}
		if now.Sub(p.asked) >= pollEvery {
			p.want = true // while another queue is busy nobody listens to this one's bell
		}
		if p.want && !p.fetching && !r.stopping && r.lease != nil {
			x.n = max(min(r.free(), claimAtOnce), 0)
		}
		if x.n > 0 {
			p.asked = now
			r.seq++
			x.seq, x.runner = r.seq, r.lease.name
			r.reserved += x.n
		} else if len(x.acks) == 0 {
			continue
		}
		p.call = true
		go r.exchange(x)
	}
	r.next++
	if !r.looking && r.lease != nil && !now.Before(r.lookAt) {
		r.looking, r.settled = true, make(map[claimKey]bool)
		go r.look(r.lease.name)
	}
}

// board takes the next call's acks from those that wait.
func (p *post) board() []*attempt {
	n, size := 0, 0
	for n < len(p.acks) && n < ackAtOnce && (n == 0 || size+len(p.acks[n].ack.body) <= ackBytes) {
		size += len(p.acks[n].ack.body)
		n++
	}
	batch := p.acks[:n:n]
	p.acks = p.acks[n:]
	if len(p.acks) == 0 {
		p.acks = nil
	}
	return batch
}

// idle reports whether a stopping runner has nothing left to do.
func (r *Runner) idle() bool {
	for _, p := range r.posts {
		if p.call || p.fetching || len(p.acks) > 0 {
			return false
		}
	}
	for _, w := range r.wards {
		if w.listening {
			return false
		}
	}
	return r.busy == 0 && len(r.claims) == 0
}

func (r *Runner) nextWake(now, deadline time.Time) time.Duration {
	wake := now.Add(pollEvery)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(wake) {
			wake = t
		}
	}
	earlier(deadline)
	if r.resume.After(now) {
		earlier(r.resume)
	}
	if r.lookAt.After(now) {
		earlier(r.lookAt)
	}
	for _, p := range r.posts {
		if !p.due.IsZero() && !p.due.After(now) && !p.call {
			// Its time has come. Without a free slot another runner must go and look.
			p.due = time.Time{}
			if r.free() > 0 {
				p.want = true
				wake = now
			} else {
				r.passOn(p)
			}
		}
		if !p.call { // its answer brings a new time
			earlier(p.due)
		}
	}
	return max(wake.Sub(now), 0)
}

// finish takes note of a handler that has returned.
func (r *Runner) finish(a *attempt) {
	if a.abandoned {
		return
	}
	r.busy--
	a.post.acks = append(a.post.acks, a)
}

// settle takes note of what Redis answered.
func (r *Runner) settle(x exchange) {
	p := x.post
	p.call = false
	r.reserved -= x.n - len(x.portion.jobs) - x.portion.rest // kept for those that were claimed
	failed := x.ackErr
	if failed != nil {
		for _, a := range x.acks {
			a.sentBefore = true
		}
		p.acks = append(x.acks, p.acks...)
	}
	for i, a := range x.acks {
		if failed == nil {
			r.confirm(a, x.answers[i])
		}
	}
	if x.n > 0 {
		if x.claimErr != nil {
			failed = x.claimErr
			if x.maybe {
				r.uncertain[x.seq] = time.Now()
				r.lookAt = time.Now()
			}
		} else if x.leaseGone {
			r.loseLease(x.runner)
		} else {
			r.counts.claims.Add(1)
			p.want = len(x.portion.jobs)+x.portion.rest == x.n
			p.due = time.Time{}
			if x.sleep >= 0 {
				p.due = time.Now().Add(x.sleep)
			}
		}
		r.arrive(x.portion)
	}
	if failed != nil {
		r.stumble(failed)
	} else {
		r.recover()
	}
}

// arrive starts claimed jobs whose records have come, or gives them back.
func (r *Runner) arrive(x portion) {
	r.reserved -= len(x.jobs)
	x.post.fetching, x.post.fetch = x.rest > 0, x.seq
	for _, a := range x.jobs {
		if a.ack.op == 0 && (r.lease == nil || r.lease.name != x.runner || r.early[a.key]) {
			a.ack.op = opRequeue // the lease went meanwhile: refused, harmless; or it was cancelled: it ends so
		}
		delete(r.early, a.key)
		r.begin(a)
	}
}

// mostEarly bounds the cancels that came before their claim. Those that came after their job's end stay until then.
const mostEarly = 10_000

// cancelEarly remembers a cancel of a job whose claim has been made, but is still on its way to us.
func (r *Runner) cancelEarly(key claimKey) {
	if len(r.early) >= mostEarly {
		clear(r.early)
		r.lookAt = time.Now() // act says the same
	}
	r.early[key] = true
}

// begin starts a claimed job.
func (r *Runner) begin(a *attempt) {
	r.counts.claimed.Add(1)
	r.claims[a.key] = a
	switch {
	case a.ack.op != 0: // the claim found that there is nothing to run
		a.post.acks = append(a.post.acks, a)
	case r.stopping:
		a.ack.op = opRequeue
		a.post.acks = append(a.post.acks, a)
	default:
		r.busy++
		a.start(r)
	}
}

// confirm takes note that Redis knows the end of a claim, or refused it.
func (r *Runner) confirm(a *attempt, answer int64) {
	delete(r.claims, a.key)
	if r.looking {
		r.settled[a.key] = true
	}
	if answer == 0 {
		r.counts.refused.Add(1)
		// Sent twice because the first answer was lost: most likely that one counted.
		if !a.sentBefore {
			r.log.Warn("the end of a job came too late, it had been taken away", zap.String("job", a.key.id), zap.String("owner", a.owner))
		}
		return
	}
	op := a.ack.op
	if answer == 2 {
		op = opCancelled
	}
	switch op {
	case opDone:
		r.counts.done.Add(1)
	case opRetry:
		r.counts.retried.Add(1)
	case opAgain:
		r.counts.postponed.Add(1)
	case opDead:
		r.counts.dead.Add(1)
	case opCancelled:
		r.counts.cancelled.Add(1)
	case opRequeue:
		r.counts.requeued.Add(1)
	case opDrop:
		if a.ack.gone {
			r.log.Error("a job's record is gone: redis deleted it", zap.String("job", a.key.id))
		}
	}
}

// abandon gives up on handlers that do not return: their jobs go back, what they still do is refused.
func (r *Runner) abandon() {
	for key, a := range r.claims {
		if a.job != nil && !a.returned.Load() { // without a job there never was a handler
			r.log.Error("handler does not heed its context, its job goes back", zap.String("job", key.id), zap.String("name", a.job.Name))
			a.abandoned = true
			r.abandoned++
			r.busy--
			// The handler's goroutine may write its own end at this moment: this is another.
			back := &attempt{post: a.post, key: a.key, owner: a.owner, ack: ack{op: opRequeue}}
			r.claims[key] = back
			a.post.acks = append(a.post.acks, back)
		}
	}
}

// loseLease ends everything that was claimed under a name, and takes a new one.
func (r *Runner) loseLease(name string) {
	if r.lease == nil || r.lease.name != name {
		return
	}
	r.log.Error("lease lost", zap.String("runner", name), zap.Int("running", r.busy))
	r.lease.end()
	r.lease = nil
	clear(r.uncertain)
	for _, p := range r.posts {
		p.due = time.Time{}
	}
	for _, a := range r.claims {
		a.cancel(ErrLeaseLost)
	}
	go r.enrol(r.work)
}

// stumble pauses all calls after one failed.
func (r *Runner) stumble(err error) {
	wait := r.pause.NextBackOff()
	r.resume = time.Now().Add(wait)
	if !r.away {
		r.away = true
		r.log.Warn("redis does not answer, runner tries again", zap.Error(err))
	}
}

func (r *Runner) recover() {
	r.pause.Reset()
	if r.away {
		r.away = false
		r.log.Info("redis is back")
	}
}
