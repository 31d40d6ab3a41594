package supervisor

import (
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// A ready worker that makes no progress is suspect: new connections are steered to other slots, and its queue is rescued. That costs little
// and is taken back at the next sign of progress; the worker itself is only ended at heartbeat_timeout (limits.go). Suspect is
//
//	silent    who misses its beats, unless it is kept from the CPU
//	stuck     who beats, and lets connections wait in its queue without accepting one: it is out of descriptors, at its
//	          worker_connections, or hangs in its accept loop
//
// A stuck worker whose queue is rescued cannot show that it accepts again, so it is tried again after a while, which doubles.

const (
	watchInterval = scoreboard.BeatInterval
	suspectAfter  = time.Second // four beats

	// After so long a stuck worker gets new connections again.
	trialMin = time.Second
	trialMax = 30 * time.Second
)

// suspicion is why a worker is suspect.
type suspicion string

const (
	silent suspicion = "no beat"
	stuck  suspicion = "connections wait in its queue"
)

// progress is what the loop knows of a ready worker's progress.
type progress struct {
	suspect suspicion // "": it makes progress

	floor   time.Time // silence before this moment does not count against it
	watched bool      // it has been silent for half of suspectAfter
	vitals  usage     // what it had used when that began

	accepted uint64        // its counter at the last look
	moved    time.Time     // when the counter moved, or the queue was empty
	trial    time.Duration // how long it was suspect as stuck, the last time
	trialAt  time.Time     // when it is tried again
}

// watch looks at the progress of every ready worker that has a scoreboard and a queue of its own.
func (s *Supervisor) watch() {
	now := time.Now()
	stood := now.Sub(s.watched) > suspectAfter // we stood still ourselves: nobody is judged by that time
	s.watched = now
	var queues []unix.PollFd
	var owners []*worker
	for _, p := range s.pools {
		if p.closing || !p.hasQueues() {
			continue
		}
		for _, sl := range p.slots {
			for _, w := range []*worker{sl.current, sl.next} {
				if w == nil || w.state != ready || !w.proc.Board().Joined() {
					continue
				}
				if stood || w.progress.floor.IsZero() {
					w.progress.floor, w.progress.moved, w.progress.watched = now, now, false
				}
				s.watchBeats(w, now)
				if accepted := w.proc.Board().Total(scoreboard.Accepted); accepted != w.progress.accepted {
					w.progress.accepted, w.progress.moved = accepted, now
				}
				if sl.current != nil && sl.next != nil { // both accept from it
					w.progress.moved = now
					continue
				}
				for _, b := range w.sockets {
					if !b.shared && sl.index < len(b.slots) {
						queues = append(queues, unix.PollFd{Fd: int32(b.slots[sl.index]), Events: unix.POLLIN})
						owners = append(owners, w)
					}
				}
			}
		}
	}
	if len(queues) > 0 {
		unix.Poll(queues, 0)
	}
	for i := 0; i < len(owners); {
		w, waits := owners[i], false
		for ; i < len(owners) && owners[i] == w; i++ {
			waits = waits || queues[i].Revents != 0
		}
		s.watchQueue(w, waits, now)
	}
}

// hasQueues reports whether the pool's slots have sockets of their own.
func (p *pool) hasQueues() bool {
	for _, b := range p.sockets {
		if !b.shared {
			return true
		}
	}
	return false
}

// watchBeats judges whether a worker is silent.
func (s *Supervisor) watchBeats(w *worker, now time.Time) {
	age, ok := w.proc.SinceBeat()
	if !ok {
		return
	}
	g := &w.progress
	quiet := min(age, now.Sub(g.floor))
	switch {
	case quiet < suspectAfter/2:
		g.watched = false
		if g.suspect == silent {
			s.trust(w)
		}
	case g.suspect == silent || !s.spares(w):
	case !g.watched:
		if u, err := w.proc.Usage(); err == nil {
			g.vitals, g.watched = u, true
		}
	case quiet >= suspectAfter:
		u, err := w.proc.Usage()
		if err != nil {
			return // it is about to be reaped
		}
		if starved(g.vitals, u, suspectAfter/2) {
			g.floor, g.watched = now, false
			return
		}
		s.suspect(w, silent)
	}
}

// watchQueue judges whether a worker that beats is stuck. A process whose beats come in time gets the CPU.
func (s *Supervisor) watchQueue(w *worker, waits bool, now time.Time) {
	g := &w.progress
	moved := g.moved.Equal(now)
	if moved {
		g.trial = 0
	}
	if !waits || g.watched {
		g.moved = now
	}
	switch {
	case g.suspect == stuck && (moved || !now.Before(g.trialAt)):
		g.moved = now
		s.trust(w)
	case g.suspect == "" && now.Sub(g.moved) >= suspectAfter && s.spares(w):
		g.trial = min(max(2*g.trial, trialMin), trialMax)
		g.trialAt = now.Add(g.trial)
		s.suspect(w, stuck)
	}
}

// spares reports whether another slot of the pool has a worker that makes progress.
func (s *Supervisor) spares(w *worker) bool {
	for _, sl := range w.pool.slots {
		if sl.index != w.id.Slot && sl.serves() {
			return true
		}
	}
	return false
}

// suspect keeps connections from a worker; the loop's next steps are steer and rescue.
func (s *Supervisor) suspect(w *worker, why suspicion) {
	w.progress.suspect = why
	w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
	s.log.Warn("worker makes no progress: its connections go to others", append(w.fields(), zap.String("because", string(why)))...)
}

// trust takes a suspicion back.
func (s *Supervisor) trust(w *worker) {
	s.log.Info("worker gets connections again", append(w.fields(), zap.String("after", string(w.progress.suspect)))...)
	w.progress.suspect = ""
	w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"on"}})
}
