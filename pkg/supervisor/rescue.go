package supervisor

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// A slot's socket whose worker cannot accept (there is none: its slot backs off in a crash loop, or is parked by a scale-down; it starts
// for too long; it is suspect, see suspect.go) would let its queue wait. Its connections are accepted here and passed on through the adopt
// socket of their bind to a worker that serves, exactly as idle ones of a draining worker are, as long as there is one that takes them.
// Unix sockets, those of systemd and sockets = "shared" have one queue that all workers accept from: nothing is ever stranded there.
//
// Nobody can take connections in a pool of foreign programs, which do not use pkg/worker: there a queue waits for its slot's next worker.

const (
	// rescueAfter is how long a slot's worker may start before its queue is somebody else's. A slot that is known to wait, parked or
	// backing off, and one whose worker is suspect, is rescued at once.
	rescueAfter = time.Second

	// rescueSweep bounds the emptying of such queues at a stop: for that long the workers that serve are kept from draining.
	rescueSweep = 2 * time.Second

	// Pauses after a connection that nobody took, a full adopt socket or a failed accept: doubled from the first to the last.
	rescuePauseMin = 5 * time.Millisecond
	rescuePauseMax = 250 * time.Millisecond

	// closePatience bounds the wait for a rescuer at the end of its sockets. It gives a connection (protocol.ReceiptTimeout), or sleeps.
	closePatience = 2 * time.Second
)

// rescuer accepts on one slot's socket and passes each connection on. It is one goroutine, which the loop starts, and tells to end once the
// slot has a worker of its own; both may accept for a moment, which does no harm. It holds at most one connection: what it accepted it
// offers until a worker takes it, so it accepts no other meanwhile, and those wait in the kernel.
type rescuer struct {
	// Set once.
	bind  *bindSockets
	file  *os.File // our own descriptor of the slot's socket, in the netpoller
	slot  int
	total *atomic.Uint64 // of the pool
	over  chan struct{}  // closed to give up the connection in hand
	ended chan struct{}  // closed when the goroutine is over

	// Shared and safe.
	mode   atomic.Int32
	passed atomic.Uint64 // connections
}

// Modes of a rescuer; it only goes forward in them.
const (
	rescuing int32 = iota
	sweeping       // accepts until the queue is empty, and ends
	resting        // accepts no more; ends when nothing is in its hands
	givingUp       // closes even that, and ends
)

// startRescuer begins to accept on a slot's socket. Its workers are Go programs, which have set O_NONBLOCK on the shared description.
func (s *Supervisor) startRescuer(p *pool, b *bindSockets, slot int) {
	fd, err := unix.FcntlInt(uintptr(b.slots[slot]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		s.log.Warn("cannot take over the queue of a slot", zap.String("pool", p.cfg.Name), zap.Int("slot", slot), zap.Error(err))
		return
	}
	r := &rescuer{
		bind: b, file: pollable(fd, "slot"), slot: slot, total: &p.rescued, over: make(chan struct{}), ended: make(chan struct{}),
	}
	for len(b.rescuers) <= slot {
		b.rescuers = append(b.rescuers, nil)
	}
	b.rescuers[slot] = r
	log := s.log.With(zap.String("pool", p.cfg.Name), zap.Int("slot", slot), zap.String("bind", b.bind.Name))
	log.Debug("queue of a slot is taken over")
	go func() {
		r.run()
		close(r.ended)
		s.do(func() {
			b.rescuers[slot] = nil
			if n := r.passed.Load(); n > 0 {
				log.Info("connections of a slot without a worker went to others", zap.Uint64("connections", n))
			}
		})
	}()
}

// tell moves the rescuer on to a later mode. Only called by the loop.
func (r *rescuer) tell(mode int32) {
	if r == nil || r.mode.Load() >= mode {
		return
	}
	r.mode.Store(mode)
	r.file.SetReadDeadline(time.Unix(1, 0)) // breaks its wait, for good
	if mode == givingUp {
		close(r.over)
	}
}

func (r *rescuer) run() {
	defer r.file.Close()
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	for pause := rescuePauseMin; ; {
		mode := r.mode.Load()
		if mode >= resting {
			return
		}
		if mode == rescuing {
			if err := raw.Read(readable); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			} else if err != nil {
				continue // told something
			}
		}
		conn := -1
		err := error(unix.EAGAIN)
		if r.bind.adoptHasRoom() {
			raw.Control(func(fd uintptr) { conn, _, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) })
			switch err {
			case nil:
				pause = rescuePauseMin
				r.pass(conn)
				continue
			case unix.EAGAIN:
				if mode == sweeping {
					return
				}
				continue // the slot's own worker was faster
			case unix.EINTR, unix.ECONNABORTED:
				continue
			case unix.EINVAL: // it listens no more
				return
			}
		}
		r.sleep(pause) // the queue is full, or we are out of descriptors: the connection waits in the kernel
		pause = min(2*pause, rescuePauseMax)
	}
}

