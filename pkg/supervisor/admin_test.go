package supervisor

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

func adminOnPort(cfg *config.Config) *config.Config {
	cfg.Admin = config.Bind{Network: "tcp", Address: "127.0.0.1:0"}
	return cfg
}

// ask asks a health endpoint of the admin listener.
func (m *master) ask(path string) (int, health) {
	m.t.Helper()
	resp, err := http.Get("http://" + m.desk.admin.listener.Addr().String() + path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	var h health
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, h
}

// Profiles are for the control socket: net/http/pprof must not come to the admin listener with whoever imports it.
func TestAdminHasNoProfiles(t *testing.T) {
	m := startMaster(t, adminOnPort(testConfig(onPort(testPool("worker")))))
	m.await("admin listens", 1)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/goroutine", "/debug/vars", control.PathDump} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			req, _ := http.NewRequest(method, "http://"+m.desk.admin.listener.Addr().String()+path, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, resp.StatusCode)
			}
		}
	}
}

func TestAdminHealth(t *testing.T) {
	trap := filepath.Join(t.TempDir(), "trap")
	os.WriteFile(trap, nil, 0o600)
	pool := onPort(testPool("trap:" + trap))
	pool.Workers = 2
	second := onPort(testPool("worker"))
	second.Name, second.Bind[0].Name = "second", "second"
	m := startMaster(t, adminOnPort(testConfig(second, pool))) // the first pool serves, the second one does not
	m.await("worker failed to start", 1)
	if code, h := m.ask(control.PathLive); code != 200 || h.Status != "ok" || h.Uptime <= 0 {
		t.Errorf("live: %d %+v", code, h)
	}
	for _, path := range []string{control.PathReady, control.PathStartup} {
		if code, h := m.ask(path); code != 503 || h.Status != "failing" || h.Reason != "pool web has 0 of 2 workers ready" {
			t.Errorf("%s: %d %+v", path, code, h)
		}
	}
	os.Remove(trap)
	m.until("all pools serve", func() bool { return m.desk.started })
	for _, path := range []string{control.PathLive, control.PathReady, control.PathStartup} {
		if code, h := m.ask(path); code != 200 || h.Status != "ok" || len(h.Pools) != 2 || h.Pools[1].Name != "web" || h.Pools[1].Wanted != 2 {
			t.Errorf("%s: %d %+v", path, code, h)
		}
	}

	os.WriteFile(trap, nil, 0o600)
	for _, pid := range m.pids()[1:] { // all workers of a pool are gone and cannot come back
		unix.Kill(pid, unix.SIGKILL)
	}
	m.until("nobody is ready", func() bool { return m.pools[1].readyCount() == 0 })
	if code, h := m.ask(control.PathReady); code != 503 || !strings.HasPrefix(h.Reason, "pool web has 0 of 2") {
		t.Errorf("ready: %d %+v", code, h)
	}
	if code, _ := m.ask(control.PathStartup); code != 200 {
		t.Errorf("the start is over for good, but %d", code)
	}
	os.Remove(trap)
	m.until("one is back", func() bool { return m.pools[1].readyCount() > 0 })
	if code, h := m.ask(control.PathReady); code != 200 {
		t.Errorf("ready: %d %+v", code, h)
	}

	base := "http://" + m.desk.admin.listener.Addr().String()
	if resp, err := http.Head(base + control.PathReady); err != nil || resp.StatusCode != 200 {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
	if resp, err := http.Post(base+control.PathReady, "", nil); err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET" {
		t.Errorf("POST: %v, %v", resp, err)
	}
	for _, path := range []string{"/", control.PathStatus} { // for the operator, whom nobody can be without a token
		if resp, err := http.Get(base + path); err != nil || resp.StatusCode != 403 {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
}

func TestAdminThatCannotBeBoundEndsTheStart(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, nil, 0o600)
	for _, b := range []config.Bind{{Network: "tcp", Address: ln.Addr().String()}, {Network: "unix", Address: file, Mode: 0o600}} {
		cfg := testConfig(onPort(testPool("worker")))
		cfg.Pools[0].Bind[0].Address = freePort(t)
		cfg.Admin = b
		if _, err := newMaster(t, cfg); !errors.Is(err, ErrBind) || !strings.Contains(err.Error(), "admin address") {
			t.Errorf("%v", err)
		}
		if ln, err := net.Listen("tcp", cfg.Pools[0].Bind[0].Address); err != nil {
			t.Errorf("the pool's address is still bound: %v", err)
		} else {
			ln.Close()
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestAdminOnAUnixSocket(t *testing.T) {
	cfg := testConfig(onPort(testPool("worker")))
	cfg.Admin = config.Bind{Network: "unix", Address: filepath.Join(t.TempDir(), "s"), Mode: 0o666}
	m := startMaster(t, cfg)
	m.until("all pools serve", func() bool { return m.desk.started })
	if info, err := os.Stat(cfg.Admin.Address); err != nil || info.Mode() != fs.ModeSocket|0o666 {
		t.Errorf("%v, %v", info, err)
	}
	if code, body, err := control.DialAdmin("unix:"+cfg.Admin.Address).Health(testContext(t), control.PathReady); code != 200 || err != nil {
		t.Errorf("%d %s %v", code, body, err)
	}
	m.signal(syscall.SIGTERM)
	m.wait()
	if _, err := os.Lstat(cfg.Admin.Address); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestReloadSaysWhatOnlyARestartChanges(t *testing.T) {
	pool := onPort(testPool("worker"))
	m := startMaster(t, adminOnPort(testConfig(pool)))
	m.await("pool serves", 1)
	next := testConfig(pool)
	next.Control = "/elsewhere"
	m.reload(next, nil)
	m.await("reload done", 1)
	m.await("control changes only with a restart", 1)
	m.await("admin changes only with a restart", 1)
	if code, _ := m.ask(control.PathReady); code != 200 {
		t.Errorf("%d", code)
	}
}

// Strangers who say nothing, half a request or a request whose body never ends; and one of us who waits for an end.
func TestSlowClientsHarmNobody(t *testing.T) {
	m, client := controlled(t, adminOnPort(testConfig(onPort(testPool("ignore-term")))))
	m.until("all pools serve", func() bool { return m.desk.started })
	old, began, verdict := m.pids()[0], make(chan string, 1), make(chan error, 1)
	client.Begun = func(text string) { began <- text }
	go func() {
		v, err := client.Recycle(testContext(t), control.RecycleRequest{Wait: waiting})
		if err == nil && !v.OK {
			err = errors.New(v.Text)
		}
		verdict <- err
	}()
	<-began
	m.await("worker drains", 1)
	for _, e := range []*endpoint{m.desk.admin, m.desk.control} {
		at := e.listener.Addr()
		probe := control.DialAdmin(at.String())
		if at.Network() == "unix" {
			probe = control.Dial(at.String())
		}
		for i := range 2*maxClients + 10 {
			c, err := net.Dial(at.Network(), at.String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, []string{"", "GET / HT", "POST " + control.PathReload + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"}[i%3])
		}
		asked := time.Now()
		for range 3 {
			if code, body, err := probe.Health(testContext(t), control.PathReady); code != 200 || err != nil {
				t.Errorf("%s: %d %s %v", e.name, code, body, err)
			}
		}
		if took := time.Since(asked); took > headerTimeout-time.Second {
			t.Errorf("%s: the probes took %v: they waited until others were given up", e.name, took)
		}
	}
	unix.Kill(old, unix.SIGKILL)
	if err := <-verdict; err != nil {
		t.Errorf("who waited lost its place: %v", err)
	}
}
