package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// controlled starts a supervisor with a control socket, and gives a client of it.
func controlled(t *testing.T, cfg *config.Config) (*master, *control.Client) {
	t.Helper()
	cfg.Control = filepath.Join(t.TempDir(), "s")
	m := startMaster(t, cfg)
	m.await("control socket listens", 1)
	return m, control.Dial(cfg.Control)
}

func serving(t *testing.T, pools ...*config.Pool) (*master, *control.Client) {
	t.Helper()
	m, c := controlled(t, testConfig(pools...))
	m.until("all pools serve", func() bool { return m.desk.started })
	return m, c
}

// good fails the test unless the verdict is good.
func good(t *testing.T, v control.Verdict, err error) control.Verdict {
	t.Helper()
	if err != nil || !v.OK {
		t.Fatalf("%+v, %v", v, err)
	}
	return v
}

// refusal gives the status of an answer that is no verdict.
func refusal(t *testing.T, err error) (int, string) {
	t.Helper()
	e := new(control.Error)
	if !errors.As(err, &e) {
		t.Fatalf("%v is no refusal", err)
	}
	return e.Status, e.Text
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	t.Cleanup(cancel)
	return ctx
}

var waiting = control.Wait{Wait: true}

func TestControlReload(t *testing.T) {
	pool := onPort(testPool("worker"))
	m, c := serving(t, pool)
	ctx := testContext(t)
	before := m.pids()
	v, err := c.Reload(ctx, waiting)
	if good(t, v, err); v.Generation != 2 || v.What != "reload" || slices.Equal(before, m.pids()) {
		t.Errorf("%+v", v)
	}
	m.mu.Lock()
	m.err = errors.New("c.toml:3: nonsense")
	m.mu.Unlock()
	for _, wait := range []bool{true, false} { // what fails at once is told at once
		v, err = c.Reload(ctx, control.Wait{Wait: wait})
		if err != nil || v.OK || !strings.Contains(v.Text, "c.toml:3: nonsense") || v.Generation != 2 {
			t.Errorf("wait %v: %+v, %v", wait, v, err)
		}
	}
	st, err := c.Status(ctx)
	if err != nil || st.Last == nil || st.Last.OK || !strings.Contains(st.Last.Text, "nonsense") || st.Generation != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	m.signal(syscall.SIGHUP) // whoever asked, the status tells how it ended
	m.await("reload failed", 3)
	bad := onPort(testPool("exit:3"))
	bad.Bind = pool.Bind
	m.mu.Lock()
	m.next, m.err = testConfig(bad), nil
	m.mu.Unlock()
	v, err = c.Reload(ctx, waiting)
	if err != nil || v.OK || !strings.Contains(v.Text, "exit:3") {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestControlUpgradeHasAVerdict(t *testing.T) {
	_, c := serving(t, onPort(testPool("worker")))
	if v, err := c.Upgrade(testContext(t), waiting); err != nil || v.Text == "" || v.What != "upgrade" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestControlScale(t *testing.T) {
	web := onPort(testPool("worker"))
	jobs := onPort(testPool("worker"))
	jobs.Name, jobs.Bind[0].Name = "jobs", "jobs"
	m, c := serving(t, jobs, web)
	ctx := testContext(t)
	count := func(pool int) (n int) {
		m.look(func() { n = len(m.pools[pool].workers()) })
		return n
	}
	scale := func(r control.ScaleRequest) control.Verdict {
		t.Helper()
		r.Wait = waiting
		v, err := c.Scale(ctx, r)
		return good(t, v, err)
	}
	scale(control.ScaleRequest{Pool: "web", Workers: 3})
	if count(1) != 3 || count(0) != 1 {
		t.Errorf("%d and %d workers", count(0), count(1))
	}
	scale(control.ScaleRequest{Pool: "web", Delta: -2}) // the verdict comes when they are gone
	scale(control.ScaleRequest{Delta: 1})               // the first one with an address
	if count(1) != 1 || count(0) != 2 {
		t.Errorf("%d and %d workers", count(0), count(1))
	}
	for _, test := range []struct {
		request control.ScaleRequest
		status  int
		text    string
	}{
		{control.ScaleRequest{Pool: "wbe", Workers: 3}, 404, `there is no pool "wbe"; there is jobs, web`},
		{control.ScaleRequest{Pool: "web"}, 400, "to how many workers"},
		{control.ScaleRequest{Pool: "web", Workers: 1, Delta: 1}, 400, "to how many workers"},
		{control.ScaleRequest{Pool: "web", Delta: -1}, 400, "pool web has 1 worker and keeps at least one"},
		{control.ScaleRequest{Pool: "web", Workers: -3}, 400, "-3 is no number of workers: 1 to 2000"},
		{control.ScaleRequest{Pool: "web", Workers: 1e9}, 400, "1000000000 is no number"},
	} {
		_, err := c.Scale(ctx, test.request)
		if status, text := refusal(t, err); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%+v: %d %s", test.request, status, text)
		}
	}
}

// One who scales to what cannot start is told, and another one who changes his mind meanwhile.
func TestControlScaleThatFails(t *testing.T) {
	trap := filepath.Join(t.TempDir(), "trap")
	m, c := serving(t, onPort(testPool("trap:"+trap)))
	ctx := testContext(t)
	os.WriteFile(trap, nil, 0o600)
	v, err := c.Scale(ctx, control.ScaleRequest{Wait: waiting, Workers: 2})
	if err != nil || v.OK || !strings.Contains(v.Text, "1 of 2 workers are ready, web.1 is in a crash loop") || !strings.Contains(v.Text, "caught in the trap") {
		t.Errorf("%+v, %v", v, err)
	}
	st, err := c.Status(ctx)
	if err != nil || len(st.Degraded) != 1 || !strings.Contains(st.Degraded[0], "pool web: web.1 is in a crash loop") || !st.Ready {
		t.Errorf("%+v, %v", st, err)
	}
	result := make(chan control.Verdict, 1)
	go func() {
		v, _ := c.Scale(ctx, control.ScaleRequest{Wait: waiting, Workers: 3})
		result <- v
	}()
	m.until("it waits", func() bool { return m.pools[0].wanted() == 3 })
	m.signal(syscall.SIGTTOU)
	m.signal(syscall.SIGTTOU)
	if v := <-result; v.OK || (!strings.Contains(v.Text, "was scaled to") && !strings.Contains(v.Text, "crash loop")) {
		t.Errorf("%+v", v)
	}
}

func TestControlRecycle(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 3
	never := testPool("serve")
	never.Name, never.Replace = "redis", config.ReplaceNever
	m, c := serving(t, pool, never)
	ctx := testContext(t)
	recycle := func(target string) (control.Verdict, error) {
		return c.Recycle(ctx, control.RecycleRequest{Wait: waiting, Target: target})
	}
	before := m.pids()
	v, err := recycle("web.1")
	good(t, v, err)
	after := m.pids()
	if after[0] != before[0] || after[1] == before[1] || after[2] != before[2] {
		t.Errorf("%v became %v", before, after)
	}
	var name string
	m.look(func() { name = m.pools[0].slots[1].current.id.String() })
	v, err = recycle(name)
	good(t, v, err)
	v, err = recycle("web")
	good(t, v, err)
	v, err = recycle("")
	if good(t, v, err); v.Text != "3 workers replaced" {
		t.Errorf("%+v", v)
	}
	for i, pid := range m.pids() {
		if (pid == before[i]) != (i == 3) || (i < 3 && alive(before[i])) {
			t.Errorf("%v became %v", before, m.pids())
		}
	}
	for target, want := range map[string]struct {
		status int
		text   string
	}{
		"db":      {404, `there is no pool "db"; there is web, redis`},
		"redis":   {409, `replace = "never"`},
		"redis.0": {409, `replace = "never"`},
		"web.7":   {404, "there is no worker web.7; there is web.0."},
		"web.1.1": {404, "there is no worker web.1.1; there is"},
		"web.x":   {400, "is no worker: write web, web.0 or web.0.1"},
		"web.-1":  {400, "is no worker"},
	} {
		_, err := recycle(target)
		if status, text := refusal(t, err); status != want.status || !strings.Contains(text, want.text) {
			t.Errorf("%s: %d %s", target, status, text)
		}
	}
}

// Dead, hung and draining workers: status shows them, and recycling a hung one replaces it.
func TestControlWithWorkersInTrouble(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers, pool.GracefulTimeout = 2, 300*time.Millisecond
	m, c := serving(t, pool)
	ctx := testContext(t)
	pids := m.pids()
	unix.Kill(pids[0], unix.SIGSTOP)
	if st, err := c.Status(ctx); err != nil || st.Pools[0].Workers[0].PID != pids[0] || st.Pools[0].Workers[0].State != "ready" {
		t.Errorf("%+v, %v", st, err)
	}
	v, err := c.Recycle(ctx, control.RecycleRequest{Wait: waiting, Target: "web.0"})
	good(t, v, err)
	if alive(pids[0]) {
		t.Error("the hung worker lives on")
	}

	unix.Kill(pids[1], unix.SIGKILL)
	m.await("worker died", 1)
	v, err = c.Scale(ctx, control.ScaleRequest{Wait: waiting, Workers: 2})
	good(t, v, err)

	// A request holds a draining worker.
	m.until("refilled", func() bool { return m.pools[0].readyCount() == 2 })
	m.look(func() { m.pools[0].cfg.GracefulTimeout = eventually })
	hold := make(chan error, 1)
	go func() {
		_, err := get(m.addr(), "/?sleep=1500")
		hold <- err
	}()
	m.until("the request runs", func() bool {
		return slices.ContainsFunc(m.pools[0].inService(), func(w *worker) bool { return w.proc.Board().Running() > 0 })
	})
	v, err = c.Reload(ctx, waiting)
	good(t, v, err)
	st, err := c.Status(ctx)
	var draining string
	if err == nil {
		for _, w := range st.Pools[0].Workers {
			if w.State == "draining" && w.Reason == "reload" && w.InFlight == 1 {
				draining = w.Name
			}
		}
	}
	if draining == "" {
		t.Fatalf("no draining worker in %+v, %v", st, err)
	}
	_, err = c.Recycle(ctx, control.RecycleRequest{Wait: waiting, Target: draining})
	if status, text := refusal(t, err); status != 409 || !strings.Contains(text, "is draining: only one that serves can be recycled") {
		t.Errorf("%d %s", status, text)
	}
	if err := <-hold; err != nil {
		t.Error(err)
	}
}

func TestControlStop(t *testing.T) {
	for _, quick := range []bool{false, true} {
		m, c := serving(t, onPort(testPool("worker")))
		v, err := c.Stop(testContext(t), control.StopRequest{Wait: waiting, Quick: quick})
		good(t, v, err)
		if err := m.wait(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(m.cfg.Control); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket's file: %v", err)
		}
		if v.Process == nil || v.Process.PID != os.Getpid() {
			t.Errorf("%+v", v.Process)
		}
	}
}

// Who waits for something else hears that the supervisor stops.
func TestControlStopAnswersThoseWhoWait(t *testing.T) {
	pool := onPort(testPool("worker"))
	m, c := serving(t, pool)
	hang := onPort(testPool("hang"))
	hang.Bind = pool.Bind
	m.mu.Lock()
	m.next = testConfig(hang)
	m.mu.Unlock()
	result := make(chan control.Verdict, 1)
	go func() {
		v, _ := c.Reload(testContext(t), waiting)
		result <- v
	}()
	m.await("worker starts", 2)
	st, err := c.Status(testContext(t))
	if err != nil || st.Reload == nil || st.Reload.Generation != 2 || st.Reload.Step != "pool web: workers, 0 of 1 ready" {
		t.Errorf("%+v, %v", st.Reload, err)
	}
	v, err := c.Stop(testContext(t), control.StopRequest{Wait: waiting, Quick: true})
	good(t, v, err)
	if v := <-result; v.OK || !strings.Contains(v.Text, "stopped meanwhile") {
		t.Errorf("%+v", v)
	}
}

func TestControlClientThatIsKilledDisturbsNothing(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	for i := range 10 {
		ctx, cancel := context.WithCancel(context.Background())
		c.Begun = func(string) { cancel() } // in the middle
		c.Reload(ctx, waiting)
		m.await("reload done", i+1)
		ctx, cancel = context.WithCancel(context.Background())
		c.Begun = func(string) { cancel() }
		c.Recycle(ctx, control.RecycleRequest{Wait: waiting})
	}
	conn, err := net.Dial("unix", m.cfg.Control)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"wai") // dies in its request
	conn.Close()
	c.Begun = nil
	v, err := c.Recycle(testContext(t), control.RecycleRequest{Wait: waiting})
	good(t, v, err)
	m.until("nobody waits", func() bool { return len(m.desk.watches) == 0 })
	if n := m.count("reload begins"); n != 10 {
		t.Errorf("%d reloads", n)
	}
}

func TestControlTwentyClientsAtOnce(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	m, c := serving(t, pool)
	ctx := testContext(t)
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			for range 5 {
				var err error
				var v control.Verdict
				switch i % 4 {
				case 0, 1:
					_, err = c.Status(ctx)
					v.OK = true
				case 2:
					v, err = c.Reload(ctx, waiting)
				case 3:
					v, err = c.Recycle(ctx, control.RecycleRequest{Wait: waiting})
					if e := new(control.Error); errors.As(err, &e) && e.Status == 409 { // nobody is ready in that moment
						v.OK, err = true, nil
					}
				}
				if err != nil || !v.OK {
					t.Errorf("client %d: %+v, %v", i, v, err)
				}
			}
		})
	}
	clients.Wait()
	m.until("all is calm", func() bool {
		return m.Supervisor.reload == nil && len(m.pools[0].leaving) == 0 && m.pools[0].readyCount() == 2 && len(m.desk.watches) == 0
	})
}

