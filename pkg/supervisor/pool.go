package supervisor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/machine"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// pool is the workers of one [pool.NAME] section. Only used by the loop.
type pool struct {
	cfg        *config.Pool // in force
	generation int          // in force; a "never" pool keeps its own over reloads
	sockets    []*bindSockets
	pin        *pin // what its generation executes; nil in tests
	slots      []*slot
	leaving    []*worker     // draining or worse; not counted in the pool's size
	delta      int           // TTIN and TTOU, on top of workers
	pending    bool          // a reload that has not committed adds it
	removed    bool          // the config has it no more
	closing    bool          // its sockets refuse new connections
	told       bool          // closing: its workers were told to leave
	begun      bool          // before_start has run
	starting   bool          // it runs
	serving    bool          // its first full set was ready once: the next pool may start
	sweepTill  time.Time     // closing: until then the workers wait for the rescue of other slots' queues
	rescued    atomic.Uint64 // connections that went from a slot without a worker to others; shared and safe
	nextTurn   time.Time     // no replacement because of a limit before this moment

	lastWords    string // of the last worker that died without being asked, for the error that ends a start
	unscoredSaid bool   // the log said what a foreign worker cannot be held to
	scriptSaid   bool   // the log said that its command is a script
	strandedSaid bool   // the log said that nobody takes over the queue of a slot
}

// blueprint is what the workers of one generation of a pool are made of.
type blueprint struct {
	cfg        *config.Pool
	generation int
	sockets    []*bindSockets
	pin        *pin
}

// blueprint gives the one in force.
func (p *pool) blueprint() blueprint { return blueprint{p.cfg, p.generation, p.sockets, p.pin} }

// adopt puts another one in force.
func (p *pool) adopt(b blueprint) {
	p.pin.Close()
	p.cfg, p.generation, p.sockets, p.pin = b.cfg, b.generation, b.sockets, b.pin
}

// slot is one place in a pool: the worker that serves, and, while it is replaced, the one that will.
type slot struct {
	index   int
	current *worker // nil while it waits for a respawn
	next    *worker // of a reload or a recycling; never more than one

	failures int         // young deaths in a row
	retry    *time.Timer // runs while the slot must wait, else nil
	waiting  bool        // for retry
	alone    time.Time   // since then nobody serves its queue; zero: somebody does
	drained  time.Time   // by hand, then; zero: it is not. See drained.go
}

// Replacements because of a limit have a pace, else a pool whose limit is reached at once (max_requests = 50 at 40,000 requests a
// second) would spend the machine on starts instead of requests: the next one begins recycleInterval after the one before at the
// soonest, and recyclePace times as long after it became ready as that took.
const (
	recycleInterval = 50 * time.Millisecond
	recyclePace     = 4
)

// bootsAtOnce bounds the processes of all pools that start at a time.
func bootsAtOnce() int { return max(8, 4*machine.Cores()) }

// wanted gives how many slots shall have a worker.
func (p *pool) wanted() int {
	if p.removed {
		return 0
	}
	return max(1, p.cfg.Workers+p.delta)
}

// grow makes slots up to n.
func (p *pool) grow(n int) {
	for len(p.slots) < n {
		p.slots = append(p.slots, &slot{index: len(p.slots)})
	}
}

// isOpen reports whether a slot has its sockets already: a new worker opens none.
func (p *pool) isOpen(slot int) bool {
	return !slices.ContainsFunc(p.sockets, func(b *bindSockets) bool { return !b.shared && slot >= len(b.slots) })
}

// workers gives every process of the pool.
func (p *pool) workers() []*worker {
	workers := slices.Clone(p.leaving)
	for _, sl := range p.slots {
		for _, w := range []*worker{sl.current, sl.next} {
			if w != nil {
				workers = append(workers, w)
			}
		}
	}
	return workers
}

