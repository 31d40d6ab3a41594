package tasks

import "sync/atomic"

// Counts of a runner since it started.
type Counts struct {
	Claimed, Done, Retried, Dead, Cancelled, Requeued int64
	Expired                                           int64 // never begun: their time in the queue was over
	Postponed                                         int64 // went back because something was away or full: not an attempt
	Refused                                           int64 // ends that came too late: the job had been taken away
	Reaped                                            int64 // jobs taken from dead runners
	Claims                                            int64 // claim calls
}

type counters struct {
	claimed, done, retried, postponed, dead, cancelled, expired, requeued, refused, reaped, claims atomic.Int64
}

// Counts since the start.
func (r *Runner) Counts() Counts {
	c := &r.counts
	return Counts{
		Claimed: c.claimed.Load(), Done: c.done.Load(), Retried: c.retried.Load(), Dead: c.dead.Load(), Cancelled: c.cancelled.Load(),
		Expired: c.expired.Load(), Requeued: c.requeued.Load(), Postponed: c.postponed.Load(), Refused: c.refused.Load(), Reaped: c.reaped.Load(), Claims: c.claims.Load(),
	}
}
