package app

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"supervisor/pkg/scoreboard"
)

// labels is a scoreboard of its own.
type labels struct {
	*scoreboard.Writer
	read func() map[string]int64
}

func newLabels() labels {
	w, r := scoreboard.NewMemory(scoreboard.Settings{})
	return labels{w, r.Labels}
}

func TestRequestsAreCountedByRouteAndStatus(t *testing.T) {
	t.Parallel()
	labels := newLabels()
	s := serve(t, Config{Debug: true}, func(a *app) { a.worker.Label = labels.Label })
	for range 3 {
		s.get("/health")
	}
	s.get("/tasks/default.0.x")
	s.get("/tasks/default.0.y")
	s.get("/debug/panic")
	s.do("HEAD", "/health", "", nil)
	s.do("BREW", "/debug/sleep?ms=0", "", nil)
	s.get("/debug/sleep?ms=30")
	s.get("/no/such/path")
	s.do("DELETE", "/health", "", nil)
	s.do("OPTIONS", "/health", "", nil)
	s.raw("nonsense\r\n\r\n")
	s.raw("POST /images HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
	got := labels.read()
	want := map[string]int64{
		`http_requests_total{method="GET",route="/health",status="200"}`:        3,
		`http_requests_total{method="GET",route="/tasks/{id}",status="503"}`:    2,
		`http_requests_total{method="GET",route="/debug/panic",status="500"}`:   1,
		`http_requests_total{method="HEAD",route="/health",status="200"}`:       1,
		`http_requests_total{method="other",route="/debug/sleep",status="200"}`: 1,
		`http_requests_total{method="GET",route="/debug/sleep",status="200"}`:   1,
		`http_requests_total{method="GET",route="other",status="404"}`:          1,
		`http_requests_total{method="DELETE",route="other",status="405"}`:       1,
		`http_requests_total{method="OPTIONS",route="other",status="204"}`:      1,
		`http_requests_total{method="other",route="other",status="400"}`:        1,
		`http_requests_total{method="other",route="other",status="413"}`:        1,
		`http_requests_total{method="other",route="other",status="other"}`:      0,
	}
	timed := int64(0)
	for name, n := range got {
		if strings.HasPrefix(name, "http_requests_total") && want[name] != n {
			t.Errorf("%s is %d, want %d", name, n, want[name])
		}
		if strings.Contains(name, "_bucket") {
			timed += n
		}
	}
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s is %d, want %d", name, got[name], n)
		}
	}
	if timed != 12 { // all but the two that could not be read
		t.Errorf("%d durations", timed)
	}
	slept := got[`http_request_duration_seconds_sum{method="GET",route="/debug/sleep"}`]
	if slept < 30_000 {
		t.Errorf("30 ms are %d µs", slept)
	}
	if got[`http_request_duration_seconds_bucket{method="GET",route="/debug/sleep",le="0.025"}`] != 0 {
		t.Error("30 ms are in the bucket of 25 ms")
	}
}

// However many routes, methods and statuses are used, the scoreboard has room for the others' metrics, no name is cut, and the totals are right.
func TestSeriesOfRequestsAreBounded(t *testing.T) {
	t.Parallel()
	labels := newLabels()
	a := serve(t, Config{Debug: true}, func(a *app) { a.worker.Label = labels.Label }).app
	usual, all := 0, int64(0)
	for _, statuses := range [][]int{{200, 400, 503}, {201, 202, 204, 303, 401, 403, 404, 409, 413, 415, 422, 429, 431, 500, 502, 504, 999}} {
		for route := range a.meter.routes {
			for _, method := range []string{"GET", "HEAD", "POST", "BREW"} {
				for i, took := range append(durationBounds[:], time.Hour, -1) {
					status := statuses[i%len(statuses)]
					if usual == 0 && (method != "GET" || i > 4) {
						continue // a route has one method mostly, and is as quick as it is
					}
					a.meter.observe(routeIndex(route), []byte(method), status, took)
					all++
				}
			}
		}
		if usual == 0 {
			usual = len(labels.read())
		}
	}
	got := labels.read()
	if usual > mostSeries || len(got) != mostSeries || got["other"] != 0 {
		t.Errorf("%d series in use, %d at most, %d in the last", usual, len(got), got["other"])
	}
	t.Logf("%d routes: %d series with three statuses and five buckets each", len(a.meter.routes), usual)
	sums := map[string]int64{}
	for name, n := range got {
		if !strings.HasSuffix(name, `"}`) || len(name) > 112 {
			t.Errorf("%s is too long", name)
		}
		family, _, _ := strings.Cut(name, "{")
		sums[family] += n
	}
	if sums["http_requests_total"] != all || sums["http_request_duration_seconds_bucket"] != all {
		t.Errorf("%v of %d", sums, all)
	}
	for _, route := range a.meter.routes { // the longest name that could come
		s := routeSeries{method: "OPTIONS", route: route}
		for i := range durationBounds {
			if name := s.bucketName(i); len(name) > 112 {
				t.Errorf("%s has %d bytes: Prometheus would get a part of it", name, len(name))
			}
		}
	}
}

func TestBucketsAndStatusesHaveTheirPlaces(t *testing.T) {
	t.Parallel()
	for i, bound := range durationBounds {
		if bucketOf(bound) != i || bucketOf(bound+1) != i+1 {
			t.Errorf("%v is in %d, %v in %d", bound, bucketOf(bound), bound+1, bucketOf(bound+1))
		}
	}
	for i, status := range meterStatuses {
		if int(statusOf(status)) != i {
			t.Errorf("%d is %d", status, statusOf(status))
		}
	}
	for _, odd := range []int{-1, 299, 600, 100000} {
		if statusOf(odd) != 0 {
			t.Errorf("%d is %d", odd, statusOf(odd))
		}
	}
	labels := newLabels()
	newHTTPMeter(labels.Label, nil)
	var bounds []string
	for _, name := range slices.Sorted(maps.Keys(labels.read())) {
		if _, le, ok := strings.Cut(name, "le="); ok {
			bounds = append(bounds, strings.Trim(le, `"}`))
		}
	}
	slices.Sort(bounds)
	if want := "+Inf 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 10 2.5 5"; strings.Join(bounds, " ") != want {
		t.Errorf("%v, want %s", bounds, want)
	}
}

func TestMeterCountsUnderConcurrency(t *testing.T) {
	t.Parallel()
	labels := newLabels()
	m := newHTTPMeter(labels.Label, []string{"/a", "/b"})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := range 1000 {
				m.observe(routeIndex(i%3), []byte("GET"), 200+n%5, time.Duration(n)*time.Millisecond)
			}
		})
	}
	wait.Wait()
	sum := int64(0)
	for name, n := range labels.read() {
		if strings.HasPrefix(name, "http_requests_total") {
			sum += n
		}
	}
	if sum != 8000 {
		t.Errorf("%d of 8000", sum)
	}
	var none *httpMeter
	none.observe(1, []byte("GET"), 200, 0)
	none.count(200)
	if newHTTPMeter(nil, nil) != nil {
		t.Error("a meter without a scoreboard")
	}
}

func BenchmarkMeter(b *testing.B) {
	m := newHTTPMeter(newLabels().Label, []string{"/tasks/{id}"})
	get := []byte("GET")
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.observe(1, get, 200, 3*time.Millisecond)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.observe(1, get, 200, 3*time.Millisecond)
			}
		})
	})
}
