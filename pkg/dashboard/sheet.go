package dashboard

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"strings"
	"time"

	"supervisor/pkg/control"
)

// What the pieces say. A shape is what makes a piece another one; a cell is what changes all the time.

// sheet makes the frame of what is known now.
func (h *hub) sheet() *frame {
	f, st := &frame{}, &h.status
	f.add("name", h.nameLine())
	f.add("nav", navigation(st)...)
	f.add("notices", h.notices()...)
	f.add("tiles", h.tiles())
	pools := f.add("pools")
	for i := range st.Pools {
		pool := &st.Pools[i]
		shell := &piece{key: "pool " + pool.Name, template: "pool", shape: pool.Name}
		pools.pieces = append(pools.pieces, shell)
		var rows []*piece
		for j := range pool.Workers {
			rows = append(rows, h.worker(pool, &pool.Workers[j]))
		}
		shell.inner = []*list{f.add("head "+pool.Name, h.head(pool)), f.add("workers "+pool.Name, rows...)}
	}
	f.add("events", h.happened()...)
	return f
}

// together makes one pool of those with one name: a reload has removed it and brought it back, and workers of the one that was removed still leave.
func together(pools []control.Pool) []control.Pool {
	at := map[string]int{}
	var merged []control.Pool
	for _, p := range pools {
		i, known := at[p.Name]
		if !known {
			at[p.Name] = len(merged)
			merged = append(merged, p)
			continue
		}
		first := merged[i]
		if first.Generation > p.Generation {
			first, p = p, first
		}
		p.Workers = append(p.Workers[:len(p.Workers):len(p.Workers)], first.Workers...)
		p.Leaving += first.Leaving
		merged[i] = p
	}
	return merged
}

// html is the content of the page, without what is the session's.
func (f *frame) html() template.HTML {
	var out bytes.Buffer
	if err := pages.ExecuteTemplate(&out, "content", f); err != nil {
		panic(err) // the templates are part of the program
	}
	return template.HTML(out.String())
}

// nameLine says which supervisor that is.
func (h *hub) nameLine() *piece {
	st := &h.status
	type shape struct {
		Host, Version, Instance string
		PID                     int
	}
	return &piece{key: "name", template: "name-line", shape: shape{h.host, st.Version, st.Instance, st.PID}, cells: map[string]string{
		"generation": count(st.Generation), "up": ago(st.Uptime),
	}}
}

func navigation(st *control.Status) []*piece {
	var links []*piece
	for _, p := range st.Pools {
		links = append(links, &piece{key: "nav " + p.Name, template: "link", shape: p.Name})
	}
	return links
}

// notice is what needs to be read first.
type notice struct {
	Kind string // "", wrong or good
	Word string // says the kind to who sees no colours
	Text string
	Runs bool // a step and an age are in cells
}

func (h *hub) notices() []*piece {
	st := &h.status
	var list []*piece
	add := func(key string, n notice, cells map[string]string) {
		list = append(list, &piece{key: "notice " + key, template: "notice", shape: n, cells: cells})
	}
	if h.failed != nil {
		add("failed", notice{Kind: "wrong", Word: "No answer", Text: h.failed.Error()}, nil)
	}
	switch st.State {
	case control.StateParked:
		add("state", notice{Kind: "wrong", Word: "Parked", Text: "There are no workers until a reload; connections wait."}, nil)
	case control.StateDelaying:
		add("state", notice{Word: "Stopping", Text: "Everything is served on until load balancers look away (drain_delay)."}, nil)
	case control.StateStopping:
		add("state", notice{Word: "Stopping", Text: "What was accepted is finished."}, nil)
	default:
		if st.NotReady != "" {
			add("state", notice{Kind: "wrong", Word: "Not ready", Text: st.NotReady}, nil)
		}
	}
	for i, text := range st.Degraded {
		add(fmt.Sprint("degraded ", i), notice{Kind: "wrong", Word: "Degraded", Text: text}, nil)
	}
	if r := st.Reload; r != nil {
		n := notice{Word: "Reload", Text: fmt.Sprintf("to generation %d", r.Generation), Runs: true}
		if r.Queued {
			n.Text += ", another one waits"
		}
		add("reload", n, map[string]string{"step": r.Step, "age": ago(r.Age)})
	}
	for _, a := range h.asked {
		n := notice{Word: a.what}
		cells := map[string]string{}
		switch {
		case a.ended.IsZero():
			n.Runs, n.Text = true, "was asked for here"
			cells = map[string]string{"step": cmp.Or(a.begun, "waits"), "age": ago(time.Since(a.at).Seconds())}
		case a.refused != "":
			n.Kind, n.Word, n.Text = "wrong", a.what+" refused", a.refused
		case a.verdict.OK:
			n.Kind, n.Word, n.Text = "good", a.what+" done", a.verdict.Text
		default:
			n.Kind, n.Word, n.Text = "wrong", a.what+" failed", a.verdict.Text
		}
		add(fmt.Sprint("asked ", a.number), n, cells)
	}
	if v := st.Last; v != nil && !h.tells(v) {
		n := notice{Word: "Last " + v.What, Text: v.Text + " (" + clock(v.At, h.at) + ")"}
		if !v.OK {
			n.Kind, n.Word = "wrong", "Last "+v.What+" failed"
		}
		add("last", n, nil)
	}
	return list
}

