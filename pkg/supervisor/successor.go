package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/sdnotify"
)

// The new side of a self-upgrade; upgrade.go is the old one, and has the whole.

// tellSpawned tells the supervisor before us of a worker that it would have to end if we died, and whose work it would have to count.
func (s *Supervisor) tellSpawned(w *worker) {
	if !s.probation {
		return
	}
	if c, ok := w.proc.(*child); ok {
		s.heritage.say(successorNote{Spawned: &processID{c.pid, c.startTime}, Pool: w.id.Pool}, c.boardFD)
	}
}

// tellSpeaks tells it that this one will go by itself.
func (s *Supervisor) tellSpeaks(w *worker) {
	if s.probation {
		s.heritage.say(successorNote{Speaks: w.proc.Pid()})
	}
}

// succeed: the full set is ready. It tells the world, and takes the rest.
func (s *Supervisor) succeed() {
	s.succeeding = true
	in := s.heritage
	go func() {
		var last legacy
		if last.err = in.flip.Ready(); last.err == nil {
			in.conn.SetReadDeadline(time.Now().Add(takenPatience))
			last = <-in.rest
		}
		if last.err == nil || !in.kept() {
			tellMainPID() // before the other one ends, which waits until we have said that we have everything
		}
		s.do(func() { s.takeOver(last.bundle, last.err) })
	}()
}

// hearPredecessor receives the last part of the hand-over, or hears that there will be none.
func (s *Supervisor) hearPredecessor() {
	rest, err := receiveBundle(s.heritage.conn)
	s.heritage.rest <- legacy{rest, err}
	if err != nil {
		s.do(func() {
			if !s.succeeding && s.heritage.kept() {
				s.bequeath(err)
			}
		})
	}
}

// bequeath leaves everything to the supervisor that the manager starts with what the one before us stored: that one has its workers, too.
func (s *Supervisor) bequeath(err error) {
	s.fail(fmt.Errorf("the supervisor before us died: the manager starts the next one with all its workers (%w)", err))
	if s.pidfile != nil { // which waits for that
		s.pidfile.file.Close()
		s.pidfile = nil
	}
}

// takeOver makes this supervisor the one in charge.
func (s *Supervisor) takeOver(rest bundle, err error) {
	in := s.heritage
	s.succeeding = false
	if err != nil && in.kept() {
		s.bequeath(err)
		return
	}
	s.probation = false
	in.trial.Store(false)
	if err != nil {
		s.log.Error("the supervisor before us died before it handed its workers over: they serve on for orphan_timeout", zap.Error(err))
		s.record(control.EventUpgrade, control.LevelError, "the supervisor before us died before it handed its workers over: they serve on for orphan_timeout")
	}
	if before := rest.snapshot; before.JournalSeq > 0 {
		s.journal.goOn(before.Journal, before.JournalSeq)
	} else {
		s.journal.goOn(in.before.snapshot.Journal, in.before.snapshot.JournalSeq)
	}
	s.takeSockets()
	stored := map[string]bool{}
	for _, name := range rest.snapshot.Stored { // also of workers that died since; not what the manager would not take so far
		stored[name] = true
	}
	s.store, _ = newStore(in.before.take(storeDescriptor), stored)
	s.keepByHand(rest.snapshot) // TTIN may have come meanwhile
	if err == nil {
		s.keepTallies(rest.snapshot)
	} else {
		s.keepTallies(in.before.snapshot)
	}
	s.ledger.upgraded(verdictOK)
	for pool, serial := range rest.snapshot.Serials { // it went on refilling
		s.serials[pool] = max(s.serials[pool], serial)
	}
	s.persist(&rest) // before it leaves: a supervisor that is killed right after must be found with all its workers
	in.say(successorNote{Taken: true})
	if s.pidfile != nil {
		if err := s.pidfile.write(os.Getpid()); err != nil {
			s.log.Warn("cannot write the pidfile", zap.Error(err))
		}
	}
	for _, w := range s.workers() {
		if w.state == ready && w.speaks {
			s.welcome(w)
		}
	}
	for _, p := range s.pools {
		s.steer(p)
	}
	s.adoptAll(&rest)
	for _, p := range s.pools {
		if !p.removed && p.cfg.Replace != config.ReplaceNever {
			s.runAfterReload(p)
		}
	}
	s.takeEndpointsOver()
	rest.close()
	in.before.close()
	in.conn.Close()
	s.log.Info("self-upgrade done: this supervisor is in charge", zap.Int("generation", s.generation))
	s.record(control.EventUpgrade, control.LevelInfo, "self-upgrade done: supervisor %d is in charge, generation %d is in force", os.Getpid(), s.generation)
}

// keptByPredecessor reports whether a pool's workers stay with the supervisor before us until it hands them over.
func (s *Supervisor) keptByPredecessor(p *pool) bool {
	return s.probation && p.cfg.Replace == config.ReplaceNever && p.serving
}

// leaveWith is how workers leave at a stop: those of a successor that failed give their connections back.
func (s *Supervisor) leaveWith() string {
	if s.probation {
		return protocol.DrainMove
	}
	return protocol.DrainClose
}

// tellMainPID tells the manager that this process is the main one from now on.
func tellMainPID() {
	socket := os.Getenv(sdnotify.EnvSocket)
	sdnotify.Send(socket, "MAINPID="+strconv.Itoa(os.Getpid())+"\nREADY=1")
	sdnotify.Barrier(socket, sdnotify.Patience)
}
