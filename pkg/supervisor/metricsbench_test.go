package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// crowded is a supervisor with 100 workers that name 100 values each, most of them parts of histograms, and with as many that are gone.
func crowded(b *testing.B) *Supervisor {
	cfg := shopConfig(fakePool("web", 100))
	s := newSupervisor(cfg, zap.NewNop(), nil)
	p := &pool{cfg: cfg.Pools[0], generation: 1}
	s.pools = append(s.pools, p)
	p.grow(100)
	for i := range 100 {
		f := &fake{pid: 1000 + i}
		var err error
		var fd int
		if f.reader, fd, err = scoreboard.Create(scoreboard.Settings{}); err != nil {
			b.Fatal(err)
		}
		if f.writer, err = scoreboard.Attach(fd); err != nil {
			b.Fatal(err)
		}
		f.serve(20)
		for route := range 5 {
			for bucket := range 14 {
				f.writer.Label(fmt.Sprintf(`http_request_duration_seconds_bucket{method="GET",route="/api/%d",le="%d"}`, route, bucket)).Add(1)
			}
			f.writer.Label(fmt.Sprintf(`http_request_duration_seconds_sum{method="GET",route="/api/%d"}`, route)).Add(1)
			f.writer.Label(fmt.Sprintf(`http_requests_total{method="GET",route="/api/%d",status="200"}`, route)).Add(1)
		}
		for gauge := range 15 {
			f.writer.Label(fmt.Sprintf(`app_things{kind="%d"}`, gauge)).Set(1)
		}
		w := &worker{id: protocol.WorkerID{Pool: "web", Slot: i, Serial: i + 1}, pool: p, cfg: p.cfg, proc: f, state: ready, started: time.Now()}
		p.slots[i].current = w
		s.tallyOf("web").fold(f.reader)
	}
	return s
}

// BenchmarkView is the part of a scrape for which the loop works for nobody else.
func BenchmarkView(b *testing.B) {
	s := crowded(b)
	b.ReportAllocs()
	for b.Loop() {
		s.view().release()
	}
}

// BenchmarkScrape is a whole one, without /proc: these workers are none of the kernel's.
func BenchmarkScrape(b *testing.B) {
	s := crowded(b)
	m := newScraper(zap.NewNop(), func(context.Context) (*view, error) { return s.view(), nil }, "v1")
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		answer := httptest.NewRecorder()
		m.answer(answer, httptest.NewRequest(http.MethodGet, control.PathMetrics, nil))
		size = answer.Body.Len()
	}
	b.ReportMetric(float64(size), "bytes")
}

// BenchmarkVital is what /proc costs for one worker in each scrape.
func BenchmarkVital(b *testing.B) {
	id := processID{PID: ourselves.PID, StartTime: ourselves.Start}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := vitalOf(id); !ok {
			b.Fatal("gone")
		}
	}
}

// BenchmarkProportional is what its PSS costs, once in proportionsAge.
func BenchmarkProportional(b *testing.B) {
	for b.Loop() {
		if proportional(processID{PID: ourselves.PID}) == 0 {
			b.Fatal("unknown")
		}
	}
}

// BenchmarkSnapshot is what the loop pays after each event where a manager keeps our state.
func BenchmarkSnapshot(b *testing.B) {
	s := crowded(b)
	s.cfg = &config.Config{}
	b.ReportAllocs()
	for b.Loop() {
		bundle := s.snapshot()
		if _, err := bundle.snapshot.encode(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshotWithoutTallies is what it would be without them.
func BenchmarkSnapshotWithoutTallies(b *testing.B) {
	s := crowded(b)
	clear(s.tallies)
	s.cfg = &config.Config{}
	b.ReportAllocs()
	for b.Loop() {
		bundle := s.snapshot()
		if _, err := bundle.snapshot.encode(); err != nil {
			b.Fatal(err)
		}
	}
}
