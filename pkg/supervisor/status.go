package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/scoreboard"
)

// answerStatus is GET /v1/status.
func (s *Supervisor) answerStatus(w http.ResponseWriter, r *http.Request) {
	status, err := s.fullStatus(r.Context(), true)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	reply(w, http.StatusOK, status)
}

// fullStatus gives everything. The loop only notes what it knows; what the kernel must be asked is asked here. details: also the labels and latencies of
// each worker, which are many.
func (s *Supervisor) fullStatus(ctx context.Context, details bool) (control.Status, error) {
	v, err := s.takeView(ctx)
	if err != nil {
		return control.Status{}, err
	}
	defer v.release()
	for _, p := range v.pools {
		for _, worker := range p.workers {
			if vital, ok := vitalOf(worker.id); ok {
				worker.status.Memory, worker.status.CPU = vital.memory, vital.cpu.Seconds()
			}
			if details && worker.status.Scored {
				totals := worker.board.Totals()
				worker.status.Labels, worker.status.Latency = worker.board.Labels(), totals.Latency[:]
			}
		}
		if p.status != nil {
			totals := p.totals()
			p.status.Work = control.Work{Requests: totals.Get(scoreboard.Finished), Errors: totals.Get(scoreboard.Errors), Latency: totals.Latency[:]}
			p.askQueues()
		}
	}
	for i := range scoreboard.Buckets - 1 {
		v.status.LatencyBounds = append(v.status.LatencyBounds, scoreboard.BucketBound(i).Seconds())
	}
	return v.status, nil
}

// status notes what there is, but for the workers' labels and memory. processes are the workers of its pools, nil for a slot that waits for one.
func (s *Supervisor) status() (st control.Status, processes [][]*worker) {
	now := time.Now()
	st = control.Status{
		PID: os.Getpid(), Version: s.version, Instance: s.instance, State: s.stateName(), NotReady: s.notReady(), Generation: s.generation,
		Started: s.desk.since, Uptime: now.Sub(s.desk.since).Seconds(), Last: s.desk.last, Pools: []control.Pool{},
	}
	st.Ready = st.NotReady == ""
	if r := s.reload; r != nil {
		st.Reload = &control.Reload{Generation: r.generation, Step: r.where(), Age: now.Sub(r.began).Seconds(), Queued: s.again}
	}
	if s.degraded != "" {
		st.Degraded = append(st.Degraded, s.degraded)
	}
	for _, p := range s.pools {
		pool, workers := p.status(now)
		if pool.Degraded != "" {
			st.Degraded = append(st.Degraded, "pool "+pool.Name+": "+pool.Degraded)
		}
		st.Pools = append(st.Pools, pool)
		processes = append(processes, workers)
	}
	return st, processes
}

// where says in words how far a reload is.
func (r *reload) where() string {
	switch {
	case r.returning:
		return "it failed, the old workers come back"
	case r.hooking || len(r.hooks) > 0:
		return "hooks"
	}
	for _, c := range r.changes {
		if n := c.ready(); !c.keep && n < c.wanted() {
			return fmt.Sprintf("pool %s: %s, %d of %d ready", c.cfg.Name, [...]string{"canary", "probe", "bake", "workers"}[c.step], n, c.wanted())
		}
	}
	return "commit"
}

// ready gives how many workers of the new generation serve.
func (c *change) ready() int {
	n := 0
	for _, sl := range c.pool.slots {
		for _, w := range []*worker{sl.current, sl.next} {
			if w != nil && w.cfg == c.cfg && w.state == ready {
				n++
			}
		}
	}
	return n
}

func (s *Supervisor) stateName() string {
	switch {
	case s.stopping == delaying:
		return control.StateDelaying
	case s.stopping != running:
		return control.StateStopping
	case s.parked:
		return control.StateParked
	case !s.desk.started:
		return control.StateStarting
	}
	return control.StateServing
}

func (p *pool) status(now time.Time) (st control.Pool, processes []*worker) {
	st = control.Pool{
		Name: p.cfg.Name, Wanted: p.wanted(), Ready: p.readyCount(), Leaving: len(p.leaving), Scaled: p.delta, Generation: p.generation,
		Addresses: []string{}, Listeners: []control.Listener{}, Degraded: p.degraded(), Workers: []control.Worker{},
	}
	if p.pending {
		st.Wanted = 0 // until its reload has committed
	}
	for _, b := range p.sockets {
		st.Addresses = append(st.Addresses, b.address())
		st.Listeners = append(st.Listeners, control.Listener{Name: b.bind.Name, Address: b.address()})
	}
	for _, sl := range p.slots {
		for _, w := range []*worker{sl.current, sl.next} {
			if w != nil {
				worker := w.status(now)
				worker.Failures = sl.failures
				st.Workers, processes = append(st.Workers, worker), append(processes, w)
			}
		}
		if sl.isDrained() && sl.index < p.wanted() && sl.current == nil {
			st.Drained++
			st.Workers = append(st.Workers, control.Worker{
				Name: slotName(p.cfg.Name, sl.index), State: stateDrained, Generation: p.generation, Age: now.Sub(sl.drained).Seconds(),
			})
			processes = append(processes, nil)
		}
		if sl.current == nil && sl.next == nil && sl.waiting {
			st.Workers = append(st.Workers, control.Worker{
				Name: slotName(p.cfg.Name, sl.index), State: stateBackoff, Generation: p.generation, Failures: sl.failures,
			})
			processes = append(processes, nil)
		}
	}
	for _, w := range p.leaving {
		st.Workers, processes = append(st.Workers, w.status(now)), append(processes, w)
	}
	return st, processes
}

// States of slots without a process.
const (
	stateBackoff = "backoff" // it waits for its next try
	stateDrained = "drained" // by hand
)

// slotName names a slot to people, whatever process is in it.
func slotName(pool string, slot int) string { return pool + "." + strconv.Itoa(slot) }

// degraded says what is not as it should be, for longer than a replacement takes.
func (p *pool) degraded() string {
	bad := p.sinceDrained()
	for _, sl := range p.slots[:min(p.wanted(), len(p.slots))] {
		switch {
		case sl.failures < firstTries:
		case sl.current != nil && sl.current.state == ready:
			bad = append(bad, fmt.Sprintf("the replacement of %s fails (%d times)", sl.current.id, sl.failures))
		default:
			bad = append(bad, fmt.Sprintf("%s.%d is in a crash loop (%d failures)", p.cfg.Name, sl.index, sl.failures))
		}
	}
	text := strings.Join(bad, ", ")
	if len(bad) > len(p.drained()) && p.lastWords != "" {
		text += ": " + p.lastWords
	}
	return text
}

func (w *worker) status(now time.Time) control.Worker {
	board := w.proc.Board()
	st := control.Worker{
		Name: w.id.String(), PID: w.proc.Pid(), State: w.state.String(), Generation: w.generation, Age: now.Sub(w.started).Seconds(),
		Scored: board.Joined(), Overdue: string(w.overdue), Suspect: string(w.progress.suspect),
	}
	if st.Scored {
		st.Requests, st.InFlight, st.Connections = board.Total(scoreboard.Finished), board.Running(), board.Connections()
		if st.InFlight > 0 {
			st.Oldest = board.Oldest().Seconds()
		}
	}
	if age, ok := w.proc.SinceBeat(); ok {
		st.Silent = age.Seconds()
	}
	if w.state > ready {
		st.Reason = string(w.reason)
	}
	if !w.deadline.IsZero() {
		st.Left = max(0, w.deadline.Sub(now).Seconds())
	}
	return st
}