// vacate moves a worker from its slot to those that leave.
func (p *pool) vacate(w *worker) {
	sl := p.slots[w.id.Slot]
	switch w {
	case sl.current:
		sl.current = nil
		if sl.next != nil && sl.next.generation == p.generation { // the replacement takes over before it is ready
			sl.current, sl.next = sl.next, nil
		}
	case sl.next:
		sl.next = nil
	default:
		return
	}
	p.leaving = append(p.leaving, w)
}

// forget removes a dead worker.
func (p *pool) forget(w *worker) {
	p.vacate(w)
	p.leaving = slices.DeleteFunc(p.leaving, func(o *worker) bool { return o == w })
}

// readyCount gives how many slots have a worker that serves.
func (p *pool) readyCount() int {
	n := 0
	for _, sl := range p.slots {
		if sl.current != nil && sl.current.state == ready {
			n++
		}
	}
	return n
}

// steer sends new connections to the slots with a ready worker that makes progress, or, when none does, with any ready one.
func (s *Supervisor) steer(p *pool) {
	if s.probation { // the supervisor before us steers, and may have to go on
		return
	}
	var slots, suspect []int
	for _, sl := range p.slots {
		switch {
		case sl.serves():
			slots = append(slots, sl.index)
		case sl.isReady():
			suspect = append(suspect, sl.index)
		}
	}
	if len(slots) == 0 {
		slots = suspect
	}
	for _, b := range p.sockets {
		if err := b.steer(slots); err != nil {
			s.log.Warn("cannot steer new connections, the kernel's hash goes on", zap.String("pool", p.cfg.Name), zap.Error(err))
		}
	}
}

// spawn starts a worker for a slot. On failure it gives nil, and the slot backs off.
func (s *Supervisor) spawn(p *pool, sl *slot, of blueprint) *worker {
	cfg, generation, sockets := of.cfg, of.generation, of.sockets
	s.checkPin(of.pin, cfg)
	if of.pin != nil && of.pin.byPath && !p.scriptSaid {
		p.scriptSaid = true
		s.log.Info("the command is a script, which cannot be pinned: a respawn runs what its file holds then", zap.String("pool", cfg.Name))
	}
	s.serials[cfg.Name]++
	w := &worker{
		id:   protocol.WorkerID{Pool: cfg.Name, Slot: sl.index, Serial: s.serials[cfg.Name]},
		pool: p, cfg: cfg, generation: generation, sockets: sockets, started: time.Now(),
		lifetime: jitter(cfg.MaxLifetime, cfg.MaxLifetimeJitter),
	}
	proc, err := s.start(launch{
		id: w.id, generation: generation, instance: s.instance, pool: cfg, sockets: sockets, pin: of.pin, sink: s.sink,
		memory: s.memoryShare(cfg, generation), pools: poolSizes(s.configOf(generation)),
		settings: scoreboard.Settings{
			Timeout: cfg.Timeout, TimeoutGrace: cfg.TimeoutGrace, MaxRequests: uint64(jitter(cfg.MaxRequests, cfg.MaxRequestsJitter)),
			KeepAlive: cfg.KeepAlive, OrphanTimeout: cfg.OrphanTimeout, MaxConns: uint64(cfg.WorkerConnections),
		},
		tell: func(e event) {
			e.worker = w
			s.tell(e)
		},
	})
	if err != nil {
		s.log.Error("cannot start a worker", zap.Stringer("worker", w.id), zap.Error(err))
		s.recordWorker(w, control.EventCrash, control.LevelError, "", "cannot be started: %v", err)
		if s.reload != nil && generation == s.reload.generation {
			s.reload.fail(fmt.Errorf("worker %s of the new generation cannot be started: %w", w.id, err))
		}
		s.failed(p, sl)
		return nil
	}
	w.proc = proc
	s.tellSpawned(w)
	s.enter(w, starting, cfg.BootTimeout)
	s.log.Info("worker starts", w.fields()...)
	s.recordWorker(w, control.EventStart, control.LevelInfo, "", "starts")
	return w
}

