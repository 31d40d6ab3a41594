package tasks

import "time"

// Meter is told what a runner does, for the metrics of its program. The runner's one loop calls it: it must be quick, and need not lock.
// Only Reaped comes from elsewhere.
type Meter interface {
	Claimed(queue string)
	// Began comes before the handler. waited is the time since the enqueue, with the delay of a job that had one; below 0: it does not
	// count, for the job had been begun before.
	Began(queue, name string, waited time.Duration)
	// Returned comes after the handler, or when it was given up.
	Returned(queue string)
	// Ended comes when Redis has confirmed how a claim ended.
	Ended(Measured)
	// Reaped comes after jobs were taken from a dead runner.
	Reaped(queue string, jobs int64)
}

// Measured is the end of a claim.
type Measured struct {
	Queue, Name string
	// State is what became of the job: Done, Dead, Cancelled, Expired, Retrying (failed or postponed), or Pending: it went back uncounted.
	State     State
	Postponed bool          // it was not a failed attempt that made it Retrying
	Took      time.Duration // by the handler; 0: there was none
	Age       time.Duration // since the enqueue
}

type noMeter struct{}

func (noMeter) Claimed(string)                      {}
func (noMeter) Began(string, string, time.Duration) {}
func (noMeter) Returned(string)                     {}
func (noMeter) Ended(Measured)                      {}
func (noMeter) Reaped(string, int64)                {}

// waited is how long a job has waited for its first begin, by Redis' clock.
func (a *attempt) waited() time.Duration {
	if a.record.begun() {
		return -1
	}
	return max(time.Duration(a.claimed-a.record.enqueued)*time.Millisecond, 0)
}

// measure tells the meter how a claim ended.
func (r *Runner) measure(a *attempt, state State) {
	age := a.claimed + a.took.Milliseconds() - a.record.enqueued
	r.options.Meter.Ended(Measured{
		Queue: a.post.lane.queue, Name: a.record.name, State: state, Postponed: a.ack.op == opAgain && state == Retrying, Took: a.took,
		Age: max(time.Duration(age)*time.Millisecond, 0),
	})
}
