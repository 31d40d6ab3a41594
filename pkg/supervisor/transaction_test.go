package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/scoreboard"
)

// Reloads with real processes under load.

// clients keep connections busy with POST requests, which nobody repeats for them.
type clients struct {
	stop          chan struct{}
	wait          sync.WaitGroup
	asked, failed atomic.Int64 // failed: a wrong status, or a connection that ended without an answer
	closed        atomic.Int64 // connections that the server ended in good order
	first         atomic.Value
}

func startClients(addr string, n int) *clients {
	c := &clients{stop: make(chan struct{})}
	for range n {
		c.wait.Go(func() {
			for c.talk(addr) {
			}
		})
	}
	return c
}

// talk uses one connection, and reports whether to open another one.
func (c *clients) talk(addr string) bool {
	fail := func(err error) bool {
		c.failed.Add(1)
		c.first.CompareAndSwap(nil, err.Error())
		return true
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * eventually))
	r := bufio.NewReader(conn)
	for {
		select {
		case <-c.stop:
			return false
		case <-time.After(2 * time.Millisecond):
		}
		c.asked.Add(1)
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return fail(fmt.Errorf("no answer: %w", err))
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return fail(err)
		}
		if resp.StatusCode != http.StatusOK {
			fail(fmt.Errorf("status %d", resp.StatusCode))
		}
		if resp.Close {
			c.closed.Add(1)
			return true
		}
	}
}

// end stops them and gives the failures.
func (c *clients) end() (failed int64, first any) {
	close(c.stop)
	c.wait.Wait()
	return c.failed.Load(), c.first.Load()
}

// more waits until that many requests more were answered.
func (c *clients) more(t *testing.T, n int64) {
	t.Helper()
	until := c.asked.Load() + n
	for deadline := time.Now().Add(eventually); c.asked.Load() < until; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no answers")
		}
	}
}

// verdictOf reloads and waits for the verdict.
func (m *master) verdictOf(cfg *config.Config, err error) Verdict {
	m.t.Helper()
	m.mu.Lock()
	m.next, m.err = cfg, err
	m.mu.Unlock()
	verdict := make(chan Verdict, 1)
	m.do(func() { m.beginReload(func(v Verdict) { verdict <- v }) })
	select {
	case v := <-verdict:
		return v
	case <-time.After(eventually):
		m.t.Fatal("no verdict")
		return Verdict{}
	}
}

// settle waits until all is done that a reload brings about: until then a worker that drains may still answer.
func (m *master) settle() {
	m.t.Helper()
	m.until("nobody drains", func() bool {
		return len(m.pools[0].leaving) == 0 && len(m.retired) == 0 && m.pools[0].readyCount() == m.pools[0].wanted()
	})
}

// state is what a failed reload must leave as it was.
func (m *master) state() string {
	text := ""
	m.look(func() {
		text = fmt.Sprintf("generation %d config %p\n", m.generation, m.cfg)
		for _, p := range m.pools {
			text += fmt.Sprintf("pool %s %p generation %d pin %p wanted %d\n", p.cfg.Name, p.cfg, p.generation, p.pin, p.wanted())
			for _, b := range p.sockets {
				text += fmt.Sprintf("  %s %s %v\n", b.bind, b.address(), b.slots)
			}
			for _, sl := range p.slots {
				if sl.current != nil {
					text += fmt.Sprintf("  worker %s %d of %d\n", sl.current.id, sl.current.proc.Pid(), sl.current.generation)
				}
				if sl.next != nil {
					text += fmt.Sprintf("  next %s\n", sl.next.id)
				}
			}
		}
		text += fmt.Sprintf("retired %d reload %v degraded %q", len(m.retired), m.Supervisor.reload != nil, m.degraded)
	})
	return text
}

func changed(p *config.Pool, how func(*config.Pool)) *config.Config {
	q := *p
	q.Env = maps.Clone(p.Env)
	how(&q)
	return testConfig(&q)
}

