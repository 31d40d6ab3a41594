package supervisor

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// reload is a change of generation under way, a transaction: whatever fails before its end, everybody is of the old generation again.
//
//	begin    configuration, what is new of the addresses, room for the processes     nothing to take back
//	hooks    before_start, before_reload
//	then pool by pool, in file order:
//	canary   its first new worker is ready, and says that it is well                 canary.go
//	bake     it shows what it does with its share of the connections                 bake.go
//	others   they are ready; where not all fit beside the old ones, those leave      surge.go
//	         as the new ones are ready
//	commit   the new generation is in force, the old workers drain
//	return   instead, after a failure                                                return.go
type reload struct {
	cfg        *config.Config
	generation int
	began      time.Time
	spawned    time.Time // when it last started a worker beside others
	changes    []*change
	opened     []*bindSockets // that the old configuration does not have
	taken      []handOver     // those of them whose sockets are also the old configuration's
	forced     bool           // it replaces what a dead supervisor left: without hooks, canary and bounds
	hooks      []hook         // still to run
	hooking    bool           // one of them runs
	returning  bool           // it failed, and workers of the old generation are on their way back
	unproven   []string       // pools whose canary passed without having been asked for anything
	err        error
	asked      []func(Verdict) // who waits for its end
}

// handOver is an address that stays while its bind becomes another one.
type handOver struct{ from, to *bindSockets }

// change is what a reload does to one pool.
type change struct {
	pool    *pool
	cfg     *config.Pool
	sockets []*bindSockets
	pin     *pin
	fresh   bool // the old configuration does not have the pool
	keep    bool // its workers stay: replace = "never"
	after   bool // after_reload shall run
	before  int  // workers wanted before the reload
	surge   int  // processes that the pool may have beyond its size

	step     step
	canary   *worker
	favoured bool // the old workers were told not to take connections from each other: the new ones shall
	bake     bake
	leaving  []*worker // old ones that new ones have relieved before the commit
}

// step is how far a pool's change is.
type step int

const (
	stepCanary step = iota // its first new worker starts
	stepProbe              // it is asked whether it is well
	stepBake               // it is watched
	stepOthers             // the others start
)

// delta gives what TTIN and TTOU have added, which a reload keeps unless it changes workers.
func (c *change) delta() int {
	if c.fresh || c.cfg.Workers != c.pool.cfg.Workers {
		return 0
	}
	return c.pool.delta
}

func (c *change) blueprint(generation int) blueprint {
	return blueprint{c.cfg, generation, c.sockets, c.pin}
}

// wanted gives how many workers of the new generation must be ready.
func (c *change) wanted() int { return max(1, c.cfg.Workers+c.delta()) }

// beginReload reads the configuration and binds what is new. One reload runs, one may wait with the newest configuration; asked gets the
// verdict of the one that read the configuration after the question. It gives the words for what was begun.
func (s *Supervisor) beginReload(asked ...func(Verdict)) (begun string) {
	begun = "reload begun"
	if s.stopping != running {
		answer(&asked, s.refused("the supervisor is stopping"))
		return begun
	}
	if why := s.busy(); why != "" {
		s.again = true
		s.waiting = append(s.waiting, asked...)
		s.log.Info("this reload waits: " + why)
		s.record(control.EventReload, control.LevelInfo, "a reload waits: %s", why)
		return "this reload waits: " + why
	}
	s.manager.reloadBegins(s)
	cfg, err := s.load()
	if err == nil {
		err = s.prepare(cfg, false)
	}
	if err != nil {
		s.manager.reloadEnds(s, fmt.Errorf("reload failed: %w", err))
		s.ledger.reloaded(verdictRefused, 0)
		s.log.Error("reload failed, nothing changed", zap.Int("generation", s.generation), zap.Error(err))
		s.record(control.EventReload, control.LevelError, "reload failed, nothing changed: %v", err)
		answer(&asked, s.refused("reload failed, nothing changed: %v", err))
		return begun
	}
	s.reload.asked = asked
	s.log.Info("reload begins", zap.Int("generation", s.reload.generation))
	s.record(control.EventReload, control.LevelInfo, "reload to generation %d begins", s.reload.generation)
	return begun
}

