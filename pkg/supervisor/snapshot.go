package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// snapshot is what a supervisor knows of its life, for the one after it: JSON, in which a reader passes over what it does not know, so
// that an older and a newer supervisor understand each other. snapshotVersion changes when that is not enough.
type snapshot struct {
	Version    int               `json:"version"`
	PID        int               `json:"pid"`
	Instance   string            `json:"instance"`
	Generation int               `json:"generation"`
	Serials    map[string]int    `json:"serials"` // of the last process, by pool
	PIDFile    string            `json:"pidfile,omitempty"`
	Config     json.RawMessage   `json:"config"`            // in force
	Origins    map[string]string `json:"origins,omitempty"` // where its values came from
	Since      time.Time         `json:"since,omitzero"`    // when this service started
	Control    string            `json:"control,omitempty"` // the control socket, if its descriptor is there
	Admin      string            `json:"admin,omitempty"`   // the admin listener, the same
	Pools      []poolSnapshot    `json:"pools"`
	Retired    []bindSnapshot    `json:"retired,omitempty"` // addresses that refuse, and are open for workers that leave
	Workers    []workerSnapshot  `json:"workers,omitempty"` // absent before the hand-over
	Stored     []string          `json:"stored,omitempty"`  // at the hand-over: descriptors that lie with the manager
	JournalSeq uint64            `json:"journal_seq,omitempty"`
	Ledger     ledger            `json:"ledger,omitzero"`

	// What workers that are gone did, by pool: not of those above; and what happened last. Both are long and change seldom: they are read into the
	// fields in capitals, and written from the others, in which each is encoded already.
	Tallies map[string]*tally `json:"tallies,omitempty"`
	tallies map[string]*tally
	Journal []control.Event `json:"journal,omitempty"`
	journal []byte          // an array
}

// encode writes it as JSON.
func (s snapshot) encode() ([]byte, error) {
	s.Tallies, s.Journal = nil, nil
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	text = text[:len(text)-1]
	if len(s.tallies) > 0 {
		separator := `,"tallies":{`
		for _, name := range slices.Sorted(maps.Keys(s.tallies)) { // in order: what is unchanged is not stored again
			text = append(append(append(text, separator...), strconv.Quote(name)...), ':')
			text = append(text, s.tallies[name].text...)
			separator = ","
		}
		text = append(text, '}')
	}
	if len(s.journal) > 0 {
		text = append(slices.Grow(text, len(s.journal)+16), `,"journal":`...)
		text = append(text, s.journal...)
	}
	return append(text, '}'), nil
}

const snapshotVersion = 1

type poolSnapshot struct {
	Name    string            `json:"name"`
	Delta   int               `json:"delta"`             // TTIN and TTOU
	Drained map[int]time.Time `json:"drained,omitempty"` // slots that were drained by hand, and when
	Config  json.RawMessage   `json:"config"`
	Binds   []bindSnapshot    `json:"binds"`
	Pin     pinSnapshot       `json:"pin,omitzero"` // without a File: nothing is pinned
}

// pinSnapshot is what a pool's generation executes: names of descriptors, and the path by which it was found.
type pinSnapshot struct {
	Dir  string `json:"dir,omitempty"`
	File string `json:"file,omitempty"`
	Path string `json:"path,omitempty"`
}

// bindSnapshot is an open address. Its descriptors are named bindDescriptor(ID, …).
type bindSnapshot struct {
	ID       string      `json:"id"`
	Name     string      `json:"name"`
	Network  string      `json:"network"`
	Address  string      `json:"address"`
	Mode     fs.FileMode `json:"mode,omitempty"`
	User     string      `json:"user,omitempty"`
	Group    string      `json:"group,omitempty"`
	Shared   bool        `json:"shared"`
	NonBlock bool        `json:"nonblock"`
	Backlog  int         `json:"backlog"`
	Slots    int         `json:"slots"` // how many sockets
	Steered  []int       `json:"steered,omitempty"`
	Inode    uint64      `json:"inode,omitempty"`
	Stopper  int         `json:"stopper,omitempty"` // how many descriptors turn connections away
}