func TestFailedReloadUnderLoadLeavesNoTrace(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	mode := func(mode string) func(*config.Pool) {
		return func(p *config.Pool) { p.Env[envTestWorker] = mode }
	}
	broken := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no such library >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	baked := func(m string) func(*config.Pool) {
		return func(p *config.Pool) {
			mode(m)(p)
			p.Bake = eventually
		}
	}
	for _, test := range []struct {
		name    string
		how     func(*config.Pool)
		err     error
		verdict []string
		costs   bool // the canary's own requests
	}{
		{"config", nil, errors.New("supervisor.toml:7: nonsense"), []string{"supervisor.toml:7: nonsense"}, false},
		{"bind taken", func(p *config.Pool) {
			p.Bind = append(slices.Clone(p.Bind), config.Bind{Name: "more", Network: "tcp", Address: taken.Addr().String()})
		}, nil, []string{taken.Addr().String(), "address already in use"}, false},
		{"before_reload", func(p *config.Pool) {
			p.Hooks.BeforeReload = []string{"sh", "-c", "echo relation exists >&2; exit 4"}
		}, nil, []string{"hook before_reload of pool web: status 4: relation exists"}, false},
		{"no program", func(p *config.Pool) { p.Command = []string{broken + ".gone"} }, nil, []string{broken + ".gone: no such file"}, false},
		{"broken program", func(p *config.Pool) { p.Command = []string{broken} }, nil, []string{"exit:1", "no such library"}, false},
		{"third of eight", mode("third"), nil, []string{"web.2.", "exit:3", "cannot open the database"}, false},
		{"third of eight, one at a time", func(p *config.Pool) { mode("third")(p); p.MaxSurge.Count = 1 }, nil, []string{"web.2.", "exit:3", "cannot open the database"}, false},
		{"canary unwell", func(p *config.Pool) { mode("unwell")(p); p.Health.Path = "/health" }, nil, []string{"canary web.0.", "is not well: GET /health: status 503: no database"}, false},
		{"canary unwell by command", func(p *config.Pool) {
			p.Health.Command = []string{"sh", "-c", "echo $SUPERVISOR_WORKER has no database >&2; kill -0 $SUPERVISOR_WORKER_PID && exit 9"}
		}, nil, []string{"canary web.0.", "hook health of pool web: status 9: web.0.", "has no database"}, false},
		{"foreign canary", func(p *config.Pool) { mode("foreign")(p); p.Health.Path = "/health" }, nil, []string{"it does not use pkg/worker: give health a command"}, false},
		{"canary crashes", baked("crashes"), nil, []string{"web.0.", "crash:panic", "panic: out of luck"}, true},
		{"canary errs", func(p *config.Pool) { baked("errors")(p); p.Health.Path = "/health" }, nil, []string{"canary web.0.", "with a status from 500"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool := onPort(testPool("worker"))
			pool.Workers = 8
			m := startMaster(t, testConfig(pool))
			m.await("pool serves", 1)
			c := startClients(m.addr(), 16)
			c.more(t, 200)
			before, open := m.state(), descriptors(t)
			next := testConfig(pool)
			if test.how != nil {
				next = changed(pool, test.how)
			}
			next.Pools[0].Bind[0].Address = pool.Bind[0].Address
			v := m.verdictOf(next, test.err)
			for _, want := range append(test.verdict, "nothing changed") {
				if !strings.Contains(v.Text, want) {
					t.Errorf("the verdict has no %q: %s", want, v.Text)
				}
			}
			if v.OK || v.Generation != 1 {
				t.Errorf("%+v", v)
			}
			m.settle()
			after := m.state()
			if test.name == "third of eight, one at a time" { // two had left: others of their generation are in their place
				before, after = withoutPids(before), withoutPids(after)
			}
			if before != after {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
			c.more(t, 200)
			wantDescriptors(t, open)
			failed, first := c.end()
			t.Logf("%d requests, %d failed (%v), %d connections closed: %s", c.asked.Load(), failed, first, c.closed.Load(), v.Text)
			if failed != 0 && !test.costs || failed > c.asked.Load()/3 {
				t.Errorf("%d of %d requests failed: %v", failed, c.asked.Load(), first)
			}
			if n := c.closed.Load(); n != 0 && !test.costs {
				t.Errorf("%d connections were closed", n)
			}
			ok := m.verdictOf(changed(pool, func(p *config.Pool) { p.Env["VERSION"] = "good" }), nil)
			m.settle()
			if got := mustGet(t, m.addr(), "/"); !ok.OK || !strings.HasSuffix(got, " good") {
				t.Errorf("a good reload afterwards: %+v, %q answers", ok, got)
			}
		})
	}
}

// withoutPids leaves of each worker its slot and generation.
func withoutPids(state string) string {
	var lines []string
	for line := range strings.Lines(state) {
		if f := strings.Fields(line); len(f) == 5 && f[0] == "worker" {
			line = f[1][:strings.LastIndexByte(f[1], '.')] + " of " + f[4] + "\n"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// New code, another number of workers, one at a time or together, asked and watched: nobody notices.
func TestReloadUnderLoadLosesNothing(t *testing.T) {
	for _, test := range []struct {
		from, to int
		how      func(*config.Pool)
	}{
		{4, 4, func(p *config.Pool) {}},
		{4, 2, func(p *config.Pool) {}},
		{2, 8, func(p *config.Pool) {}},
		{4, 4, func(p *config.Pool) { p.MaxSurge.Count = 1 }},
		{4, 2, func(p *config.Pool) { p.MaxSurge.Count = 1 }},
		{2, 8, func(p *config.Pool) { p.MaxSurge.Count = 1 }},
		{4, 4, func(p *config.Pool) { p.Health.Path = "/health" }},
		{4, 4, func(p *config.Pool) { p.Health.Command = []string{"true"} }},
		{4, 4, func(p *config.Pool) { p.Bake = eventually }},
		{4, 4, func(p *config.Pool) { p.Bake, p.Health.Path, p.MaxSurge.Percent = eventually, "/health", 25 }},
	} {
		p := &config.Pool{}
		test.how(p)
		t.Run(fmt.Sprintf("%d to %d, health %q%q bake %v surge %v", test.from, test.to, p.Health.Path, p.Health.Command, p.Bake, p.MaxSurge), func(t *testing.T) {
			pool := onPort(testPool("worker"))
			pool.Workers = test.from
			m := startMaster(t, testConfig(pool))
			m.await("pool serves", 1)
			c := startClients(m.addr(), 12)
			c.more(t, 200)
			open := descriptors(t)
			for i := range 2 { // and once more with the same
				v := m.verdictOf(changed(pool, func(p *config.Pool) {
					test.how(p)
					p.Workers, p.Env["VERSION"] = test.to, "new"
				}), nil)
				if !v.OK || v.Generation != 2+i || strings.Contains(v.Text, "unproven") {
					t.Errorf("%+v", v)
				}
			}
			m.settle()
			c.more(t, 200)
			if test.to <= test.from { // else there are more sockets
				wantDescriptors(t, open)
			}
			if got := mustGet(t, m.addr(), "/"); !strings.HasSuffix(got, " new") {
				t.Errorf("%q answers", got)
			}
			if failed, first := c.end(); failed != 0 || c.closed.Load() != 0 {
				t.Errorf("%d of %d requests failed, %d connections were closed: %v", failed, c.asked.Load(), c.closed.Load(), first)
			}
		})
	}
}

// The old workers give the canary some of their connections; all others stay where they are.
func TestCanaryGetsItsShareOfIdleConnections(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers, pool.KeepAlive = 3, eventually
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	addr := m.addr()
	var conns []net.Conn
	for range 40 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	m.reload(changed(pool, func(p *config.Pool) { p.Bake = 10 * time.Minute }), nil)
	m.await("canary takes its share", 1)
	m.until("the canary has its share", func() bool {
		w := m.pools[0].slots[0].next
		n := w.proc.Board().Total(scoreboard.Adopted)
		return n >= 10 && n <= 12 // of 40, one of four from each, rounded up
	})
	for _, conn := range conns {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.Close {
			t.Fatal(resp, err)
		}
	}
}

// EDGE_CASES 27: the file of variables belongs to the generation, as the program does.
func TestEnvFileBelongsToTheGeneration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("env", "VERSION=1\n")
	file := write("c.toml", fmt.Sprintf(`
[pool.web]
command = ["/proc/self/exe"]
bind = "127.0.0.1:0"
env_file = %q
env = { %s = "worker" }
`, filepath.Join(dir, "env"), envTestWorker))
	load := func() *config.Config {
		cfg, err := config.Load(config.Sources{File: file})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	m := startMaster(t, load())
	m.await("pool serves", 1)
	write("env", "VERSION=2\n")
	m.killOne()
	if got := mustGet(t, m.addr(), "/"); !strings.HasSuffix(got, " 1") {
		t.Errorf("a respawned worker: %q", got)
	}
	if v := m.verdictOf(load(), nil); !v.OK {
		t.Errorf("%+v", v)
	}
	m.settle()
	if got := mustGet(t, m.addr(), "/"); !strings.HasSuffix(got, " 2") {
		t.Errorf("after the reload: %q", got)
	}
}

// A bind that is removed refuses, its workers leave, its port is free; added again it serves.
func TestReloadRemovesABindAndAddsItAgain(t *testing.T) {
	one, two := freePort(t), freePort(t)
	pool := testPool("worker")
	pool.Workers = 2
	pool.Bind = []config.Bind{tcp("web", one), tcp("more", two)}
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	idle, err := net.Dial("tcp", two)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	r := bufio.NewReader(idle)
	ask := func() (*http.Response, error) {
		fmt.Fprint(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
		}
		return resp, err
	}
	if resp, err := ask(); err != nil || resp.Close {
		t.Fatal(resp, err)
	}
	for i := range 2 {
		less := m.verdictOf(changed(pool, func(p *config.Pool) { p.Bind = p.Bind[:1] }), nil)
		if i == 0 { // the connection that nobody can take over
			for {
				if resp, err := ask(); err != nil {
					t.Error(err)
				} else if !resp.Close {
					continue // the worker has not heard yet
				}
				break
			}
		}
		m.await("address closed", i+1)
		// Another process of this machine may have it for a moment, as the near end of a connection.
		ln, err := net.Listen("tcp", two)
		for deadline := time.Now().Add(eventually); err != nil && time.Now().Before(deadline); ln, err = net.Listen("tcp", two) {
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			t.Fatalf("the port is not free: %v", err)
		}
		ln.Close()
		again := m.verdictOf(testConfig(pool), nil)
		if !less.OK || !again.OK {
			t.Fatalf("%+v %+v", less, again)
		}
		mustGet(t, one, "/")
		mustGet(t, two, "/")
	}
}

// Hooks run as the pool's user, in its directory, with its environment, and leave nothing behind.
func TestHooksRunAsTheWorkersDo(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	pool := onPort(testPool("worker"))
	pool.Chdir = dir
	pool.Env["COLOUR"] = "blue"
	user := strconv.Itoa(os.Getuid())
	if os.Getuid() == 0 {
		pool.User, user = "nobody", "65534"
	}
	script := "echo $SUPERVISOR_HOOK $SUPERVISOR_POOL $SUPERVISOR_GENERATION $COLOUR $(id -u) $(pwd) $(ls /proc/self/fd | wc -l); sleep 600 & echo pid=$! >&2"
	pool.Hooks = config.Hooks{BeforeStart: []string{"sh", "-c", script}, AfterReload: []string{"sh", "-c", script}}
	cfg := testConfig(pool)
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	if v := m.verdictOf(cfg, nil); !v.OK {
		t.Error(v)
	}
	m.until("the hooks are over", func() bool { return m.hooks.idle() })
	m.signal(syscall.SIGTERM)
	m.wait()
	out, _ := os.ReadFile(cfg.AccessLog)
	for _, want := range []string{
		"[web before_start] before_start web 1 blue " + user + " " + dir + " 4\n", // 0, 1, 2 and the one of ls
		"[web after_reload] after_reload web 2 blue " + user + " " + dir + " 4\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	text, _ := os.ReadFile(cfg.ErrorLog)
	left := 0
	for _, line := range strings.Split(string(text), "\n") {
		if _, number, ok := strings.Cut(line, "pid="); ok && strings.HasPrefix(line, "[web ") {
			if left++; alive(atoi(t, number)) {
				t.Error("what the hook left behind lives")
			}
		}
	}
	if left != 2 {
		t.Errorf("%d hooks left something behind", left)
	}
}

func atoi(t *testing.T, s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
