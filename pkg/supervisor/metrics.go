package supervisor

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/scoreboard"
)

// scraper answers GET /metrics. What is on it: families.go; what workers add to it: series.go.
type scraper struct {
	log     *zap.Logger
	take    func(context.Context) (*view, error)
	own     prometheus.Gatherer // of this process
	build   [3]string           // version, goversion, revision
	turns   chan struct{}       // who has one reads; it guards what follows
	answers chan struct{}       // who has one holds an answer in memory

	translator translator
	shares     proportions
}

const (
	// scrapePatience bounds how long a scrape waits for its turn and for the loop. Prometheus' own default is 10 s.
	scrapePatience = 5 * time.Second
	// mostAnswers bounds the answers that slow clients keep in memory.
	mostAnswers = 8
)

var errScrapes = errors.New("too many ask for /metrics at once")

func newScraper(log *zap.Logger, take func(context.Context) (*view, error), version string) *scraper {
	own := prometheus.NewRegistry()
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	name, _, _ := strings.Cut(version, " ")
	m := &scraper{
		log: log, take: take, own: own, build: [3]string{name, runtime.Version(), ""},
		turns: make(chan struct{}, 1), answers: make(chan struct{}, mostAnswers),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				m.build[2] = s.Value
			}
		}
	}
	return m
}