// pass offers a connection until a worker takes it. Offers that nobody looked at stay in the adopt socket until somebody throws them away:
// that it has room bounds them.
func (r *rescuer) pass(conn int) {
	defer unix.Close(conn)
	for pause := rescuePauseMin; ; pause = min(2*pause, rescuePauseMax) {
		if r.bind.adoptHasRoom() &&
			protocol.Give(rawFD(r.bind.adoptTx), rawFD(conn), protocol.Move{Bind: r.bind.bind.Name}) == nil {
			r.passed.Add(1)
			r.total.Add(1)
			return
		}
		if !r.sleep(pause) {
			return
		}
	}
}

// sleep reports whether to go on.
func (r *rescuer) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.over:
		return false
	}
}

// rawFD is a descriptor that protocol.Give can use without a file around it.
type rawFD int

func (fd rawFD) Control(f func(uintptr)) error { f(uintptr(fd)); return nil }
func (rawFD) Read(func(uintptr) bool) error    { return syscall.ENOTSUP }
func (rawFD) Write(func(uintptr) bool) error   { return syscall.ENOTSUP }

// adoptHasRoom reports whether the adopt socket is less than a quarter full: what nobody takes shall wait where the slot's own worker can
// take it, too.
func (s *bindSockets) adoptHasRoom() bool {
	poll := []unix.PollFd{{Fd: int32(s.adoptTx), Events: unix.POLLOUT}}
	n, _ := unix.Poll(poll, 0)
	return n > 0
}

// rescue starts and ends rescuers, after every event, by which watch must make its list anew.
func (s *Supervisor) rescue() {
	s.watchList = nil
	if s.probation { // the supervisor before us does
		return
	}
	now := time.Now()
	for _, p := range s.pools {
		for _, sl := range p.slots {
			switch {
			case sl.serves():
				sl.alone = time.Time{}
			case sl.alone.IsZero():
				sl.alone = now
				s.wake(rescueAfter)
			}
		}
		if !p.closing {
			s.rescuePool(p, now)
		}
	}
	for _, b := range s.retired {
		b.tellRescuers(resting)
	}
}

func (s *Supervisor) rescuePool(p *pool, now time.Time) {
	for _, b := range p.sockets {
		if b.shared {
			continue
		}
		takers := p.takers(b)
		for i := range b.slots {
			r := b.rescuer(i)
			wanted := p.stranded(i, now) || r != nil && !p.serves(i)
			switch {
			case wanted && takers > 0 && r == nil:
				s.startRescuer(p, b, i)
			case r != nil && (!wanted || takers == 0):
				r.tell(resting)
			case wanted && takers == 0 && i < p.wanted():
				s.sayStranded(p)
			}
		}
	}
}

// stranded reports whether a slot's queue has nobody to accept it, and will not soon.
func (p *pool) stranded(slot int, now time.Time) bool {
	switch {
	case p.serves(slot):
		return false
	case slot >= p.wanted():
		return true
	case slot >= len(p.slots):
		return false // the pool has not begun to start
	case p.slots[slot].waiting || p.slots[slot].isDrained() || p.slots[slot].isReady():
		return true // it waits for its next try, or for undrain, or is suspect
	}
	alone := p.slots[slot].alone
	return !alone.IsZero() && now.Sub(alone) >= rescueAfter
}

// serves reports whether a slot has a worker that accepts what is in its queue.
func (p *pool) serves(slot int) bool { return slot < len(p.slots) && p.slots[slot].serves() }

