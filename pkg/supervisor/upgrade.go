package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/scoreboard"
	"supervisor/pkg/sdnotify"
)

// A self-upgrade, both sides of it. tableflip starts the successor and tells when it is ready; everything else goes over one socket, made
// fresh for each try and the only descriptor that tableflip knows:
//
//	old                                              new
//	snapshot without workers, sockets, …       →     takes the addresses, binds what is new; its own limits apply
//	                                           ←     {pid}, {spawned}, {speaks}: what to clean up if it dies
//	(serves, refills, but changes nothing)           starts a full set of workers, not committed; does not steer
//	                                           ←     tableflip's Ready
//	stops reading from its workers
//	snapshot with workers, their descriptors   →     tells the manager MAINPID, adopts them
//	                                           ←     {taken}
//	exits                                            commits, steers, drains the adopted ones
//
// Whatever fails before {taken} leaves the old supervisor as it was: the new one's workers see their control channel end, were not
// committed, and move their connections back. If the old one dies before its last snapshot has come, the new one gives up where a manager keeps
// the descriptors of all workers and starts a supervisor with them; where nobody does, it goes on with workers of its own.

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

// succession is what a supervisor knows of those before and after it. Only used by the loop.
type succession struct {
	// The old side.
	flip         Flipper              // nil: no self-upgrade
	upgrade      *upgrade             // the one that runs, or nil
	upgradeWaits bool                 // another one was asked for, and must wait
	upgradeNext  []func(Verdict)      // who asked for that
	ending       []processID          // workers of a successor that failed, with slot sockets
	endingTill   time.Time            // they are awaited
	endingBoards map[int]foreignBoard // what they have done, by pid
	handing      *upgrade             // the successor is ready and gets our workers: nothing changes here any more
	frozen       bool                 // their descriptors are on the way: no event is looked at
	handedOver   bool                 // it has them
	successor    int                  // its pid then

	// The new side.
	probation  bool // we are the successor, and the supervisor before us has its workers still
	succeeding bool // we told it that we are ready
}

const handoverFile = "handover"

// upgradePatience is how long a successor may say nothing, besides what its configuration gives the start of a worker and a hook. It speaks
// at its start, when it knows its configuration, and of each worker that it starts; what fails in between it sees itself.
const upgradePatience = 20 * time.Second

// patience gives how long a supervisor with this configuration may say nothing while it comes up.
func patience(cfg *config.Config) time.Duration {
	boot, hook := time.Duration(0), time.Duration(0)
	for _, p := range cfg.Pools {
		boot = max(boot, p.BootTimeout)
		if len(p.Hooks.BeforeReload) > 0 {
			hook = hookTimeout
		}
	}
	return upgradePatience + boot + hook
}

// parentPatience bounds how long an upgrade waits for the exit of the supervisor of the last one.
const parentPatience = 10 * time.Second

// successorNote is what a successor says. One field is set.
type successorNote struct {
	PID      int           `json:"pid,omitempty"`
	Patience time.Duration `json:"patience,omitempty"` // how long it may say nothing from now on
	Spawned  *processID    `json:"spawned,omitempty"`  // a worker of its own; the memory of its scoreboard comes along
	Pool     string        `json:"pool,omitempty"`     // of that one
	Speaks   int           `json:"speaks,omitempty"`   // pid of such a worker, which leaves by itself when its control channel ends
	Failed   string        `json:"failed,omitempty"`   // why it gives up
	Taken    bool          `json:"taken,omitempty"`    // it has everything
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
	conn     *os.File          // our end of the hand-over socket
	pid      int               // the successor, once it said so
	spawned  map[int]processID // its workers that would not go by themselves
	joined   map[int]processID // all of them: each may hold slot sockets
	boards   map[int]foreignBoard
	words    string        // why it failed, in its own words
	limit    time.Duration // how long it may say nothing
	patience *time.Timer   // ends it then; later, the hand-over
	closed   bool          // it has closed its end
	ready    bool          // it said so: if nobody stopped it, it would take the end of its channel for our death, and take over
	pausing  bool          // our readers are being stopped: nobody may start them again before that is over
	lost     string        // why it will not take over; it became known meanwhile
}

