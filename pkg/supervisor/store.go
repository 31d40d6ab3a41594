package supervisor

import (
	"bytes"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/sdnotify"
)

// store keeps our bundle with whoever is above us (systemd's descriptor store, or the holder's), so that a supervisor that was killed
// loses nothing: the next one gets the sockets, and our ends of what we share with the workers, who never saw them close.
type store struct {
	socket string // the manager's, as in NOTIFY_SOCKET
	memory *snapshotMemory
	stored map[string]bool // names of the descriptors
	last   []byte          // the snapshot in the memory
	retry  time.Time       // the manager did not read: not before then again
	pause  time.Duration   // before that
}

// storeDescriptor names the store's memory in a hand-over.
const storeDescriptor = descriptorPrefix + "store"

// newStore gives nil where there is no manager. memory and stored are what it has of ours already.
func newStore(memory int, stored map[string]bool) (*store, error) {
	st := &store{socket: os.Getenv(sdnotify.EnvSocket), stored: stored}
	if st.socket == "" {
		closeAll([]int{memory})
		return nil, nil
	}
	if st.stored == nil {
		st.stored = map[string]bool{}
	}
	if memory >= 0 {
		st.memory = &snapshotMemory{fd: memory}
		st.memory.read(&snapshot{}) // where the place in force is
		return st, nil
	}
	var err error
	if st.memory, err = newSnapshotMemory(); err != nil {
		return nil, err
	}
	delete(st.stored, snapshotName) // that was another one
	return st, nil
}

// A manager that does not read is left alone for so long: doubled from the first to the last. It may only be busy, and meanwhile a kill -9 would
// cost connections.
const (
	storePauseMin = sdnotify.Patience
	storePauseMax = 10 * time.Second
)

// persist brings the store up to date, after every event. First what is new, then the snapshot that speaks of it, then what is gone: at
// each moment the snapshot finds all its descriptors. others are workers that are about to be ours.
func (s *Supervisor) persist(others ...*bundle) {
	if s.store == nil || s.probation || s.stopping != running || time.Now().Before(s.store.retry) {
		return
	}
	b := s.snapshot()
	s.addWorkers(&b)
	for _, o := range others {
		b.snapshot.Workers = append(b.snapshot.Workers, o.snapshot.Workers...) // behind ours: who comes first has the slot
		for name, fd := range o.fds {
			if strings.HasPrefix(name, workerDescriptors) {
				b.fds[name] = fd
			}
		}
	}
	if err := s.store.put(b); err != nil {
		if s.store.pause == 0 {
			s.log.Warn("cannot store descriptors with the manager: until that works, a kill -9 of the supervisor would lose connections", zap.Error(err))
			s.record(control.EventDegraded, control.LevelWarning, "the manager takes no descriptors: a kill -9 of the supervisor would lose connections")
		}
		s.store.pause = min(max(storePauseMin, 2*s.store.pause), storePauseMax)
		s.store.retry = time.Now().Add(s.store.pause) // each try may hold up the loop
		s.wake(s.store.pause)
	} else if s.store.pause > 0 {
		s.log.Info("the manager has all descriptors again")
		s.record(control.EventRecovered, control.LevelInfo, "the manager has all descriptors again")
		s.store.pause = 0
	}
}

func (st *store) put(b bundle) error {
	b.fds[snapshotName] = st.memory.fd
	for name, fd := range b.fds {
		if !st.stored[name] {
			message := "FDSTORE=1\nFDNAME=" + name
			if strings.HasPrefix(name, pinDescriptors) {
				message += "\nFDPOLL=0" // O_PATH cannot be polled: systemd would not keep it
			}
			if err := sdnotify.Send(st.socket, message, fd); err != nil {
				return err
			}
			st.stored[name] = true
		}
	}
	text, err := b.snapshot.encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(text, st.last) {
		if err := st.memory.writeText(text); err != nil {
			return err
		}
		st.last = text
	}
	for name := range st.stored {
		if _, wanted := b.fds[name]; !wanted {
			if err := st.remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *store) remove(name string) error {
	delete(st.stored, name)
	return sdnotify.Send(st.socket, "FDSTOREREMOVE=1\nFDNAME="+name)
}

// clear empties the store: a stop is no accident, and sockets that refuse are nobody's inheritance.
func (st *store) clear() {
	if st == nil {
		return
	}
	for name := range st.stored {
		if st.remove(name) != nil {
			return // one that does not read must not hold up a stop, a moment for each of thousands
		}
	}
}
