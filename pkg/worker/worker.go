package worker

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// Worker is this process as its supervisor sees it. Its methods may be called from any goroutine.
type Worker struct {
	// Set once, at Join.
	inherited inheritance
	board     *scoreboard.Writer
	settings  scoreboard.Settings
	notify    *notifier
	since     time.Time
	ready     chan struct{} // closed when READY=1 goes out
	end       chan struct{} // closed when the process must go: every Serve returns
	settled   chan struct{} // tells the loop that the last connection of a drain may be gone
	offers    chan struct{} // one token per connection that is being offered, see Conn.offer

	// Shared and safe.
	mode      atomic.Int32 // read by every connection; written under mu
	open      atomic.Int64 // connections
	busy      atomic.Int64 // calls of Run, and connections that linger after their end
	toGive    atomic.Int64 // connections that the supervisor wants to see moved although we serve on; 0 or less: none
	begun     atomic.Bool  // a Serve or Run was called: before that there is nothing to drain
	announce  atomic.Int64 // from then on (board time) a connection that nobody takes is told to close
	lastCall  atomic.Int64 // the same, whoever took others: the drain's deadline is near
	lame      atomic.Bool  // every answer says Connection: close, whatever the mode; a stop is near
	hopeless  atomic.Int64 // until then (board time) no connection is offered: the last offer met nobody
	recycling [2]sync.Once // one message per reason
	limits    [scoreboard.Shards]limit
	dumped    atomic.Bool

	stopWithin atomic.Int64 // ns, see StopWithin

	mu       sync.Mutex // guards what follows
	turn     *sync.Cond // signalled at every change of what follows, and of room for a connection
	gates    []*gate
	untaken  []socket // inherited and not yet served
	adopting bool
	draining chan struct{} // closed while a drain is on
	until    time.Time     // the deadline of that drain; zero: none is on
	reopen   []func()
	isReady  bool

	registry registry

	late int // requests that got a 504 since the log said so; only used by the monitor
}

// Modes of a worker. Each connection looks at the mode at its boundaries.
const (
	serving int32 = iota
	moving        // drain move: idle connections go to other workers
	closing       // drain close: nobody stays, answers say Connection: close
	ended         // over: every Accept fails
)

// Join makes this process a worker: it reads and removes what the supervisor put into the environment, and starts to obey. It may
// be called any number of times and gives the same Worker; Serve and Run call it. Without a supervisor it gives a Worker as well,
// which counts for itself and stops gracefully at TERM and INT.
func Join() *Worker { return joined() }

var joined = sync.OnceValue(func() *Worker {
	w := newWorker(inherit())
	w.tell(protocol.Command{Verb: protocol.VerbHello}) // before READY=1, so that the supervisor knows how to talk to a ready worker
	go w.loop(signals(w.Supervised()))
	go w.monitor()
	return w
})

func newWorker(in inheritance) *Worker {
	w := &Worker{
		inherited: in,
		board:     in.board,
		since:     time.Now(),
		ready:     make(chan struct{}),
		end:       make(chan struct{}),
		settled:   make(chan struct{}, 1),
		offers:    make(chan struct{}, maxOffers),
		untaken:   in.sockets,
		draining:  make(chan struct{}),
	}
	w.turn = sync.NewCond(&w.mu)
	w.stopWithin.Store(int64(StopTimeout))
	if w.board == nil {
		w.board = scoreboard.Local(scoreboard.Settings{})
	}
	w.settings = w.board.Settings()
	w.notify = dialNotify(in.notify)
	w.setLimits()
	return w
}

// Supervised reports whether a supervisor commands this process.
func (w *Worker) Supervised() bool { return w.inherited.control != nil }

// ID names this worker: pool, slot, serial. It is zero without a supervisor.
func (w *Worker) ID() protocol.WorkerID { return w.inherited.id }

// Generation counts the supervisor's reloads, from 1; 0 without a supervisor.
func (w *Worker) Generation() int { return w.inherited.generation }

// Pools tells how many workers the supervisor's configuration has in all, pool by pool; nil without one.
func (w *Worker) Pools() protocol.Pools { return w.inherited.pools }

