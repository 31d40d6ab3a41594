package supervisor

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// What a client may ask the loop to do with pools and workers. Each of these begins it, or says why not, and gives the words for that.

func refuse(status int, format string, args ...any) error {
	return &control.Error{Status: status, Text: fmt.Sprintf(format, args...)}
}

// named finds a pool by its name.
func (s *Supervisor) named(name string) (*pool, error) {
	var names []string
	for _, p := range s.pools {
		if p.pending || p.removed {
			continue
		}
		if p.cfg.Name == name {
			return p, nil
		}
		names = append(names, p.cfg.Name)
	}
	return nil, refuse(http.StatusNotFound, "there is no pool %q; there is %s", name, strings.Join(names, ", "))
}

// changeable says why nothing may be changed now.
func (s *Supervisor) changeable() error {
	if s.stopping != running {
		return refuse(http.StatusConflict, "the supervisor is stopping")
	}
	if s.upgrade != nil {
		return refuse(http.StatusConflict, "a self-upgrade runs: ask again when it has ended")
	}
	return nil
}

// scaleTo changes how many workers a pool has; a reload keeps that, unless it changes workers.
func (s *Supervisor) scaleTo(r control.ScaleRequest, a asker) (string, error) {
	if err := s.changeable(); err != nil {
		return "", err
	}
	p := s.mainPool()
	if r.Pool != "" || p == nil {
		var err error
		if p, err = s.named(r.Pool); err != nil {
			return "", err
		}
	}
	before := p.wanted()
	n := r.Workers
	switch {
	case (r.Workers != 0) == (r.Delta != 0):
		return "", refuse(http.StatusBadRequest, "say to how many workers, or by how many")
	case r.Delta != 0:
		n = before + r.Delta
	}
	switch {
	case n < 1 && r.Delta != 0:
		return "", refuse(http.StatusBadRequest, "pool %s has %s and keeps at least one", p.cfg.Name, plural(before, "worker"))
	case n < 1 || n > config.MaxWorkers:
		return "", refuse(http.StatusBadRequest, "%d is no number of workers: 1 to %d", n, config.MaxWorkers)
	}
	if p.onlyDrained(n) {
		return "", refuse(http.StatusConflict, "nobody would serve: %s drained by hand; ctl undrain %s first", isAre(p.slotNames(p.slots[:n])), p.cfg.Name)
	}
	s.setWorkers(p, n)
	s.await(a, func() (Verdict, bool) { return s.scaled(p, n) })
	if n == before {
		return fmt.Sprintf("pool %s: %s, as before", p.cfg.Name, plural(n, "worker")), nil
	}
	return fmt.Sprintf("pool %s: from %d to %s", p.cfg.Name, before, plural(n, "worker")), nil
}

// mainPool is the one that TTIN is about: the first with an address, else the first.
func (s *Supervisor) mainPool() *pool {
	var first *pool
	for _, p := range s.pools {
		switch {
		case p.pending || p.removed:
		case len(p.cfg.Bind) > 0:
			return p
		case first == nil:
			first = p
		}
	}
	return first
}

// setWorkers makes n workers the wanted number; reconcile does the rest.
func (s *Supervisor) setWorkers(p *pool, n int) {
	before := p.wanted()
	s.parked = false
	p.delta = n - p.cfg.Workers
	for _, sl := range p.slots[min(n, len(p.slots)):] {
		sl.drained = time.Time{} // if the slot is wanted again, then with a worker
	}
	s.log.Info("workers", zap.String("pool", p.cfg.Name), zap.Int("from", before), zap.Int("to", p.wanted()))
	s.recordPool(p, control.EventScale, control.LevelInfo, "from %d to %s", before, plural(p.wanted(), "worker"))
}

// scaled reports whether a pool has come to n workers, or will not.
func (s *Supervisor) scaled(p *pool, n int) (Verdict, bool) {
	switch {
	case p.removed:
		return s.refused("pool %s was removed by a reload meanwhile", p.cfg.Name), true
	case p.wanted() != n:
		return s.refused("pool %s was scaled to %s meanwhile", p.cfg.Name, plural(p.wanted(), "worker")), true
	}
	var failing []string
	drained := 0
	for _, sl := range p.slots[:min(n, len(p.slots))] {
		switch {
		case sl.isDrained():
			drained++
		case sl.current != nil && sl.current.state == ready:
		case sl.failures >= firstTries:
			failing = append(failing, fmt.Sprintf("%s.%d", p.cfg.Name, sl.index))
		default:
			return Verdict{}, false
		}
	}
	if len(p.slots) < n {
		return Verdict{}, false
	}
	for _, w := range p.leaving {
		if w.reason == reasonScaleDown {
			return Verdict{}, false
		}
	}
	if len(failing) > 0 {
		return s.refused("pool %s: %d of %d workers are ready, %s in a crash loop: %s", p.cfg.Name, n-len(failing), n,
			isAre(failing), p.lastWords), true
	}
	text := fmt.Sprintf("pool %s: %s ready", p.cfg.Name, plural(n-drained, "worker"))
	if drained > 0 {
		text += fmt.Sprintf(", %s drained", isAre(p.slotNames(p.drained())))
	}
	return Verdict{OK: true, Text: text, Generation: s.generation}, true
}

