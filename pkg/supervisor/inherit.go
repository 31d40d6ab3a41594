package supervisor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// Inheritance is what this process finds when it starts: sockets of systemd's, and what the supervisor before it left, if there was one.
// That one either lives and hands over (a self-upgrade), or it died and all lay in the store.
type Inheritance struct {
	sockets map[string][]int // of socket units, by name
	before  *bundle          // nil: we are the first
	dropped []*bindSockets   // its addresses that our configuration does not have; its workers serve on them
	conn    *os.File         // to the one before us; nil: it is dead
	rest    chan legacy      // what comes from there last
	flip    Flipper
	stored  map[string]bool // what of it lies in the store
	trial   atomic.Bool     // the one before us is in charge still; for the log, shared and safe
	unused  string          // why the configuration on disk is not in force, though it is another one; "": it is
}

// legacy is the last part of a hand-over, or why there is none.
type legacy struct {
	bundle
	err error
}

// kept reports whether what the supervisor before us leaves lies with a manager, who starts the next one with it.
func (in *Inheritance) kept() bool {
	_, ok := in.before.fds[storeDescriptor]
	return ok
}

// Inherit looks for it. flip may be nil: then there will be no self-upgrade.
func Inherit(flip Flipper) (*Inheritance, error) {
	in := &Inheritance{flip: flip, sockets: map[string][]int{}, stored: map[string]bool{}}
	if flip != nil && flip.HasParent() {
		return in, in.fromPredecessor()
	}
	in.fromManager()
	return in, nil
}

// Continues reports whether there was a supervisor before us: workers serve already.
func (in *Inheritance) Continues() bool { return in.before != nil }

// Fail tells the supervisor before us, if it lives, why we cannot take over.
func (in *Inheritance) Fail(err error) {
	if in != nil && in.conn != nil {
		in.say(successorNote{Failed: err.Error()})
	}
}

func (in *Inheritance) say(note successorNote, fds ...int) error {
	text, err := json.Marshal(note)
	if err != nil {
		return err
	}
	return sendPacket(in.conn, text, fds)
}