// Instance is the supervisor's random name, kept over its self-upgrade; "" without a supervisor.
func (w *Worker) Instance() string { return w.inherited.instance }

// Connections gives how many connections are open.
func (w *Worker) Connections() int { return int(w.open.Load()) }

// Requests gives how many requests this process has finished.
func (w *Worker) Requests() uint64 { return w.board.Total(scoreboard.Finished) }

// Uptime gives the time since Join.
func (w *Worker) Uptime() time.Duration { return time.Since(w.since) }

// Settings gives what the supervisor wants this worker to know of its pool.
func (w *Worker) Settings() scoreboard.Settings { return w.settings }

// Draining reports whether this worker was told to stop, or will be soon (drain_delay): the time to fail readiness.
func (w *Worker) Draining() bool { return w.mode.Load() != serving || w.lame.Load() }

// Done gives a channel that is closed when the next drain begins (or has begun): the time to say goodbye on WebSockets and to end
// streams. A drain can be taken back; ask again for a fresh channel then.
func (w *Worker) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining
}

// Ended gives a channel that is closed when the process must go at once: after the last connection, or at the drain's deadline.
func (w *Worker) Ended() <-chan struct{} { return w.end }

// Status tells the operator in words what this worker does, as STATUS= of sd_notify(3).
func (w *Worker) Status(text string) { w.notify.send("STATUS=" + oneLine(text)) }

// Label gives a counter or gauge of the program's own on the scoreboard, by name ("name" or "name{key=\"value\"}", at most 112 bytes), which
// the supervisor shows on /metrics: package scoreboard says which names are counters, histograms and gauges. Keep the Label: looking it up
// takes a lock. Its value is a whole number: what ends in _seconds, _seconds_sum or _seconds_total, before the brace, counts microseconds.
func (w *Worker) Label(name string) scoreboard.Label { return w.board.Label(name) }

// OnReopen registers a function that reopens log files: it runs at SIGUSR1 and when the supervisor says so.
func (w *Worker) OnReopen(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reopen = append(w.reopen, f)
}

// Ready says READY=1 for a program without inherited sockets. With sockets it does nothing: READY=1 goes out by itself once every one
// of them is in Accept, so that ready means that connections are taken.
func (w *Worker) Ready() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.inherited.sockets) == 0 {
		w.sayReady()
	}
}

// sayReady publishes that this worker serves. mu is held.
func (w *Worker) sayReady() {
	if w.isReady {
		return
	}
	w.isReady = true
	if w.mode.Load() == serving {
		w.board.SetState(scoreboard.Serving)
	}
	w.notify.send("READY=1")
	close(w.ready)
}

// Listener takes an inherited socket for a server that has no adapter, gRPC for instance. Its connections are counted and cut at a
// drain's deadline, but never move. It gives nil when no untaken socket has that name.
func (w *Worker) Listener(name string) net.Listener {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.untaken {
		if s.name == name {
			w.untaken = append(w.untaken[:i:i], w.untaken[i+1:]...)
			w.begun.Store(true)
			return w.newGate(s, nil)
		}
	}
	return nil
}

// Output gives a writer for log lines that never fails: what out does not take (a full disk, a pipe whose reader is gone) is counted as lost
// on the scoreboard. Call it once per destination.
func (w *Worker) Output(out io.Writer) io.Writer { return &output{out, w.board.Open()} }

type output struct {
	out io.Writer
	sc  *scoreboard.Conn // only its counters
}

func (o *output) Write(p []byte) (int, error) {
	if n, err := o.out.Write(p); err != nil {
		o.sc.Add(scoreboard.LostLines, uint64(max(1, bytes.Count(p[n:], []byte("\n")))))
	}
	return len(p), nil
}

// Now gives the scoreboard's time, for Conn.Begin and Conn.End.
func (w *Worker) Now() int64 { return w.board.Now() }

// At converts a time with a monotonic reading to the scoreboard's.
func (w *Worker) At(t time.Time) int64 { return w.board.At(t) }

// complain writes one line for the operator.
func complain(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "worker: "+format+"\n", args...)
}
