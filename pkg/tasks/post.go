package tasks

import "time"

// post is a lane that the runner serves. Loop only.
type post struct {
	index  int
	lane   lane
	want   bool       // something may be claimable
	bound  bool       // its limit of concurrency is reached: who ends a job asks again
	left   bool       // jobs were ended since the last claim was sent
	held   bool       // among acks are some that could not be saved the last time: nothing is claimed but after them
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