// fromPredecessor receives the first part of a self-upgrade: everything but the workers.
func (in *Inheritance) fromPredecessor() error {
	f, err := in.flip.File(handoverFile)
	if err == nil && f == nil {
		err = errors.New("no hand-over socket")
	}
	if err != nil {
		return fmt.Errorf("self-upgrade: %w", err)
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("self-upgrade: %w", err)
	}
	fd := -1
	raw.Control(func(number uintptr) { fd, err = unix.FcntlInt(number, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return fmt.Errorf("self-upgrade: %w", err)
	}
	in.conn, in.rest = pollable(fd, handoverFile), make(chan legacy, 1)
	in.say(successorNote{PID: os.Getpid()})
	in.conn.SetReadDeadline(time.Now().Add(bundlePatience))
	b, err := receiveBundle(in.conn)
	in.conn.SetReadDeadline(time.Time{})
	if err != nil {
		return fmt.Errorf("self-upgrade: %w", err)
	}
	in.before = &b
	for name := range b.fds {
		if rest, ok := strings.CutPrefix(name, systemdDescriptor("")); ok {
			unit := rest[strings.IndexByte(rest, '.')+1:]
			in.sockets[unit] = append(in.sockets[unit], b.take(name))
		}
	}
	return nil
}

// systemdDescriptor names a socket of a socket unit in a hand-over.
func systemdDescriptor(what string) string { return descriptorPrefix + "systemd." + what }

// fromManager reads the sockets that systemd or the holder passed to us, and makes them close-on-exec.
func (in *Inheritance) fromManager() {
	if os.Getenv(protocol.EnvListenPID) != strconv.Itoa(os.Getpid()) {
		return
	}
	n, _ := strconv.Atoi(os.Getenv(protocol.EnvListenFDs))
	names := strings.Split(os.Getenv(protocol.EnvListenNames), ":")
	left := bundle{fds: map[string]int{}}
	for i := range n {
		fd := protocol.FirstFD + i
		unix.CloseOnExec(fd)
		name := "unknown" // as systemd calls a socket without a name
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		if isOurs(name) {
			left.fds[name] = fd
			in.stored[name] = true
		} else {
			in.sockets[name] = append(in.sockets[name], fd)
		}
	}
	if len(left.fds) == 0 {
		return
	}
	if err := left.readSnapshot(); err != nil {
		complain("what the supervisor before us left cannot be used: %v", err)
		left.close()
		return
	}
	in.before = &left
}

// Config gives the configuration to start with: the one that load reads, unless the supervisor before us was killed. Then it is the one
// that was in force: a kill -9 in the night is no deploy, and whether what is on disk by now can be served, nobody has tried. A reload does.
func (in *Inheritance) Config(load func() (*config.Config, error)) (*config.Config, error) {
	cfg, err := load()
	if in.before == nil || in.conn != nil {
		return cfg, err
	}
	inForce, unreadable := decodeConfig(in.before.snapshot.Config)
	switch {
	case unreadable != nil:
		complain("the configuration that was in force is lost: %v", unreadable)
		return cfg, err
	case err != nil:
		in.unused = err.Error()
	default:
		in.unused = difference(inForce, cfg)
	}
	inForce.SetOrigins(in.before.snapshot.Origins)
	if err := inForce.ReadAdminToken(os.Getenv); err != nil {
		complain("the dashboard is closed until a reload finds its token: %v", err)
	}
	return inForce, nil
}

// difference says in which sections two configurations differ, or "".
func difference(a, b *config.Config) string {
	sections := func(c *config.Config) map[string]string {
		top := *c
		top.Pools = nil
		texts := map[string]string{"[supervisor]": string(encodeConfig(top))}
		for _, p := range c.Pools {
			texts["[pool."+p.Name+"]"] = string(encodeConfig(p))
		}
		return texts
	}
	in, other := sections(a), sections(b)
	var names []string
	for name, text := range in {
		if other[name] != text {
			names = append(names, name)
		}
	}
	for name := range other {
		if _, known := in[name]; !known {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return strings.Join(names, ", ") + " changed"
}

// complain says something before there is a log.
func complain(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "supervisor: "+format+"\n", args...)
}

// pinFor gives what a pool's workers execute. Of a supervisor that was killed that is what it had pinned, whatever lies on disk by now; so it is
// at a self-upgrade for a pool whose workers stay. All others begin with what is on disk.
func (in *Inheritance) pinFor(cfg *config.Pool) *pin {
	if in.before == nil || in.conn != nil && cfg.Replace != config.ReplaceNever {
		return openPin(cfg)
	}
	for _, ps := range in.before.snapshot.Pools {
		if ps.Name != cfg.Name || ps.Pin.File == "" || !sameConfig(ps.Config, cfg) {
			continue
		}
		p, err := in.before.pinOf(ps.Pin)
		if err == nil {
			return p
		}
		complain("the program that pool %s executed is lost, its workers start with the one on disk: %v", cfg.Name, err)
	}
	return openPin(cfg)
}

// claim gives the open sockets of an address that the supervisor before us had, or nil.
func (in *Inheritance) claim(b config.Bind, cfg *config.Pool) (*bindSockets, error) {
	if in.before == nil {
		return nil, nil
	}
	for _, p := range in.before.snapshot.Pools {
		for _, bs := range p.Binds {
			if bs.Network != b.Network || bs.Address != b.Address {
				continue
			}
			s := in.before.bindOf(bs)
			if s == nil {
				complain("the sockets of %s were left incomplete: it is opened anew", b)
				return nil, nil
			}
			if in.conn != nil { // of one that was killed they are taken as they are: no service at all would be worse
				if err := s.canBecome(b, cfg); err != nil {
					s.Close()
					return nil, err
				}
			}
			s.bind, s.backlog = b, cfg.Backlog
			return s, nil
		}
	}
	return nil, nil
}

// claimRest takes the addresses that no pool has claimed. Until we are in charge they are the other one's: it may have to go on with them.
func (in *Inheritance) claimRest() {
	if in.before == nil {
		return
	}
	rest := in.before.snapshot.Retired
	for _, p := range in.before.snapshot.Pools {
		rest = append(rest, p.Binds...)
	}
	for _, bs := range rest {
		if s := in.before.bindOf(bs); s != nil { // those that were claimed have no descriptors left
			in.dropped = append(in.dropped, s)
		}
	}
}

// takeSockets makes the sockets of the supervisor before us our own. An address that our configuration has dropped goes as at a reload: it
// refuses new connections, and what its queue holds is for the workers that leave.
func (s *Supervisor) takeSockets() {
	for _, p := range s.pools {
		for _, b := range p.sockets {
			b.passedOn = false
		}
	}
	for _, b := range s.heritage.dropped {
		b.passedOn = false
		s.log.Info("address without a place in the configuration: it closes when the workers that serve on it are gone", zap.Stringer("bind", b.bind))
	}
	s.drop(s.heritage.dropped)
	s.heritage.dropped = nil
}

// socketsNamed finds open sockets by their id, wherever they are now: a worker of the supervisor before us may serve on those of another
// pool, or on an address that is on its way out.
func (s *Supervisor) socketsNamed(id string) *bindSockets {
	for _, p := range s.pools {
		for _, b := range p.sockets {
			if b.id() == id {
				return b
			}
		}
	}
	for _, b := range s.retired {
		if b.id() == id {
			return b
		}
	}
	return &bindSockets{shared: true, adoptRx: -1, adoptTx: -1} // closed; it keeps its place, as the scoreboard counts them
}

// begin sets what a supervisor goes on with.
func (s *Supervisor) begin(in *Inheritance) {
	s.inherited, s.flip, s.heritage = in.sockets, in.flip, in
	if in.conn == nil { // else it is the other one's store, for now
		memory := -1
		if in.before != nil {
			memory = in.before.take(snapshotName)
		}
		s.store, _ = newStore(memory, in.stored)
	}
	if in.before == nil {
		return
	}
	before := in.before.snapshot
	s.instance, s.generation = before.Instance, before.Generation
	for pool, serial := range before.Serials {
		s.serials[pool] = serial
	}
	if in.conn == nil {
		s.journal.goOn(before.Journal, before.JournalSeq)
	}
	if in.conn != nil {
		s.probation = true
		in.trial.Store(true)
		s.generation++
		in.say(successorNote{Patience: patience(s.cfg)})
	}
}

// beginPools gives the pools what they had with the supervisor before us, and takes over the workers of a supervisor that died.
func (s *Supervisor) beginPools() {
	in := s.heritage
	if in.before == nil {
		return
	}
	s.keepByHand(in.before.snapshot)
	for _, ps := range in.before.snapshot.Pools {
		if p := s.poolNamed(ps.Name); p != nil {
			p.serving = in.conn != nil && p.cfg.Replace == config.ReplaceNever // its worker stays where it is, for now
		}
	}
	if in.conn == nil {
		s.takeSockets()
		s.keepTallies(in.before.snapshot)
		s.adoptAll(in.before)
		s.revived = len(s.workers()) > 0
		in.before.close()
	}
}

// keepByHand gives the pools what was changed by hand: what TTIN and TTOU had added, unless workers has changed since, and which slots are drained.
func (s *Supervisor) keepByHand(before snapshot) {
	for _, ps := range before.Pools {
		p := s.poolNamed(ps.Name)
		if p == nil {
			continue
		}
		var was config.Pool
		err := json.Unmarshal(ps.Config, &was)
		if err == nil && was.Workers == p.cfg.Workers {
			p.delta = ps.Delta
		}
		if !p.keepDrained(ps.Drained, was.Workers+ps.Delta) {
			s.log.Warn("slots that were drained by hand get workers again: with fewer workers nobody else would serve", zap.String("pool", ps.Name))
		}
	}
}

func (s *Supervisor) poolNamed(name string) *pool {
	for _, p := range s.pools {
		if p.cfg.Name == name && !p.removed {
			return p
		}
	}
	return nil
}

// workers gives every process of all pools.
func (s *Supervisor) workers() []*worker {
	var all []*worker
	for _, p := range s.pools {
		all = append(all, p.workers()...)
	}
	return all
}

// adoptAll takes the workers of a bundle over. Those that served have their slots, if these are free; all others leave.
func (s *Supervisor) adoptAll(b *bundle) {
	var old []*worker
	for _, ws := range b.snapshot.Workers {
		p := s.poolNamed(ws.Pool)
		if p == nil {
			p = s.poolOf(ws.Pool, b.snapshot)
		}
		w := &worker{
			id: ws.id(), pool: p, cfg: p.cfg, generation: ws.Generation, started: ws.Started, readyAt: ws.ReadyAt, leaving: ws.Leaving, speaks: ws.Speaks,
			reason: ws.Reason, overdue: ws.Overdue, beatFloor: time.Now(), lifetime: jitter(p.cfg.MaxLifetime, p.cfg.MaxLifetimeJitter),
		}
		for _, id := range ws.Binds {
			w.sockets = append(w.sockets, s.socketsNamed(id))
		}
		tell := func(e event) {
			e.worker = w
			s.tell(e)
		}
		c, err := adopt(ws, b, launch{id: w.id, pool: p.cfg, sink: s.sink, tell: tell})
		if err != nil {
			s.log.Warn("a worker of the supervisor before us cannot be adopted", zap.Stringer("worker", w.id), zap.Error(err))
			s.recordWorker(w, control.EventCrash, control.LevelWarning, "", "cannot be adopted from the supervisor before us: %v", err)
			s.foldUnadopted(ws, b, err)
			continue
		}
		w.proc = c
		// What it said may have been read by a supervisor that was killed before it could note it.
		w.speaks = w.speaks || c.board.Joined()
		p.grow(ws.Slot + 1)
		if sl := p.slots[ws.Slot]; ws.Serves && sl.current == nil && !p.removed {
			sl.current = w
			if s.heritage.conn != nil && p.cfg.Replace != config.ReplaceNever && stateNamed(ws.State) == ready {
				s.markOverdue(w, reasonUpgrade) // ours has died meanwhile: the next one relieves it
			}
		} else {
			p.leaving = append(p.leaving, w)
		}
		state := stateNamed(ws.State)
		deadline := time.Duration(0)
		if !ws.Deadline.IsZero() {
			deadline = max(time.Millisecond, time.Until(ws.Deadline))
		}
		s.enter(w, state, deadline)
		s.log.Info("worker adopted", w.fields()...)
		s.recordWorker(w, control.EventStart, control.LevelInfo, "", "adopted from the supervisor before us")
		c.listen()
		go c.wait(tell)
		if state == starting && c.board.Joined() && c.board.State() == scoreboard.Serving {
			go tell(event{fact: factReady})
		}
		switch {
		case p.slots[ws.Slot].current != w && state <= ready:
			old = append(old, w)
		case state == ready && w.speaks:
			s.welcome(w) // it may have missed that: its supervisor was killed
		}
	}
	// First nobody old takes connections, then they let go of theirs.
	for _, w := range old {
		w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
	}
	for _, w := range old {
		how := protocol.DrainMove
		if w.pool.removed {
			how = protocol.DrainClose
		}
		s.drain(w, how, reasonUpgrade)
	}
	for _, ps := range b.snapshot.Pools {
		p := s.poolNamed(ps.Name)
		if p == nil || p.cfg.Replace != config.ReplaceNever || sameConfig(ps.Config, p.cfg) {
			continue
		}
		for _, sl := range p.slots { // the old one stops before the new one starts
			s.empty(p, sl, protocol.DrainClose, reasonUpgrade)
		}
	}
}

// foldUnadopted counts what a worker has done that died between two supervisors, or that must be left alone.
func (s *Supervisor) foldUnadopted(ws workerSnapshot, b *bundle, why error) {
	t := s.tallyOf(ws.Pool)
	if errors.Is(why, errGone) {
		t.countGone(cmp.Or(ws.Reason, exitStatus{unknown: true}.reason()))
	}
	fd := b.take(workerDescriptor(ws.PID, shareBoard))
	if fd < 0 {
		return
	}
	defer unix.Close(fd)
	if board, err := scoreboard.Open(fd); err == nil {
		t.fold(board)
		board.Close()
	}
}

func stateNamed(name string) state {
	for st, n := range stateNames {
		if n == name {
			return state(st)
		}
	}
	return draining // of a newer supervisor: whatever it is, it ends
}

// poolOf makes a pool that the configuration has no more, for the workers that leave it.
func (s *Supervisor) poolOf(name string, before snapshot) *pool {
	for _, p := range s.pools {
		if p.cfg.Name == name {
			return p
		}
	}
	cfg := config.Defaults().Pools[0]
	for _, ps := range before.Pools {
		if ps.Name != name {
			continue
		}
		if was, err := decodePool(ps.Config); err == nil {
			cfg = was
		}
	}
	cfg.Name = name
	p := &pool{cfg: cfg, removed: true}
	s.pools = append(s.pools, p)
	return p
}
