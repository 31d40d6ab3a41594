package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// samples are what a scrape showed, by name and labels as Prometheus writes them.
type samples map[string]float64

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

// scrape asks an admin listener as Prometheus does. A supervisor that has just been killed answers nobody: then err is not nil.
func scrape(admin string) (found samples, text string, err error) {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: eventually}).Get("http://" + admin + "/metrics")
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s: %v: %s", resp.Status, err, body)
	}
	found = samples{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if found[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
				return nil, "", fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	return found, string(body), nil
}

// watcher scrapes again and again, and notes counters that went down.
type watcher struct {
	admin   string
	stop    chan struct{}
	ended   sync.WaitGroup
	scrapes int
	silent  int // scrapes that nobody answered
	down    []string
	text    string // of the last scrape
}

func startWatcher(admin string) *watcher {
	w := &watcher{admin: admin, stop: make(chan struct{})}
	w.ended.Go(func() {
		last := samples{}
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			now, text, err := scrape(admin)
			if err != nil {
				w.silent++
				continue
			}
			w.scrapes++
			w.text = text
			for _, name := range slices.Sorted(maps.Keys(last)) {
				if value, is := now[name]; isCounter(name) && (!is || value < last[name]) {
					w.down = append(w.down, fmt.Sprintf("%s from %v to %v (there: %v)", name, last[name], value, is))
				}
			}
			last = now
		}
	})
	return w
}

// isCounter reports whether a series may only grow, as long as the service lives: not those of one process.
func isCounter(name string) bool {
	family, _, _ := strings.Cut(name, "{")
	for _, prefix := range []string{"go_", "process_", "supervisor_worker_cpu_seconds_total"} {
		if strings.HasPrefix(family, prefix) {
			return false
		}
	}
	return strings.HasSuffix(family, "_total") || strings.HasSuffix(family, "_bucket") || strings.HasSuffix(family, "_sum") || strings.HasSuffix(family, "_count")
}

// end stops watching and complains.
func (w *watcher) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.ended.Wait()
	t.Logf("%d scrapes, %d more met nobody", w.scrapes, w.silent)
	if w.scrapes == 0 {
		t.Error("nobody answered a scrape")
	}
	for i, line := range w.down {
		if i == 20 {
			t.Errorf("and %d more", len(w.down)-i)
			break
		}
		t.Errorf("went down: %s", line)
	}
}

// Workers are recycled and reloaded, the supervisor replaces itself and is killed, all under the client mix and while somebody scrapes without
// pause: no counter ever goes down, and at the end the requests are exactly those that the clients counted. Then workers are killed: what is missing
// is at most what the clients saw fail.
func TestCountersAreExact(t *testing.T) {
	k, admin := startKeeper(t), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	file := write(t, "supervisor.toml", fmt.Sprintf(`
[supervisor]
admin = %q
[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
workers = 2
max_requests = 300
max_requests_jitter = 50
[pool.web.env]
APP_DEBUG = "1"
`, admin, app()))
	s := launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"NOTIFY_SOCKET=" + k.listener.Name()}, "-c", file)
	s.awaitAddress()
	s.await("pool serves", 1)
	watch := startWatcher(admin)
	load := startLoad(t, s, everybody)
	load.Await(500)
	reloads, upgrades, kills := pick(2, 10), pick(2, 5), pick(1, 5)
	for i := range max(reloads, upgrades, kills) {
		if i < reloads {
			s.reload()
			load.Await(300)
		}
		if i < upgrades {
			s.upgrade()
			load.Await(300)
		}
		if i < kills {
			syscall.Kill(s.pid, syscall.SIGKILL)
			load.Await(300)
			k.restart(s, "-c", file)
			s.await("the supervisor before us died", i+1)
			s.await("reload done", i+1+min(i+1, reloads))
		}
		s.await(`worker gone .*"reason": "max_requests"`, pick(5, 50)*(i+1)/max(reloads, upgrades, kills))
	}
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	now, text, err := scrape(admin)
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]float64{
		"requests":               now.sum("http_requests_total", `pool="web"`),
		"good ones":              now.sum("http_requests_total") - now.sum("http_requests_total", `status="5`),
		"observations":           now.sum("http_request_duration_seconds_count"),
		"observations up to Inf": now.sum("http_request_duration_seconds_bucket", `le="+Inf"`),
	} {
		if got != float64(result.OK) {
			t.Errorf("%s: %.0f on /metrics, the clients counted %d", what, got, result.OK)
		}
	}
	for what, got := range map[string][2]float64{
		"reloads":       {now.sum("supervisor_reloads_total", `result="ok"`), float64(reloads)},
		"self-upgrades": {now.sum("supervisor_upgrades_total", `result="ok"`), float64(upgrades)},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %v on /metrics, there were %v", what, got[0], got[1])
		}
	}
	t.Logf("workers that went: %v", slices.DeleteFunc(slices.Sorted(maps.Keys(now)), func(name string) bool {
		return !strings.HasPrefix(name, "supervisor_worker_restarts_total") || now[name] == 0
	}))
	checkMetrics(t, text)
	if n := now.sum("supervisor_worker_series_dropped_total"); n != 0 || strings.Contains(text, "see their program") {
		t.Errorf("%v of the app's values are not shown, or have no words: %s", n, text)
	}

	before := now.sum("http_requests_total")
	load = startLoad(t, s, loadtest.Mix{KeepAlive: 20, OneShot: 10})
	for range pick(3, 20) {
		load.Await(300)
		workers := s.children()
		if len(workers) > 0 {
			syscall.Kill(workers[0], syscall.SIGKILL)
		}
	}
	load.Await(300)
	result = load.Stop()
	s.awaitReady(admin, 2)
	now, _, err = scrape(admin)
	if err != nil {
		t.Fatal(err)
	}
	counted, least, most := now.sum("http_requests_total")-before, float64(result.OK), float64(result.OK+result.AllFailed())
	if counted < least || counted > most {
		t.Errorf("%v requests on /metrics, want %v to %v: %v", counted, least, most, result)
	}
	if n := now.sum("supervisor_worker_restarts_total", `reason="crash"`); n == 0 {
		t.Error("no worker was killed")
	}
	watch.end(t)
}

// awaitReady waits until that many workers are ready and none leaves.
func (s *server) awaitReady(admin string, n float64) {
	s.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		now, _, err := scrape(admin)
		if err == nil && now.sum("supervisor_workers", `state="ready"`) == n && now.sum("supervisor_workers") == n {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("never %v workers: %v, %v", n, now, err)
		}
	}
}

// checkMetrics asks Prometheus' own tool.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is missing (make deps installs it): the metrics are not checked")
		return
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
