package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/protocol"
	"supervisor/pkg/sdnotify"
)

// A self-upgrade, both sides of it. tableflip starts the successor and tells when it is ready; everything else goes over one socket, made
// fresh for each try and the only descriptor that tableflip knows:
//
//	old                                              new
//	snapshot without workers, sockets, …       →     takes the addresses, binds what is new; its own limits apply
//	                                           ←     {pid}, {spawned}, {speaks}: what to clean up if it dies
//	(serves, refills, but changes nothing)           starts a full set of workers, not committed; does not steer
//	                                           ←     tableflip's Ready, after telling the manager MAINPID
//	stops reading from its workers
//	snapshot with workers, their descriptors   →     adopts them
//	                                           ←     {taken}
//	exits                                            commits, steers, drains the adopted ones
//
// Whatever fails before {taken} leaves the old supervisor as it was: the new one's workers see their control channel end, were not
// committed, and move their connections back.

// Flipper is what we use of tableflip's Upgrader.
type Flipper interface {
	HasParent() bool
	File(name string) (*os.File, error)
	AddFile(name string, f *os.File) error
	Upgrade() error
	Ready() error
	WaitForParent(ctx context.Context) error
	Stop()
}

const handoverFile = "handover"

// takenPatience bounds how long a successor that is ready may take over.
const takenPatience = 30 * time.Second

// parentPatience bounds how long an upgrade waits for the exit of the supervisor of the last one.
const parentPatience = 10 * time.Second

// successorNote is what a successor says. One field is set.
type successorNote struct {
	PID     int        `json:"pid,omitempty"`
	Spawned *processID `json:"spawned,omitempty"` // a worker of its own
	Speaks  int        `json:"speaks,omitempty"`  // pid of such a worker, which leaves by itself when its control channel ends
	Failed  string     `json:"failed,omitempty"`  // why it gives up
	Taken   bool       `json:"taken,omitempty"`   // it has everything
}

// processID names a process for as long as the machine runs.
type processID struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

// upgrade is a self-upgrade under way, as the old supervisor sees it. Only used by the loop.
type upgrade struct {
	asked    []func(Verdict)
	began    time.Time
	conn     *os.File // our end of the hand-over socket
	pid      int      // the successor, once it said so
	spawned  map[int]processID
	words    string // why it failed, in its own words
	patience *time.Timer
	closed   bool   // it has closed its end
	ready    bool   // it said so: if nobody stopped it, it would take the end of its channel for our death, and take over
	pausing  bool   // our readers are being stopped: nobody may start them again before that is over
	lost     string // why it will not take over; it became known meanwhile
}

// beginUpgrade starts the program on disk beside us, to take everything over. One upgrade runs; who asks meanwhile shares its verdict.
func (s *Supervisor) beginUpgrade(asked ...func(Verdict)) {
	if s.upgrade != nil {
		s.upgrade.asked = append(s.upgrade.asked, asked...)
		return
	}
	if s.reload != nil {
		s.upgradeNext = append(s.upgradeNext, asked...)
		s.upgradeWaits = true
		s.log.Info("a reload runs: the self-upgrade waits for it")
		return
	}
	if err := s.mayUpgrade(); err != nil {
		s.log.Error("self-upgrade refused, nothing changed", zap.Error(err))
		answer(&asked, s.refused("self-upgrade refused: %v", err))
		return
	}
	u := &upgrade{asked: asked, began: time.Now(), spawned: map[int]processID{}}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		u.conn = pollable(pair[0], handoverFile)
		theirs := os.NewFile(uintptr(pair[1]), handoverFile)
		err = s.flip.AddFile(handoverFile, theirs) // a duplicate
		theirs.Close()
		if err != nil {
			u.conn.Close()
		}
	}
	if err != nil {
		s.log.Error("self-upgrade failed, nothing changed", zap.Error(err))
		answer(&asked, s.refused("self-upgrade failed, nothing changed: %v", err))
		return
	}
	s.upgrade = u
	s.endRecycling()
	s.log.Info("self-upgrade begins", zap.Int("generation", s.generation+1))
	b := s.snapshot()
	for name, fds := range s.inherited {
		for i, fd := range fds {
			b.fds[systemdDescriptor(fmt.Sprintf("%d.%s", i, name))] = fd
		}
	}
	if s.store != nil {
		b.fds[storeDescriptor] = s.store.memory.fd
	}
	s.addEndpoints(&b)
	if s.pidfile != nil {
		b.fds[pidfileDescriptor] = int(s.pidfile.file.Fd())
	}
	sent := make(chan error, 1)
	go func() { sent <- sendBundle(u.conn, b) }()
	go s.hearSuccessor(u)
	flip := s.flip
	go func() {
		if flip.HasParent() { // it has nothing to do any more, but may still be on its last instructions
			ctx, cancel := context.WithTimeout(context.Background(), parentPatience)
			flip.WaitForParent(ctx)
			cancel()
		}
		err := flip.Upgrade()
		if err == nil {
			err = <-sent
		}
		s.do(func() { s.upgradeReturned(u, err) })
	}()
}

const pidfileDescriptor = descriptorPrefix + "pidfile"

// mayUpgrade says why not.
func (s *Supervisor) mayUpgrade() error {
	switch {
	case s.stopping != running:
		return fmt.Errorf("the supervisor is stopping")
	case s.probation:
		return fmt.Errorf("the self-upgrade that started this supervisor has not ended yet")
	case s.flip == nil:
		return fmt.Errorf("this supervisor cannot start another one")
	case s.parked:
		return fmt.Errorf("all workers are parked (SIGWINCH): HUP first")
	case os.Getpid() == 1:
		return fmt.Errorf("the supervisor is PID 1 without its holder: when it ended, everything would")
	}
	if init := followsFirstChild(); init != "" {
		return fmt.Errorf("our parent is %s, which ends everything with its first child: start the supervisor with --holder", init)
	}
	for _, p := range s.pools {
		if !p.serving && !p.removed {
			return fmt.Errorf("pool %s does not serve yet", p.cfg.Name)
		}
	}
	return s.roomForSuccessor()
}

