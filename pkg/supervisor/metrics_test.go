package supervisor

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// samples are what a scrape showed, by name and labels as Prometheus writes them.
type samples map[string]float64

func readSamples(t *testing.T, text string) samples {
	t.Helper()
	found := samples{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		found[line[:i]] = value
	}
	return found
}

// sum adds up the series of a family that have all these labels, each written as key="value".
func (s samples) sum(family string, labels ...string) (sum float64) {
	for name, value := range s {
		if rest, ok := strings.CutPrefix(name, family); ok && (rest == "" || rest[0] == '{') &&
			!slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			sum += value
		}
	}
	return sum
}

// neverDown complains about counters that are lower than they were.
func (s samples) neverDown(t *testing.T, before samples) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		family, _, _ := strings.Cut(name, "{")
		counter := strings.HasSuffix(family, "_total") || strings.HasSuffix(family, "_bucket") || strings.HasSuffix(family, "_sum") || strings.HasSuffix(family, "_count")
		if !counter || strings.HasPrefix(family, "go_") || strings.HasPrefix(family, "process_") || family == workerCPU.name {
			continue
		}
		if now, is := s[name]; !is || now < before[name] {
			t.Errorf("%s went from %v to %v (there: %v)", name, before[name], now, is)
		}
	}
}