// workerSnapshot is a process. Its descriptors are named workerDescriptor(PID, …).
type workerSnapshot struct {
	PID        int       `json:"pid"`
	StartTime  uint64    `json:"start_time"` // of the process, in ticks since boot: tells it from another one with its pid
	Pool       string    `json:"pool"`
	Slot       int       `json:"slot"`
	Serial     int       `json:"serial"`
	Generation int       `json:"generation"`
	State      string    `json:"state"`
	Reason     reason    `json:"reason,omitempty"`
	Overdue    reason    `json:"overdue,omitempty"`
	Speaks     bool      `json:"speaks"`
	Serves     bool      `json:"serves"` // its slot's current one
	Started    time.Time `json:"started"`
	ReadyAt    time.Time `json:"ready_at,omitzero"`
	Leaving    time.Time `json:"leaving,omitzero"`
	Deadline   time.Time `json:"deadline,omitzero"` // of its state
	Binds      []string  `json:"binds,omitempty"`
	Partial    [2][]byte `json:"partial,omitempty"` // of stdout and stderr: the line whose end has not come yet
}

func (w workerSnapshot) id() protocol.WorkerID {
	return protocol.WorkerID{Pool: w.Pool, Slot: w.Slot, Serial: w.Serial}
}

// Names of descriptors of which there are many are short: all of them come back from the manager in one variable, LISTEN_FDNAMES, and the
// kernel takes 128 KiB for one. So numbers have the base 36, and letters that tell what it is are capitals. Names of addresses begin with
// bindDescriptors, those of workers with workerDescriptors; a socket unit's has no reason to.
const (
	bindDescriptors   = "."
	workerDescriptors = "@"
)

// What a descriptor of an address is, beside a slot's.
const (
	bindRx      = "R"
	bindTx      = "T"
	bindStopper = "S"
)

func bindDescriptor(id, what string) string { return bindDescriptors + id + "." + what }

func slotDescriptor(id string, slot int) string { return bindDescriptor(id, base36(slot)) }

func stopperDescriptor(id string, i int) string { return bindDescriptor(id, bindStopper+base36(i)) }

// workerDescriptor: the pid is short, and two supervisors that both start workers during a self-upgrade never give it twice.
func workerDescriptor(pid int, what string) string { return workerDescriptors + base36(pid) + what }

// pinDescriptors are few, and have a prefix that every supervisor knows. A file that the store holds keeps its numbers, and no other one gets
// them: so the name is never that of two files, and one is enough for all pools that execute the same.
const pinDescriptors = descriptorPrefix + "pin."

func pinDescriptor(dev, ino uint64) string {
	return pinDescriptors + strconv.FormatUint(dev, 36) + "." + strconv.FormatUint(ino, 36)
}

func base36(n int) string { return strconv.FormatInt(int64(n), 36) }

// snapshot describes everything but the workers.
func (s *Supervisor) snapshot() bundle {
	b := bundle{fds: map[string]int{}, snapshot: snapshot{
		Version: snapshotVersion, PID: unix.Getpid(), Instance: s.instance, Generation: s.generation, Serials: maps.Clone(s.serials),
		tallies: maps.Clone(s.tallies), Ledger: s.ledger.clone(),
	}}
	for _, t := range s.tallies {
		t.freeze() // the bundle of a self-upgrade is written outside of the loop
	}
	if s.sink != nil {
		b.snapshot.Ledger.LogLost += s.sink.lostInAll.Load()
	}
	b.snapshot.Config, b.snapshot.Origins = encodeConfig(s.cfg), s.cfg.Origins()
	b.snapshot.JournalSeq, b.snapshot.journal = s.journal.seq, s.journal.encoded()
	if s.pidfile != nil {
		b.snapshot.PIDFile = s.pidfile.path
	}
	for _, p := range s.pools {
		if p.removed || p.pending {
			continue
		}
		ps := poolSnapshot{Name: p.cfg.Name, Delta: p.delta, Config: encodeConfig(p.cfg), Pin: p.pin.snapshot(b.fds)}
		for _, sl := range p.drained() {
			if ps.Drained == nil {
				ps.Drained = map[int]time.Time{}
			}
			ps.Drained[sl.index] = sl.drained
		}
		for _, sockets := range p.sockets {
			ps.Binds = append(ps.Binds, sockets.snapshot(b.fds))
		}
		b.snapshot.Pools = append(b.snapshot.Pools, ps)
	}
	for _, sockets := range s.retired {
		if sockets.passedOn {
			continue // they are among those of a pool, under another name
		}
		b.snapshot.Retired = append(b.snapshot.Retired, sockets.snapshot(b.fds))
	}
	return b
}

