package supervisor

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"supervisor/pkg/scoreboard"
)

func TestUnderstand(t *testing.T) {
	for label, want := range map[string]string{
		`mails_total`:                       `mails_total counter 1 []`,
		`mails_total{}`:                     `mails_total counter 1 []`,
		`mails_total{to="a",by="b"}`:        `mails_total counter 1 [{by b} {to a}]`,
		`mails_total{to="a",}`:              `no comma and no end`,
		`mails_total{to="a,b=\"c\"}\\\n"}`:  "mails_total counter 1 [{to a,b=\"c\"}\\\n}]",
		`mails_total{to="ä"}`:               `mails_total counter 1 [{to ä}]`,
		`idle_seconds`:                      `idle_seconds gauge 1e-06 []`,
		`idle_seconds_total`:                `idle_seconds_total counter 1e-06 []`,
		`x_seconds_sum{a="b"}`:              `x_seconds sum 1e-06 [{a b}]`,
		`x_seconds_bucket{a="b",le="0.5"}`:  `x_seconds bucket 1 [{a b}] 0.5`,
		`x_bytes_sum`:                       `x_bytes sum 1 []`,
		`http_requests_total{status="200"}`: `http_requests_total counter 1 [{status 200}]`,
		`x_seconds_bucket{a="b"}`:           `a bucket without le`,
		`x_seconds_bucket{le="much"}`:       `le="much" is no number`,
		`x_seconds_bucket{le="NaN"}`:        `is no number`,
		`x_count`:                           `part of another metric`,
		`x_total_bucket{le="1"}`:            `part of another metric`,
		`supervisor_ready`:                  `supervisor's`,
		`backend_connections_total`:         `supervisor's`,
		`process_open_fds`:                  `supervisor's`,
		`http_requests_in_flight`:           `supervisor's`,
		`other`:                             `full`,
		``:                                  `no name`,
		`{a="b"}`:                           `no name`,
		`_total`:                            `_total counter 1 []`,
		`_bucket{le="1"}`:                   `no name`,
		`9lives`:                            `no name`,
		`a:b`:                               `no name`,
		`ä`:                                 `no name`,
		`x{pool="web"}`:                     `not a worker's`,
		`x{service="web"}`:                  `not a worker's`,
		`x{worker="web.0"}`:                 `not a worker's`,
		`x{le="1"}`:                         `not a worker's`,
		`x{quantile="1"}`:                   `not a worker's`,
		`x{a="b",a="c"}`:                    `twice`,
		`x{a=b}`:                            `no label`,
		`x{__name__="y"}`:                   `no label`,
		`x{a="b"`:                           `no comma and no end`,
		`x{a="b`:                            `does not end`,
		`x{a="b\"}`:                         `does not end`,
		`x{a="\t"}`:                         `means nothing`,
		`x{a="b"}y`:                         `no comma and no end`,
		`x{a="b" }`:                         `no comma and no end`,
		"x{a=\"\xff\"}":                     `not UTF-8`,
		"x{" + strings.Repeat("a", 109):     `no label`,
		`http_requests_total{method="GET",route="/api/`: `does not end`,
	} {
		n, err := understand(label)
		got := fmt.Sprint(err)
		if err == nil {
			got = strings.TrimSpace(fmt.Sprintf("%s %s %v %v %s", n.family, [...]string{"gauge", "counter", "bucket", "sum"}[n.part], n.scale, n.labels, n.bound))
			if got != want {
				t.Errorf("%s: %s, want %s", label, got, want)
			}
		} else if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", label, got, want)
		}
	}
}

