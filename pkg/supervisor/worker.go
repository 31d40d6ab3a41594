package supervisor

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// worker is one process of a pool and the state machine around it. Only used by the loop.
type worker struct {
	// Set once.
	id         protocol.WorkerID
	pool       *pool
	cfg        *config.Pool // of its generation
	generation int
	sockets    []*bindSockets
	proc       process
	started    time.Time
	lifetime   time.Duration // jitter included, 0: no limit

	state   state
	readyAt time.Time
	leaving time.Time // since when it is on its way out, zero: it is not
	speaks  bool      // it reads its control channel
	reason  reason    // why we end it; "": we do not
	overdue reason    // a limit that it reached; it waits for its turn to be replaced
	cause   string    // why the command could not be executed
	died    reason    // why it is gone
	words   string    // its last lines on stderr
	over    int       // samples in a row above max_memory
	memory  int64     // the last sample, bytes

	deadline time.Time   // of the state, zero: none
	timer    *time.Timer // runs until then
	timerID  uint64      // tells the current deadline from one that fired while it was moved

	beatFloor time.Time // silence before this moment does not count against it
	watched   bool      // it has been silent for half of heartbeat_timeout
	vitals    usage     // what it had used when that began

	progress progress // see suspect.go
}

// state of a worker. Each state but ready has one deadline; ready's limits are judged per tick.
type state int

const (
	starting state = iota // deadline boot_timeout
	ready                 // serves
	draining              // told to leave; deadline graceful_timeout
	quitting              // got QUIT; deadline quitGrace
	aborting              // got ABRT to write its stacks; deadline dumpGrace
	killing               // got KILL; deadline killGrace
	gone                  // reaped
	numStates
)

var stateNames = [numStates]string{"starting", "ready", "draining", "quitting", "aborting", "killing", "gone"}

func (s state) String() string { return stateNames[s] }

const (
	quitGrace = 2 * time.Second  // between QUIT and KILL
	dumpGrace = 10 * time.Second // to write all stacks: 20,000 goroutines take 4 s here
	killGrace = 10 * time.Second // a process that outlives KILL for so long sits in the kernel

	young      = time.Second      // a worker that dies sooner after READY counts as one that failed to start
	settled    = 10 * time.Second // a worker that lived so long clears its slot's failures
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
)

// table is the whole state machine: what each fact does in each state.
var table = [numStates][numFacts]func(*Supervisor, *worker, event){
	starting: {
		factExecuted:    (*Supervisor).executed,
		factNotExecuted: (*Supervisor).notExecuted,
		factReady:       (*Supervisor).becomeReady,
		factStopping:    (*Supervisor).ignore,         // its exit will tell
		factRecycle:     (*Supervisor).asksForRecycle, // a runner does jobs before it says that it is ready: it is replaced once it is
		factDeadline:    (*Supervisor).bootTimeout,
		factExited:      (*Supervisor).exited,
	},
	ready: {
		factExecuted:    (*Supervisor).ignore, // the report came after READY=1
		factNotExecuted: (*Supervisor).impossible,
		factReady:       (*Supervisor).ignore, // ready = "exec" and READY=1 too
		factStopping:    (*Supervisor).leaves,
		factRecycle:     (*Supervisor).asksForRecycle,
		factDeadline:    (*Supervisor).impossible,
		factExited:      (*Supervisor).exited,
	},
	draining: {
		factExecuted:    (*Supervisor).ignore,
		factNotExecuted: (*Supervisor).notExecuted, // stopped while starting
		factReady:       (*Supervisor).ignore,      // too late
		factStopping:    (*Supervisor).ignore,      // as told
		factRecycle:     (*Supervisor).ignore,
		factDeadline:    (*Supervisor).drainTimeout,
		factExited:      (*Supervisor).exited,
	},
	quitting: {
		factExecuted:    (*Supervisor).ignore,
		factNotExecuted: (*Supervisor).notExecuted,
		factReady:       (*Supervisor).ignore,
		factStopping:    (*Supervisor).ignore,
		factRecycle:     (*Supervisor).ignore,
		factDeadline:    (*Supervisor).kill,
		factExited:      (*Supervisor).exited,
	},
	aborting: {
		factExecuted:    (*Supervisor).ignore,
		factNotExecuted: (*Supervisor).impossible,
		factReady:       (*Supervisor).ignore,
		factStopping:    (*Supervisor).ignore,
		factRecycle:     (*Supervisor).ignore,
		factDeadline:    (*Supervisor).kill,
		factExited:      (*Supervisor).exited,
	},
	killing: {
		factExecuted:    (*Supervisor).ignore,
		factNotExecuted: (*Supervisor).notExecuted,
		factReady:       (*Supervisor).ignore,
		factStopping:    (*Supervisor).ignore,
		factRecycle:     (*Supervisor).ignore,
		factDeadline:    (*Supervisor).outlivesKill,
		factExited:      (*Supervisor).exited,
	},
	gone: { // the facts of a process that was given up may still come
		factExecuted:    (*Supervisor).ignore,
		factNotExecuted: (*Supervisor).ignore,
		factReady:       (*Supervisor).ignore,
		factStopping:    (*Supervisor).ignore,
		factRecycle:     (*Supervisor).ignore,
		factDeadline:    (*Supervisor).ignore,
		factExited:      (*Supervisor).ignore,
	},
}

