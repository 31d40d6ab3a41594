package supervisor

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// reconcile compares what is wanted with what is there, after every event: it starts what is missing, in order, drains what is too
// much, and replaces what is overdue.
func (s *Supervisor) reconcile() {
	defer s.rescue() // by what was decided
	if len(s.ending) > 0 {
		s.lookAtEnding()
	}
	if s.stopping >= graceful {
		s.advanceStop()
		return
	}
	if s.reload != nil {
		s.advanceReload()
	}
	for _, p := range s.pools {
		if p.pending {
			continue
		}
		if !s.mayStart(p) {
			break
		}
		if !s.parked && !s.keptByPredecessor(p) {
			s.fill(p)
		}
		s.steer(p)
		s.recycle(p)
		if !p.serving && !p.removed {
			if p.serving = s.firstSet(p); !p.serving {
				break // the pools after it start once it serves
			}
			s.log.Info("pool serves", zap.String("pool", p.cfg.Name), zap.Int("workers", p.readyCount()))
			s.recordPool(p, control.EventReady, control.LevelInfo, "the pool serves with %s", plural(p.readyCount(), "worker"))
		}
	}
	if s.probation && !s.succeeding && s.allServe() {
		s.succeed()
	}
	if s.again || s.upgradeWaits {
		s.nextReload()
	}
	s.noteRecovery()
	s.sweepSockets()
	s.pools = slices.DeleteFunc(s.pools, func(p *pool) bool { return p.removed && len(p.workers()) == 0 })
}

// fill starts a worker in every empty slot and drains those beyond the wanted number.
func (s *Supervisor) fill(p *pool) {
	want := p.wanted()
	alone := s.groupsAreOurs()
	if !p.removed && alone {
		p.grow(want)
	}
	for _, sl := range p.slots {
		if sl.index >= want {
			if s.reload == nil || sl.next == nil { // the next generation may want the slot
				s.empty(p, sl, protocol.DrainMove, reasonScaleDown)
			}
			continue
		}
		if sl.current != nil || sl.waiting || sl.isDrained() || !alone && !p.isOpen(sl.index) || s.booting() >= bootsAtOnce() {
			continue
		}
		if p.cfg.Replace == config.ReplaceNever && len(p.leaving) > 0 {
			continue // the old one stops before the new one starts
		}
		if sl.next != nil && sl.next.generation == p.generation {
			sl.current, sl.next = sl.next, nil
			continue
		}
		sl.current = s.spawn(p, sl, p.blueprint())
	}
}

// empty drains what a slot has.
func (s *Supervisor) empty(p *pool, sl *slot, how string, why reason) {
	for _, w := range []*worker{sl.next, sl.current} {
		if w != nil {
			p.vacate(w)
			w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
			s.steer(p)
			s.drain(w, how, why)
		}
	}
}

// booting gives how many processes of all pools are starting.
func (s *Supervisor) booting() int {
	n := 0
	for _, p := range s.pools {
		for _, w := range p.workers() {
			if w.state == starting {
				n++
			}
		}
	}
	return n
}

// recycle replaces workers that reached a limit, at most max_unavailable of a pool at once: a turn begins with the replacement's
// start and ends with the old one's exit. The others serve on beyond their limit.
func (s *Supervisor) recycle(p *pool) {
	if s.reload != nil || s.parked || p.removed || p.cfg.Replace == config.ReplaceNever {
		return
	}
	turns := p.cfg.MaxUnavailable
	for _, w := range p.leaving {
		if w.overdue != "" {
			turns--
		}
	}
	var overdue []*slot
	for _, sl := range p.slots {
		switch {
		case sl.next != nil:
			turns--
		case sl.current != nil && sl.current.state == ready && sl.current.overdue != "" && !sl.waiting:
			overdue = append(overdue, sl)
		}
	}
	// Who eats most goes first, else who is longest there.
	slices.SortStableFunc(overdue, func(a, b *slot) int {
		if a.current.overdue == reasonMemory || b.current.overdue == reasonMemory {
			return int(b.current.memory - a.current.memory)
		}
		return a.current.started.Compare(b.current.started)
	})
	for _, sl := range overdue {
		if turns <= 0 || s.booting() >= bootsAtOnce() {
			return
		}
		if wait := time.Until(p.nextTurn); wait > 0 {
			s.wake(wait)
			return
		}
		turns--
		p.nextTurn = time.Now().Add(recycleInterval)
		sl.next = s.spawn(p, sl, p.blueprint())
	}
}

// firstTries is how often each slot of a pool may fail before its first worker was ready, until the start is given up.
const firstTries = 3

// firstSet reports whether the pool's first full set is ready. A pool of which no worker ever becomes ready ends the supervisor.
func (s *Supervisor) firstSet(p *pool) bool {
	serving, hopeless, drained := 0, 0, 0
	for _, sl := range p.slots[:min(p.wanted(), len(p.slots))] {
		switch {
		case sl.isDrained():
			drained++
		case sl.current != nil && sl.current.state == ready && s.proven(sl.current):
			serving++
		case sl.failures >= firstTries:
			hopeless++
		default:
			return false
		}
	}
	if hopeless > 0 && (serving == 0 || s.probation) {
		s.fail(fmt.Errorf("pool %s: %w: %s", p.cfg.Name, ErrNotReady, p.lastWords))
		return false
	}
	return serving > 0 || drained > 0 && hopeless == 0
}

// allServe reports whether every pool's first full set has been ready.
func (s *Supervisor) allServe() bool {
	for _, p := range s.pools {
		if !p.serving && !p.removed {
			return false
		}
	}
	return true
}

// proven reports whether a ready worker is more than a process that has just been executed: with ready = "exec" the word is its life.
func (s *Supervisor) proven(w *worker) bool {
	if w.cfg.Ready != config.ReadyExec {
		return true
	}
	wait := young - time.Since(w.readyAt)
	if wait > 0 {
		s.wake(wait)
	}
	return wait <= 0
}

// sweepSockets closes addresses that the config has no more, once their last worker is gone.
func (s *Supervisor) sweepSockets() {
	s.retired = slices.DeleteFunc(s.retired, func(b *bindSockets) bool {
		for _, p := range s.pools {
			for _, w := range p.workers() {
				if slices.Contains(w.sockets, b) {
					return false
				}
			}
		}
		s.log.Info("address closed", zap.Stringer("bind", b.bind))
		b.Close()
		return true
	})
}