// answer is GET /metrics.
func (m *scraper) answer(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), scrapePatience, errScrapes)
	defer cancel()
	if err := m.enter(ctx, m.answers); err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	defer func() { <-m.answers }()
	found, err := m.gather(ctx)
	if len(found) == 0 {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	if err != nil {
		m.log.Error("impossible metrics, please report", zap.Error(err))
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	promhttp.HandlerFor(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return found, nil }), promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func (m *scraper) enter(ctx context.Context, room chan<- struct{}) error {
	select {
	case room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gather reads everything, one scrape at a time.
func (m *scraper) gather(ctx context.Context) ([]*dto.MetricFamily, error) {
	if err := m.enter(ctx, m.turns); err != nil {
		return nil, err
	}
	defer func() { <-m.turns }()
	v, err := m.take(ctx)
	if err != nil {
		return nil, err
	}
	defer v.release()
	registry := prometheus.NewRegistry()
	registry.MustRegister(&reading{m, v})
	return prometheus.Gatherers{m.own, registry}.Gather()
}

// reading is one scrape's collector. It describes nothing beforehand: workers name what they like.
type reading struct {
	*scraper
	view *view
}

func (r *reading) Describe(chan<- *prometheus.Desc) {}

func (r *reading) Collect(out chan<- prometheus.Metric) {
	e := emitter{out}
	v := r.view
	r.supervisor(e)
	r.translator.begin(v.status.Generation)
	pss := r.shares.of(v)
	for i := range v.pools {
		p := &v.pools[i]
		r.past(e, p)
		if p.status != nil {
			r.present(e, p, pss)
		}
		r.work(e, p)
	}
}

// supervisor gives what is no pool's.
func (r *reading) supervisor(e emitter) {
	v := r.view
	st := &v.status
	e.value(buildInfo, 1, r.build[:]...)
	e.value(generation, float64(st.Generation))
	e.value(isReady, oneIf(st.Ready))
	e.value(isDraining, oneIf(st.State == control.StateDelaying || st.State == control.StateStopping))
	e.value(degraded, float64(len(st.Degraded)))
	e.value(startedAt, float64(st.Started.UnixMicro())/1e6)
	for _, verdict := range verdicts {
		e.value(reloads, float64(v.ledger.Reloads[verdict]), verdict)
		e.value(upgrades, float64(v.ledger.Upgrades[verdict]), verdict)
	}
	e.value(lastReloadSuccess, oneIf(!v.ledger.ReloadFails))
	e.spread(reloadDuration, durationLimits, v.ledger.ReloadTook.Buckets, v.ledger.ReloadTook.Sum.Seconds())
	e.value(linesLost, float64(v.ledger.LogLost))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// past gives what became of a pool's workers.
func (r *reading) past(e emitter, p *poolView) {
	past := p.past
	if past == nil {
		past = &tally{}
	}
	for _, why := range goneReasons {
		e.value(workerRestarts, float64(past.Gone[why]), p.name, why)
	}
	e.spread(workerBoot, durationLimits, past.Boot.Buckets, past.Boot.Sum.Seconds(), p.name)
	e.spread(workerDrain, durationLimits, past.Drain.Buckets, past.Drain.Sum.Seconds(), p.name)
}

// shownStates are those of living workers, and two of slots.
var shownStates = []string{
	starting.String(), ready.String(), draining.String(), quitting.String(), aborting.String(), killing.String(), stateBackoff,
	stateDrained,
}

// present gives what a pool's workers are like now.
func (r *reading) present(e emitter, p *poolView, pss map[processID]int64) {
	e.value(workersDesired, float64(p.status.Wanted), p.name)
	states := map[string]int{}
	poolLabel := labelPair("pool", p.name)
	for _, w := range p.status.Workers {
		if w.PID == 0 {
			states[w.State]++
		}
	}
	for _, w := range p.workers {
		states[w.status.State]++
		labels := []*dto.LabelPair{poolLabel, labelPair("worker", w.slot)}
		show := func(f *family, value float64) { e.sample(f.desc, f.kind, value, labels) }
		show(workerUptime, w.status.Age)
		if w.status.Silent > 0 {
			show(workerBeat, w.status.Silent)
		}
		if p.serves {
			e.value(connections, float64(w.status.Connections), r.view.service, p.name, w.slot)
		}
		if w.id.PID == 0 {
			continue
		}
		if vital, ok := vitalOf(w.id); ok {
			show(workerCPU, vital.cpu.Seconds())
			show(workerMemory, float64(vital.memory))
			if vital.files >= 0 {
				show(workerFDs, float64(vital.files))
			}
		}
		if n := pss[w.id]; n > 0 {
			show(workerPSS, float64(n))
		}
	}
	for _, state := range shownStates {
		e.value(workersByState, float64(states[state]), p.name, state)
	}
	for _, l := range p.listeners {
		if length, limit, ok := l.queue(); ok {
			e.value(queueLength, float64(length), p.name, l.name)
			e.value(queueLimit, float64(limit), p.name, l.name)
		}
	}
}

// work gives what a pool's workers have done, those that are gone too.
func (r *reading) work(e emitter, p *poolView) {
	var all, plain scoreboard.Totals
	inFlight := 0
	t := r.translator.pool(r.view.service, p.name)
	if p.past != nil {
		all, plain = p.past.Work, p.past.Plain
		for name, n := range p.past.Series {
			t.count(name, n)
		}
	}
	for _, w := range p.workers {
		if !w.status.Scored {
			continue
		}
		worker := labelPair("worker", w.slot)
		totals := w.board.Totals() // before the names, as in fold
		all.Add(totals)
		speaks := false
		w.board.EachLabel(func(name []byte, value int64) {
			speaks = t.take(e, worker, name, value) || speaks
		})
		if !speaks {
			plain.Add(totals)
		}
		inFlight += w.status.InFlight
	}
	lost := uint64(0)
	if p.past != nil {
		lost = p.past.Lost
	}
	t.emit(e)
	e.value(seriesDropped, float64(t.dropped+lost), p.name)
	service := r.view.service
	get := func(c scoreboard.Counter) float64 { return float64(all.Get(c)) }
	e.value(workerLinesLost, get(scoreboard.LostLines), service, p.name)
	if !p.serves {
		return
	}
	if plain.Get(scoreboard.Finished) > 0 || !t.speaks {
		e.value(requests, float64(plain.Get(scoreboard.Succeeded)), service, p.name, "ok")
		e.value(requests, float64(plain.Get(scoreboard.Errors)), service, p.name, "5xx")
		took := float64(plain.Get(scoreboard.Took)) / 1e9
		e.spread(requestDuration, latencyBounds, plain.Latency[:], took, service, p.name)
	}
	if p.status != nil {
		e.value(requestsInFlight, float64(inFlight), service, p.name)
	}
	e.value(requestBytes, get(scoreboard.BytesIn), service, p.name)
	e.value(responseBytes, get(scoreboard.BytesOut), service, p.name)
	e.value(requestsTimedOut, get(scoreboard.TimedOut), service, p.name)
	e.value(connectionsAccepted, get(scoreboard.Accepted), service, p.name)
	e.value(connectionsMoved, get(scoreboard.Moved), service, p.name)
	e.value(connectionsCut, get(scoreboard.ForceShut), service, p.name)
}