// Reload asks for a reload, as HUP does, and says why. told gets its verdict, in the loop, unless a stop comes before. Any goroutine may call
// it.
func (s *Supervisor) Reload(why string, told func(Verdict)) {
	s.do(func() {
		s.log.Info("reload asked for", zap.String("because", why))
		s.record(control.EventSignal, control.LevelInfo, "reload asked for: %s", why)
		s.beginReload(s.note("reload"), func(v Verdict) {
			if s.stopping == running {
				told(v)
			}
		})
	})
}

// maxDraining bounds the generations that drain at once: each is a whole set of processes that a client with a long download keeps alive.
const maxDraining = 3

// busy says why a reload cannot begin now, or "".
func (s *Supervisor) busy() string {
	if s.reload != nil || s.upgrade != nil || s.probation {
		return "a reload or a self-upgrade runs"
	}
	if why := s.stillEnding(); why != "" {
		return why
	}
	draining := map[int]bool{}
	for _, w := range s.workers() {
		if w.reason == reasonReload && w.state != ready {
			draining[w.generation] = true
		}
	}
	if len(draining) >= maxDraining {
		return fmt.Sprintf("%d generations still drain, the oldest for graceful_timeout at most", len(draining))
	}
	return ""
}

// nextGeneration gives the number of a new generation. After an incomplete rollback workers of the failed one may still serve.
func (s *Supervisor) nextGeneration() int {
	n := s.generation
	for _, w := range s.workers() {
		if w.state <= ready {
			n = max(n, w.generation)
		}
	}
	return n + 1
}

// prepare works out what changes. After an error nothing is left of it. A forced one has no conditions, and starts the program in force: nobody has
// asked for the one on disk.
func (s *Supervisor) prepare(cfg *config.Config, forced bool) error {
	r := &reload{cfg: cfg, generation: s.nextGeneration(), began: time.Now(), forced: forced}
	for _, pc := range cfg.Pools {
		c := &change{cfg: pc}
		for _, p := range s.pools {
			if p.cfg.Name == pc.Name && !p.removed {
				c.pool = p
			}
		}
		if c.pool == nil {
			c.pool, c.fresh = &pool{cfg: pc, pending: true}, true // of no generation yet: its workers are all next ones
		} else {
			c.keep = pc.Replace == config.ReplaceNever
			c.before = c.pool.wanted()
		}
		for _, b := range pc.Bind {
			sockets := c.pool.socketsOf(b, pc)
			if sockets == nil {
				var err error
				if sockets, err = s.bindNew(r, b, pc); err != nil {
					r.close()
					return err
				}
			}
			c.sockets = append(c.sockets, sockets)
		}
		var err error
		if !forced {
			c.pin = openPin(pc)
		} else if c.pin, err = c.pool.pin.again(); err != nil {
			r.close()
			return err
		}
		r.changes = append(r.changes, c)
	}
	if err := s.boundSurge(r); err != nil {
		r.close()
		return err
	}
	s.planHooks(r)
	s.endRecycling()
	for _, c := range r.changes {
		if c.fresh {
			s.pools = append(s.pools, c.pool)
		}
	}
	s.reload = r
	return nil
}

// socketsOf finds the open sockets of a bind that stays as it is.
func (p *pool) socketsOf(b config.Bind, cfg *config.Pool) *bindSockets {
	for _, s := range p.sockets {
		if s.bind == b && p.cfg.Sockets == cfg.Sockets && s.nonblock == cfg.NonBlock && s.backlog == cfg.Backlog {
			return s
		}
	}
	return nil
}

// bindNew opens an address, or takes the sockets over from another bind of ours that has it: under another name, in another pool.
func (s *Supervisor) bindNew(r *reload, b config.Bind, cfg *config.Pool) (*bindSockets, error) {
	for _, p := range s.pools {
		for _, held := range p.sockets {
			if held.bind.Network != b.Network || held.bind.Address != b.Address {
				continue
			}
			if err := held.canBecome(b, cfg); err != nil {
				return nil, err
			}
			sockets, err := held.again(b, cfg)
			if err == nil {
				r.opened = append(r.opened, sockets)
				r.taken = append(r.taken, handOver{held, sockets})
			}
			return sockets, err
		}
	}
	for _, gone := range s.retired {
		if gone.bind.Network == b.Network && gone.bind.Address == b.Address {
			return nil, fmt.Errorf("%w %s: the workers of an earlier configuration still drain on it, try again when they are gone", ErrBind, b)
		}
	}
	sockets, err := openBind(b, cfg, s.inherited)
	if err != nil {
		return nil, err
	}
	r.opened = append(r.opened, sockets)
	return sockets, sockets.listen()
}

