package supervisor

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
)

func TestServesReloadsAndStops(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 3
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	addr := m.addr()
	before := m.pids()
	mustGet(t, addr, "/")

	pool2 := *pool
	pool2.Env = map[string]string{envTestWorker: "worker", "VERSION": "two", "GORACE": "atexit_sleep_ms=0"}
	m.reload(testConfig(&pool2), nil)
	m.await("reload done", 1)
	mustGet(t, addr, "/")
	m.await("worker gone", 3)
	for range 20 {
		if got := mustGet(t, addr, "/"); !strings.HasSuffix(got, " two") {
			t.Errorf("after the reload %q answered", got)
		}
	}
	for _, pid := range before {
		if alive(pid) {
			t.Errorf("worker %d of the old generation lives", pid)
		}
	}
	now := m.pids()
	m.signal(syscall.SIGTERM)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
	for _, pid := range now {
		if alive(pid) {
			t.Errorf("worker %d outlives the supervisor", pid)
		}
	}
	if _, err := get(addr, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the stop: %v, want connection refused", err)
	}
}

func TestFailedReloadChangesNothing(t *testing.T) {
	pool := onPort(testPool("serve"))
	pool.Workers = 2
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	before := m.pids()

	broken := *pool
	broken.Env = map[string]string{envTestWorker: "exit:3", "GORACE": "atexit_sleep_ms=0"}
	m.reload(testConfig(&broken), nil)
	e := m.await("reload failed, nothing changed", 1)
	if text := e.ContextMap()["error"].(string); !strings.Contains(text, "exit:3") {
		t.Errorf("verdict %q does not name the exit", text)
	}
	if died := m.await("worker failed to start", 1).ContextMap(); !strings.Contains(died["stderr"].(string), "cannot open the database") {
		t.Errorf("the worker's last words are missing: %v", died)
	}
	m.reload(nil, errors.New("supervisor.toml:3: unknown key"))
	m.await("reload failed, nothing changed", 2)
	taken := *pool
	taken.Bind = append(taken.Bind, config.Bind{Name: "second", Network: "tcp", Address: m.addr()})
	m.reload(testConfig(&taken), nil)
	m.await("reload failed, nothing changed", 3)

	m.until("only the old workers are left", func() bool { return len(m.pools[0].workers()) == 2 })
	after := m.pids()
	if after[0] != before[0] || after[1] != before[1] || m.generation != 1 {
		t.Errorf("workers %v became %v, generation %d", before, after, m.generation)
	}
	mustGet(t, m.addr(), "/")
}

func TestNoWorkerBecomesReady(t *testing.T) {
	m := startMaster(t, testConfig(onPort(testPool("exit:1"))))
	began := time.Now()
	if err := m.wait(); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v, want ErrNotReady", err)
	}
	if n := m.count("worker failed to start"); n != firstTries {
		t.Errorf("%d tries in %v, want %d", n, time.Since(began), firstTries)
	}
}

// A worker that does not know the scoreboard's version runs unscored, is told by commands all the same, and the log says what has no effect.
func TestWorkerOfAnotherVersionRunsUnscored(t *testing.T) {
	pool := onPort(testPool("other-version"))
	pool.MaxRequests, pool.HeartbeatTimeout = 5, 2*time.Second
	cfg := testConfig(pool)
	m := startMaster(t, cfg)
	m.await("worker keeps no scoreboard", 1)
	m.await("pool serves", 1)
	for range 20 {
		mustGet(t, m.addr(), "/")
	}
	m.until("it speaks", func() bool { return m.pools[0].slots[0].current.speaks })
	m.reload(cfg, nil)
	m.await("reload done", 1)
	m.await("worker gone", 1)
	if n := m.count("worker died") + m.count("worker is hung"); n > 0 {
		t.Errorf("%d workers died or were judged", n)
	}
	if text, _ := os.ReadFile(cfg.ErrorLog); !strings.Contains(string(text), "version 99") {
		t.Error("the worker does not say why it is unscored")
	}
}