// scrape asks as Prometheus does.
func scrape(t *testing.T, m *scraper) (samples, string) {
	t.Helper()
	answer := httptest.NewRecorder()
	m.answer(answer, httptest.NewRequest(http.MethodGet, control.PathMetrics, nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	return readSamples(t, answer.Body.String()), answer.Body.String()
}

// scraped is a world with a scraper.
func scraped(w *world) *scraper { return newScraper(zap.NewNop(), w.takeView, "v1 (go)") }

// serve makes a fake worker answer n requests, one of ten with 500, and count them in its own way, too.
func (f *fake) serve(n int) {
	c := f.writer.Open()
	c.Add(scoreboard.Accepted, 1)
	for i := range n {
		c.Begin(f.writer.Now())
		if i%10 == 9 {
			c.Add(scoreboard.Errors, 1)
		} else {
			c.Add(scoreboard.Succeeded, 1)
		}
		c.End(time.Millisecond)
	}
	f.writer.Label(`mails_sent_total{to="a"}`).Add(int64(n))
	f.writer.Label(`mail_seconds_bucket{le="0.5"}`).Add(int64(n))
	f.writer.Label(`mail_seconds_bucket{le="+Inf"}`).Add(1)
	f.writer.Label(`mail_seconds_sum`).Add(int64(n) * 250_000)
	f.writer.Label(`mails_open`).Set(int64(n))
	f.writer.Label(`mails_refused_total`).Add(0) // a series that is there from the start
}

// wantServed checks what a pool has done in all.
func (s samples) wantServed(t *testing.T, pool string, n, times int) {
	t.Helper()
	of := `pool="` + pool + `"`
	for name, want := range map[string]float64{
		`http_requests_total{` + of + `,service="shop",status="ok"}`:                 float64(n) * 0.9,
		`http_requests_total{` + of + `,service="shop",status="5xx"}`:                float64(n) * 0.1,
		`http_request_duration_seconds_count{` + of + `,service="shop"}`:             float64(n),
		`http_request_duration_seconds_sum{` + of + `,service="shop"}`:               float64(n) / 1000,
		`http_request_duration_seconds_bucket{` + of + `,service="shop",le="0.001"}`: float64(n),
		`backend_connections_total{` + of + `,service="shop"}`:                       float64(times),
		`mails_sent_total{` + of + `,service="shop",to="a"}`:                         float64(n),
		`mails_refused_total{` + of + `,service="shop"}`:                             0,
		`mail_seconds_bucket{` + of + `,service="shop",le="0.5"}`:                    float64(n),
		`mail_seconds_bucket{` + of + `,service="shop",le="+Inf"}`:                   float64(n + times),
		`mail_seconds_count{` + of + `,service="shop"}`:                              float64(n + times),
		`mail_seconds_sum{` + of + `,service="shop"}`:                                float64(n) / 4,
	} {
		if got, is := s[name]; !is || got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%s is %v (there: %v), want %v", name, got, is, want)
		}
	}
}

func shopConfig(pools ...*config.Pool) *config.Config {
	cfg := testConfig(pools...)
	cfg.Service = "shop"
	for i, p := range pools {
		p.Bind = []config.Bind{{Name: p.Name, Network: "tcp", Address: fmt.Sprintf("127.0.0.1:%d", 1+i)}} // nobody opens it
	}
	return cfg
}

// Workers crash, are recycled, reloaded, scaled away and outlive a KILL: what they did stays, and is counted once.
func TestCountersOutliveWorkers(t *testing.T) {
	pool := fakePool("web", 3)
	pool.GracefulTimeout = time.Minute
	inWorld(t, shopConfig(pool), func(w *world) {
		m := scraped(w)
		served, times := 0, 0
		var last samples
		check := func() {
			t.Helper()
			now, _ := scrape(t, m)
			now.wantServed(t, "web", served, times)
			now.neverDown(t, last)
			last = now
		}
		all := func() {
			for _, p := range w.living() {
				p.serve(100)
				served, times = served+100, times+1
			}
		}
		all()
		check()
		w.procs[0].exit(exitStatus{signal: syscall.SIGSEGV})
		w.after(time.Second)
		check()
		all()
		w.living()[0].tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		w.after(time.Minute)
		check()
		if got := last.sum("supervisor_worker_restarts_total", `reason="max_requests"`); got != 1 {
			t.Errorf("%v workers went because of max_requests", got)
		}
		if got := last.sum("supervisor_worker_restarts_total", `reason="crash"`); got != 1 {
			t.Errorf("%v workers crashed", got)
		}
		all()
		old := w.living()[0]
		old.drain = 10 * time.Second // it goes on meanwhile
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		old.serve(100)
		served, times = served+100, times+1
		check()
		if got := last.sum("mails_open"); got != 100 { // a gauge ends with its process: of the one that drains only
			t.Errorf("gauges: %v, %v", got, last)
		}
		w.after(time.Minute)
		all()
		check()
		if got := last.sum("supervisor_worker_restarts_total", `reason="reload"`); got != 3 {
			t.Errorf("%v workers went because of the reload", got)
		}
		if got := last.sum("supervisor_worker_drain_seconds_count"); got != 4 {
			t.Errorf("%v drains", got)
		}
		w.send(syscall.SIGTTOU)
		w.after(time.Minute)
		check()
		if got := last.sum("supervisor_reloads_total", `result="ok"`); got != 1 {
			t.Errorf("%v reloads", got)
		}
		w.nextErr = fmt.Errorf("no")
		w.send(syscall.SIGHUP)
		check()
		if last["supervisor_last_reload_success"] != 0 || last.sum("supervisor_reloads_total", `result="refused"`) != 1 {
			t.Errorf("a reload was refused: %v", last)
		}
	})
}

// A pool that a reload removes keeps its counts, also when it comes back.
func TestCountersOutliveThePool(t *testing.T) {
	web, other := fakePool("web", 1), fakePool("other", 1)
	cfg := testConfig(web, other)
	cfg.Service = "shop"
	inWorld(t, cfg, func(w *world) {
		m := scraped(w)
		w.procs[1].serve(50)
		before, _ := scrape(t, m)
		without := *cfg
		without.Pools = []*config.Pool{web}
		w.next = &without
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		now, _ := scrape(t, m)
		now.neverDown(t, before)
		if _, is := now[`supervisor_workers{pool="other",state="ready"}`]; is {
			t.Error("the pool is gone, and its workers are shown")
		}
		w.next = cfg
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		w.living()[1].serve(50)
		again, _ := scrape(t, m)
		again.neverDown(t, now)
		if n := again[`mails_sent_total{pool="other",service="shop",to="a"}`]; n != 100 {
			t.Errorf("%v of 100 mails", n)
		}
	})
}

// A worker that counts its requests itself is not counted twice, and one that does not beside it is counted.
func TestWorkerSpeaksForItself(t *testing.T) {
	inWorld(t, shopConfig(fakePool("web", 2)), func(w *world) {
		m := scraped(w)
		one, two := w.procs[0], w.procs[1]
		one.serve(10)
		two.writer.Label(`http_requests_total{method="GET",route="/",status="200"}`).Add(20)
		two.serve(20)
		for range 2 {
			now, _ := scrape(t, m)
			if n := now.sum("http_requests_total"); n != 30 {
				t.Errorf("%v of 30 requests: %v", n, now)
			}
			if n := now.sum("http_request_duration_seconds_count"); n != 10 {
				t.Errorf("%v of 10 are timed by the board", n)
			}
			one.exit(exitStatus{})
			two.exit(exitStatus{})
			w.after(time.Second)
		}
	})
}

// The scoreboard's own counts are exact, too: of workers on net/http, which learn the status of an answer when it is written.
func TestRequestsOfNetHTTPAreExact(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	cfg := testConfig(pool)
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	addr := m.addr()
	var asked sync.WaitGroup
	const clients, each = 8, 40
	for range clients {
		asked.Go(func() {
			for range each {
				if _, err := get(addr, "/"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	m.reload(cfg, nil)
	m.await("reload done", 1)
	asked.Wait()
	now, _ := scrape(t, m.scraper)
	if ok, bad := now.sum("http_requests_total", `status="ok"`), now.sum("http_requests_total", `status="5xx"`); ok != clients*each || bad != 0 {
		t.Errorf("%v and %v, want %d good ones", ok, bad, clients*each)
	}
	if n, sum := now.sum("http_request_duration_seconds_count"), now.sum("http_request_duration_seconds_sum"); n != clients*each || sum <= 0 {
		t.Errorf("%v observations, %v seconds", n, sum)
	}
}

// A scrape while the loop stands still, and scrapes beyond those that may wait, end with 503; the rest of the world goes on.
func TestScrapeDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		m := newScraper(zap.NewNop(), func(ctx context.Context) (*view, error) {
			select {
			case <-released:
				return &view{}, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}, "v1")
		codes := make(chan int, 3*mostAnswers)
		ask := func() {
			answer := httptest.NewRecorder()
			m.answer(answer, httptest.NewRequest(http.MethodGet, control.PathMetrics, nil))
			codes <- answer.Code
		}
		for range cap(codes) {
			go ask()
		}
		began := time.Now()
		for range cap(codes) {
			if code := <-codes; code != http.StatusServiceUnavailable {
				t.Errorf("status %d", code)
			}
		}
		if took := time.Since(began); took != scrapePatience {
			t.Errorf("it took %v", took)
		}
		close(released)
		if ask(); <-codes != http.StatusOK {
			t.Error("nobody is answered any more")
		}
	})
}
