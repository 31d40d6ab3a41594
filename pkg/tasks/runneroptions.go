package tasks

import (
	"time"

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