// jitter adds a random part of at most j, so that workers that started together do not end together. Without a limit there is none.
func jitter[T ~int | ~int64](limit, j T) T {
	if limit <= 0 || j <= 0 {
		return limit
	}
	return limit + T(rand.Int64N(int64(j)+1))
}

// failed counts a young death and makes the slot wait: the first respawn comes at once, then 100 ms × 2ⁿ up to 30 s.
func (s *Supervisor) failed(p *pool, sl *slot) {
	sl.failures++
	if sl.failures == firstTries {
		s.log.Warn("slot is in a crash loop: it is tried again with growing pauses", zap.String("pool", p.cfg.Name), zap.Int("slot", sl.index),
			zap.Int("failures", sl.failures))
		s.recordSlot(p, sl, control.EventDegraded, control.LevelError, "in a crash loop after %d failures: it is tried again with growing pauses", sl.failures)
	}
	sl.calm()
	if wait := backoff(sl.failures); wait > 0 {
		sl.waiting = true
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			s.do(func() {
				if sl.retry == timer {
					sl.waiting = false
				}
			})
		})
		sl.retry = timer
	}
}

// recovered forgets the failures of a slot.
func (s *Supervisor) recovered(p *pool, sl *slot) {
	if sl.failures >= firstTries {
		s.recordSlot(p, sl, control.EventRecovered, control.LevelInfo, "its workers start again, after %d failures", sl.failures)
	}
	sl.failures = 0
}

// calm ends a wait for the next try.
func (sl *slot) calm() {
	if sl.retry != nil {
		sl.retry.Stop()
	}
	sl.retry, sl.waiting = nil, false
}

func backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return min(backoffMin<<min(failures-2, 20), backoffMax)
}

// workerGone settles what a death means for the slot.
func (s *Supervisor) workerGone(w *worker, was state) {
	p, sl := w.pool, w.pool.slots[w.id.Slot]
	wasNext := sl.next == w
	p.forget(w)
	if w.reason.planned() && was != starting {
		if w.reason == reasonReload || w.reason == reasonMaxRequests || w.reason == reasonLifetime || w.reason == reasonMemory || w.reason == reasonRecycle {
			s.recovered(p, sl)
		}
		return
	}
	if w.reason.planned() {
		return // we ended it before it was ready
	}
	if w.generation > s.generation {
		s.failReload(w, w.died)
		return
	}
	if w.reason == reasonLeft {
		return // it was counted when it said so
	}
	if was == starting || w.readyAt.IsZero() || time.Since(w.readyAt) < young {
		s.failed(p, sl)
		if wasNext && sl.current != nil {
			s.log.Warn("replacement failed: the worker before it serves on beyond its limit",
				append(sl.current.fields(), zap.String("limit", string(sl.current.overdue)), zap.Int("failures", sl.failures))...)
			s.recordWorker(sl.current, control.EventDegraded, control.LevelWarning, sl.current.overdue, "its replacement failed (%d times): it serves on beyond its limit", sl.failures)
		}
	} else if time.Since(w.readyAt) >= settled {
		s.recovered(p, sl)
	}
}

// slotReady: a worker became ready. A replacement takes its slot over and the one before it drains.
func (s *Supervisor) slotReady(w *worker) {
	p, sl := w.pool, w.pool.slots[w.id.Slot]
	time.AfterFunc(settled, func() {
		s.do(func() {
			if w.state == ready {
				s.recovered(p, sl)
			}
		})
	})
	if sl.next == w && w.generation == p.generation { // a recycling; a reload waits for all
		p.nextTurn = time.Now().Add(max(recycleInterval, recyclePace*time.Since(w.started)))
		old := sl.current
		sl.current, sl.next = w, nil
		if old != nil {
			p.retire(s, old, protocol.DrainMove, old.overdue)
		}
	}
	s.steer(p)
}

// retire drains a worker that left its slot.
func (p *pool) retire(s *Supervisor, w *worker, how string, why reason) {
	p.leaving = append(p.leaving, w)
	w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
	s.drain(w, how, why)
}