func (sl *slot) serves() bool { return sl.current.serves() || sl.next.serves() }

// isReady reports whether a slot has a ready worker, suspect or not.
func (sl *slot) isReady() bool {
	return sl.current != nil && sl.current.state == ready || sl.next != nil && sl.next.state == ready
}

// serves reports whether a worker may be relied on to accept.
func (w *worker) serves() bool { return w != nil && w.state == ready && w.progress.suspect == "" }

// takers gives how many workers take connections of the bind from others.
func (p *pool) takers(b *bindSockets) int {
	n := 0
	for _, sl := range p.slots {
		for _, w := range []*worker{sl.current, sl.next} {
			if w.serves() && w.speaks && w.takes(b) {
				n++
			}
		}
	}
	return n
}

// takes reports whether the worker's program serves what comes through the bind's adopt socket.
func (w *worker) takes(b *bindSockets) bool {
	board := w.proc.Board()
	if !board.Joined() {
		return false
	}
	for i, held := range w.sockets {
		if held == b {
			return board.Takes(i)
		}
	}
	return false
}

// sayStranded says once that a pool's program cannot take what waits in another slot.
func (s *Supervisor) sayStranded(p *pool) {
	serving := 0
	for _, sl := range p.slots {
		if sl.serves() && sl.current != nil && time.Since(sl.current.readyAt) > young { // it has had the time to say what it can do
			serving++
		}
	}
	if serving == 0 || p.strandedSaid {
		return
	}
	p.strandedSaid = true
	s.log.Warn(`connections in the queue of a slot without a worker wait for its next one: the program cannot take them over, since it does `+
		`not serve through pkg/worker; sockets = "shared" has one queue for all`, zap.String("pool", p.cfg.Name))
	s.recordPool(p, control.EventDegraded, control.LevelWarning, "connections in the queue of a slot without a worker wait for its next one: the program does not serve through pkg/worker")
}

// sweep passes on what is in the queues of slots that have no worker, before those that serve are told to leave. It reports whether that
// goes on.
func (s *Supervisor) sweep(p *pool) bool {
	now := time.Now()
	first := p.sweepTill.IsZero()
	if first {
		p.sweepTill = now.Add(rescueSweep)
	}
	on := s.stopping != quick && !s.probation && now.Before(p.sweepTill)
	busy := false
	for _, b := range p.sockets {
		if b.shared {
			continue
		}
		on := on && p.takers(b) > 0
		for i := range b.slots {
			if first && on && b.rescuer(i) == nil && !p.serves(i) {
				s.startRescuer(p, b, i)
			}
			if on {
				b.rescuer(i).tell(sweeping)
			} else {
				b.rescuer(i).tell(resting)
			}
			busy = busy || on && b.rescuer(i) != nil
		}
	}
	if first && busy {
		s.wake(rescueSweep)
	}
	return busy
}

func (s *bindSockets) rescuer(slot int) *rescuer {
	if slot < len(s.rescuers) {
		return s.rescuers[slot]
	}
	return nil
}

func (s *bindSockets) tellRescuers(mode int32) {
	for _, r := range s.rescuers {
		r.tell(mode)
	}
}

// pauseRescue ends all rescuers, and gives a function that waits until what they held has found somebody. The next reconcile starts new ones.
func (s *Supervisor) pauseRescue() (wait func()) {
	var ended []chan struct{}
	for _, p := range s.pools {
		for _, b := range p.sockets {
			b.tellRescuers(resting)
			for _, r := range b.rescuers {
				if r != nil {
					ended = append(ended, r.ended)
				}
			}
		}
	}
	return func() {
		patience := time.After(closePatience)
		for _, c := range ended {
			select {
			case <-c:
			case <-patience:
				return
			}
		}
	}
}

// endRescue ends all rescuers before the sockets close. What one of them still holds found nobody to the last.
func (s *bindSockets) endRescue() {
	s.tellRescuers(givingUp)
	patience := time.After(closePatience)
	for _, r := range s.rescuers {
		if r == nil {
			continue
		}
		select {
		case <-r.ended:
		case <-patience:
			return
		}
	}
}
