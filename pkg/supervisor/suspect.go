package supervisor

import (
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// A ready worker that makes no progress is suspect: new connections are steered to other slots, and its queue is rescued. That costs little
// and is taken back at the next sign of progress; the worker itself is only ended at heartbeat_timeout (limits.go). Suspect is
//
//	silent    who lets connections wait in its queue for a second without accepting one or beating, or misses three beats with
//	          nobody waiting, unless it is kept from the CPU; until its next beat
//	stuck     who beats, and lets connections wait all the same: it is out of descriptors, at its worker_connections, or hangs in
//	          its accept loop; until it accepts or has room. With its queue empty it cannot show that it would accept, so
//	          it is also tried again after a while that doubles
//
// Nobody is suspect when no other slot of the pool makes progress.

const (
	watchInterval = 500 * time.Millisecond
	watchSlack    = watchInterval / 4        // what a look may come too early
	suspectAfter  = time.Second - watchSlack // a queue from which nobody accepts
	missedBeat    = scoreboard.BeatInterval + watchSlack
	silentAfter   = 3 * scoreboard.BeatInterval // without a beat, whether somebody waits or not

	// After so long a stuck worker gets new connections again.
	trialMin = time.Second
	trialMax = 30 * time.Second
)

// suspicion is why a worker is suspect.
type suspicion string

const (
	silent suspicion = "it does not beat"
	stuck  suspicion = "it beats, but accepts nothing"
)

// progress is what the loop knows of a ready worker's progress.
type progress struct {
	suspect suspicion     // "": it makes progress
	since   time.Time     // when the suspicion began
	trial   time.Duration // how long it lasts, or lasted, of a stuck one
	full    bool          // it began because worker_connections was reached

	floor    time.Time // silence before this moment does not count against it
	waits    bool      // its queue was not empty at the last look, either
	moved    time.Time // when the queue began to wait, or a connection was accepted since
	accepted uint64    // its counter at that time
	vitals   usage     // what it had used at vitalsAt
	vitalsAt time.Time // when its lack of progress was half as long as it may be; zero: it is not
}

// watch looks at the progress of every ready worker that has a scoreboard and a queue of its own, and reports whether anything changed. It
// costs one system call while nobody waits: each worker itself is looked at once a second, when the list was made anew.
func (s *Supervisor) watch() (changed bool) {
	now := time.Now()
	stood := now.Sub(s.watchedAt) > 2*suspectAfter // we stood still ourselves: nobody is judged by that time
	s.watchedAt = now
	anew := s.watchList == nil || stood
	if anew {
		s.listWatched(stood, now)
	}
	if len(s.queues) > 0 {
		unix.Poll(s.queues, 0)
	}
	queues := s.queues
	for i := range s.watchList {
		of := &s.watchList[i]
		waits := false
		for _, q := range queues[:of.queues] {
			waits = waits || q.Revents != 0
		}
		queues = queues[of.queues:]
		if !waits && !of.closely && !anew {
			continue
		}
		g := &of.worker.progress
		before := g.suspect
		s.watchWorker(of.worker, waits, now)
		changed = changed || g.suspect != before
		of.closely = waits || g.suspect != "" || !g.vitalsAt.IsZero()
	}
	return changed
}

// watched is a worker that watch looks at.
type watched struct {
	worker  *worker
	queues  int  // how many it has
	closely bool // its last look found something
}

// listWatched makes the list for watch. It holds until the next event, or the next tick.
func (s *Supervisor) listWatched(stood bool, now time.Time) {
	s.watchList, s.queues = make([]watched, 0, len(s.queues)), s.queues[:0]
	if s.probation { // we do not steer yet
		return
	}
	for _, p := range s.pools {
		if p.closing || !p.hasQueues() {
			continue
		}
		for _, sl := range p.slots {
			for _, w := range []*worker{sl.current, sl.next} {
				if w == nil || w.state != ready || !w.proc.Board().Joined() {
					continue
				}
				if g := &w.progress; stood || g.floor.IsZero() {
					g.floor, g.waits, g.vitalsAt = now, false, time.Time{}
				}
				queues := len(s.queues)
				for _, b := range w.sockets {
					if !b.shared && sl.index < len(b.slots) && (sl.current == nil || sl.next == nil) { // else both accept from it
						s.queues = append(s.queues, unix.PollFd{Fd: int32(b.slots[sl.index]), Events: unix.POLLIN})
					}
				}
				s.watchList = append(s.watchList, watched{worker: w, queues: len(s.queues) - queues})
			}
		}
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

// watchWorker judges one worker's progress.
func (s *Supervisor) watchWorker(w *worker, waits bool, now time.Time) {
	g := &w.progress
	moved := false
	if waits || g.suspect == stuck {
		accepted := w.proc.Board().Total(scoreboard.Accepted)
		moved = accepted != g.accepted
		g.accepted = accepted
	}
	if moved || !waits || !g.waits {
		g.moved = now
	}
	g.waits = waits
	quiet := now.Sub(g.floor)
	if age, ok := w.proc.SinceBeat(); ok {
		quiet = min(age, quiet)
	}
	waited := now.Sub(g.moved)
	switch g.suspect {
	case silent:
		if quiet < now.Sub(g.since) {
			s.trust(w)
		}
		return
	case stuck:
		if moved || now.Sub(g.since) >= g.trial || g.full && !w.full() {
			s.trust(w)
		}
		return
	}
	switch {
	case waited < suspectAfter/2 && quiet < silentAfter/2, !s.spares(w):
		g.vitalsAt = time.Time{}
	case waited >= suspectAfter && waited-quiet >= suspectAfter/2: // it has beaten meanwhile, so it gets the CPU
		if now.Sub(g.since) > g.trial+settled { // it did well since the last time
			g.trial = 0
		}
		g.trial = min(max(2*g.trial, trialMin), trialMax)
		g.full = w.full()
		s.suspect(w, stuck)
	case g.vitalsAt.IsZero():
		if u, err := w.proc.Usage(); err == nil {
			g.vitals, g.vitalsAt = u, now
		}
	case now.Sub(g.vitalsAt) >= suspectAfter/2 && (waited >= suspectAfter && quiet >= missedBeat || quiet >= silentAfter):
		u, err := w.proc.Usage()
		switch {
		case err != nil: // it is about to be reaped
		case starved(g.vitals, u, now.Sub(g.vitalsAt)):
			g.floor, g.moved, g.vitalsAt = now, now, time.Time{}
		default:
			s.suspect(w, silent)
		}
	}
}

// full reports whether the worker has reached worker_connections.
func (w *worker) full() bool {
	limit := w.cfg.WorkerConnections
	return limit > 0 && w.proc.Board().Connections() >= limit
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
	w.progress.suspect, w.progress.since = why, time.Now()
	w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
	s.log.Warn("worker makes no progress: its connections go to others", append(w.fields(), zap.String("because", string(why)))...)
	s.recordWorker(w, control.EventHung, control.LevelWarning, "", "makes no progress, its connections go to others: %s", why)
}

// trust takes a suspicion back.
func (s *Supervisor) trust(w *worker) {
	s.log.Info("worker gets connections again", append(w.fields(), zap.String("after", string(w.progress.suspect)))...)
	s.recordWorker(w, control.EventRecovered, control.LevelInfo, "", "gets connections again")
	w.progress.suspect, w.progress.waits, w.progress.vitalsAt = "", false, time.Time{}
	w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"on"}})
}
