package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"supervisor/pkg/config"
)

// eventually bounds every wait of these tests: long enough for a machine with both cores busy, never waited out by a green run.
const eventually = 60 * time.Second

// master is a real supervisor in this process, with real workers: this test binary again.
type master struct {
	*Supervisor
	t       *testing.T
	logs    *observer.ObservedLogs
	dir     string
	signals chan os.Signal

	mu   sync.Mutex
	next *config.Config // what the next reload reads
	err  error          // or fails with

	done   chan struct{}
	result error
}

// testPool gives a pool of test workers of the given mode, with short times.
func testPool(mode string) *config.Pool {
	return &config.Pool{
		Name: "web", Command: []string{"/proc/self/exe"}, Backlog: 512, Sockets: config.SocketsPerSlot, Workers: 1, MaxUnavailable: 1,
		BootTimeout: eventually, GracefulTimeout: eventually, KeepAlive: 5 * time.Second, OrphanTimeout: time.Second,
		Ready: config.ReadyNotify, Replace: config.ReplaceRolling, Output: config.OutputPrefix, Umask: -1,
		Env: map[string]string{envTestWorker: mode, "GORACE": "atexit_sleep_ms=0"},
	}
}

// onPort gives the pool an address with a free port.
func onPort(p *config.Pool) *config.Pool {
	p.Bind = []config.Bind{{Name: p.Name, Network: "tcp", Address: "127.0.0.1:0"}}
	return p
}

func testConfig(pools ...*config.Pool) *config.Config {
	return &config.Config{LogLevel: "debug", Control: "off", Pools: pools}
}

// startMaster runs a supervisor until the test ends.
func startMaster(t *testing.T, cfg *config.Config) *master {
	t.Helper()
	m, err := newMaster(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.run()
	return m
}

func newMaster(t *testing.T, cfg *config.Config) (*master, error) {
	t.Helper()
	return newMasterWith(t, cfg, nil)
}

func newMasterWith(t *testing.T, cfg *config.Config, inherited map[string][]int) (*master, error) {
	t.Helper()
	m := &master{t: t, dir: t.TempDir(), signals: make(chan os.Signal, 64), done: make(chan struct{}), next: cfg}
	if cfg.ErrorLog == "" {
		cfg.ErrorLog = filepath.Join(m.dir, "error.log")
	}
	if cfg.AccessLog == "" {
		cfg.AccessLog = filepath.Join(m.dir, "access.log")
	}
	s, err := New(cfg, Options{Inherited: &Inheritance{sockets: inherited}, Load: func() (*config.Config, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.next, m.err
	}})
	if err != nil {
		return nil, err
	}
	m.Supervisor = s
	core, logs := observer.New(zap.DebugLevel)
	m.logs = logs
	s.log = s.log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return zapcore.NewTee(c, core) }))
	return m, nil
}

func (m *master) run() {
	go func() {
		defer close(m.done)
		m.result = m.Run(context.Background(), m.signals)
	}()
	m.t.Cleanup(func() {
		m.signal(syscall.SIGQUIT)
		select {
		case <-m.done:
		case <-time.After(eventually):
			m.t.Error("supervisor did not stop")
		}
		if m.t.Failed() {
			for _, e := range m.logs.All() {
				m.t.Log(e.Time.Format("05.000"), e.Level, e.Message, e.ContextMap())
			}
		}
	})
}

func (m *master) signal(sig os.Signal) { m.signals <- sig }

// await waits for the n-th log entry with this message and gives it.
func (m *master) await(message string, n int) observer.LoggedEntry {
	m.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(2 * time.Millisecond) {
		found := m.logs.FilterMessageSnippet(message).All()
		if len(found) >= n {
			return found[n-1]
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("log %q came %d times, want %d", message, len(found), n)
		}
	}
}

func (m *master) count(message string) int { return m.logs.FilterMessageSnippet(message).Len() }

// wait gives Run's result.
func (m *master) wait() error {
	m.t.Helper()
	select {
	case <-m.done:
		return m.result
	case <-time.After(eventually):
		m.t.Fatal("supervisor did not stop")
		return nil
	}
}

// look runs f in the loop, where all state may be read.
func (m *master) look(f func()) {
	m.t.Helper()
	done := make(chan struct{})
	m.do(func() { defer close(done); f() })
	select {
	case <-done:
	case <-m.done:
		m.t.Fatal("supervisor has stopped")
	case <-time.After(eventually):
		m.t.Fatal("the loop stands still")
	}
}

// until waits for a condition on the loop's state.
func (m *master) until(what string, cond func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(2 * time.Millisecond) {
		ok := false
		m.look(func() { ok = cond() })
		if ok {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("never: %s", what)
		}
	}
}

func (m *master) addr() string {
	var a string
	m.look(func() { a = m.pools[0].sockets[0].address() })
	return a
}

// pids gives the processes that serve.
func (m *master) pids() []int {
	var pids []int
	m.look(func() {
		for _, p := range m.pools {
			for _, sl := range p.slots {
				if sl.current != nil {
					pids = append(pids, sl.current.proc.Pid())
				}
			}
		}
	})
	return pids
}

// reload gives the master a new configuration and HUP.
func (m *master) reload(cfg *config.Config, err error) {
	m.mu.Lock()
	m.next, m.err = cfg, err
	m.mu.Unlock()
	m.signal(syscall.SIGHUP)
}

// get asks once, on a connection of its own.
func get(addr, path string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: eventually}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return string(body), err
}

func mustGet(t *testing.T, addr, path string) string {
	t.Helper()
	body, err := get(addr, path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return fields[0] != "Z"
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// setDisposition sets a signal's kernel disposition (1 is SIG_IGN) and gives the way back.
func setDisposition(sig syscall.Signal, handler uintptr) func() {
	type sigaction struct{ handler, flags, restorer, mask uintptr }
	var old sigaction
	set := func(now, before *sigaction) {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(now)), uintptr(unsafe.Pointer(before)), 8, 0, 0)
	}
	set(&sigaction{handler: handler}, &old)
	return func() { set(&old, nil) }
}