// A loop that stands still is said to, and does not do later what the client was told it had not done.
func TestControlWhenTheLoopStandsStill(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	release := make(chan struct{})
	m.do(func() { <-release })
	var asked sync.WaitGroup
	for range 20 { // more than fit into its channel
		asked.Go(func() {
			_, err := c.Scale(testContext(t), control.ScaleRequest{Delta: 1})
			if status, text := refusal(t, err); status != 503 || !strings.Contains(text, "loop does not answer") {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	asked.Go(func() {
		if code, body, err := c.Health(testContext(t), control.PathLive); code != 503 || !strings.Contains(body, `"status":"hung"`) {
			t.Errorf("%d %s %v", code, body, err)
		}
	})
	asked.Wait()
	close(release)
	if code, _, err := c.Health(testContext(t), control.PathLive); code != 200 {
		t.Errorf("%d %v", code, err)
	}
	m.look(func() {
		if n := m.pools[0].wanted(); n != 1 {
			t.Errorf("%d workers are wanted", n)
		}
	})
}

func TestControlRequestsThatAreNone(t *testing.T) {
	m, _ := serving(t, onPort(testPool("worker")))
	for request, want := range map[string]string{
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{x}":                               "400",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{\"workers\":\"two\"}":            "400",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + strings.Repeat(" ", 99999): "413",
		"GET /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n":                                                       "405",
		"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n":                                                       "404",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 99999) + "\r\n\r\n":              "431",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nonsense\r\n\r\n":                        "501",
		"nonsense\r\n\r\n": "400",
		"HEAD /v1/status HTTP/1.1\r\nHost: x\r\n\r\n": "200",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 45\r\n\r\n{\"pool\":\"web\",\"workers\":1,\"of_tomorrow\":true}": "202",
	} {
		conn, err := net.Dial("unix", m.cfg.Control)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(eventually))
		go fmt.Fprint(conn, request)
		line := make([]byte, 12)
		if _, err := conn.Read(line); err != nil || string(line) != "HTTP/1.1 "+want {
			t.Errorf("%.60q: %q, %v", request, line, err)
		}
		conn.Close()
	}
}

// EDGE_CASES 2, for our own socket.
func TestControlSocketFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	begin := func() *master {
		cfg := testConfig(testPool("worker"))
		cfg.Control = path
		return startMaster(t, cfg)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	first := begin()
	first.await("control socket listens", 1)
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}

	second := begin() // the same path: it starts, and says so
	if e := second.await("no control socket", 1); e.ContextMap()["cause"] != "another supervisor has it" {
		t.Errorf("%v", e.ContextMap())
	}
	second.await("pool serves", 1)
	second.signal(syscall.SIGTERM)
	second.wait()
	if st, err := control.Dial(path).Status(testContext(t)); err != nil || len(st.Pools) != 1 {
		t.Errorf("the first one: %+v, %v", st, err)
	}

	os.Remove(path) // now somebody else's
	os.WriteFile(path, []byte("mine"), 0o600)
	first.signal(syscall.SIGTERM)
	first.wait()
	if text, err := os.ReadFile(path); string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	third := begin()
	if e := third.await("no control socket", 1); !strings.Contains(e.ContextMap()["cause"].(string), "is in the way: a regular file") {
		t.Errorf("%v", e.ContextMap())
	}
	os.Remove(path)
	os.Symlink("/nowhere", path)
	begin().await("no control socket", 1)
	if _, err := os.Readlink(path); err != nil {
		t.Error(err)
	}
	path = filepath.Join(dir, "none", "s")
	if e := begin().await("no control socket", 1); e.ContextMap()["cause"] != "its directory does not exist" {
		t.Errorf("%v", e.ContextMap())
	}
	path = "off"
	quiet := begin()
	quiet.await("pool serves", 1)
	if quiet.count("control socket") > 0 {
		t.Error(`control = "off" says something`)
	}
}

// Of many that find the same stale socket at once, as their control socket or as the address of a pool, one gets it.
func TestUnixSocketHasOneOwner(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "s")
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
		var wg sync.WaitGroup
		got := make(chan func(), 8)
		bind := config.Bind{Network: "unix", Address: path, Mode: 0o600}
		for range 4 {
			wg.Go(func() {
				if l, err := openUnix(bind); err == nil {
					got <- func() { l.Close() }
				}
			})
			wg.Go(func() {
				if b, err := openBind(bind, &config.Pool{Backlog: 8}, nil); err == nil {
					got <- b.Close
				}
			})
		}
		wg.Wait()
		if n := len(got); n != 1 {
			t.Errorf("%d have it", n)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
		for len(got) > 0 {
			(<-got)()
		}
	}
}

func TestControlIsForRootAndOurselves(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	m, c := serving(t, onPort(testPool("worker")))
	if _, err := c.Status(testContext(t)); err != nil {
		t.Errorf("root: %v", err)
	}
	for dir := filepath.Dir(m.cfg.Control); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	ask := func() string {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{envTestWorker + "=ask:" + m.cfg.Control}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return string(out)
	}
	if got := ask(); !strings.Contains(got, "permission denied") {
		t.Errorf("the file's mode does not keep nobody out: %s", got)
	}
	os.Chmod(m.cfg.Control, 0o666)
	if got := ask(); !strings.Contains(got, "only root and the supervisor's own user (uid 0) may talk to it") {
		t.Errorf("nobody is let in: %s", got)
	}
	m.look(func() {
		if m.Supervisor.reload != nil || m.generation != 1 {
			t.Error("nobody reloaded us")
		}
	})
}

// A successor goes on with the socket, which stays where it is.
func TestControlSocketIsHandedOver(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	var fd int
	var err error
	m.look(func() {
		if fd, err = m.desk.control.share(); err == nil {
			fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(testPool("worker"))
	cfg.Control = m.cfg.Control
	successor, err := newMaster(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	successor.heritage.before = &bundle{fds: map[string]int{controlDescriptor: fd}, snapshot: snapshot{Control: cfg.Control}}
	m.look(func() { m.desk.control.passOn() })
	m.signal(syscall.SIGTERM)
	m.wait()
	done := make(chan control.Status, 1)
	go func() { // it waits in the queue until the successor runs
		st, err := c.Status(testContext(t))
		if err != nil {
			t.Error(err)
		}
		done <- st
	}()
	successor.run()
	if st := <-done; st.Instance != successor.instance {
		t.Errorf("%+v", st)
	}
	successor.signal(syscall.SIGTERM)
	successor.wait()
	if _, err := os.Lstat(cfg.Control); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last one leaves the file: %v", err)
	}
}

// What the status says is true; its shape is tested in pkg/control.
func TestControlStatus(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	m, c := serving(t, pool)
	for range 3 {
		mustGet(t, m.addr(), "/")
	}
	st, err := c.Status(testContext(t))
	if err != nil || len(st.Pools) != 1 || len(st.Pools[0].Workers) != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
	p := st.Pools[0]
	if !st.Ready || st.State != control.StateServing || st.PID != os.Getpid() || st.Instance != m.instance || st.Uptime <= 0 || st.Generation != 1 ||
		p.Name != "web" || p.Wanted != 2 || p.Ready != 2 || !slices.Equal(p.Addresses, []string{m.addr()}) {
		t.Errorf("%+v", st)
	}
	var requests uint64
	for i, w := range p.Workers {
		requests += w.Requests
		if w.PID != m.pids()[i] || !strings.HasPrefix(w.Name, fmt.Sprintf("web.%d.", i)) || w.State != "ready" || !w.Scored || w.Memory < 1<<20 || w.Age <= 0 {
			t.Errorf("%+v", w)
		}
	}
	if requests != 3 {
		t.Errorf("%d requests", requests)
	}
}

func TestControlConfig(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Env["DB_PASSWORD"] = "hunter2"
	_, c := serving(t, pool)
	ctx := testContext(t)
	v, err := c.Scale(ctx, control.ScaleRequest{Wait: waiting, Delta: 1})
	good(t, v, err)
	cfg, err := c.Config(ctx)
	if err != nil || cfg.Generation != 1 || !slices.Equal(cfg.Notes, []string{"pool web: scaled by +1, to 2 workers"}) {
		t.Errorf("%+v, %v", cfg, err)
	}
	if !strings.Contains(cfg.Text, "[pool.web]\n") || !strings.Contains(cfg.Text, `DB_PASSWORD`) || strings.Contains(fmt.Sprint(cfg), "hunter2") {
		t.Errorf("%s", cfg.Text)
	}
	if !slices.ContainsFunc(cfg.Settings, func(s control.Setting) bool {
		return s.Key == "pool.web.workers" && s.Value == 1.0 && s.From == "default"
	}) {
		t.Errorf("%+v", cfg.Settings)
	}
}

// What a pool has done does not go down with the workers that did it.
func TestStatusCountsTheWorkOfThoseWhoAreGone(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	ctx := testContext(t)
	for range 5 {
		mustGet(t, m.addr(), "/")
	}
	v, err := c.Recycle(ctx, control.RecycleRequest{Wait: waiting})
	good(t, v, err)
	mustGet(t, m.addr(), "/")
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(counts []uint64) (n uint64) {
		for _, of := range counts {
			n += of
		}
		return n
	}
	p := st.Pools[0]
	if p.Work.Requests != 6 || sum(p.Work.Latency) != 6 || p.Queued != 0 || len(p.Work.Latency) != len(st.LatencyBounds)+1 {
		t.Errorf("%+v, bounds %v", p, st.LatencyBounds)
	}
	if w := p.Workers[0]; sum(w.Latency) != 1 || w.Memory < 1<<20 {
		t.Errorf("%+v", w)
	}
}