func isAre(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// recycleTarget marks workers for replacement, as if they had reached a limit: each waits for its turn.
func (s *Supervisor) recycleTarget(r control.RecycleRequest, a asker) (string, error) {
	if err := s.changeable(); err != nil {
		return "", err
	}
	if s.parked {
		return "", refuse(http.StatusConflict, "all workers are parked (SIGWINCH); a reload starts them again")
	}
	workers, err := s.targets(r.Target)
	if err != nil {
		return "", err
	}
	for _, w := range workers {
		s.markOverdue(w, reasonRecycle)
	}
	s.await(a, func() (Verdict, bool) { return s.recycled(workers) })
	return plural(len(workers), "worker") + " to be replaced, each in its turn", nil
}

// targets gives the workers of a pool, a slot or a worker's name, or all that can be replaced.
func (s *Supervisor) targets(name string) ([]*worker, error) {
	if name == "" {
		var all []*worker
		for _, p := range s.pools {
			if !p.pending && !p.removed && p.cfg.Replace != config.ReplaceNever {
				all = append(all, p.inService()...)
			}
		}
		if len(all) == 0 {
			return nil, refuse(http.StatusConflict, "no worker is ready that could be replaced")
		}
		return all, nil
	}
	name, numbers, _ := strings.Cut(name, ".")
	p, err := s.named(name)
	if err != nil {
		return nil, err
	}
	if p.cfg.Replace == config.ReplaceNever {
		return nil, refuse(http.StatusConflict, `pool %s has replace = "never": its workers are replaced only by a reload that changes its section`, p.cfg.Name)
	}
	if numbers == "" {
		workers := p.inService()
		if len(workers) == 0 {
			return nil, refuse(http.StatusConflict, "no worker of pool %s is ready", p.cfg.Name)
		}
		return workers, nil
	}
	w, err := p.workerNamed(numbers)
	if err != nil {
		return nil, err
	}
	if w.state != ready {
		return nil, refuse(http.StatusConflict, "worker %s is %s: only one that serves can be recycled", w.id, w.state)
	}
	return []*worker{w}, nil
}

// inService gives the workers that serve.
func (p *pool) inService() []*worker {
	var workers []*worker
	for _, sl := range p.slots {
		if sl.current != nil && sl.current.state == ready {
			workers = append(workers, sl.current)
		}
	}
	return workers
}

// workerNamed finds a worker by "2", its slot, or by "2.17", its slot and serial.
func (p *pool) workerNamed(numbers string) (*worker, error) {
	slotText, serialText, exact := strings.Cut(numbers, ".")
	slot, err := strconv.Atoi(slotText)
	if err != nil || slot < 0 {
		return nil, refuse(http.StatusBadRequest, "%q is no worker: write %s, %s.0 or %s.0.1", p.cfg.Name+"."+numbers, p.cfg.Name, p.cfg.Name, p.cfg.Name)
	}
	var names []string
	for _, w := range p.workers() {
		if w.id.Slot == slot && (!exact && w == p.slots[slot].current || strconv.Itoa(w.id.Serial) == serialText) {
			return w, nil
		}
		names = append(names, w.id.String())
	}
	if !exact && slot < len(p.slots) && slot < p.wanted() {
		return nil, refuse(http.StatusConflict, "slot %s.%d has no worker now", p.cfg.Name, slot)
	}
	return nil, refuse(http.StatusNotFound, "there is no worker %s.%s; there is %s", p.cfg.Name, numbers, strings.Join(names, ", "))
}

// recycled reports whether workers are gone, or will not go.
func (s *Supervisor) recycled(workers []*worker) (Verdict, bool) {
	for _, w := range workers {
		sl := w.pool.slots[w.id.Slot]
		switch {
		case w.state == gone:
		case sl.current == w && sl.failures >= firstTries && sl.next == nil:
			return s.refused("the replacement of %s does not become ready: %s; %s serves on, and its turn comes again", w.id, w.pool.lastWords, w.id), true
		default:
			return Verdict{}, false
		}
	}
	return Verdict{OK: true, Text: plural(len(workers), "worker") + " replaced", Generation: s.generation}, true
}
