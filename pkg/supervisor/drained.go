package supervisor

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// A slot that is drained by hand (supervisor ctl drain) has no worker and gets none until ctl undrain, or until a reload, which puts all of the
// configuration in force, as it ends a parking. Its worker leaves as at any replacement: its connections move to the others. To replace a worker is
// what recycle does; this is for the one who wants it away: cordon and drain of kubectl, in one.
//
// It is about slots, since a process that was only replaced would be back: the name of a process (web.2.17) stands for its slot while it is there,
// so that nobody drains another one that came meanwhile. The last slot that serves goes only with the name of its pool.
//
// A self-upgrade and a kill -9 of the supervisor do not bring anybody back: the snapshot knows who is drained.

// isDrained reports whether a slot is to have no worker.
func (sl *slot) isDrained() bool { return !sl.drained.IsZero() }

// drained gives the slots that are drained, of those that shall have a worker.
func (p *pool) drained() []*slot {
	var slots []*slot
	for _, sl := range p.slots[:min(p.wanted(), len(p.slots))] {
		if sl.isDrained() {
			slots = append(slots, sl)
		}
	}
	return slots
}

// slotNames gives them as web.2.
func (p *pool) slotNames(slots []*slot) []string {
	names := make([]string, len(slots))
	for i, sl := range slots {
		names[i] = slotName(p.cfg.Name, sl.index)
	}
	return names
}

// drainTarget begins to drain a slot or a pool by hand.
func (s *Supervisor) drainTarget(r control.DrainRequest, a asker) (string, error) {
	if err := s.changeable(); err != nil {
		return "", err
	}
	switch {
	case s.parked:
		return "", refuse(http.StatusConflict, "all workers are parked (SIGWINCH)")
	case s.reload != nil || s.again:
		return "", refuse(http.StatusConflict, "a reload runs, which brings every worker back: ask again when it has ended")
	case r.Target == "":
		return "", refuse(http.StatusBadRequest, "drain what? A slot (web.2), a process (web.2.17) or a pool (web)")
	}
	p, slots, err := s.slotsNamed(r.Target)
	if err != nil {
		return "", err
	}
	if len(slots) == 1 && r.Target != p.cfg.Name && slots[0].isReady() && !slices.ContainsFunc(p.slots, func(sl *slot) bool { return sl != slots[0] && sl.isReady() }) {
		return "", refuse(http.StatusConflict, "%s.%d is the last worker of pool %s that serves: its clients would wait; if you mean that, drain %s", p.cfg.Name,
			slots[0].index, p.cfg.Name, p.cfg.Name)
	}
	var workers []*worker
	now := time.Now()
	how := protocol.DrainMove
	if len(slots) == min(p.wanted(), len(p.slots)) {
		how = protocol.DrainClose // nobody stays
	}
	for _, sl := range slots {
		if sl.isDrained() {
			continue
		}
		sl.drained, sl.failures = now, 0
		sl.calm()
		for _, w := range []*worker{sl.current, sl.next} {
			if w != nil {
				workers = append(workers, w)
			}
		}
		s.empty(p, sl, how, reasonDrain)
		s.log.Info("slot is drained by hand: it stays without a worker until ctl undrain or a reload", zap.String("pool", p.cfg.Name), zap.Int("slot", sl.index))
		s.recordSlot(p, sl, control.EventPark, control.LevelWarning, "drained by hand: it stays without a worker until ctl undrain or a reload")
	}
	for _, w := range p.leaving { // also those of an earlier question about the same
		if w.reason == reasonDrain && slices.Contains(slots, p.slots[w.id.Slot]) && !slices.Contains(workers, w) {
			workers = append(workers, w)
		}
	}
	names := isAre(p.slotNames(slots))
	forced := map[*worker]bool{}
	s.await(a, func() (Verdict, bool) {
		all := true
		for _, w := range workers {
			forced[w] = forced[w] || w.state > draining && w.state < gone
			all = all && w.state == gone
		}
		if !all {
			return Verdict{}, false
		}
		text := fmt.Sprintf("%s drained; %d of %s of pool %s serve; ctl undrain or a reload brings back what is drained", names, p.readyCount(),
			plural(p.wanted(), "worker"), p.cfg.Name)
		for _, w := range workers {
			if forced[w] {
				text += fmt.Sprintf("; %s did not leave within graceful_timeout and was ended", w.id)
			}
		}
		return Verdict{OK: true, Text: text, Generation: s.generation}, true
	})
	return names + " to be drained", nil
}

