// Package tasks keeps jobs on Redis lists and runs them: at least once each, ended in the books exactly once.
//
//	client, err := tasks.Connect("redis://localhost", tasks.Options{})
//	id, err := client.Enqueue(ctx, "greet", []byte("world"), tasks.Priority(0), tasks.In(time.Minute))
//	status, err := client.Status(ctx, id)        // then Result, or Cancel
//
//	mux := tasks.NewMux()
//	mux.Handle("greet", func(ctx context.Context, job *tasks.Job) ([]byte, error) { … })
//	runner, err := tasks.NewRunner(client, mux, tasks.RunnerOptions{Concurrency: 10})
//	err = runner.Run(ctx)                        // until ctx ends, then drains; also before, when it should be replaced: ErrStuck, ErrDeaf
//
// # Where to change what
//
//	for producers   client.go enqueue and its answers; option.go kind.go guide.go; line.go batches that form by themselves; room.go;
//	                status.go Status, Result, Cancel
//	for handlers    mux.go job.go; errors.go what a handler's error means; unknown.go names that have none; chain.go unique.go limit.go periodic.go; trace.go for whom a job is done
//	the runner      runner.go its loop; runneroptions.go; post.go the lanes that it serves; stop.go; dispatch.go which calls are due;
//	                exchange.go one call: ends and a claim; claims.go attempt.go returns.go
//	                from the claim to the end; bell.go waiting; weights.go; stuck.go when it must be replaced; meter.go counts.go
//	the dead        lease.go being alive; name.go who is who; reap.go; look.go claims that nobody knows of
//	in Redis        keys.go record.go extra.go; lua/ and scripts.go; connect.go greeting.go check.go which server, and is it good
//	in Postgres     postgres.go migrate.go; outbox.go relay.go archive.go inbox.go; ended.go results.go where ends are kept; upkeep.go what a runner does for it
//	operators       queues.go jobs.go detail.go runners.go the Inspector looks; change.go it retries and purges; verify.go the books
//	tests of users  taskstest/
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
//	               ├──────────┼── cancel (also of retrying and running) ────── cancelled     │
//	               └──────────┴── never begun in its time (ExpireIn) ───────── expired       │
//	                              ▲ pending again when due ──────────────────────────────────┘
//
// done, dead, cancelled and expired are final. A crash of a runner, a stop, and an error that says that something was away or full (Again,
// ErrUnavailable, ErrFull, ErrQueueFull) are not failed attempts. The last one waits like a retry, and is counted as postponed: in
// the job, by the runner and in the books. So is a job whose name has no handler where it was claimed, for a day; then it is dead.
//
// # Keys
//
// T is {namespace:queue:shard}, a hash tag: every script stays on one node of a cluster. An id `<queue>.<shard>.<key>` alone finds
// its job.
//
//	T:p0 … T:p3     LIST    ids that wait, by priority; in at the right, out at the left
//	T:j:<id>        STRING  the job: header, name, extra, payload (later the result), last error: record.go. Has a TTL once it has ended
//	T:act           HASH    ids that run: runner|seq|priority|claim time, and |X once cancelled
//	T:sched         ZSET    priority and id of what waits for its time, by that time in ms
//	T:bell          LIST    one token or none: something may be claimed
//	T:timer         STRING  due|runner: who sleeps until the next due time
//	T:hb:<runner>   STRING  a runner's lease; in it what the runner tells of itself: pid, since, concurrency, host
//	T:cut:<runner>  STRING  a reaper is at work on that runner: its lease is lost for ever
//	T:wk            ZSET    the names of all runners that may own something; a name goes when nothing is its any more
//	T:ctl:<runner>  LIST    messages to a runner: seq|id is to be cancelled
//	T:wake:<runner> LIST    ends a runner's own waiting for the bell
//	T:gone          SET     ids in p* that were cancelled: they do not count for max_pending, and a claim drops them
//	T:dead          ZSET    ids of dead jobs, by time
//	T:prog:<id>     STRING  what a handler last told of its progress
//	T:owed          ZSET    ids that somebody else than their runner may have ended, by the time to look: for the archive, if there is one
//	T:stat          HASH    the books: accepted, done, dead, cancelled, expired, lost, retried, postponed, crashed, revived
//	T:out           HASH    ids and records of jobs that follow one that is done (Then), until a runner has put them into their queue
//	T:u:<key>       STRING  the id of the job that has the unique key
//	T:lim           STRING  the queue's limit: concurrency|per second|burst
//	T:rate          STRING  what is left of its burst, and when that was: tokens|ms; full when it is not there
//	T:recent:<s>    LIST    the last 1,000 (some more, until they are cut) that are done (d; of a busy queue a sample), cancelled (c), expired (e): time, id, name
//	T:paused        STRING  since when the queue is paused: nothing is claimed nor promoted, no bell rings
//	{namespace}:queues  SET the names of all queues, for the Inspector; the only key without a T
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
//  2. Every accepted job's handler began at least once, unless it was cancelled, expired or past its deadline before, or nobody had one.
//  3. accepted + revived (dead ones that somebody retried) = done + dead + cancelled + expired + what is under way. At rest p*, act and sched are empty.
//  4. An enqueue or an end sent twice changes nothing. An end by anyone but the owner changes nothing and is reported.
//  5. Something claimable, in a queue that is neither paused nor at its limit, implies a token, or a look within a second.
//  6. A dead runner delays only its own jobs.
//  7. A cancel that was confirmed ends as cancelled, unless the handler had returned before its runner heard of it.
//  8. What has ended has a TTL, and no key is without one but the lists, the index of runners, gone, recent, paused, out, lim, the books, the
//     names of queues, and unique keys whose job has not ended.
//  9. Of jobs with one unique key (UntilDone) one at most has not ended; of those with UntilStart one at most has not begun.
//
// 10. What follows a job that is done is in T:out or was accepted. At rest out is empty.
//
// # When Redis is away or full
//
// Away: an enqueue fails with ErrUnavailable after Options.Patience. So do Status, Result, Cancel and Room when connections broke while nobody
// used them (after a restart of Redis there are several), and in a few hundredths of a second when it cannot be reached. Runners try again
// until it is back, handlers go on, their ends are told later. A call without an answer may have been executed: an enqueue is sent again
// with the same ids, an end is sent again and is refused the second time, a claim is looked for in act and goes back to the front.
// Full (maxmemory, noeviction): enqueue fails with ErrFull and nothing of it is stored. Every other script begins with a write that a
// full Redis admits, so jobs end, are cancelled and reaped, and new runners can register.
//
// # Postgres
//
// Options.Postgres adds an outbox (EnqueueTx), an archive of ended jobs, and an inbox (Once). Runners save each end in the archive before
// Redis hears of it (ended.go), and whatever else may end a job enters it in T:owed before it does (upkeep.go). While Postgres is away ends
// wait, and a lane with an end that waits claims nothing. A job of the outbox is deleted there when Redis has confirmed it.
//
// # Limits
//
//   - At least once: a handler may run again after its runner died, lost its lease, or was stopped. It must bear that.
//   - Redis must keep what it acknowledges. With appendfsync everysec a crash of its machine may lose the last second, a failover what the
//     replica did not have: jobs are gone that nothing here can notice, and what had ended runs again. A runner that finds its name in act for
//     a job that it has ended gives it back (look.go). Scripts are replicated whole, so the books balance all the same. A chain between nodes
//     of a cluster may break so: the first node keeps that the second has the job.
//   - A runner that alone cannot reach Redis goes on with its jobs while the others take them over after its lease; it learns of it when
//     it is back, and then ends their contexts with ErrLeaseLost. A runner whose two watchers stand still waits for its lease to end.
//   - Proof of death needs a shared pid namespace and a Redis that both reach; containers wait for the lease.
//   - Starvation is possible: priorities are strict unless a runner has Weights. Queues of one runner take turns.
//   - A job that follows another is put into its queue by a runner of the queue before it; where that has none, it waits in T:out.
//   - A limit is the queue's, not a runner's: each of its claims asks Redis. The first end after a restart of Redis, and one whose runner
//     stops, may leave a slot of a limit unused for up to a second.
//   - Scheduled times are Redis' clock. At, ExpireIn and Deadline take the caller's clock for it.
//   - A payload and a result are at most 10 MiB and travel whole; larger things belong into a store.
//   - A record that cannot travel within CallTimeout, even alone (10 MiB in 3 s: 28 Mbit/s), can never start: each claim of it fails, it goes
//     back to the front uncounted, neither as an attempt nor as a crash, and holds up what waits behind it. The same for a result: its
//     end is sent again and again. A longer CallTimeout, or a smaller payload, helps.
//   - A handler that never returns holds its slot until its runner is replaced (ErrStuck), and is left behind at the stop.
//   - What a schedule's runners were not there to enqueue is not made up for. Their clocks must agree to ten minutes: so long at least is an
//     id remembered after its job's end.
package tasks
