package supervisor

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// The way back of a reload that failed.

// abortReload ends a running reload, unless it is on its way back already.
func (s *Supervisor) abortReload(why error) {
	if s.reload.fail(why); !s.reload.returning {
		s.rollBack()
	}
}

// rollBack takes the new generation back. First the old workers take connections again, then the new ones give theirs away. Old ones that have
// left already are replaced by workers of their own generation before the new ones go.
func (s *Supervisor) rollBack() {
	r := s.reload
	for _, c := range r.changes {
		if !c.favoured {
			continue
		}
		c.favoured = false
		for _, w := range c.veterans() {
			if w.speaks {
				s.welcome(w)
			}
		}
	}
	relieved := 0
	for _, c := range r.changes {
		for _, sl := range c.pool.slots {
			if len(c.leaving) > 0 {
				sl.failures = 0
				sl.calm()
			}
			if w := sl.next; w != nil && w.generation == r.generation {
				c.pool.vacate(w)
				w.proc.Send(adoptOff)
				s.drain(w, protocol.DrainMove, reasonRollback)
			}
			if w := sl.current; w != nil && w.generation == r.generation && !c.fresh {
				if sl.isDrained() { // nobody was there before
					s.empty(c.pool, sl, protocol.DrainMove, reasonRollback)
					continue
				}
				relieved++
				w.overdue = reasonRollback // why the one who comes relieves it
			}
		}
		s.steer(c.pool)
	}
	if relieved == 0 && !r.anyLeft() {
		s.endReload(r)
		return
	}
	r.returning = true
	s.log.Error("reload failed, workers of the old generation come back", zap.Int("generation", s.generation), zap.Int("workers", relieved), zap.Error(r.err))
	s.record(control.EventReload, control.LevelError, "reload failed, workers of the old generation come back: %v", r.err)
	s.advanceReturn()
}

// anyLeft reports whether old workers have left for this reload.
func (r *reload) anyLeft() bool {
	for _, c := range r.changes {
		if len(c.leaving) > 0 {
			return true
		}
	}
	return false
}

// advanceReturn starts what is missing of the old generation, and ends the reload when all is as before, or cannot be.
func (s *Supervisor) advanceReturn() {
	r := s.reload
	done := true
	for _, c := range r.changes {
		p := c.pool
		if c.keep || c.fresh || len(c.leaving) == 0 {
			continue
		}
		for _, sl := range p.slots[:min(p.wanted(), len(p.slots))] {
			w := sl.current
			if w != nil && w.generation == p.generation && w.state == ready || sl.failures >= firstTries || sl.isDrained() {
				continue
			}
			done = false
			if w == nil || w.generation != r.generation { // fill starts it
				continue
			}
			if sl.next == nil && !sl.waiting && s.booting() < bootsAtOnce() && c.extra() < c.surge {
				sl.next = s.spawn(p, sl, p.blueprint())
			}
		}
	}
	if done {
		s.endReload(r)
	}
}

// endReload gives the verdict of a reload that failed.
func (s *Supervisor) endReload(r *reload) {
	s.reload = nil
	var missing, stay []string
	for _, c := range r.changes {
		if c.fresh {
			c.pool.pending, c.pool.removed = false, true
		}
		for _, sl := range c.pool.slots {
			switch w := sl.current; {
			case len(c.leaving) == 0 || s.parked:
			case w != nil && w.generation == r.generation:
				stay = append(stay, w.id.String())
				w.proc.Send(protocol.Command{Verb: protocol.VerbCommit}) // it serves on if we die
				fallthrough
			case w == nil && sl.failures >= firstTries && sl.index < c.pool.wanted():
				missing = append(missing, fmt.Sprintf("%s.%d (%s)", c.cfg.Name, sl.index, c.pool.lastWords))
			}
		}
		s.steer(c.pool)
	}
	s.drop(r.opened)
	r.unpin()
	text := fmt.Sprintf("reload failed, nothing changed: %v", r.err)
	if len(missing) > 0 {
		text = fmt.Sprintf("reload failed, rollback incomplete: %v; workers of the old generation did not come back: %s", r.err, strings.Join(missing, ", "))
		if len(stay) > 0 {
			text += fmt.Sprintf("; of the failed generation %s serve on", strings.Join(stay, ", "))
		}
		s.degraded = text
		s.log.Error("reload failed, rollback incomplete", zap.Int("generation", s.generation), zap.Error(r.err),
			zap.Strings("missing", missing), zap.Strings("serve on", stay))
		s.record(control.EventDegraded, control.LevelError, "%s", text)
	} else {
		s.log.Error("reload failed, nothing changed", zap.Int("generation", s.generation), zap.Error(r.err))
		s.record(control.EventReload, control.LevelError, "%s", text)
	}
	s.manager.reloadEnds(s, errors.New(strings.Replace(text, ", nothing changed", "", 1)))
	v := s.refused("%s", text)
	v.Took = time.Since(r.began)
	if !r.forced {
		s.ledger.reloaded(verdictFailed, v.Took)
	}
	answer(&r.asked, v)
	s.nextReload()
}

// noteRecovery says that the slots of an incomplete rollback have workers of the generation in force again: they were tried on.
func (s *Supervisor) noteRecovery() {
	if s.degraded == "" {
		return
	}
	for _, p := range s.pools {
		for _, sl := range p.slots[:min(p.wanted(), len(p.slots))] {
			if w := sl.current; !sl.isDrained() && (w == nil || w.state != ready || w.generation > s.generation) {
				return
			}
		}
	}
	s.log.Info("all workers are of the generation in force again", zap.Int("generation", s.generation))
	s.record(control.EventRecovered, control.LevelInfo, "all workers are of the generation in force again")
	s.degraded = ""
}
