package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/machine"
)

// Supervisor is the master: it holds the sockets and owns the workers. Everything but the fields marked otherwise is only used by
// the loop in Run; goroutines tell it facts through tell and do.
type Supervisor struct {
	// Set once.
	log      *zap.Logger
	tune     *logTuning
	load     func() (*config.Config, error) // reads the configuration again
	start    func(launch) (process, error)
	exec     func(hook) (*hookProcess, error) // starts a hook
	ask      func(*worker, func(error))       // whether a canary is well; the loop calls back
	memory   func() (machine.Memory, bool)
	sink     *sink
	instance string // random, names this supervisor to its workers
	version  string // of the program, for people

	// Shared and safe.
	events  chan event
	calls   chan func()   // run by the loop
	over    chan struct{} // closed when the loop has ended: facts that come later are dropped
	streams atomic.Int32  // clients that follow something

	cfg        *config.Config
	generation int
	pools      []*pool           // in file order
	tallies    map[string]*tally // of workers that are gone, by pool name
	ledger     ledger
	inherited  map[string][]int
	serials    map[string]int  // of the last process, by pool name: also of pools that come back
	retired    []*bindSockets  // addresses without a place in the config, until their last worker is gone
	reload     *reload         // the one that runs, or nil
	again      bool            // another one waits
	waiting    []func(Verdict) // who waits for that one
	parked     bool            // SIGWINCH
	degraded   string          // a reload failed, and so did its way back: what is missing; "": all is well
	hooks      hooks
	stopping   phase
	desk       desk // who asks and waits: control.go
	journal    journal
	err        error // what ends Run
	pidfile    *PIDFile

	heritage   *Inheritance
	manager    *manager // nil: nobody above us wants to know
	scraper    *scraper // answers /metrics; nil in tests
	store      *store   // nil: nobody keeps descriptors for us
	revived    bool     // the supervisor before us was killed, and we have its workers
	succession          // a self-upgrade: upgrade.go
	wakeAt     time.Time
	lastTick   time.Time
	watchedAt  time.Time // when watch looked last
	watchList  []watched // of watch; nil: something changed since
	queues     []unix.PollFd
	oomSeen    int64 // the kernel's kills in our cgroup that have been laid to a worker
}

// phase of a stop.
type phase int

const (
	running  phase = iota
	delaying       // told to stop, everything is served on: drain_delay
	graceful       // pools drain, in reverse order
	quick          // everybody leaves at once
)

// Options are what a Supervisor needs beside its configuration.
type Options struct {
	// Load reads the configuration again at SIGHUP. An error changes nothing.
	Load func() (*config.Config, error)
	// Version is the program's, for people.
	Version string
	// Inherited is what this process found when it started, nil: nothing.
	Inherited *Inheritance
}

// What Run's and New's errors are made of, for exit codes.
var (
	ErrNotReady = errors.New("no worker became ready")
	ErrBind     = errors.New("could not bind")
	ErrPIDFile  = errors.New("pidfile")
	ErrRunning  = errors.New("another supervisor runs")
)

// New takes the pidfile, opens the logs and binds every address of the configuration, or none.
func New(cfg *config.Config, opts Options) (*Supervisor, error) {
	if opts.Inherited == nil {
		opts.Inherited = &Inheritance{}
	}
	tune := newLogTuning(cfg, &opts.Inherited.trial)
	out, err := newSink(logPathsOf(cfg), tune)
	if err != nil {
		return nil, err
	}
	log := newLogger(out, tune)
	s := newSupervisor(cfg, log, start)
	s.exec, s.memory = startHook, machine.Cgroup{}.Memory
	s.sink, s.tune, s.load, s.version = out, tune, opts.Load, opts.Version
	s.oomSeen = machine.OOMKills()
	s.begin(opts.Inherited)
	s.manager = newManager(log, s.probation)
	s.scraper = newScraper(log, s.takeView, opts.Version)
	// The pidfile first, so that one supervisor at a time looks at the addresses.
	if err = s.takePIDFile(); err == nil {
		err = s.bindAll()
	}
	if err == nil {
		err = s.openAdmin()
	}
	if err != nil {
		s.closeEndpoints()
		s.closeSockets()
		s.dropPIDFile()
		out.close()
		return nil, err
	}
	s.beginPools()
	return s, nil
}