// endRecycling takes back replacements that are not ready: the reload replaces everybody.
func (s *Supervisor) endRecycling() {
	for _, p := range s.pools {
		for _, sl := range p.slots {
			if sl.next != nil {
				w := sl.next
				p.vacate(w)
				s.drain(w, protocol.DrainMove, reasonReload)
			}
		}
	}
}

func (r *reload) close() {
	for _, b := range r.opened {
		b.Close()
	}
	r.unpin()
}

// unpin lets go of the new generation's files.
func (r *reload) unpin() {
	for _, c := range r.changes {
		c.pin.Close()
	}
}

// fail notes the first reason why the new generation cannot be.
func (r *reload) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// failReload notes that a worker of the new generation went before all were ready.
func (s *Supervisor) failReload(w *worker, why reason) {
	if s.reload == nil || w.generation != s.reload.generation {
		return // of a reload that has been taken back
	}
	text := fmt.Sprintf("worker %s of the new generation is gone before all were ready: %s", w.id, why)
	switch {
	case why == reasonBoot:
		text = fmt.Sprintf(`worker %s of the new generation never sent READY=1 within boot_timeout (%v)`, w.id, w.cfg.BootTimeout)
	case w.readyAt.IsZero() && w.cause == "":
		text = fmt.Sprintf("worker %s of the new generation did not become ready: %s", w.id, why)
	}
	if w.cause != "" {
		text += " (" + w.cause + ")"
	}
	if w.words != "" {
		text += "; its last words: " + w.words
	}
	s.reload.fail(errors.New(text))
}

// advanceReload takes the reload as far as it can go now.
func (s *Supervisor) advanceReload() {
	r := s.reload
	if r.returning {
		s.advanceReturn()
		return
	}
	done := r.err == nil && s.advance(r)
	switch {
	case r.err != nil:
		s.rollBack()
	case done:
		s.commit()
	}
}

// advance reports whether all of the new generation is ready.
func (s *Supervisor) advance(r *reload) bool {
	if !s.runHooks(r) {
		return false
	}
	for _, c := range r.changes {
		if c.keep {
			continue
		}
		if c.step == stepCanary {
			s.startCanary(c)
		}
		if c.step == stepBake {
			s.watchCanary(c)
		}
		if c.step != stepOthers || !s.startOthers(c) {
			return false // the pools after it wait for it, as at the start
		}
	}
	return true
}

