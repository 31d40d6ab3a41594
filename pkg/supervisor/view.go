package supervisor

import (
	"context"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/scoreboard"
)

// view is one reading of everything: metrics, status and the dashboard are made of it. The loop notes it in one go, so it fits together: each
// worker is either among workers or in its pool's tally. What takes longer is done outside of the loop, with what is noted here: the
// boards are held until release, and the kernel is asked by pid (process.go's child.id).
type view struct {
	at      time.Time
	service string         // the setting
	status  control.Status // without the workers' Labels and Memory
	ledger  ledger
	pools   []poolView // those of status in its order, then names that have no pool any more
}

// poolView is what there is of a pool's name.
type poolView struct {
	name      string
	status    *control.Pool // nil: it has no pool any more
	serves    bool          // it has addresses, or had some: its workers answer requests
	past      *tally        // of its workers that are gone; frozen
	workers   []workerView
	listeners []listenerView
}

// workerView is a process that lives.
type workerView struct {
	status *control.Worker
	slot   string             // web.2 for the one that has its slot, else the process' own name, web.2.17: unique
	board  *scoreboard.Reader // held
	id     processID          // for /proc; PID 0: it is none of the kernel's
	ready  time.Time          // zero: not yet
}

// takeView asks the loop for a reading. Release it.
func (s *Supervisor) takeView(ctx context.Context) (*view, error) {
	var v *view
	err := s.inLoop(ctx, func() { v = s.view() })
	return v, err
}

// release lets go of the boards. They must not be read afterwards.
func (v *view) release() {
	for _, p := range v.pools {
		for _, w := range p.workers {
			w.board.Close()
		}
	}
}

// view notes what there is. The loop calls it.
func (s *Supervisor) view() *view {
	v := &view{at: time.Now(), service: s.cfg.Service, ledger: s.ledger.clone(), pools: make([]poolView, 0, len(s.pools))}
	status, processes := s.status()
	v.status = status
	if s.sink != nil {
		v.ledger.LogLost += s.sink.lostInAll.Load()
	}
	indexes := make(map[string]int, len(s.pools))
	for i, p := range s.pools {
		name := p.cfg.Name
		index, known := indexes[name] // a removed one may still leave while another one has its name
		if !known {
			index = len(v.pools)
			indexes[name] = index
			v.pools = append(v.pools, poolView{name: name})
		}
		pv := &v.pools[index]
		if pv.status == nil || !p.removed {
			pv.status = &v.status.Pools[i]
		}
		pv.serves = pv.serves || len(p.cfg.Bind) > 0
		pv.addWorkers(p, v.status.Pools[i].Workers, processes[i])
		pv.addListeners(p)
	}
	for name, t := range s.tallies {
		index, known := indexes[name]
		if !known {
			index = len(v.pools)
			v.pools = append(v.pools, poolView{name: name})
		}
		pv := &v.pools[index]
		pv.past = t.freeze()
		pv.serves = pv.serves || t.Work.Get(scoreboard.Accepted) > 0
	}
	return v
}

// addWorkers notes the processes of a pool, each beside its status.
func (v *poolView) addWorkers(p *pool, status []control.Worker, processes []*worker) {
	if v.workers == nil {
		v.workers = make([]workerView, 0, len(processes))
	}
	for i, w := range processes {
		if w == nil {
			continue
		}
		wv := workerView{status: &status[i], slot: status[i].Name, board: w.proc.Board(), ready: w.readyAt}
		if !p.removed && w.id.Slot < len(p.slots) && p.slots[w.id.Slot].current == w {
			wv.slot = slotName(w.id.Pool, w.id.Slot)
		}
		if c, ok := w.proc.(*child); ok {
			wv.id = processID{c.pid, c.startTime}
		}
		wv.board.Hold()
		v.workers = append(v.workers, wv)
	}
}

// totals gives what the pool's workers have done in all.
func (v *poolView) totals() scoreboard.Totals {
	var t scoreboard.Totals
	if v.past != nil {
		t = v.past.Work
	}
	for _, w := range v.workers {
		if w.board.Joined() {
			t.Add(w.board.Totals())
		}
	}
	return t
}

// askQueues asks how many connections wait at each address.
func (v *poolView) askQueues() {
	for i, l := range v.listeners[:min(len(v.listeners), len(v.status.Listeners))] { // as many: a pool that was removed has none
		at := &v.status.Listeners[i]
		length, limit, ok := l.queue()
		if !ok {
			at.Queued, v.status.Queued = -1, -1
			continue
		}
		at.Queued, at.Limit = length, limit
		if v.status.Queued >= 0 {
			v.status.Queued += length
		}
	}
}