// undrainTarget brings slots back.
func (s *Supervisor) undrainTarget(r control.DrainRequest, a asker) (string, error) {
	if err := s.changeable(); err != nil {
		return "", err
	}
	back := map[*pool][]*slot{}
	if r.Target == "" {
		for _, p := range s.pools {
			if slots := p.drained(); !p.pending && !p.removed && len(slots) > 0 {
				back[p] = slots
			}
		}
	} else {
		p, slots, err := s.slotsNamed(r.Target)
		if err != nil {
			return "", err
		}
		if slots = slices.DeleteFunc(slots, func(sl *slot) bool { return !sl.isDrained() }); len(slots) > 0 {
			back[p] = slots
		}
	}
	var names []string
	for p, slots := range back {
		names = append(names, s.undrain(p, slots)...)
	}
	slices.Sort(names)
	if len(names) == 0 {
		nothing := "nothing is drained"
		if r.Target != "" {
			nothing = "nothing of " + r.Target + " is drained"
		}
		a.tell(Verdict{OK: true, Text: nothing, Generation: s.generation})
		return nothing, nil
	}
	s.await(a, func() (Verdict, bool) {
		for p, slots := range back {
			for _, sl := range slots {
				switch {
				case p.removed:
					return s.refused("pool %s was removed by a reload meanwhile", p.cfg.Name), true
				case sl.isDrained() || sl.index >= p.wanted():
					return s.refused("%s.%d was taken out again meanwhile", p.cfg.Name, sl.index), true
				case sl.current != nil && sl.current.state == ready:
				case sl.failures >= firstTries:
					return s.refused("%s.%d is in a crash loop: %s", p.cfg.Name, sl.index, p.lastWords), true
				default:
					return Verdict{}, false
				}
			}
		}
		return Verdict{OK: true, Text: isAre(names) + " back", Generation: s.generation}, true
	})
	return isAre(names) + " to come back", nil
}

// undrain lets slots have workers again, and gives their names.
func (s *Supervisor) undrain(p *pool, slots []*slot) []string {
	for _, sl := range slots {
		sl.drained = time.Time{}
		s.log.Info("slot is not drained any more", zap.String("pool", p.cfg.Name), zap.Int("slot", sl.index))
		s.recordSlot(p, sl, control.EventRecovered, control.LevelInfo, "not drained any more")
	}
	return p.slotNames(slots)
}

// slotsNamed gives the slots that a name stands for: web, web.2, web.2.17.
func (s *Supervisor) slotsNamed(target string) (*pool, []*slot, error) {
	name, numbers, _ := strings.Cut(target, ".")
	p, err := s.named(name)
	if err != nil {
		return nil, nil, err
	}
	slots := slices.Clone(p.slots[:min(p.wanted(), len(p.slots))])
	switch {
	case len(slots) == 0:
		return nil, nil, refuse(http.StatusConflict, "pool %s has not started yet", name)
	case numbers == "":
		return p, slots, nil
	}
	slotText, _, exact := strings.Cut(numbers, ".")
	index, err := strconv.Atoi(slotText)
	if err == nil && !exact && index >= len(slots) {
		return nil, nil, refuse(http.StatusNotFound, "there is no slot %s; pool %s has %s", target, name, strings.Join(p.slotNames(slots), ", "))
	}
	if exact || err != nil || index < 0 {
		w, err := p.workerNamed(numbers)
		if err != nil {
			return nil, nil, err
		}
		sl := p.slots[w.id.Slot]
		if w != sl.current && w != sl.next || w.id.Slot >= len(slots) {
			return nil, nil, refuse(http.StatusConflict, "worker %s is %s: it leaves already", w.id, w.state)
		}
		index = w.id.Slot
	}
	return p, slots[index : index+1], nil
}

// sinceDrained says which slots are drained, and since when.
func (p *pool) sinceDrained() []string {
	var texts []string
	for _, sl := range p.drained() {
		texts = append(texts, fmt.Sprintf("%s.%d is drained by hand since %s", p.cfg.Name, sl.index, sl.drained.UTC().Format(time.RFC3339)))
	}
	return texts
}

// onlyDrained reports whether nobody would be left of a pool's first n slots.
func (p *pool) onlyDrained(n int) bool {
	return n <= len(p.slots) && !slices.ContainsFunc(p.slots[:n], func(sl *slot) bool { return !sl.isDrained() })
}

// keepDrained drains the slots that the supervisor before us had drained, which wanted so many workers. Where somebody served and nobody would, since
// the configuration has fewer workers now, it drains none: nobody has asked for that. It reports whether it did as before.
func (p *pool) keepDrained(before map[int]time.Time, wanted int) bool {
	kept := 0
	for index := range p.wanted() {
		if _, drained := before[index]; drained {
			kept++
		}
	}
	if kept > 0 && kept == p.wanted() && len(before) < wanted {
		return false
	}
	for index, since := range before {
		if index >= 0 && index < p.wanted() {
			p.grow(index + 1)
			p.slots[index].drained = since
		}
	}
	return true
}