// Whatever a worker writes, the scrape is one that Prometheus takes; what it cannot use is counted, once.
func TestHostileNames(t *testing.T) {
	inWorld(t, shopConfig(fakePool("web", 2)), func(w *world) {
		m := scraped(w)
		name := func(label string, value int64) {
			for _, p := range w.procs {
				p.writer.Label(label).Set(value)
			}
		}
		bad := []string{
			`supervisor_ready`, `x{`, `x{a="b"`, "\xff\xfe", `x_bucket{le="1e"}`, `go_goroutines`, `http_requests_in_flight`, `lonely_bytes{pool="b"}`,
			`http_request_duration_seconds`, // a gauge, but the family is a histogram
			strings.Repeat("a", 100) + `{b="cut off"}`,
		}
		for _, label := range bad {
			name(label, 7)
		}
		good, _ := scrape(t, m)
		if n := good.sum(seriesDropped.name); n != float64(len(bad)) {
			t.Errorf("%v of %d are counted as dropped", n, len(bad))
		}
		name(`mails_total`, -5) // a counter that goes down
		name(`mail_seconds`, 1_500_000)
		name(`only_sum`, 1)
		w.procs[1].writer.Label(`mail_seconds_bucket{le="1"}`).Add(1) // the gauge was first
		w.procs[0].writer.Label(`b_bytes_bucket{le="10"}`).Add(3)
		w.procs[0].writer.Label(`b_bytes_bucket{le="1e1"}`).Add(4) // the same bound
		w.procs[1].writer.Label(`b_bytes_bucket{le="5"}`).Add(1)   // of another version of the program
		w.procs[1].writer.Label(`b_bytes_bucket{le="-Inf"}`).Add(1 << 62)
		now, _ := scrape(t, m)
		for series, want := range map[string]float64{
			`mails_total{pool="web",service="shop"}`:                     0,
			`mail_seconds{pool="web",service="shop",worker="web.0"}`:     1.5,
			`mail_seconds{pool="web",service="shop",worker="web.1"}`:     1.5,
			`b_bytes_bucket{pool="web",service="shop",le="5"}`:           1<<62 + 1,
			`b_bytes_bucket{pool="web",service="shop",le="10"}`:          1<<62 + 8,
			`b_bytes_count{pool="web",service="shop"}`:                   1<<62 + 8,
			`supervisor_worker_series_dropped_total{pool="web"}`:         float64(len(bad)) + 1,
			`supervisor_workers{pool="web",state="ready"}`:               2,
			`http_requests_total{pool="web",service="shop",status="ok"}`: 0,
		} {
			if got, is := now[series]; !is || got != want {
				t.Errorf("%s is %v (there: %v), want %v", series, got, is, want)
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		for range 2 * scoreboard.MaxLabels { // also more than there is room for
			label := make([]byte, random.IntN(30))
			for i := range label {
				label[i] = `abc_{}="",le\ 1`[random.IntN(15)]
			}
			name(string(label), random.Int64())
		}
		_, text := scrape(t, m)
		if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil {
			t.Errorf("%v: %v", err, problems)
		}
	})
}

// A worker names a bucket when it needs it. On /metrics all series of a histogram have all its bounds nevertheless: sums of them by le are right.
func TestSeriesOfAHistogramHaveTheSameBounds(t *testing.T) {
	inWorld(t, shopConfig(fakePool("web", 2)), func(w *world) {
		m := scraped(w)
		w.procs[0].writer.Label(`mail_seconds_bucket{to="a",le="1"}`).Add(1)
		scrape(t, m)
		w.procs[0].writer.Label(`mail_seconds_bucket{to="b",le="0.5"}`).Add(2)
		w.procs[1].writer.Label(`mail_seconds_bucket{to="a",le="5"}`).Add(4)
		w.procs[1].writer.Label(`mail_seconds_bucket{to="a",le="+Inf"}`).Add(8)
		w.procs[1].writer.Label(`mail_seconds_sum{to="c"}`).Add(1) // no histogram
		now, _ := scrape(t, m)
		for series, want := range map[string]float64{
			`to="a",le="0.5"`: 0, `to="a",le="1"`: 1, `to="a",le="5"`: 5, `to="a",le="+Inf"`: 13,
			`to="b",le="0.5"`: 2, `to="b",le="1"`: 2, `to="b",le="5"`: 2, `to="b",le="+Inf"`: 2,
		} {
			name := `mail_seconds_bucket{pool="web",service="shop",` + series + `}`
			if got, is := now[name]; !is || got != want {
				t.Errorf("%s is %v (there: %v), want %v", name, got, is, want)
			}
		}
		if n := now.sum("mail_seconds_count"); n != 15 {
			t.Errorf("%v in all", n)
		}
		for i := range 2 * maxBounds { // and a worker that makes up bounds gets no more than that for each series
			w.procs[0].writer.Label(fmt.Sprintf(`mail_seconds_bucket{to="b",le="%d"}`, 100+i)).Add(1)
		}
		now, _ = scrape(t, m)
		n := 0
		for name := range now {
			if strings.HasPrefix(name, `mail_seconds_bucket{pool="web",service="shop",to="a"`) {
				n++
			}
		}
		if n != maxBounds {
			t.Errorf("%d buckets of a series that has four", n)
		}
	})
}
