package observe

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// proving reports whether this is `make prove`: more faults, for longer.
func proving() bool { return os.Getenv("PROVE") != "" }

// hasten makes hours of seconds: the real times of the same rules are held to by promtool's tests.
var (
	window    = regexp.MustCompile(`\[\d+[smh](:?)\]`)
	holding   = regexp.MustCompile(`(?m)^( *for:) .*$`)
	threshold = map[string]string{ // what a short test cannot reach
		"jobs_queue_latency_seconds:max > 60": "jobs_queue_latency_seconds:max > 3",
	}
)

// shortWindow is long enough for a value that changes every 5 s, which the queues' lengths do.
const shortWindow = "12s"

func hasten(t *testing.T, rules string) string {
	t.Helper()
	rules = holding.ReplaceAllString(window.ReplaceAllString(rules, "["+shortWindow+"$1]"), "$1 1s")
	for long, short := range threshold {
		if strings.Contains(rules, "- alert:") && strings.Count(rules, long) != 1 {
			t.Fatalf("%q is not once in the rules", long)
		}
		rules = strings.ReplaceAll(rules, long, short)
	}
	return rules
}

// known are queries that people bring along, letter by letter: those of the guide to horizontal scaling, and of docs/monitoring.md.
var known = []string{
	`rate(http_requests_total{service="backend"}[5m])`,
	`histogram_quantile(0.95, rate(http_request_duration_seconds_bucket[5m]))`,
	`sum(backend_connections_active) by (instance)`,
	`rate(http_requests_total{status=~"5.."}[5m])`,
	`sum by (instance) (rate(http_requests_total{service="backend"}[5m]))`,
	`service:http_errors:ratio_rate5m`,
	`histogram_quantile(0.95, sum by (pool, le) (rate(http_request_duration_seconds_bucket[5m])))`,
	`sum by (pool, reason) (increase(supervisor_worker_restarts_total[1h]))`,
	`sum by (task) (rate(jobs_duration_seconds_sum[5m]))`,
}

// watch starts a Prometheus that asks both supervisors every second.
func watch(t *testing.T, s *system) *prometheus {
	t.Helper()
	config := strings.NewReplacer("15s", "1s", "127.0.0.1:9900", s.a.admin+", "+s.b.admin).Replace(read(t, etcPrometheus, "prometheus.yml"))
	return startPrometheus(t, config, map[string]string{
		"recording.yml": hasten(t, read(t, etcPrometheus, "recording.yml")),
		"alerts.yml":    hasten(t, read(t, etcPrometheus, "alerts.yml")),
	})
}

// has reports whether an expression has data that is a number.
func (p *prometheus) has(expr string) (bool, error) {
	samples, err := p.query(expr)
	for _, s := range samples {
		text, _ := s.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			return true, nil
		}
	}
	return false, err
}

// awaitData waits until each expression has had data once.
func (p *prometheus) awaitData(t *testing.T, all []expression) {
	t.Helper()
	began := time.Now()
	n := len(all)
	for deadline := began.Add(eventually); ; time.Sleep(300 * time.Millisecond) {
		all = slices.DeleteFunc(all, func(e expression) bool {
			ok, err := p.has(filled(e.text, shortWindow))
			if err != nil {
				t.Errorf("%s: %v", e.where, err)
			}
			return ok || err != nil
		})
		if len(all) == 0 {
			t.Logf("%d expressions have data after %.1fs", n, time.Since(began).Seconds())
			return
		}
		if time.Now().After(deadline) {
			for _, e := range all {
				t.Errorf("%s: no data: %s", e.where, e.text)
			}
			return
		}
	}
}

// firing gives the alerts that fire, with the value of a label behind those that have it.
func (p *prometheus) firing(t *testing.T) map[string]bool {
	t.Helper()
	var answer struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	if err := p.ask("/api/v1/alerts", nil, &answer); err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	for _, a := range answer.Alerts {
		if a.State == "firing" {
			alerts[a.Labels["alertname"]] = true
			alerts[a.Labels["alertname"]+" "+a.Labels["pool"]] = true
		}
	}
	return alerts
}

// awaitAlerts waits until each of these has fired once. Some do not fire for long: a crash loop waits longer and longer.
func (p *prometheus) awaitAlerts(t *testing.T, names ...string) {
	t.Helper()
	var log []string
	names = slices.Clone(names)
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		firing := p.firing(t)
		names = slices.DeleteFunc(names, func(name string) bool {
			if firing[name] {
				log = append(log, fmt.Sprintf("%s after %.1fs", name, time.Since(began).Seconds()))
			}
			return firing[name]
		})
		if len(names) == 0 {
			t.Logf("fired: %s", strings.Join(log, ", "))
			return
		}
		if time.Since(began) > eventually {
			t.Fatalf("never fired: %s; but %s", strings.Join(names, ", "), strings.Join(log, ", "))
		}
	}
}

