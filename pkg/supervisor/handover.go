package supervisor

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// The old side of a self-upgrade from the moment on in which the successor is ready: our readers stop, our workers go to it, and we leave, or
// take everything back. Meanwhile nothing changes here: see Run.

// takenPatience bounds how long a successor that is ready may take over.
const takenPatience = 30 * time.Second

// upgradeReturned: tableflip says that the successor is ready, or why there will be none.
func (s *Supervisor) upgradeReturned(u *upgrade, err error) {
	if s.upgrade != u {
		return
	}
	u.ready = err == nil
	u.patience.Stop()
	if err == nil && s.stopping != running {
		err = fmt.Errorf("the supervisor is stopping")
	}
	if err != nil {
		s.upgradeFailed(u, err)
		return
	}
	// It is ready. From here on nothing changes here any more: see Run.
	s.handing, u.pausing = u, true
	u.patience = time.AfterFunc(takenPatience, func() {
		s.do(func() {
			s.takeBack(u, "the new supervisor did not take over in time")
		})
	})
	children := s.children()
	rescued := s.pauseRescue()
	go func() {
		rescued()
		done := make(chan struct{})
		for _, c := range children {
			go func() {
				c.Pause()
				done <- struct{}{}
			}()
		}
		for range children {
			<-done
		}
		s.do(func() { s.handOver(u) })
	}()
}

// handOver gives the workers away. What they said before the readers stopped has been told, and lies in the channel at the most.
func (s *Supervisor) handOver(u *upgrade) {
	if s.handing != u {
		return
	}
	u.pausing = false
	if u.lost != "" {
		s.takeBack(u, u.lost)
		return
	}
	for len(s.events) > 0 {
		s.handle(<-s.events)
	}
	b := s.snapshot()
	s.addWorkers(&b)
	if s.store != nil {
		b.snapshot.Stored = slices.Sorted(maps.Keys(s.store.stored))
	}
	s.frozen = true // the descriptors must stay open while they are sent
	go func() {
		if err := sendBundle(u.conn, b); err != nil {
			s.do(func() { s.takeBack(u, "handing over failed: "+err.Error()) })
		}
	}()
}

// leave: the successor has everything. Nothing of ours is closed or removed: it is its own now.
func (s *Supervisor) leave(u *upgrade) {
	u.patience.Stop()
	took := time.Since(u.began)
	s.log.Info("self-upgrade done: this supervisor leaves", zap.Int("successor", u.pid), zap.Duration("took", took.Round(time.Millisecond)))
	answer(&u.asked, Verdict{OK: true, Text: fmt.Sprintf("supervisor %d has taken over, generation %d is in force", u.pid, s.generation+1),
		Generation: s.generation + 1, Took: took})
	if s.again { // it may have read the configuration before that was asked for
		unix.Kill(u.pid, unix.SIGHUP)
	}
	answer(&s.waiting, Verdict{OK: true, Text: fmt.Sprintf("a self-upgrade came before it: supervisor %d goes on with it", u.pid), Generation: s.generation + 1})
	s.handedOver = true
	s.successor = u.pid
	s.passEndpointsOn()
}

// passOn sends the successor the signals that still reached us.
func (s *Supervisor) passOn(signals <-chan os.Signal) {
	for sig := range signals {
		unix.Kill(s.successor, sig.(syscall.Signal))
	}
}

// takeBack: the successor was ready, and then did not take over. We go on; tableflip will not start another one for us.
func (s *Supervisor) takeBack(u *upgrade, why string) {
	if s.handing != u {
		return
	}
	if u.pausing {
		u.lost = why
		return
	}
	u.patience.Stop()
	s.handing, s.frozen = nil, false
	for _, c := range s.children() {
		c.Resume()
	}
	s.flip = nil
	if s.store != nil {
		s.store.last = nil // it may have written there
		for pid := range u.joined {
			for _, what := range shares {
				s.store.stored[workerDescriptor(pid, what)] = true // it may have stored that: persist removes it
			}
		}
	}
	s.upgradeFailed(u, fmt.Errorf("%s; a further self-upgrade needs a restart", why))
}

func (s *Supervisor) children() []*child {
	var children []*child
	for _, w := range s.workers() {
		if c, ok := w.proc.(*child); ok && w.state != gone {
			children = append(children, c)
		}
	}
	return children
}