// snapshot describes an address and adds its descriptors.
func (s *bindSockets) snapshot(fds map[string]int) bindSnapshot {
	id := s.id()
	for i, fd := range s.slots {
		fds[slotDescriptor(id, i)] = fd
	}
	for i, fd := range s.stopper {
		fds[stopperDescriptor(id, i)] = fd
	}
	fds[bindDescriptor(id, bindRx)], fds[bindDescriptor(id, bindTx)] = s.adoptRx, s.adoptTx
	b := s.bind
	return bindSnapshot{
		ID: id, Name: b.Name, Network: b.Network, Address: b.Address, Mode: b.Mode, User: b.User, Group: b.Group,
		Shared: s.shared, NonBlock: s.nonblock, Backlog: s.backlog, Slots: len(s.slots), Steered: s.steered, Inode: s.inode,
		Stopper: len(s.stopper),
	}
}

// id names these sockets for as long as they are open, in whatever process: the kernel's cookie of their adopt socket.
func (s *bindSockets) id() string {
	cookie, err := unix.GetsockoptUint64(s.adoptRx, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return "" // closed already
	}
	return strconv.FormatUint(cookie, 36)
}

// addWorkers describes the workers, too.
func (s *Supervisor) addWorkers(b *bundle) {
	for _, p := range s.pools {
		for _, w := range p.workers() {
			c, ok := w.proc.(*child)
			if !ok || w.state == gone {
				continue
			}
			ws := workerSnapshot{
				PID: c.pid, StartTime: c.startTime, Pool: w.id.Pool, Slot: w.id.Slot, Serial: w.id.Serial, Generation: w.generation,
				State: w.state.String(), Reason: w.reason, Overdue: w.overdue, Speaks: w.speaks, Started: w.started,
				ReadyAt: w.readyAt, Leaving: w.leaving, Deadline: w.deadline,
				Serves: w.id.Slot < len(p.slots) && p.slots[w.id.Slot].current == w,
			}
			for _, sockets := range w.sockets {
				ws.Binds = append(ws.Binds, sockets.id())
			}
			if s.handing != nil { // nobody reads the pipes any more
				for i, pipe := range c.out {
					ws.Partial[i] = pipe.unfinished()
				}
			}
			for what, fd := range c.descriptors() {
				b.fds[workerDescriptor(c.pid, what)] = fd
			}
			b.snapshot.Workers = append(b.snapshot.Workers, ws)
		}
	}
}

// bindOf gives the sockets of an open address, with those descriptors of the bundle, or nil when some of them are missing.
func (b *bundle) bindOf(bs bindSnapshot) *bindSockets {
	s := &bindSockets{
		bind:    config.Bind{Name: bs.Name, Network: bs.Network, Address: bs.Address, Mode: bs.Mode, User: bs.User, Group: bs.Group},
		backlog: bs.Backlog, nonblock: bs.NonBlock, shared: bs.Shared, steered: bs.Steered, inode: bs.Inode,
		adoptRx: b.take(bindDescriptor(bs.ID, bindRx)), adoptTx: b.take(bindDescriptor(bs.ID, bindTx)),
		passedOn: true, // until they are ours alone
	}
	missing := s.adoptRx < 0 || s.adoptTx < 0 || bs.Slots < 1
	for i := range bs.Slots {
		fd := b.take(slotDescriptor(bs.ID, i))
		missing = missing || fd < 0
		if fd >= 0 {
			s.slots = append(s.slots, fd)
		}
	}
	for i := range bs.Stopper {
		if fd := b.take(stopperDescriptor(bs.ID, i)); fd >= 0 {
			s.stopper = append(s.stopper, fd)
		}
	}
	if !missing {
		var err error
		s.local, err = unix.Getsockname(s.slots[0])
		missing = err != nil
	}
	if missing {
		s.Close()
		return nil
	}
	return s
}

func encodeConfig(part any) json.RawMessage {
	text, err := json.Marshal(part)
	if err != nil {
		panic(err) // numbers and strings only
	}
	return text
}

// decodePool reads a pool's section. What it does not say, because an older supervisor wrote it, has its default.
func decodePool(text json.RawMessage) (*config.Pool, error) {
	p := *config.Defaults().Pools[0]
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("snapshot: pool: %w", err)
	}
	return &p, nil
}

