package supervisor

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"supervisor/pkg/scoreboard"
)

// tally is what the workers of a pool's name that are gone did, and why they went. What a pool has done in all is its tally and the boards
// of its workers: a worker is in the one or in the other, so their sum never goes down. It is kept over reloads, and in the snapshot.
// Only used by the loop, until it is frozen: then by nobody, to write.
type tally struct {
	Work   scoreboard.Totals `json:"work"`             // of all of them
	Plain  scoreboard.Totals `json:"plain"`            // of those that do not speak for themselves, see namesHTTP
	Series map[string]uint64 `json:"series,omitempty"` // their own counters and parts of histograms, by the labels that they gave
	Lost   uint64            `json:"lost,omitempty"`   // values that found no room there
	Gone   map[string]uint64 `json:"gone,omitempty"`   // workers, by one of goneReasons
	Boot   durations         `json:"boot,omitzero"`    // from the start of a process to READY
	Drain  durations         `json:"drain,omitzero"`   // from the word to leave to the exit

	frozen bool            // a view has it: the next change is made to a copy
	text   json.RawMessage // of a frozen one: as JSON
}

const (
	// maxSeries bounds the names that a tally keeps: each generation of a program may bring other ones.
	maxSeries = 4 * scoreboard.MaxLabels
	// maxTallies bounds the names of pools that are no more. All must fit into a snapshotPlace: a full one takes a quarter of a megabyte.
	maxTallies = 16
)

// tallyOf gives the tally of a pool's name, to change it.
func (s *Supervisor) tallyOf(pool string) *tally {
	t := s.tallies[pool]
	switch {
	case t == nil:
		s.boundTallies()
		t = &tally{Series: map[string]uint64{}, Gone: map[string]uint64{}}
	case t.frozen:
		copied := *t
		t = &copied
		t.frozen, t.Series, t.Gone = false, maps.Clone(t.Series), maps.Clone(t.Gone)
		t.Boot, t.Drain = t.Boot.clone(), t.Drain.clone()
	}
	t.text = nil
	s.tallies[pool] = t
	return t
}

// boundTallies makes room for one more.
func (s *Supervisor) boundTallies() {
	if len(s.tallies) < maxTallies+len(s.pools) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.tallies)) {
		if !slices.ContainsFunc(s.pools, func(p *pool) bool { return p.cfg.Name == name }) {
			delete(s.tallies, name)
			return
		}
	}
}

// freeze makes it one that others may read, and that has its text: the snapshot is written after every event, and a tally changes with a
// worker's end.
func (t *tally) freeze() *tally {
	if t.text == nil {
		t.text, _ = json.Marshal(t) // numbers and strings only
	}
	t.frozen = true
	return t
}

// fold adds what a worker has done. Once for each: when it is buried.
func (t *tally) fold(board *scoreboard.Reader) {
	if !board.Joined() {
		return
	}
	totals := board.Totals() // before the names: who speaks for itself does so before it has answered
	t.Work.Add(totals)
	if !namesHTTP(board) {
		t.Plain.Add(totals)
	}
	board.EachLabel(func(name []byte, value int64) {
		if partOf(name) == partGauge {
			return
		}
		if _, known := t.Series[string(name)]; !known && len(t.Series) >= maxSeries {
			t.Lost++
			return
		}
		t.Series[string(name)] += uint64(max(value, 0)) // also one that is 0: it was shown
	})
}

// add takes over another one.
func (t *tally) add(o *tally) {
	t.Work.Add(o.Work)
	t.Plain.Add(o.Plain)
	t.Lost += o.Lost
	for name, n := range o.Series {
		t.Series[name] += n
	}
	for why, n := range o.Gone {
		t.Gone[why] += n
	}
	t.Boot.add(o.Boot)
	t.Drain.add(o.Drain)
}

// keepTallies takes over those of the supervisor before us. What is counted here already comes on top.
func (s *Supervisor) keepTallies(before snapshot) {
	for name, t := range before.Tallies {
		if t != nil {
			s.tallyOf(name).add(t)
		}
	}
	s.ledger.add(before.Ledger)
}

