package supervisor

import (
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
)

const (
	memorySamples = 3 // in a row above max_memory: a spike of one sample is nothing

	// A tick that comes so much later than planned says that we stood still ourselves: nobody is judged by that time.
	stall = 3 * tickInterval
)

// tick judges the limits of every ready worker.
func (s *Supervisor) tick() {
	now := time.Now()
	stood := now.Sub(s.lastTick)
	s.lastTick = now
	for _, p := range s.pools {
		for _, sl := range p.slots {
			for _, w := range []*worker{sl.current, sl.next} {
				if w == nil || w.state != ready {
					continue
				}
				if stood > stall {
					w.beatFloor = now
				}
				s.judge(w, now)
			}
		}
	}
}

func (s *Supervisor) judge(w *worker, now time.Time) {
	if w.lifetime > 0 && now.Sub(w.readyAt) >= w.lifetime {
		s.markOverdue(w, reasonLifetime)
	}
	if w.cfg.MaxMemory > 0 {
		s.judgeMemory(w)
	}
	if w.cfg.HeartbeatTimeout > 0 {
		s.judgeSilence(w, now)
	}
}

func (s *Supervisor) judgeMemory(w *worker) {
	u, err := w.proc.Usage()
	if err != nil {
		return // it is about to be reaped
	}
	w.memory = u.memory
	if u.memory <= w.cfg.MaxMemory {
		w.over = 0
		return
	}
	if w.over++; w.over == memorySamples {
		s.log.Warn("worker is over max_memory", append(w.fields(), zap.Int64("memory", u.memory), zap.Int64("max_memory", w.cfg.MaxMemory))...)
		s.markOverdue(w, reasonMemory)
	}
}

// judgeSilence ends a worker whose beats stopped. A program that never beat is not held to it; one that is kept from the CPU is
// starved, not hung, and gets another heartbeat_timeout.
func (s *Supervisor) judgeSilence(w *worker, now time.Time) {
	age, ok := w.proc.SinceBeat()
	if !ok {
		return
	}
	silent := min(age, now.Sub(w.beatFloor))
	limit := w.cfg.HeartbeatTimeout
	if silent < limit/2 {
		w.watched = false
		return
	}
	u, err := w.proc.Usage()
	if err != nil {
		return
	}
	if !w.watched { // from here on we watch what it does
		w.vitals, w.watched = u, true
		return
	}
	if silent < limit {
		return
	}
	if starved(w.vitals, u, limit/2) {
		s.log.Warn("worker is silent because it gets no CPU: not judged hung", append(w.fields(), zap.Duration("silent", silent))...)
		s.recordWorker(w, control.EventHung, control.LevelWarning, "", "silent for %v because it gets no CPU: not judged hung", silent.Round(time.Millisecond))
		w.beatFloor, w.watched = now, false
		return
	}
	s.log.Error("worker is hung: no sign of life within heartbeat_timeout, it will write its stacks and go",
		append(w.fields(), zap.Duration("silent", silent), zap.Duration("heartbeat_timeout", limit))...)
	s.recordWorker(w, control.EventHung, control.LevelError, reasonHeartbeat, "no sign of life for %v (heartbeat_timeout %v)", silent.Round(time.Millisecond), limit)
	s.abort(w, reasonHeartbeat)
}

// starved reports whether a silent process wanted the CPU for a good part of the time and did not get it. One that sleeps or is stopped
// wants nothing; one that spins gets what it wants.
func starved(before, after usage, watched time.Duration) bool {
	ran, waited := after.run-before.run, after.delay-before.delay
	if waited >= watched/4 {
		return true
	}
	return after.runnable && ran < watched/4
}