// decodeConfig reads a whole configuration, in the same way.
func decodeConfig(text json.RawMessage) (*config.Config, error) {
	var pools struct{ Pools []json.RawMessage }
	if err := json.Unmarshal(text, &pools); err != nil {
		return nil, fmt.Errorf("snapshot: configuration: %w", err)
	}
	cfg := config.Defaults()
	cfg.Pools = nil
	if err := json.Unmarshal(text, cfg); err != nil {
		return nil, fmt.Errorf("snapshot: configuration: %w", err)
	}
	cfg.Pools = nil
	for _, text := range pools.Pools {
		p, err := decodePool(text)
		if err != nil {
			return nil, err
		}
		cfg.Pools = append(cfg.Pools, p)
	}
	return cfg, nil
}

// sameConfig reports whether a pool's section says today what it said to the supervisor before us. A setting that only one of us knows
// does not count: it cannot have been changed.
func sameConfig(before json.RawMessage, now *config.Pool) bool {
	text, err := json.Marshal(now)
	if err != nil {
		return false
	}
	var a, b map[string]json.RawMessage
	if json.Unmarshal(before, &a) != nil || json.Unmarshal(text, &b) != nil {
		return false
	}
	for key, value := range a {
		if other, known := b[key]; known && string(other) != string(value) {
			return false
		}
	}
	return true
}

// snapshotMemory is a memfd with a snapshot in it. It has two places, so that a reader finds a whole one also when its writer was killed
// in the middle:
//
//	0   8   offset of the place in force, big endian
//	8   4   length of the snapshot in it
//	12  4   its CRC-32 (IEEE)
type snapshotMemory struct {
	fd     int
	offset int64 // of the place in force, 0: none yet
}

const (
	snapshotHeader = 16
	snapshotPlace  = 16 << 20 // bytes of a place; sparse. 2000 workers need 1 MiB.
)

func newSnapshotMemory() (*snapshotMemory, error) {
	fd, err := unix.MemfdCreate("supervisor-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("snapshot: memfd_create: %w", err)
	}
	return &snapshotMemory{fd: fd}, nil
}

func (m *snapshotMemory) Close() { unix.Close(m.fd) }

func (m *snapshotMemory) write(s snapshot) error {
	text, err := s.encode()
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return m.writeText(text)
}

func (m *snapshotMemory) writeText(text []byte) error {
	if len(text) > snapshotPlace {
		return fmt.Errorf("snapshot: %d bytes are too many", len(text))
	}
	offset := int64(snapshotHeader)
	if m.offset == offset {
		offset += snapshotPlace
	}
	if _, err := unix.Pwrite(m.fd, text, offset); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	var header [snapshotHeader]byte
	binary.BigEndian.PutUint64(header[:], uint64(offset))
	binary.BigEndian.PutUint32(header[8:], uint32(len(text)))
	binary.BigEndian.PutUint32(header[12:], crc32.ChecksumIEEE(text))
	if _, err := unix.Pwrite(m.fd, header[:], 0); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	m.offset = offset
	return nil
}

func (m *snapshotMemory) read(s *snapshot) error {
	var header [snapshotHeader]byte
	if n, err := unix.Pread(m.fd, header[:], 0); err != nil || n < len(header) {
		return fmt.Errorf("snapshot: no header (%d bytes, %v)", n, err)
	}
	offset, size := binary.BigEndian.Uint64(header[:]), binary.BigEndian.Uint32(header[8:])
	if offset > snapshotHeader+snapshotPlace || size > snapshotPlace {
		return errors.New("snapshot: a damaged header")
	}
	text := make([]byte, size)
	if n, err := unix.Pread(m.fd, text, int64(offset)); err != nil || n < len(text) {
		return fmt.Errorf("snapshot: %d of %d bytes, %v", n, size, err)
	}
	if crc32.ChecksumIEEE(text) != binary.BigEndian.Uint32(header[12:]) {
		return errors.New("snapshot: the checksum is wrong")
	}
	if err := json.Unmarshal(text, s); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if s.Version != snapshotVersion {
		return fmt.Errorf("snapshot: version %d, this supervisor knows %d", s.Version, snapshotVersion)
	}
	m.offset = int64(offset)
	return nil
}