// beginUpgrade starts the program on disk beside us, to take everything over, and gives the words for that. One upgrade runs; who asks
// meanwhile shares its verdict.
func (s *Supervisor) beginUpgrade(asked ...func(Verdict)) (begun string) {
	if s.upgrade != nil {
		s.upgrade.asked = append(s.upgrade.asked, asked...)
		return "a self-upgrade runs already"
	}
	why := s.stillEnding()
	if s.reload != nil {
		why = "a reload runs"
	}
	if why != "" {
		s.upgradeNext = append(s.upgradeNext, asked...)
		s.upgradeWaits = true
		s.log.Info("this self-upgrade waits: " + why)
		s.record(control.EventUpgrade, control.LevelInfo, "a self-upgrade waits: %s", why)
		return "this self-upgrade waits: " + why
	}
	begun = "self-upgrade begun"
	if pools := s.careful(); pools != "" {
		begun += ", without the health and bake of pool " + pools + ": these are for reloads"
		s.log.Info("a self-upgrade has no canary: health and bake are for reloads", zap.String("pools", pools))
	}
	if err := s.mayUpgrade(); err != nil {
		s.ledger.upgraded(verdictRefused)
		s.log.Error("self-upgrade refused, nothing changed", zap.Error(err))
		s.record(control.EventUpgrade, control.LevelError, "self-upgrade refused: %v", err)
		answer(&asked, s.refused("self-upgrade refused: %v", err))
		return begun
	}
	u := &upgrade{asked: asked, began: time.Now(), spawned: map[int]processID{}, joined: map[int]processID{}, boards: map[int]foreignBoard{}, limit: patience(s.cfg)}
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
		s.ledger.upgraded(verdictFailed)
		s.log.Error("self-upgrade failed, nothing changed", zap.Error(err))
		s.record(control.EventUpgrade, control.LevelError, "self-upgrade failed, nothing changed: %v", err)
		answer(&asked, s.refused("self-upgrade failed, nothing changed: %v", err))
		return begun
	}
	s.upgrade = u
	u.patience = time.AfterFunc(u.limit, func() { s.do(func() { s.giveUp(u) }) })
	s.endRecycling()
	s.log.Info("self-upgrade begins", zap.Int("generation", s.generation+1))
	s.record(control.EventUpgrade, control.LevelInfo, "self-upgrade to generation %d begins", s.generation+1)
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
		if err != nil {
			err = fmt.Errorf("%s: %w", os.Args[0], err)
		} else {
			err = <-sent
		}
		s.do(func() { s.upgradeReturned(u, err) })
	}()
	return begun
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

// careful names the pools whose reload has a canary.
func (s *Supervisor) careful() string {
	var names []string
	for _, p := range s.pools {
		if !p.removed && p.cfg.Replace != config.ReplaceNever && (p.cfg.Bake > 0 || !p.cfg.Health.IsZero()) {
			names = append(names, p.cfg.Name)
		}
	}
	return strings.Join(names, ", ")
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
		if err != nil { // also when we closed it: then nobody asks any more
			s.do(func() {
				u.closed = true
				if s.handing == u {
					s.takeBack(u, "the new supervisor is gone")
				}
			})
			return
		}
		var note successorNote
		var board *scoreboard.Reader
		if err := json.Unmarshal(text, &note); err == nil && note.Spawned != nil && len(fds) == 1 {
			board, _ = scoreboard.Open(fds[0])
		}
		closeAll(fds)
		s.do(func() { s.successorSays(u, note, board) })
	}
}

// successorSays takes a note. board is that of the worker that it names, or nil.
func (s *Supervisor) successorSays(u *upgrade, note successorNote, board *scoreboard.Reader) {
	if s.upgrade == u && !u.ready {
		u.limit = max(u.limit, note.Patience)
		u.patience.Reset(u.limit)
	}
	switch {
	case note.PID > 0:
		u.pid = note.PID
	case note.Spawned != nil:
		u.spawned[note.Spawned.PID], u.joined[note.Spawned.PID] = *note.Spawned, *note.Spawned
		if board != nil {
			u.boards[note.Spawned.PID] = foreignBoard{note.Pool, board}
		}
	case note.Speaks > 0:
		delete(u.spawned, note.Speaks)
	case note.Failed != "":
		u.words = note.Failed
	case note.Taken && s.handing == u:
		s.leave(u)
	}
}

// giveUp ends a successor that does not come up. tableflip sees its end.
func (s *Supervisor) giveUp(u *upgrade) {
	if s.upgrade != u || u.ready {
		return
	}
	if u.words == "" {
		u.words = fmt.Sprintf("the new supervisor timed out: it has said nothing for %v", u.limit)
	}
	if u.pid == 0 {
		u.pid = successorPID()
	}
	if u.pid > 0 {
		unix.Kill(u.pid, unix.SIGKILL)
	}
}

// successorPID finds a successor that has not even said its pid: the child of ours that tableflip has marked.
func successorPID() int {
	all, err := procfs.AllProcs()
	if err != nil {
		return 0
	}
	for _, p := range all {
		stat, err := p.Stat()
		if err != nil || stat.PPID != os.Getpid() {
			continue
		}
		env, err := p.Environ()
		if err == nil && slices.ContainsFunc(env, func(pair string) bool { return strings.HasPrefix(pair, "TABLEFLIP_HAS_PARENT_") }) {
			return p.PID
		}
	}
	return 0
}

// upgradeFailed: everything stays as it is, and nothing of the successor's stays.
func (s *Supervisor) upgradeFailed(u *upgrade, err error) {
	s.upgrade = nil
	s.ledger.upgraded(verdictFailed)
	if u.words != "" {
		err = fmt.Errorf("%s (%w)", u.words, err)
	}
	took := time.Since(u.began)
	s.log.Error("self-upgrade failed, nothing changed", zap.Int("generation", s.generation), zap.Error(err), zap.Duration("took", took.Round(time.Millisecond)))
	s.record(control.EventUpgrade, control.LevelError, "self-upgrade failed, nothing changed: %v", err)
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
	s.awaitEnd(slices.Collect(maps.Values(u.joined)), u.boards)
	s.nextReload()
}