// commit puts the new generation in force.
func (s *Supervisor) commit() {
	r := s.reload
	s.reload, s.degraded = nil, ""
	before := s.cfg
	s.cfg, s.generation = r.cfg, r.generation
	s.tune.set(r.cfg)
	if logPathsOf(before) != logPathsOf(r.cfg) {
		s.openLogs(logPathsOf(r.cfg))
	}
	s.checkEndpoints(before, r.cfg)
	if before.PIDFile != r.cfg.PIDFile {
		s.log.Warn("pidfile changes only with a restart", zap.String("in use", before.PIDFile), zap.String("configured", r.cfg.PIDFile))
	}
	for _, t := range r.taken {
		t.from.passedOn, t.to.passedOn = true, false
		t.to.inode = t.from.inode
	}
	s.parked = false
	var old []*worker
	var back []string
	order := make([]*pool, 0, len(s.pools))
	for _, c := range r.changes {
		p := c.pool
		order = append(order, p)
		changed := !reflect.DeepEqual(p.cfg, c.cfg)
		held := p.sockets
		if !r.forced {
			back = append(back, s.undrain(p, p.drained())...)
		}
		p.delta, p.pending, p.begun = c.delta(), false, true
		p.serving = p.serving || !c.keep
		if !c.keep {
			p.adopt(c.blueprint(r.generation))
			for _, sl := range p.slots {
				if sl.next != nil {
					if sl.current != nil {
						old = append(old, sl.current)
						p.leaving = append(p.leaving, sl.current)
					}
					sl.current, sl.next = sl.next, nil
				}
				sl.failures = 0
				sl.calm()
			}
		} else if changed {
			p.adopt(c.blueprint(r.generation))
			for _, sl := range p.slots {
				s.empty(p, sl, protocol.DrainClose, reasonReload)
			}
		} else {
			c.pin.Close()
		}
		s.retire(held, p.sockets)
		s.steer(p)
	}
	for _, p := range s.pools {
		if r.has(p) || p.removed {
			if p.removed {
				order = append(order, p)
			}
			continue
		}
		p.removed = true
		p.pin.Close()
		order = append(order, p)
		s.retire(p.sockets, nil)
		p.sockets = nil
		for _, sl := range p.slots {
			s.empty(p, sl, protocol.DrainClose, reasonReload)
		}
	}
	s.pools = order
	for _, c := range r.changes {
		for _, sl := range c.pool.slots {
			if w := sl.current; w != nil && w.state == ready && w.speaks {
				s.welcome(w)
			}
		}
	}
	// First nobody old takes connections, then they let go of theirs.
	for _, w := range old {
		w.proc.Send(adoptOff)
	}
	for _, w := range old {
		s.drain(w, protocol.DrainMove, reasonReload)
	}
	s.manager.reloadEnds(s, nil)
	took := time.Since(r.began)
	if !r.forced { // nobody asked for that
		s.ledger.reloaded(verdictOK, took)
	}
	text := fmt.Sprintf("generation %d is in force", s.generation)
	if len(r.unproven) > 0 {
		text += fmt.Sprintf(", unproven: the canary of pool %s was asked for nothing while it was watched", strings.Join(r.unproven, ", "))
	}
	if len(back) > 0 {
		text += fmt.Sprintf(", and %s not drained any more", isAre(back))
	}
	s.log.Info("reload done", zap.Int("generation", s.generation), zap.Duration("took", took.Round(time.Millisecond)))
	s.record(control.EventReload, control.LevelInfo, "reload done in %v: %s", took.Round(time.Millisecond), text)
	answer(&r.asked, Verdict{OK: true, Text: text, Generation: s.generation, Took: took})
	s.afterReload(r)
	s.nextReload()
}

// favoursOthers reports whether connections that are given away shall go to others than this old worker.
func (r *reload) favoursOthers(w *worker) bool {
	for _, c := range r.changes {
		if c.pool == w.pool {
			return c.favoured && w.generation != r.generation
		}
	}
	return false
}

func (r *reload) has(p *pool) bool {
	for _, c := range r.changes {
		if c.pool == p {
			return true
		}
	}
	return false
}

// retire keeps addresses that are no longer wanted until their last worker is gone; new connections are refused at once.
func (s *Supervisor) retire(before, after []*bindSockets) {
	for _, b := range before {
		kept := false
		for _, a := range after {
			kept = kept || a == b
		}
		if !kept {
			s.drop([]*bindSockets{b})
		}
	}
}

func (s *Supervisor) nextReload() {
	if s.again && s.busy() == "" {
		asked := s.waiting
		s.again, s.waiting = false, nil
		s.beginReload(asked...)
		return
	}
	if s.upgradeWaits && s.reload == nil && s.stillEnding() == "" {
		asked := s.upgradeNext
		s.upgradeWaits, s.upgradeNext = false, nil
		s.beginUpgrade(asked...)
	}
}

// replaceAdopted gives every worker that a killed supervisor left a successor of ours, as a reload does; they serve until then.
func (s *Supervisor) replaceAdopted() {
	s.log.Info("the supervisor before us died: its workers serve until ours are ready", zap.Int("workers", len(s.workers())))
	if err := s.prepare(s.cfg, true); err != nil {
		s.log.Error("cannot replace the workers of the supervisor before us", zap.Error(err))
		s.record(control.EventReload, control.LevelError, "cannot replace the workers of the supervisor before us: %v", err)
	}
}
