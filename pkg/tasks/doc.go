// Package tasks keeps jobs on Redis lists and runs them: at least once each, ended in the books exactly once.
//
//	client, err := tasks.Connect("redis://localhost", tasks.Options{})
//	id, err := client.Enqueue(ctx, "greet", []byte("world"), tasks.Priority(0), tasks.In(time.Minute))
//	status, err := client.Status(ctx, id)        // then Result, or Cancel
//
//	mux := tasks.NewMux()
//	mux.Handle("greet", func(ctx context.Context, job *tasks.Job) ([]byte, error) { … })
//	runner, err := tasks.NewRunner(client, mux, tasks.RunnerOptions{Concurrency: 10})
//	err = runner.Run(ctx)                        // until ctx ends, then drains
//
// # States
//
//	             enqueue            claim             the handler returns
//	(none) ──┬──────────── pending ──────── running ──┬── nil ──────────────────────────── done
//	         │                │   ▲           │ │ │   ├── error, attempts left ── retrying ──┐
//	         └─ scheduled ────┼───┤ due       │ │ │   └── last error, or ErrSkipRetry ──── dead
//	            (at, in)      │   ├───────────┘ │ │                                          │
//	               │          │   │  shutdown   │ └─ runner died too often with it ──── dead │
//	               │          │   └─────────────┘ runner died: to the front, crash + 1       │
//	               └──────────┴── cancel (also of retrying and running) ────── cancelled     │
//	                              ▲ pending again when due ──────────────────────────────────┘
//
// done, dead and cancelled are final. A crash of a runner, a stop, and an error that says that something was away or full (Again,
// ErrUnavailable, ErrFull, ErrQueueFull) are not failed attempts. The last one waits like a retry, and is counted as postponed: in
// the job, by the runner and in the books.
//
// # Keys
//
// T is {namespace:queue:shard}, a hash tag: every script stays on one node of a cluster. An id `<queue>.<shard>.<key>` alone finds
// its job.
//
//	T:p0 … T:p3     LIST    ids that wait, by priority; in at the right, out at the left
//	T:j:<id>        STRING  the job: header, name, payload (later the result), last error: record.go. Has a TTL once it has ended
//	T:act           HASH    ids that run: runner|seq|priority|claim time, and |X once cancelled
//	T:sched         ZSET    priority and id of what waits for its time, by that time in ms
//	T:bell          LIST    one token or none: something may be claimed
//	T:timer         STRING  due|runner: who sleeps until the next due time
//	T:hb:<runner>   STRING  a runner's lease
//	T:cut:<runner>  STRING  a reaper is at work on that runner: its lease is lost for ever
//	T:wk            ZSET    the names of all runners that may own something; a name goes when nothing is its any more
//	T:ctl:<runner>  LIST    messages to a runner: seq|id is to be cancelled
//	T:wake:<runner> LIST    ends a runner's own waiting for the bell
//	T:gone          SET     ids in p* that were cancelled: they do not count for max_pending, and a claim drops them
//	T:dead          ZSET    ids of dead jobs, by time
//	T:prog:<id>     STRING  what a handler last told of its progress
//	T:stat          HASH    the books: accepted, done, dead, cancelled, lost, retried, postponed, crashed
//
// # Owners
//
// A runner's one goroutine (runner.go) owns all its decisions: which slots are free, what is claimed, what must be told to Redis.
// Handlers, calls, the heartbeat, the ear at the bell and the reaper are goroutines that ask Redis and tell it facts.
// A claim belongs to `runner|seq`, where seq is new for each claim call: neither another runner nor an older claim by the same one can
// end it. A runner's name is used once. When its lease is lost it ends its handlers' contexts with ErrLeaseLost and takes a new name.
//
// Whoever finds a dead runner takes its jobs: siblings of the same boot and pid namespace by the proof that its process is gone (Linux;
// every 250 ms), the others when its lease has ended (10 s). First the lease is cut, which ends its right to claim and to renew, then its
// claims go back to the front, last its name goes; a reaper that dies on the way leaves the rest to the next.
//
// The ring: T:wk orders the names of all runners, the last is followed by the first, and each watches the two after it that live. Who finds
// a dead one takes its jobs and looks at the one after that, until two live: one runner that lives reaps all the dead. So watching costs
// each the same however many there are. It is done in two rings, by proof among those of one machine, by lease among all. A process
// that stands still (SIGSTOP, a paused container) lives in the first: if both that watch a dead runner stand still, its jobs wait until
// the leases of all three have ended, and the next who lives finds them in the second.
//
// A lease that has ended by the clock is not lost yet: while Redis is away nobody can renew it, but nobody can reap either. When Redis is
// back its runner renews it and goes on, unless a reaper has cut it; and nobody takes an ended lease for a death before Redis has
// answered it for as long as a lease lasts.
//
// The bell: whoever makes something claimable leaves a token if there is none; one sleeping runner gets it and claims, and leaves another
// if it could not take all. A token that dies with its runner costs a second: so often everybody looks anyway. The clock is watched
// by one runner, which holds T:timer.
//
// # Invariants, which Verify checks from outside
//
//  1. Every accepted id is in exactly one of p*, act, sched, or has ended. (A cancelled one may lie in p* until a claim drops it.)
//  2. Every accepted job's handler began at least once, unless it was cancelled before.
//  3. accepted = done + dead + cancelled + what is under way. At rest p*, act and sched are empty.
//  4. An enqueue or an end sent twice changes nothing. An end by anyone but the owner changes nothing and is reported.
//  5. Something claimable implies a token, or a look within a second.
//  6. A dead runner delays only its own jobs.
//  7. A cancel that was confirmed ends as cancelled, unless the handler had returned before its runner heard of it.
//  8. What has ended has a TTL, and no key is without one but the lists, the index of runners, gone and the books.
//
// # When Redis is away or full
//
// Away: an enqueue fails with ErrUnavailable after Options.Patience; Status, Result, Cancel and Room at their first failure, which may be a
// connection that broke while nobody used it: after a restart of Redis there are several, so ask again for a moment. Runners try again
// until it is back, handlers go on, their ends are told later. A call without an answer may have been executed: an enqueue is sent again
// with the same ids, an end is sent again and is refused the second time, a claim is looked for in act and goes back to the front.
// Full (maxmemory, noeviction): enqueue fails with ErrFull and nothing of it is stored. Every other script begins with a write that a
// full Redis admits, so jobs end, are cancelled and reaped, and new runners can register.
//
// # Limits
//
//   - At least once: a handler may run again after its runner died, lost its lease, or was stopped. It must bear that.
//   - Redis must keep what it acknowledges. With appendfsync everysec a crash of its machine may lose the last second; a failover with
//     asynchronous replication may lose the last writes, or bring back what had ended. Nothing here can notice that.
//   - A runner that alone cannot reach Redis goes on with its jobs while the others take them over after its lease; it learns of it when
//     it is back, and then ends their contexts with ErrLeaseLost. A runner whose two watchers stand still waits for its lease to end.
//   - Proof of death needs a shared pid namespace and a Redis that both reach; containers wait for the lease.
//   - Starvation is possible: priorities are strict. Queues of one runner take turns.
//   - Scheduled times are Redis' clock. At takes the caller's clock for it.
//   - A payload and a result are at most 10 MiB and travel whole; larger things belong into a store.
//   - A record that cannot travel within CallTimeout, even alone (10 MiB in 3 s: 28 Mbit/s), can never start: each claim of it fails, it goes
//     back to the front uncounted, neither as an attempt nor as a crash, and holds up what waits behind it. The same for a result: its
//     end is sent again and again. A longer CallTimeout, or a smaller payload, helps.
//   - A handler that never returns holds its slot for ever, and is left behind at the stop.
package tasks
