package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"supervisor/internal/loadtest"
)

// everybody is the client mix of the promises.
var everybody = loadtest.Mix{KeepAlive: 50, Paused: 50, OneShot: 20, Pipelined: 10}

// Twenty reloads under the client mix: no request fails, no kept-alive connection is closed.
func TestReloadsLoseNothing(t *testing.T) {
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, everybody)
	load.Await(1000)
	for range pick(20, 100) {
		s.reload()
		load.Await(300)
	}
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	if n := s.count("worker died|worker is killed"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// max_requests = 50: replacement after replacement under the client mix, nothing lost, and most of the throughput without the limit.
// Overdue workers serve on until it is their turn.
func TestMaxRequestsLosesNothing(t *testing.T) {
	replacements, requests := pick(15, 100), int64(pick(20_000, 100_000))
	run := func(limits string, enough func(*server)) loadtest.Result {
		s := start(t, nil, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
workers = 2
%s
[pool.web.env]
APP_DEBUG = "1"
`, app(), limits)))
		s.await("pool serves", 1)
		load := startLoad(t, s, everybody)
		load.Await(requests)
		enough(s)
		result := load.Stop()
		if err := result.Err(); err != nil {
			t.Error(err)
		}
		if n := s.count("worker died|worker is killed"); n > 0 {
			t.Errorf("%d workers died", n)
		}
		t.Logf("%d replacements, %v", s.count(`worker drains .*"reason": "max_requests"`), result)
		s.cleanup()
		return result
	}
	limited := run("max_requests = 50\nmax_requests_jitter = 10", func(s *server) {
		s.await(`worker drains .*"reason": "max_requests"`, replacements)
	})
	free := run("", func(*server) {})
	ratio := limited.PerSecond() / free.PerSecond()
	t.Logf("throughput %.2f of the run without the limit", ratio)
	if proving() && ratio < 0.8 {
		t.Errorf("throughput %.2f of the run without the limit, want 0.8", ratio)
	}
}

// Scaling up and down under load loses nothing either.
func TestScalingLosesNothing(t *testing.T) {
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 20, Paused: 20, OneShot: 5, Pipelined: 5})
	load.Await(500)
	for i := range pick(5, 50) {
		s.signal(syscall.SIGTTIN)
		s.await("worker ready", 3+i)
		load.Await(200)
		s.signal(syscall.SIGTTOU)
		s.await(`worker gone .*"reason": "scale-down"`, 1+i)
		load.Await(200)
	}
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
}

// kill -9 of all workers at once under load: no connection is refused, and only connections that the killed ones held are lost.
func TestKillNineOfAllCostsOnlyTheirConnections(t *testing.T) {
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 20, OneShot: 10})
	rounds := pick(3, 20)
	for round := range rounds {
		load.Await(500)
		for _, pid := range s.children() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		s.await("worker ready", 2*(round+2))
	}
	load.Await(500)
	result := load.Stop()
	t.Logf("%v", result)
	if n := result.Failed[loadtest.DialRefused] + result.Failed[loadtest.DialFailed]; n > 0 {
		t.Errorf("%d connections refused", n)
	}
	// A client has one request under way when its worker dies.
	if n, most := result.AllFailed(), int64(30*rounds); n > most {
		t.Errorf("%d requests failed, at most %d were under way", n, most)
	}
	for _, class := range []loadtest.Class{loadtest.WrongBody, loadtest.WrongNonce, loadtest.WrongStatus, loadtest.Stray, loadtest.Malformed} {
		if n := result.Failed[class]; n > 0 {
			t.Errorf("%v: %d", class, n)
		}
	}
}

// The load is spread evenly over the workers, whatever the connections do.
func TestOneShotLoadIsSpreadEvenly(t *testing.T) {
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "4", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	result, err := loadtest.Run(context.Background(), loadtest.Plan{
		Target: s.addr, Mix: loadtest.Mix{OneShot: 16}, Requests: int64(pick(12_000, 40_000)), MaxBody: 100, LargeBody: -1, Timeout: eventually,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	t.Logf("workers %v, spread %.3f", result.Workers, result.Spread())
	// 3,000 random connections each have a standard deviation of 1.6 %: 1.2 is beyond five of them.
	if most := 1.2; len(result.Workers) != 4 || result.Spread() > most {
		t.Errorf("%d workers, spread %.2f, want 4 and at most %.2f", len(result.Workers), result.Spread(), most)
	}
}

// A real photograph in, its thumbnail out, a reload in the middle.
func TestPhotographsBecomeThumbnailsDuringAReload(t *testing.T) {
	s := start(t, nil, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	photo := readFile(t, filepath.Join("..", "..", "pkg", "app", "testdata", "video-001.jpeg"))
	errs := make(chan error)
	const n = 20
	for range n {
		go func() { errs <- s.thumbnail(photo) }()
	}
	s.reload()
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if h := s.health(); h.Generation != 2 || h.Status != "healthy" || h.WorkerID == "" || strconv.Itoa(h.PID) == "0" {
		t.Errorf("health %+v", h)
	}
}