// followsFirstChild gives the name of our parent if that is an init of containers, which ends when its first child does.
func followsFirstChild() string {
	if os.Getppid() != 1 {
		return ""
	}
	text, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		return ""
	}
	switch name := strings.TrimSpace(string(text)); name {
	case "tini", "docker-init", "dumb-init", "catatonit":
		return name
	}
	return ""
}

// hearSuccessor tells what the successor says, until it closes its end.
func (s *Supervisor) hearSuccessor(u *upgrade) {
	for {
		text, fds, err := receivePacket(u.conn)
		closeAll(fds)
		if err == io.EOF || len(text) == 0 {
			s.do(func() {
				u.closed = true
				if s.handing == u {
					s.takeBack(u, "the new supervisor is gone")
				}
			})
			return
		}
		if err != nil {
			return // we closed it
		}
		var note successorNote
		if json.Unmarshal(text, &note) == nil {
			s.do(func() { s.successorSays(u, note) })
		}
	}
}

func (s *Supervisor) successorSays(u *upgrade, note successorNote) {
	switch {
	case note.PID > 0:
		u.pid = note.PID
	case note.Spawned != nil:
		u.spawned[note.Spawned.PID] = *note.Spawned
	case note.Speaks > 0:
		delete(u.spawned, note.Speaks)
	case note.Failed != "":
		u.words = note.Failed
	case note.Taken && s.handing == u:
		s.leave(u)
	}
}

// upgradeReturned: tableflip says that the successor is ready, or why there will be none.
func (s *Supervisor) upgradeReturned(u *upgrade, err error) {
	if s.upgrade != u {
		return
	}
	u.ready = err == nil
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

func (s *Supervisor) children() []*child {
	var children []*child
	for _, w := range s.workers() {
		if c, ok := w.proc.(*child); ok && w.state != gone {
			children = append(children, c)
		}
	}
	return children
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
	}
	s.upgradeFailed(u, fmt.Errorf("%s; a further self-upgrade needs a restart", why))
}

// upgradeFailed: everything stays as it is, and nothing of the successor's stays.
func (s *Supervisor) upgradeFailed(u *upgrade, err error) {
	s.upgrade = nil
	if u.words != "" {
		err = fmt.Errorf("%s (%w)", u.words, err)
	}
	took := time.Since(u.began)
	s.log.Error("self-upgrade failed, nothing changed", zap.Int("generation", s.generation), zap.Error(err), zap.Duration("took", took.Round(time.Millisecond)))
	v := s.refused("self-upgrade failed, nothing changed: %v", err)
	v.Took = took
	answer(&u.asked, v)
	if u.ready || u.pid > 0 { // it may have told the manager that it is the one
		sdnotify.Send(os.Getenv(sdnotify.EnvSocket), "MAINPID="+strconv.Itoa(os.Getpid()))
		if u.ready && u.pid > 0 && !u.closed {
			unix.Kill(u.pid, unix.SIGKILL)
		}
	}
	u.conn.Close()
	for _, id := range u.spawned { // those that do not hear that their supervisor is gone
		endForeign(id)
	}
	s.nextReload()
}

// endForeign ends the process group of a worker that a failed successor left behind.
func endForeign(id processID) {
	if at, err := startTime(id.PID); err != nil || at != id.StartTime {
		return
	}
	unix.Kill(-id.PID, unix.SIGTERM)
	time.AfterFunc(quitGrace, func() {
		if at, err := startTime(id.PID); err == nil && at == id.StartTime {
			unix.Kill(-id.PID, unix.SIGKILL)
		}
	})
}

// The new side.

// tellSpawned tells the supervisor before us of a worker that it would have to end if we died.
func (s *Supervisor) tellSpawned(w *worker) {
	if !s.probation {
		return
	}
	if c, ok := w.proc.(*child); ok {
		s.heritage.say(successorNote{Spawned: &processID{c.pid, c.startTime}})
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
		tellMainPID()
		err := in.flip.Ready()
		var rest bundle
		if err == nil {
			in.conn.SetReadDeadline(time.Now().Add(takenPatience))
			rest, err = receiveBundle(in.conn)
		}
		s.do(func() { s.takeOver(rest, err) })
	}()
}

// takeOver makes this supervisor the one in charge.
func (s *Supervisor) takeOver(rest bundle, err error) {
	in := s.heritage
	s.probation, s.succeeding = false, false
	if err != nil {
		s.log.Error("the supervisor before us died before it handed its workers over: they serve on for orphan_timeout", zap.Error(err))
	}
	for _, p := range s.pools {
		for _, b := range p.sockets {
			b.passedOn = false
		}
	}
	stored := map[string]bool{snapshotName: true}
	for _, name := range rest.snapshot.Stored { // also of workers that died since
		stored[name] = true
	}
	for _, part := range []*bundle{in.before, &rest} {
		for name := range part.fds {
			stored[name] = true
		}
	}
	s.store, _ = newStore(in.before.take(storeDescriptor), stored)
	s.keepDeltas(rest.snapshot)                       // TTIN may have come meanwhile
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
	s.takeEndpointsOver()
	rest.close()
	in.before.close()
	in.conn.Close()
	s.log.Info("self-upgrade done: this supervisor is in charge", zap.Int("generation", s.generation))
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