// bindAll makes the pools of the first generation: first every address is bound, then all of them listen.
func (s *Supervisor) bindAll() error {
	for _, pc := range s.cfg.Pools {
		p := &pool{cfg: pc, generation: s.generation, pin: s.heritage.pinFor(pc)}
		s.pools = append(s.pools, p)
		for _, b := range pc.Bind {
			sockets, err := s.heritage.claim(b, pc)
			if err == nil && sockets == nil {
				sockets, err = openBind(b, pc, s.inherited)
			}
			if err != nil {
				return err
			}
			p.sockets = append(p.sockets, sockets)
		}
	}
	s.heritage.claimRest()
	for _, p := range s.pools {
		for _, b := range p.sockets {
			if b.passedOn {
				continue // it listens since the supervisor before us
			}
			if err := b.listen(); err != nil {
				return err
			}
		}
	}
	return nil
}

// newSupervisor makes one without sockets, whose processes come from start.
func newSupervisor(cfg *config.Config, log *zap.Logger, start func(launch) (process, error)) *Supervisor {
	id := make([]byte, 8)
	rand.Read(id)
	s := &Supervisor{
		log: log, start: start, memory: noLimit, instance: hex.EncodeToString(id),
		serials: map[string]int{}, tallies: map[string]*tally{}, events: make(chan event, 64), calls: make(chan func(), 16), over: make(chan struct{}),
		cfg: cfg, generation: 1, heritage: &Inheritance{}, desk: desk{since: time.Now()},
	}
	s.ask = s.askHealth
	return s
}

// tell gives the loop a fact.
func (s *Supervisor) tell(e event) {
	select {
	case s.events <- e:
	case <-s.over:
	}
}

// do runs f in the loop.
func (s *Supervisor) do(f func()) {
	select {
	case s.calls <- f:
	case <-s.over:
	}
}

// wake makes the loop reconcile once more after d.
func (s *Supervisor) wake(d time.Duration) {
	at := time.Now().Add(d)
	if s.wakeAt.After(time.Now()) && !s.wakeAt.After(at) {
		return // it will wake earlier
	}
	s.wakeAt = at
	time.AfterFunc(d, func() { s.do(func() {}) })
}

// tickInterval is how often limits are judged.
const tickInterval = time.Second

// Run serves until a signal or the end of ctx stops it. It returns nil when it was stopped as asked, and after every worker is gone.
func (s *Supervisor) Run(ctx context.Context, signals <-chan os.Signal) error {
	defer s.Close()
	s.recordStart()
	s.warnUnused()
	for _, p := range s.pools {
		for _, b := range p.sockets {
			s.log.Info("listening", zap.String("pool", p.cfg.Name), zap.String("name", b.bind.Name), zap.String("address", b.address()))
		}
	}
	if why := s.heritage.unused; why != "" {
		s.log.Warn("the supervisor before us was killed: this one goes on with the configuration that was in force, not with the one on disk, which nobody "+
			"has loaded; a reload puts that in force", zap.String("on disk", why))
	}
	if s.revived {
		s.replaceAdopted()
	}
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	s.lastTick, s.watchedAt = time.Now(), time.Now()
	stop := ctx.Done()
	s.serveEndpoints()
	s.manager.watch(s)
	if s.probation {
		go s.hearPredecessor()
	}
	s.reconcile()
	s.persist()
	for !s.finished() {
		events, asked, ticks, watches := s.events, signals, ticker.C, watch.C
		if s.handing != nil {
			asked, ticks, watches = nil, nil, nil
		}
		if s.succeeding {
			asked = nil // a stop must find all workers, also those that are on their way to us
		}
		if s.frozen {
			events = nil
		}
		select {
		case e := <-events:
			s.handle(e)
		case f := <-s.calls:
			f()
		case sig := <-asked:
			s.signal(sig)
		case <-ticks:
			s.tick()
		case <-watches:
			if !s.watch() {
				continue
			}
		case <-stop:
			s.stop(graceful)
			stop = nil
		}
		if s.handing == nil {
			s.reconcile()
			s.persist()
			s.look()
			s.manager.look(s)
		}
	}
	if s.handedOver {
		go s.passOn(signals) // until the process ends
		return nil
	}
	s.log.Info("stopped")
	s.record(control.EventStop, control.LevelInfo, "stopped")
	return s.err
}

// warnUnused names sockets of systemd's that no pool serves: the kernel accepts on them, and their clients would wait for ever.
func (s *Supervisor) warnUnused() {
	unused := maps.Clone(s.inherited)
	for _, p := range s.pools {
		for _, b := range p.sockets {
			if b.bind.Network == "systemd" {
				delete(unused, b.bind.Address)
			}
		}
	}
	if len(unused) > 0 {
		s.log.Warn("systemd passed sockets that no pool serves", zap.String("names", nameList(unused)))
	}
}

// finished reports whether a stop has come to its end.
func (s *Supervisor) finished() bool {
	return s.handedOver || (s.stopping >= graceful && len(s.pools) == 0 && s.hooks.idle())
}

