package supervisor

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// drain_delay: between TERM and the stop, load balancers get the time to look away. Everything is served on, workers that die are
// replaced, but readiness fails and every answer says Connection: close; reloads and scaling are refused.

// beginStop is what TERM means: a stop, after the longest drain_delay of all pools that serve. A second one ends the delay.
func (s *Supervisor) beginStop() {
	if s.stopping == delaying {
		s.log.Info("asked to stop again: drain_delay ends")
		s.record(control.EventStop, control.LevelInfo, "asked to stop again: drain_delay ends")
		s.stop(graceful)
		return
	}
	var longest time.Duration
	for _, p := range s.pools {
		if p.serving && !p.removed {
			longest = max(longest, p.cfg.DrainDelay)
		}
	}
	if s.stopping != running || longest == 0 || s.parked || s.probation {
		s.stop(graceful)
		return
	}
	if s.upgrade != nil {
		s.flip.Stop() // it ends the successor, and the verdict says so
	}
	answer(&s.upgradeNext, s.refused("the supervisor was stopped meanwhile"))
	s.upgradeWaits = false
	answer(&s.waiting, s.refused("the supervisor was stopped meanwhile"))
	s.again = false
	if s.reload != nil {
		s.abortReload(errors.New("the supervisor was stopped meanwhile"))
	}
	s.stopping = delaying
	s.log.Info("stopping after drain_delay", zap.Duration("drain_delay", longest))
	s.record(control.EventStop, control.LevelInfo, "a stop begins with drain_delay (%v): everything is served on", longest)
	for _, p := range s.pools {
		for _, w := range p.workers() {
			s.tellLame(w)
		}
	}
	s.desk.delay = time.AfterFunc(longest, func() {
		s.do(func() {
			if s.stopping == delaying {
				s.stop(graceful)
			}
		})
	})
}

// tellLame tells a ready worker during drain_delay to end each connection with its next answer. Programs that know nothing of it serve on
// as they do.
func (s *Supervisor) tellLame(w *worker) {
	if s.stopping == delaying && w.state == ready && w.speaks && w.cfg.DrainDelay > 0 {
		w.proc.Send(protocol.Command{Verb: protocol.VerbLame})
	}
}
