// Package supervisor is the master: it holds listening sockets and owns the worker processes on them. What it is told comes from pkg/config.
// Linux only.
//
// # Who owns what
//
// One goroutine, Supervisor.Run, owns every pool, slot and worker, the configuration, the generation and the timers. All others only tell it
// facts, as events about one worker (event.go) or as functions that it runs (Supervisor.do):
//
//	outputPipe.run       one per stream of a worker: its lines go to the sink
//	sink.run             owns the log files
//	notifySocket.run     one per worker: READY=1 and the like
//	readControl          one per worker: what it says on its control channel
//	readReport           one per start: whether the program could be executed
//	rescuer.run          one per slot whose queue is taken over: passes its connections on
//	child.wait           one per worker: waits for the pidfd, kills the group, reaps, tells the exit
//	endpoint.serve       the HTTP server of the control socket, and of the admin listener: its goroutines ask by Supervisor.inLoop
//
// There is no mutex here. After every event the loop calls reconcile, which compares what is wanted with what is there.
//
// # How things are divided
//
//	config.Config → pool → slot → worker → process
//
// A pool has one slot per wanted worker. A slot has the worker that serves (current) and, while it is replaced, the one that will (next); who
// was told to leave is in the pool's leaving list and not counted any more. A worker is the state machine (the table in worker.go); a
// process is the program behind it, a child (process.go) or a fake in tests, which run the loop in virtual time.
//
// # Rooms
//
//	supervisor.go   the loop, start and stop            reconcile.go    wanted against actual
//	event.go        what the loop is told               listeners.go    sockets; steer.go and refuse.go where connections go
//	reload.go       a change of generation              process.go      one child; stub.go what runs between fork and exec
//	worker.go       states, deadlines, exits            notify.go       sd_notify of one worker
//	pool.go         slots, spawning, back-off           output.go       its output; sink.go the log files
//	limits.go       lifetime, memory, heartbeat         usage.go        what /proc says of one child
//	signals.go      what each signal does               pidfile.go      the lock
//	reason.go       why a worker went                   pinned.go       the executable and directory of a generation
//	workerenv.go    its environment                     user.go         who it runs as
//	canary.go       the first of a new generation       bake.go         what it must show
//	surge.go        how many beside the old ones        return.go       the way back of a failed reload
//	hooks.go        commands beside the workers         verdict.go      what the one who asked is told
//	upgrade.go      self-upgrade, the old side          successor.go    its new side
//	handover.go     its end: the workers go over        ending.go       what a successor that failed leaves behind
//	inherit.go      what the supervisor before us left
//	snapshot.go     what the next one has to know       bundle.go       a snapshot with its descriptors, on a socket
//	adopted.go      workers change hands                store.go        the same, kept by systemd or the holder
//	systemd.go      what systemd or the holder hears
//	rescue.go       queues of slots without a worker    suspect.go      ready workers without progress
//	control.go      the control socket: commands, waits command.go      what they do to pools and workers; status.go what there is
//	admin.go        health                              endpoint.go     listeners that answer HTTP; places.go their clients
//	dashboard.go    what pkg/dashboard sees of us       errand.go       what a client asked the loop for
//	delay.go        drain_delay                         journal.go      what has happened; stream.go for clients that follow
//	recent.go       what was written lately; logs.go    inforce.go      the configuration in force, for people
//	dump.go         profiles of workers                 drained.go      slots without a worker, by hand
//	tally.go        what workers that are gone did      view.go         one reading of everything
//	metrics.go      /metrics                            families.go     what is on it; emitter.go how
//	series.go       what workers name; translator.go    queue.go        connections that wait
//	vitals.go       /proc for /metrics; proportions.go
//
// # Order
//
// Every replacement: the new worker is ready → it gets "adopt on" and "commit" → the old one gets "adopt off" and "drain" → its idle
// connections move, its running requests end → it exits; QUIT after graceful_timeout, then KILL. A reload waits for all new workers
// before the first old one drains, unless max_surge or the memory has no room for all; a canary is before all others, where bake or health
// says so; and whatever fails, old workers take connections again ("adopt on") before new ones give theirs back. Pools start in the order of
// the file and stop in the reverse.
//
// A self-upgrade is the same with another supervisor in the part of the new generation: its workers are ready, then it adopts the old ones and
// drains them. After a kill -9 the next supervisor adopts the workers first, and then replaces them as a reload does.
package supervisor
