package supervisor

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
	"supervisor/pkg/protocol"
)

// How many processes a reload may have beside those of before: max_surge, and what fits into our cgroup's memory.

// boundSurge sets each pool's bound. It refuses a reload for which not even one worker more of each pool has room.
func (s *Supervisor) boundSurge(r *reload) error {
	need := map[*change]int64{}
	var replaced []*change
	for _, c := range r.changes {
		c.surge = max(c.before, c.wanted())
		if r.forced || c.keep || c.fresh {
			continue
		}
		c.surge = min(c.surge, c.cfg.MaxSurge.Of(c.wanted()))
		replaced = append(replaced, c)
	}
	if len(replaced) == 0 {
		return nil
	}
	memory, ok := s.memory()
	if !ok {
		return nil
	}
	room := memory.Limit - memory.Used
	var needed []string
	for _, c := range replaced {
		need[c] = s.largest(c)
		room -= need[c]
		needed = append(needed, fmt.Sprintf("pool %s up to %s", c.cfg.Name, mebibytes(need[c])))
	}
	if room < 0 {
		return fmt.Errorf("%w: for one worker more, %s; our cgroup has %s left (of %s, %s are used)", errNoRoom,
			strings.Join(needed, " and "), mebibytes(memory.Limit-memory.Used), mebibytes(memory.Limit), mebibytes(memory.Used))
	}
	for _, c := range replaced {
		if need[c] == 0 {
			continue
		}
		more := min(int64(c.surge-1), room/need[c])
		room -= more * need[c]
		c.surge = 1 + int(more)
	}
	return nil
}

// roomForSuccessor refuses a self-upgrade whose second set of workers does not fit into our cgroup. It cannot roll as a reload does: until
// the successor is in charge, no worker leaves.
func (s *Supervisor) roomForSuccessor() error {
	memory, ok := s.memory()
	if !ok {
		return nil
	}
	var need int64
	workers := 0
	for _, p := range s.pools {
		if p.removed || p.cfg.Replace == config.ReplaceNever {
			continue
		}
		for _, sl := range p.slots {
			if sl.current == nil {
				continue
			}
			if u, err := sl.current.proc.Usage(); err == nil {
				need += u.memory
				workers++
			}
		}
	}
	if room := memory.Limit - memory.Used; need > room {
		return fmt.Errorf("%w: for a second set of %d workers, up to %s; our cgroup has %s left (of %s, %s are used)", errNoRoom, workers,
			mebibytes(need), mebibytes(room), mebibytes(memory.Limit), mebibytes(memory.Used))
	}
	return nil
}

var errNoRoom = errors.New("not enough memory to start new workers beside the old ones")

// largest gives the memory of the pool's largest worker, 0 when nobody knows.
func (s *Supervisor) largest(c *change) int64 {
	var most int64
	for _, w := range c.veterans() {
		if u, err := w.proc.Usage(); err == nil {
			most = max(most, u.memory)
		}
	}
	return most
}

// noLimit is the memory of a supervisor that is not to look: in tests.
func noLimit() (machine.Memory, bool) { return machine.Memory{}, false }

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", max(0, n)>>20) }

// startOthers starts what is missing of a pool's new generation, and reports whether all of it is ready. When not all fit beside the old
// workers, each old one leaves as soon as the new one of its slot is ready.
func (s *Supervisor) startOthers(c *change) bool {
	p, r := c.pool, s.reload
	together := min(c.before, c.wanted()) <= c.surge
	all := true
	p.grow(c.wanted())
	for _, sl := range p.slots[:c.wanted()] {
		if r.forced && sl.isDrained() {
			continue // nobody has asked for this reload
		}
		if w := sl.current; w != nil && w.generation == r.generation {
			all = all && w.state == ready
			continue
		}
		if sl.next == nil && r.err == nil && (together || c.extra() < c.surge) && s.bootsInPace(r) {
			sl.next = s.spawn(p, sl, c.blueprint(r.generation))
			r.spawned = time.Now()
		}
		isReady := sl.next != nil && sl.next.state == ready
		all = all && isReady
		if isReady && !together && sl.index < p.wanted() {
			s.relieve(c, sl)
		}
	}
	return all
}

// bootsInPace reports whether a reload may start one more worker now. Each that starts takes processor time from those that serve: so one
// starts after the other, on half of the cores. Where starting is slow nobody waits for it longer than bootPace: most of such a start is
// waiting, and the reload would take as many times as long.
func (s *Supervisor) bootsInPace(r *reload) bool {
	booting := s.booting()
	if booting < max(1, machine.Cores()/2) {
		return true
	}
	if rest := bootPace - time.Since(r.spawned); rest > 0 {
		s.wake(rest)
		return false
	}
	return booting < bootsAtOnce()
}

// bootPace is several times what a Go program needs from exec to READY.
const bootPace = 100 * time.Millisecond

// extra gives how many processes the pool has beyond its size because of this reload.
func (c *change) extra() int {
	n := 0
	for _, w := range c.leaving {
		if w.state != gone {
			n++
		}
	}
	for _, sl := range c.pool.slots {
		if sl.current != nil {
			n++
		}
		if sl.next != nil {
			n++
		}
	}
	return n - max(c.before, c.wanted())
}

// relieve puts the new worker of a slot into the old one's place, before the commit.
func (s *Supervisor) relieve(c *change, sl *slot) {
	if !c.favoured {
		s.favour(c)
	}
	old := sl.current
	sl.current, sl.next = sl.next, nil
	if old != nil {
		c.leaving = append(c.leaving, old)
		c.pool.retire(s, old, protocol.DrainMove, reasonReload)
	}
	s.steer(c.pool)
}