// goneReasons are all that a worker's end is counted under: reasons of reason.go, and some that stand for many.
var goneReasons = []string{
	"crash", "exit", "oom", "max_requests", "lifetime", "memory", "timeout", "heartbeat", "boot_timeout", "recycle", "reload", "rollback", "upgrade",
	"scale_down", "drain", "left", "other",
}

// counted gives the one of goneReasons for a reason; "" for a stop, after which there is nobody to count for.
func (r reason) counted() string {
	kind, _, _ := strings.Cut(string(r), ":") // crash:SIGSEGV, exit:3
	switch r {
	case reasonStop, reasonQuit:
		return ""
	case reasonRollback:
		return "rollback"
	case reasonScaleDown:
		return "scale_down"
	}
	if slices.Contains(goneReasons, kind) {
		return kind
	}
	return "other"
}

// countGone counts a worker that is gone.
func (t *tally) countGone(why reason) {
	if kind := why.counted(); kind != "" {
		t.Gone[kind]++
	}
}

// durations is a histogram.
type durations struct {
	Buckets []uint64      `json:"buckets,omitempty"` // by durationBounds, not cumulative; one more for what is longer
	Sum     time.Duration `json:"sum,omitempty"`
}

// durationBounds are upper bounds. A change of them would mix up what an older supervisor has counted: add a histogram instead.
var durationBounds = []time.Duration{
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}

func (d *durations) observe(took time.Duration) {
	i, _ := slices.BinarySearch(durationBounds, took)
	d.grow()
	d.Buckets[i]++
	d.Sum += max(took, 0)
}

func (d *durations) add(o durations) {
	if len(o.Buckets) == 0 {
		return
	}
	d.grow()
	for i, n := range o.Buckets {
		d.Buckets[min(i, len(d.Buckets)-1)] += n
	}
	d.Sum += o.Sum
}

func (d *durations) grow() {
	for len(d.Buckets) <= len(durationBounds) {
		d.Buckets = append(d.Buckets, 0)
	}
}

func (d durations) clone() durations { return durations{slices.Clone(d.Buckets), d.Sum} }

// ledger is what this supervisor, and those before it, did as a whole. Only used by the loop.
type ledger struct {
	Reloads     map[string]uint64 `json:"reloads,omitempty"`  // by one of verdicts
	Upgrades    map[string]uint64 `json:"upgrades,omitempty"` // the same
	ReloadTook  durations         `json:"reload_took,omitzero"`
	ReloadFails bool              `json:"reload_fails,omitempty"` // the last one did not come to its end
	LogLost     uint64            `json:"log_lost,omitempty"`     // lines of our own log that supervisors before us lost
}

// How a reload or a self-upgrade ended.
const (
	verdictOK      = "ok"
	verdictFailed  = "failed"
	verdictRefused = "refused" // nothing was begun
)

var verdicts = []string{verdictOK, verdictFailed, verdictRefused}

// reloaded counts a reload that took so long; 0: it was not begun.
func (l *ledger) reloaded(verdict string, took time.Duration) {
	count(&l.Reloads, verdict, 1)
	l.ReloadFails = verdict != verdictOK
	if took > 0 {
		l.ReloadTook.observe(took)
	}
}

// upgraded counts a self-upgrade.
func (l *ledger) upgraded(verdict string) { count(&l.Upgrades, verdict, 1) }

func count(by *map[string]uint64, what string, n uint64) {
	if *by == nil {
		*by = map[string]uint64{}
	}
	(*by)[what] += n
}

// add takes over what the supervisor before us did.
func (l *ledger) add(o ledger) {
	for verdict, n := range o.Reloads {
		count(&l.Reloads, verdict, n)
	}
	for verdict, n := range o.Upgrades {
		count(&l.Upgrades, verdict, n)
	}
	l.ReloadTook.add(o.ReloadTook)
	l.ReloadFails = l.ReloadFails || o.ReloadFails
	l.LogLost += o.LogLost
}

func (l ledger) clone() ledger {
	l.Reloads, l.Upgrades, l.ReloadTook = maps.Clone(l.Reloads), maps.Clone(l.Upgrades), l.ReloadTook.clone()
	return l
}