// tells reports whether the verdict is that of something that was asked for here.
func (h *hub) tells(v *control.Verdict) bool {
	for _, a := range h.asked {
		if a.verdict != nil && a.verdict.What == v.What && a.verdict.Text == v.Text && a.verdict.Generation == v.Generation {
			return true
		}
	}
	return false
}

// tiles are the numbers of all pools together.
func (h *hub) tiles() *piece {
	st := &h.status
	type shape struct {
		State, Kind string
	}
	s := shape{strings.ToUpper(st.State[:min(1, len(st.State))]) + st.State[min(1, len(st.State)):], "good"}
	ready, wanted, inFlight, connections, memory, cpu := 0, 0, 0, 0, int64(0), 0.0
	waiting, limit := 0, 0
	for _, p := range st.Pools {
		ready, wanted = ready+p.Ready, wanted+p.Wanted
		for _, w := range p.Workers {
			memory += w.Memory
			cpu += h.past.share(w.Name)
			if len(p.Addresses) > 0 {
				inFlight, connections = inFlight+w.InFlight, connections+w.Connections
			}
		}
		for _, l := range p.Listeners {
			waiting, limit = waiting+max(0, l.Queued), limit+l.Limit
		}
	}
	switch {
	case h.failed != nil:
		s.State, s.Kind = "No answer", "wrong"
	case !st.Ready && st.State == control.StateServing:
		s.State, s.Kind = "Not ready", "wrong"
	case !st.Ready:
		s.Kind = "wrong"
	case len(st.Degraded) > 0:
		s.State, s.Kind = "Degraded", "wrong"
	case ready < wanted || st.Reload != nil:
		s.Kind = "warn"
	}
	cells := map[string]string{
		"ready": fmt.Sprintf("%d of %s ready", ready, plural(wanted, "worker")), "flight": count(inFlight), "connections": count(connections),
		"waiting": count(waiting), "limit": count(limit), "memory": size(memory), "cpu": percent(cpu),
	}
	h.past.all.describe(cells)
	return &piece{key: "tiles", template: "tiles", shape: s, cells: cells, sparks: map[string]*series{"rate": &h.past.all.requests.rate, "memory": &h.past.memory}}
}

// share is how much of a CPU a process uses.
func (p *past) share(worker string) float64 {
	w := p.workers[worker]
	if w == nil {
		return 0
	}
	rate, _ := w.cpu.now()
	return rate
}

// describe writes rates and latencies.
func (p *poolPast) describe(cells map[string]string) {
	cells["rate"] = unknown
	if rate, ok := p.requests.now(); ok {
		cells["rate"] = perSecond(rate)
	}
	t, span := p.lately()
	for name, q := range map[string]float64{"p50": 0.5, "p95": 0.95, "p99": 0.99} {
		cells[name] = latency(quantile(t.Latency, p.bounds, q))
	}
	cells["errors"], cells["share"] = unknown, ""
	if span > 0 {
		cells["errors"] = perSecond(float64(t.Errors) / span.Seconds())
		if t.Errors > 0 && t.Requests > 0 {
			cells["share"] = fmt.Sprintf("%.2g %% of requests", 100*float64(t.Errors)/float64(t.Requests))
		}
	}
}