// handle applies one fact.
func (s *Supervisor) handle(e event) {
	w := e.worker
	switch e.fact {
	case factHello:
		w.speaks = true
		s.tellSpeaks(w)
		if w.state == ready {
			s.welcome(w)
		}
	case factStatus:
		s.log.Debug("worker status", append(w.fields(), zap.String("status", e.status))...)
	case factExtend:
		s.extend(w, e.status)
	case factDeadline:
		if e.timer != w.timerID {
			return // it fired while the state changed
		}
		table[w.state][e.fact](s, w, e)
	default:
		table[w.state][e.fact](s, w, e)
	}
}

// enter changes the state and sets its deadline; 0 means none.
func (s *Supervisor) enter(w *worker, to state, deadline time.Duration) {
	w.state = to
	if to > ready && to < gone && w.leaving.IsZero() {
		w.leaving = time.Now()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timerID++
	w.deadline = time.Time{}
	if deadline > 0 {
		w.deadline = time.Now().Add(deadline)
		e := event{worker: w, fact: factDeadline, timer: w.timerID}
		w.timer = time.AfterFunc(deadline, func() { s.tell(e) })
	}
}

func (s *Supervisor) ignore(*worker, event) {}

func (s *Supervisor) impossible(w *worker, e event) {
	s.log.Error("impossible event, please report", append(w.fields(), zap.Int("fact", int(e.fact)))...)
}

func (s *Supervisor) executed(w *worker, e event) {
	if w.cfg.Ready == config.ReadyExec {
		s.becomeReady(w, e)
	}
}

func (s *Supervisor) notExecuted(w *worker, e event) { w.cause = e.cause } // its exit follows

// becomeReady: the worker serves. Its slot decides what that means for the one before it.
func (s *Supervisor) becomeReady(w *worker, _ event) {
	s.enter(w, ready, 0)
	w.readyAt = time.Now()
	w.beatFloor = w.readyAt
	s.tallyOf(w.id.Pool).Boot.observe(time.Since(w.started))
	s.log.Info("worker ready", append(w.fields(), zap.Duration("took", time.Since(w.started).Round(time.Millisecond)))...)
	s.recordWorker(w, control.EventReady, control.LevelInfo, "", "serves")
	if w.speaks {
		s.welcome(w)
	}
	s.checkScored(w)
	s.slotReady(w)
}

// welcome tells a ready worker that it may take connections from others and, if its generation is in force, that it may live
// without us.
func (s *Supervisor) welcome(w *worker) {
	if s.reload != nil && s.reload.favoursOthers(w) {
		w.proc.Send(adoptOff)
	} else {
		w.proc.Send(adoptOn)
	}
	if w.generation <= s.generation && !s.probation {
		w.proc.Send(protocol.Command{Verb: protocol.VerbCommit})
	}
	s.tellLame(w)
}

// asksForRecycle: the worker reached a limit that it counts itself.
func (s *Supervisor) asksForRecycle(w *worker, e event) {
	switch e.reason {
	case protocol.RecycleMaxRequests:
		s.markOverdue(w, reasonMaxRequests)
	case protocol.RecycleTimeout:
		s.log.Warn("a handler still runs timeout_grace after its deadline: the worker will be replaced, its stacks are above", w.fields()...)
		s.recordWorker(w, control.EventHung, control.LevelWarning, reasonTimeout, "a handler still runs timeout_grace after its deadline")
		s.markOverdue(w, reasonTimeout)
	}
}

func (s *Supervisor) markOverdue(w *worker, why reason) {
	if w.overdue != "" {
		return
	}
	w.overdue = why
	text := "reached its limit, it will be replaced"
	if why == reasonRecycle || why == reasonUpgrade {
		text = "will be replaced"
	}
	s.recordWorker(w, control.EventRecycle, control.LevelInfo, why, "%s", text)
}

// leaves: somebody else told the worker to go (a TERM from outside, or its own decision). Its slot is refilled now.
func (s *Supervisor) leaves(w *worker, _ event) {
	s.log.Info("worker leaves of its own will", w.fields()...)
	s.recordWorker(w, control.EventDrain, control.LevelInfo, reasonLeft, "leaves of its own will")
	w.reason = reasonLeft
	s.enter(w, draining, w.cfg.GracefulTimeout)
	if w.generation > s.generation {
		s.failReload(w, reasonLeft)
	} else if time.Since(w.readyAt) < young {
		s.failed(w.pool, w.pool.slots[w.id.Slot])
	}
	w.pool.vacate(w)
}

func (s *Supervisor) bootTimeout(w *worker, _ event) {
	s.log.Error(`worker never sent READY=1 within boot_timeout: use pkg/worker or sd_notify, or set ready = "exec" (on the command line: --ready exec)`,
		append(w.fields(), zap.Duration("boot_timeout", w.cfg.BootTimeout))...)
	s.recordWorker(w, control.EventHung, control.LevelError, reasonBoot, "never sent READY=1 within boot_timeout (%v)", w.cfg.BootTimeout)
	s.quit(w, reasonBoot)
}

// drain tells a worker to finish what it has and leave. how is one of protocol.DrainMove, DrainClose.
func (s *Supervisor) drain(w *worker, how string, why reason) {
	if w.state > ready {
		return // on its way already
	}
	// A starting one too: it may serve already, its READY=1 still on the way to us.
	w.reason = why
	if !w.speaks || !w.proc.Send(protocol.Drain(how, w.cfg.GracefulTimeout)) {
		w.proc.Signal(syscall.SIGTERM)
	}
	s.enter(w, draining, w.cfg.GracefulTimeout)
	s.log.Info("worker drains", append(w.fields(), zap.String("reason", string(why)))...)
	s.recordWorker(w, control.EventDrain, control.LevelInfo, why, "was told to leave")
}

func (s *Supervisor) drainTimeout(w *worker, _ event) {
	requests := w.proc.Board().Running()
	s.log.Warn("worker did not leave within graceful_timeout, it gets QUIT", append(w.fields(),
		zap.Duration("graceful_timeout", w.cfg.GracefulTimeout), zap.Int("running", requests))...)
	s.recordWorker(w, control.EventHung, control.LevelWarning, w.reason, "did not leave within graceful_timeout (%v), it gets QUIT; %s",
		w.cfg.GracefulTimeout, plural(requests, "request")+" still running")
	s.quit(w, w.reason)
}

// closeInstead tells a worker whose connections were to move that nobody is left to take them.
func (s *Supervisor) closeInstead(w *worker) {
	if w.state == draining && w.speaks {
		w.proc.Send(protocol.Drain(protocol.DrainClose, w.cfg.GracefulTimeout))
	}
}

// quit asks a worker to leave at once, and not politely after quitGrace.
func (s *Supervisor) quit(w *worker, why reason) {
	if w.state >= quitting {
		return
	}
	w.reason = why
	sig := syscall.SIGQUIT
	if !w.speaks && why == reasonQuit {
		sig = syscall.SIGINT // what Ctrl-C means to any program; a QUIT would dump core or stacks
	}
	w.proc.Signal(sig)
	s.enter(w, quitting, quitGrace)
}

// abort makes a hung worker write its stacks and die.
func (s *Supervisor) abort(w *worker, why reason) {
	if w.state >= quitting {
		return
	}
	w.reason = why
	if w.generation > s.generation {
		s.failReload(w, why)
	}
	w.pool.vacate(w) // its slot is refilled now
	w.proc.Signal(syscall.SIGABRT)
	s.enter(w, aborting, dumpGrace)
}

func (s *Supervisor) kill(w *worker, _ event) {
	s.log.Warn("worker is killed", append(w.fields(), zap.String("reason", string(w.reason)))...)
	s.recordWorker(w, control.EventHung, control.LevelWarning, w.reason, "gets KILL")
	w.proc.Kill()
	s.enter(w, killing, killGrace)
}

// outlivesKill: the process is in uninterruptible sleep. Nobody can end it; a stop does not wait for it.
func (s *Supervisor) outlivesKill(w *worker, _ event) {
	s.log.Error("worker outlives SIGKILL: it sits in the kernel, see /proc/"+strconv.Itoa(w.proc.Pid())+"/stack", w.fields()...)
	s.recordWorker(w, control.EventHung, control.LevelError, w.reason, "outlives SIGKILL: it sits in the kernel")
	if s.stopping >= graceful {
		s.bury(w)
		return
	}
	s.enter(w, killing, backoffMax)
}

// extend moves the deadline of the current state: EXTEND_TIMEOUT_USEC, as systemd takes it.
func (s *Supervisor) extend(w *worker, usec string) {
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || (w.state != starting && w.state != draining) {
		return
	}
	s.enter(w, w.state, time.Duration(n)*time.Microsecond)
}

// exited: the process is gone; say why, and let its slot go on.
func (s *Supervisor) exited(w *worker, e event) {
	was := w.state
	s.enter(w, gone, 0)
	why := w.reason
	switch {
	case was != killing && e.exit.oomKills > s.oomSeen: // nobody else sent this KILL
		s.oomSeen++
		why = reasonOOM
	case why == "":
		why = e.exit.reason()
	}
	fields := append(w.fields(), zap.String("reason", string(why)), zap.Stringer("exit", e.exit),
		zap.Duration("lived", time.Since(w.started).Round(time.Millisecond)))
	if n := w.requests(); n > 0 {
		fields = append(fields, zap.Uint64("requests", n))
	}
	// Who was killed has nothing to say about it.
	if words := e.exit.lastWords(); words != "" && e.exit.signal != syscall.SIGKILL && (!w.reason.planned() || e.exit.code != 0) {
		fields = append(fields, zap.String("stderr", words))
	}
	switch {
	case w.cause != "":
		s.log.Error("worker command cannot be executed", append(fields, zap.String("cause", w.cause))...)
	case w.reason != "":
		s.log.Info("worker gone", fields...)
	case was == starting && e.exit.signal == 0 && e.exit.code == 0:
		s.log.Error("worker exited with status 0 before it was ready: it must stay in the foreground and serve", fields...)
	case was == starting:
		s.log.Error("worker failed to start", fields...)
	default:
		s.log.Error("worker died", fields...)
	}
	s.recordExit(w, was, e.exit, why)
	w.died, w.words = why, briefly(e.exit)
	t := s.tallyOf(w.id.Pool)
	t.countGone(why)
	if !w.leaving.IsZero() {
		t.Drain.observe(time.Since(w.leaving))
	}
	s.afterExit(w, e.exit)
	if !w.reason.planned() {
		w.pool.lastWords = lastWords(w, e.exit)
	}
	s.workerGone(w, was)
	s.bury(w)
}

// briefly gives the lines of a dead worker that matter most to somebody who reads one line: the first ones of a crash, else the last ones.
func briefly(exit exitStatus) string {
	const most = 3
	lines := exit.tail
	if len(lines) > most {
		if exit.crash != "" {
			lines = lines[:most]
		} else {
			lines = lines[len(lines)-most:]
		}
	}
	return strings.Join(lines, " | ")
}

// lastWords says in one line why a worker is gone.
func lastWords(w *worker, exit exitStatus) string {
	if w.cause != "" {
		return w.cause
	}
	why := string(w.died)
	if w.died == reasonBoot {
		why = "never sent READY=1 within boot_timeout"
	}
	words := fmt.Sprintf("worker %s: %s", w.id, why)
	if n := len(exit.tail); n > 0 {
		line := exit.tail[n-1]
		if exit.crash != "" {
			line = exit.tail[0]
		}
		words += ": " + line
	}
	return words
}

// bury drops what we hold of a process, but for what it did.
func (s *Supervisor) bury(w *worker) {
	if w.state != gone {
		s.enter(w, gone, 0)
		s.workerGone(w, killing)
	}
	s.tallyOf(w.id.Pool).fold(w.proc.Board())
	w.proc.Close()
}

// checkScored says once what a program without a scoreboard cannot be held to.
func (s *Supervisor) checkScored(w *worker) {
	if w.proc.Board().Joined() || w.pool.unscoredSaid {
		return
	}
	var mute []string
	if w.cfg.MaxRequests > 0 {
		mute = append(mute, "max_requests")
	}
	if len(w.cfg.Bind) > 0 && w.cfg.Timeout > 0 {
		mute = append(mute, "timeout")
	}
	if w.cfg.WorkerConnections > 0 {
		mute = append(mute, "worker_connections")
	}
	if len(mute) > 0 {
		w.pool.unscoredSaid = true
		s.log.Info("worker keeps no scoreboard (it does not use pkg/worker): these settings have no effect",
			append(w.fields(), zap.Strings("settings", mute))...)
	}
}

// requests gives how many requests the worker has finished.
func (w *worker) requests() uint64 { return w.proc.Board().Total(scoreboard.Finished) }

func (w *worker) fields() []zap.Field {
	return []zap.Field{zap.Stringer("worker", w.id), zap.Int("pid", w.proc.Pid()), zap.Int("generation", w.generation),
		zap.Stringer("state", w.state)}
}