// fail stops everything because of an error.
func (s *Supervisor) fail(err error) {
	if s.probation {
		s.heritage.Fail(err)
	}
	if s.err == nil {
		s.err = err
		s.log.Error("giving up", zap.Error(err))
		s.record(control.EventStop, control.LevelError, "giving up: %v", err)
	}
	s.stop(graceful)
}

// stop begins a stop, or turns a graceful one into a quick one.
func (s *Supervisor) stop(how phase) {
	if how <= s.stopping {
		return
	}
	s.stopping = how
	s.store.clear()
	if s.upgrade != nil {
		s.flip.Stop() // it ends the successor, and the verdict says so
	}
	answer(&s.upgradeNext, s.refused("the supervisor was stopped meanwhile"))
	s.upgradeWaits = false
	if s.reload != nil {
		s.ledger.reloaded(verdictFailed, time.Since(s.reload.began))
		s.drop(s.reload.opened)
		s.reload.unpin()
		answer(&s.reload.asked, s.refused("the supervisor was stopped meanwhile"))
	}
	answer(&s.waiting, s.refused("the supervisor was stopped meanwhile"))
	s.reload, s.again = nil, false
	if how == quick {
		s.log.Info("quick stop")
		s.record(control.EventStop, control.LevelInfo, "quick stop begins")
		s.hooks.end()
		for _, p := range s.pools {
			for _, w := range p.workers() {
				s.quit(w, reasonQuit)
			}
		}
		return
	}
	s.log.Info("stopping")
	s.record(control.EventStop, control.LevelInfo, "stop begins")
}

// advanceStop ends the pools in reverse order: what was started last may need what was started first.
func (s *Supervisor) advanceStop() {
	for len(s.pools) > 0 && (s.stopping == quick || s.groupsAreOurs()) { // else refuse's socket would not have the number that it counts
		p := s.pools[len(s.pools)-1]
		if !p.closing {
			p.closing = true
			for _, b := range p.sockets {
				b.refuse() // what is queued is still accepted and answered
			}
		}
		if s.sweep(p) {
			break
		}
		if !p.told {
			p.told = true
			for _, w := range p.leaving { // on their way to workers that will not be there
				s.closeInstead(w)
			}
			for _, sl := range p.slots {
				s.empty(p, sl, s.leaveWith(), reasonStop)
				if sl.retry != nil {
					sl.retry.Stop()
				}
			}
		}
		if len(p.workers()) > 0 {
			break
		}
		s.pools = s.pools[:len(s.pools)-1]
		p.pin.Close()
		s.retired = append(s.retired, p.sockets...)
	}
	if s.stopping == quick {
		s.pools = slices.DeleteFunc(s.pools, func(p *pool) bool {
			if len(p.workers()) > 0 {
				return false
			}
			p.pin.Close()
			s.retired = append(s.retired, p.sockets...)
			return true
		})
		return
	}
	for _, p := range s.pools {
		if !p.closing && !p.pending && p.begun {
			s.fill(p) // those that are still needed are kept alive meanwhile
		}
	}
}

// drop refuses new connections on addresses that are no longer wanted, and closes them once their last worker is gone.
func (s *Supervisor) drop(sockets []*bindSockets) {
	for _, b := range sockets {
		b.refuse()
		s.retired = append(s.retired, b)
	}
}

// Close gives back the addresses and the logs. Run does it; a caller who never came to Run must.
func (s *Supervisor) Close() {
	s.sayGoodbye()
	close(s.over)
	if !s.handedOver {
		s.closeSockets()
		s.dropPIDFile()
	}
	s.closeEndpoints()
	if s.sink != nil {
		s.sink.close()
	}
}

func (s *Supervisor) closeSockets() {
	for _, p := range s.pools {
		p.pin.Close()
		for _, b := range p.sockets {
			b.Close()
		}
	}
	for _, b := range slices.Concat(s.retired, s.heritage.dropped) {
		b.Close()
	}
}

// takePIDFile locks the pidfile, or goes on with the lock of the supervisor before us.
func (s *Supervisor) takePIDFile() (err error) {
	if s.probation {
		if fd := s.heritage.before.take(pidfileDescriptor); fd >= 0 {
			s.pidfile = &PIDFile{s.heritage.before.snapshot.PIDFile, os.NewFile(uintptr(fd), "pidfile")}
		}
		return nil
	}
	switch {
	case s.cfg.PIDFile == "":
	case s.heritage.before != nil: // and it is dead
		s.pidfile, err = awaitPIDFile(s.cfg.PIDFile)
	default:
		s.pidfile, err = LockPIDFile(s.cfg.PIDFile)
	}
	return err
}

func (s *Supervisor) dropPIDFile() {
	if s.pidfile != nil && !s.probation {
		s.pidfile.Remove()
	}
}