// awaitQuiet waits until none of these fires any more.
func (p *prometheus) awaitQuiet(t *testing.T, names ...string) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		firing := p.firing(t)
		loud := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !firing[name] })
		if len(loud) == 0 {
			t.Logf("resolved after %.1fs: %s", time.Since(began).Seconds(), strings.Join(names, ", "))
			return
		}
		if time.Since(began) > eventually {
			t.Fatalf("never resolved: %s", strings.Join(loud, ", "))
		}
	}
}

// Two supervisors under load, with jobs, errors, a reload, a self-upgrade and a runner that is killed: every expression of every panel and rule
// has data in a real Prometheus, and every metric that they name is one that the supervisors show. Then things break: alerts fire, and resolve when
// the things are repaired.
func TestRealPrometheusSeesALoadedSystem(t *testing.T) {
	need(t, "prometheus")
	need(t, "promtool")
	s := startSystem(t)
	p := watch(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.use(ctx)

	// What a Prometheus sees for the first time at 1 was not there at 0: let it see all counters before they move.
	all := expressions()
	p.awaitData(t, []expression{{where: "first look", text: `sum(rate(http_requests_total[5s])) > 0 and sum(up{job="backend"}) == 2`}})
	s.a.ctl(true, "reload")
	s.b.ctl(true, "upgrade")
	s.strange()
	for range 12 { // one for each slot of all runners
		if _, err := s.broker.EnqueueTask(ctx, "drill", map[string]int{"ms": 5000}); err != nil {
			t.Fatal(err)
		}
	}
	p.awaitData(t, []expression{{where: "jobs that run", text: `min(jobs_in_progress{worker="jobs.0"}) > 0`}})
	if err := syscall.Kill(s.a.pids("jobs")[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.rules(t) {
		if r.Type == "recording" {
			all = append(all, expression{where: "rule", text: r.Name})
		} else {
			all = append(all, expression{where: r.Name, text: asking(r.Query)})
		}
		if r.LastError != "" {
			t.Errorf("%s: %s", r.Name, r.LastError)
		}
	}
	for _, query := range known {
		all = append(all, expression{where: "the guide", text: query})
	}
	p.awaitData(t, slices.Clone(all))
	p.knows(t, all)
	checkMetrics(t, s)
	p.seesTroubles(t, s, cancel)
}

// knows holds the names of metrics to what Prometheus has got from the supervisors, or has recorded.
func (p *prometheus) knows(t *testing.T, all []expression) {
	t.Helper()
	var known []string
	if err := p.ask("/api/v1/label/__name__/values", nil, &known); err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		for _, name := range metrics(e.text) {
			if !slices.Contains(known, name) {
				t.Errorf("%s: nobody shows %s", e.where, name)
			}
		}
	}
}

// checkMetrics holds what the supervisors show to promtool.
func checkMetrics(t *testing.T, s *system) {
	t.Helper()
	_, text := s.a.ask("GET", "http://"+s.a.admin+"/metrics")
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// seesTroubles breaks things, all that do not hide each other at once, and repairs them. The clients go on until stop.
func (p *prometheus) seesTroubles(t *testing.T, s *system, stop func()) {
	t.Helper()
	// Those of a system that is well are quiet. Some of its jobs die, which it was told to see, and those that are nobody's wait.
	ctx := t.Context()
	s.strange()
	ofJobs := []string{"JobFailureRateHigh", "DeadJobsGrowing", "JobsPostponed"}
	broken := []string{"NoReadyWorkers web", "WorkersBelowDesired web", "WorkerCrashLoop web", "Degraded", "ReloadFailed", "JobQueueBacklogGrowing",
		"JobQueueLatencyHigh", "ListenQueueFilling web"}
	p.awaitAlerts(t, append(ofJobs, "Watchdog")...)
	p.awaitQuiet(t, broken...)

	// A killed pool, which comes back to nothing but a crash loop, while its clients queue up.
	s.b.breaks("web")
	var waiting []net.Conn
	for range 8 { // as many as the queue takes
		if conn, err := net.DialTimeout("tcp", s.b.web, time.Second); err == nil {
			waiting = append(waiting, conn)
		}
	}
	// A failed reload.
	s.a.write("toml", s.a.good+"\nwrokers = 3\n", 0o644)
	s.a.ctl(false, "reload")
	// A backlog.
	if _, err := s.broker.Inspector().Pause(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	for range 1200 {
		if _, err := s.broker.EnqueueTask(ctx, "drill", map[string]int{"ms": 0}); err != nil {
			t.Fatal(err)
		}
	}
	// A bug.
	bug, fixed := context.WithCancel(ctx)
	defer fixed()
	go func() {
		for bug.Err() == nil {
			s.a.ask("POST", "http://"+s.a.web+"/debug/panic")
		}
	}()
	p.awaitAlerts(t, append(broken, "HighErrorRate")...)

	fixed()
	stop()
	for _, id := range s.waiting {
		if _, err := s.broker.Cancel(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	s.b.repair("web")
	s.b.ctl(true, "reload")
	for _, conn := range waiting {
		conn.Close()
	}
	s.a.write("toml", s.a.good, 0o644)
	s.a.ctl(true, "reload")
	if _, err := s.broker.Inspector().Resume(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	p.awaitQuiet(t, slices.Concat(broken, ofJobs, []string{"HighErrorRate"})...)

	// A supervisor that is gone.
	s.b.stop()
	p.awaitAlerts(t, "BackendInstanceDown")
	s.b.start()
	p.awaitQuiet(t, "BackendInstanceDown")
}

// What is too slow or too odd for each test: the remaining alerts, but for LogLinesLost and WorkerSeriesDropped.
func TestRealPrometheusSeesRarerTroubles(t *testing.T) {
	if !proving() {
		t.Skip("PROVE=1 runs it")
	}
	need(t, "prometheus")
	s := startSystem(t)
	p := watch(t, s)
	at := "http://" + s.a.web
	p.awaitData(t, []expression{{where: "first look", text: `sum(up{job="backend"}) == 2 and count(jobs_runners) > 0`}})

	// All clients come to one of two instances, and ask for what is slow.
	ctx, fewer := context.WithCancel(t.Context())
	defer fewer()
	for range 30 {
		go func() {
			for ctx.Err() == nil {
				s.a.ask("GET", at+"/debug/sleep?ms=800")
			}
		}()
	}
	p.awaitAlerts(t, "LoadImbalance", "HighLatencyP95")
	fewer()
	p.awaitQuiet(t, "LoadImbalance", "HighLatencyP95")

	// A self-upgrade to a program that does not start. It is put away first: the other one runs from the same file.
	if err := os.Rename(filepath.Join(s.b.dir, "supervisor"), filepath.Join(s.b.dir, "good")); err != nil {
		t.Fatal(err)
	}
	s.b.write("supervisor", "#!/bin/sh\nexit 1\n", 0o755)
	if err := syscall.Kill(s.b.pid(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	p.awaitAlerts(t, "UpgradeFailed")
	if err := os.Rename(filepath.Join(s.b.dir, "good"), filepath.Join(s.b.dir, "supervisor")); err != nil {
		t.Fatal(err)
	}
	s.b.ctl(true, "upgrade")
	p.awaitQuiet(t, "UpgradeFailed")

	// Somebody locks a table: each request that needs it holds a connection. Then more connections than the server has may be opened.
	lock, err := pgx.Connect(t.Context(), s.data)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(context.Background())
	if _, err := lock.Exec(t.Context(), "begin; lock table app_uploads in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	photo := []byte(read(t, "..", "..", "pkg", "app", "testdata", "video-001.jpeg"))
	ctx, fewer = context.WithCancel(t.Context())
	defer fewer()
	for range 20 {
		go func() {
			for ctx.Err() == nil {
				s.a.ask("POST", at+"/images?width=64", photo...)
			}
		}()
	}
	p.awaitAlerts(t, "DBPoolExhausted")
	fewer()
	if _, err := lock.Exec(t.Context(), "rollback"); err != nil {
		t.Fatal(err)
	}
	p.awaitQuiet(t, "DBPoolExhausted")
	env := read(t, s.a.dir, "env")
	s.a.write("env", env+"BACKEND_POOL_SIZE=30\n", 0o644)
	s.a.ctl(true, "reload")
	p.awaitAlerts(t, "DBConnectionBudgetExceeded")
	s.a.write("env", env, 0o644)
	s.a.ctl(true, "reload")
	p.awaitQuiet(t, "DBConnectionBudgetExceeded")

	// Redis hangs, and its runners have enough to do. Then all of them are gone.
	for range 50 {
		if _, err := s.broker.EnqueueTask(t.Context(), "drill", map[string]int{"ms": 1000}); err != nil {
			t.Fatal(err)
		}
	}
	s.redis.Signal(syscall.SIGSTOP)
	p.awaitAlerts(t, "JobClaimsFail")
	s.redis.Signal(syscall.SIGCONT)
	p.awaitQuiet(t, "JobClaimsFail")
	s.a.breaks("jobs")
	s.b.breaks("jobs")
	p.awaitAlerts(t, "JobRunnerDown")
	s.a.repair("jobs")
	s.b.repair("jobs")
	s.a.ctl(true, "reload")
	s.b.ctl(true, "reload")
	p.awaitQuiet(t, "JobRunnerDown")

	s.a.stop()
	s.b.stop()
	p.awaitAlerts(t, "BackendInstancesBelowMinimum")
	s.a.start()
	s.b.start()
	p.awaitQuiet(t, "BackendInstancesBelowMinimum", "BackendInstanceDown")
}