// head is the top of a pool.
func (h *hub) head(p *control.Pool) *piece {
	type shape struct {
		Name, Addresses, State, Kind, Unit string
		Scaled, Generation                 int
		Full                               bool // a queue is
	}
	s := shape{Name: p.Name, Addresses: strings.Join(p.Addresses, " · "), State: fmt.Sprintf("%d of %d ready", p.Ready, p.Wanted), Kind: "good", Unit: "Requests/s", Scaled: p.Scaled, Generation: p.Generation}
	if p.Leaving > 0 {
		s.State += fmt.Sprintf(", %d leaving", p.Leaving)
	}
	if p.Drained > 0 {
		s.State += fmt.Sprintf(", %d drained by hand", p.Drained)
	}
	if len(p.Addresses) == 0 {
		s.Unit = "Done/s"
	}
	switch {
	case p.Degraded != "":
		s.State, s.Kind = s.State+", degraded", "wrong"
	case p.Ready == 0 && p.Wanted > 0:
		s.Kind = "wrong"
	case p.Ready < p.Wanted:
		s.Kind = "warn"
	}
	inFlight, connections, memory, cpu := 0, 0, int64(0), 0.0
	for _, w := range p.Workers {
		inFlight, connections, memory = inFlight+w.InFlight, connections+w.Connections, memory+w.Memory
		cpu += h.past.share(w.Name)
	}
	var queues []string
	for _, l := range p.Listeners {
		text := unknown
		if l.Queued >= 0 {
			text = count(l.Queued) + " of " + count(l.Limit)
			s.Full = s.Full || l.Limit > 0 && l.Queued >= l.Limit/2
		}
		if len(p.Listeners) > 1 {
			text = l.Name + " " + text
		}
		queues = append(queues, text)
	}
	cells := map[string]string{
		"flight": count(inFlight), "connections": count(connections),
		"queues": cmp.Or(strings.Join(queues, ", "), unknown), "memory": size(memory), "cpu": percent(cpu),
	}
	pp := h.past.pools[p.Name]
	if pp == nil {
		pp = &poolPast{}
	}
	pp.describe(cells)
	return &piece{key: "head " + p.Name, template: "head-of-pool", shape: s, cells: cells, sparks: map[string]*series{"rate": &pp.requests.rate}}
}

// From then on it is worth a word.
const (
	notedSilence = 3.0 // seconds
	notedRequest = 5.0
)

// worker is a row.
func (h *hub) worker(p *control.Pool, w *control.Worker) *piece {
	type shape struct {
		Name, State, Kind, Unit string
		PID, Generation         int
		Old                     bool // of an older generation than its pool
		Recycle                 bool
	}
	s := shape{Name: w.Name, State: w.State, Kind: kinds[w.State], PID: w.PID, Generation: w.Generation, Old: w.Generation != p.Generation, Recycle: w.State == "ready", Unit: "Requests/s"}
	if len(p.Addresses) == 0 {
		s.Unit = "Done/s"
	}
	cells := map[string]string{"age": unknown, "rate": unknown, "flight": unknown, "connections": unknown, "memory": size(w.Memory), "cpu": unknown, "note": note(w)}
	wp := h.past.workers[w.Name]
	if wp == nil {
		wp = &workerPast{}
	}
	if w.PID > 0 {
		cells["age"] = ago(w.Age)
		if cpu, ok := wp.cpu.now(); ok {
			cells["cpu"] = percent(cpu)
		}
	}
	if w.Scored {
		if rate, ok := wp.requests.now(); ok {
			cells["rate"] = perSecond(rate)
		}
		cells["flight"], cells["connections"] = count(w.InFlight), count(w.Connections)
	}
	return &piece{key: w.Name, template: "worker", shape: s, cells: cells, sparks: map[string]*series{"rate": &wp.requests.rate, "memory": &wp.memory}}
}

// kinds of states: of what colour their word is.
var kinds = map[string]string{
	"ready": "good", "starting": "warn", "backoff": "wrong", "drained": "warn", "draining": "warn", "quitting": "wrong", "aborting": "wrong", "killing": "wrong",
}

// note says what is unusual about a worker.
func note(w *control.Worker) string {
	var notes []string
	if w.Reason != "" {
		notes = append(notes, w.Reason)
	}
	if w.Overdue != "" && w.Reason == "" {
		notes = append(notes, "will be replaced: "+w.Overdue)
	}
	if w.Left > 0 {
		notes = append(notes, ago(w.Left)+" left")
	}
	if w.Suspect != "" {
		notes = append(notes, "suspect: "+w.Suspect)
	}
	if w.Silent > notedSilence {
		notes = append(notes, "silent for "+ago(w.Silent))
	}
	if w.Oldest > notedRequest {
		notes = append(notes, "a request runs for "+ago(w.Oldest))
	}
	if w.Failures > 0 {
		notes = append(notes, plural(w.Failures, "start")+" failed")
	}
	return strings.Join(notes, " · ")
}

// happened are the events, the newest first.
func (h *hub) happened() []*piece {
	type shape struct {
		Kind, Colour, About, Text, Details, Clock, At, Class, Words string
	}
	now := h.at
	var list []*piece
	for _, e := range h.events.newest() {
		s := shape{
			Kind: e.Kind, About: aboutWhat(e), Text: e.Text, Details: details(e), Clock: clock(e.At, now), At: e.At.Format(time.RFC3339), Words: strings.Join(e.Words, "\n"),
		}
		switch e.Level {
		case control.LevelError:
			s.Colour = "wrong"
		case control.LevelWarning:
			s.Colour = "warn"
		}
		if e.Routine() && e.Kind != control.EventGone {
			s.Class = "step"
		}
		list = append(list, &piece{key: fmt.Sprint("event ", e.Seq), template: "event", shape: s})
	}
	return list
}
