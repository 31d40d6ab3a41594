package observe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
	"supervisor/internal/pgtest"
	"supervisor/internal/redistest"
	"supervisor/pkg/control"
	"supervisor/pkg/tasks"
)

// programs is the directory of the built programs; "" until they are needed.
var programs string

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.End()
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

func build(t *testing.T) {
	t.Helper()
	if programs != "" {
		return
	}
	dir, err := os.MkdirTemp("", "observe")
	if err != nil {
		t.Fatal(err)
	}
	programs = dir
	if out, err := exec.Command("go", "build", "-o", dir, "supervisor/cmd/supervisor", "supervisor/cmd/app").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// system is what is looked at: two supervisors, with web workers and job runners on one Redis and one PostgreSQL, and clients.
type system struct {
	t      *testing.T
	dir    string
	redis  *redistest.Server
	data   string // address of the database
	broker *tasks.Client
	a, b   *supervisor
	// Jobs that no runner has a handler for.
	waiting []string
}

// supervisor is one in a process of its own, with its log in a file.
type supervisor struct {
	t     *testing.T
	dir   string
	web   string // address of the pool web
	admin string
	good  string // a configuration
	told  bool   // its log, after a failure
}

// wrapped is what stands before a pool's program: while there is a file broken-POOL it exits at once.
const wrapped = "#!/bin/sh\n[ -e broken-%[1]s ] && { echo '%[1]s: something is broken' >&2; exit 3; }\nexec ../app %[2]s\n"

func startSystem(t *testing.T) *system {
	t.Helper()
	build(t)
	s := &system{t: t, dir: programs}
	redisDir := t.TempDir()
	var err error
	if s.redis, err = redistest.New(redisDir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.redis.Kill)
	s.data = pgtest.Database(t)
	migrate := exec.Command(filepath.Join(programs, "app"), "migrate")
	migrate.Env = append(os.Environ(), "DATABASE_URL="+s.data)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s.broker, err = tasks.Connect(s.redis.URL(), tasks.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.broker.Close)
	env := fmt.Sprintf("REDIS_URL=%s\nDATABASE_URL=%s\nAPP_DEBUG=1\nACCESS_LOG=json\nACCESS_LOG_FILE=/dev/null\n", s.redis.URL(), s.data)
	s.a, s.b = newSupervisor(t, "a", env, 2), newSupervisor(t, "b", env, 1)
	s.a.start()
	s.b.start()
	return s
}

func newSupervisor(t *testing.T, name, env string, workers int) *supervisor {
	t.Helper()
	// Not t.TempDir: the path of a socket must fit into 107 bytes.
	dir := filepath.Join(programs, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &supervisor{t: t, dir: dir, web: freeAddress(t), admin: freeAddress(t)}
	s.write("env", env, 0o644)
	s.write("web", fmt.Sprintf(wrapped, "web", "serve"), 0o755)
	s.write("jobs", fmt.Sprintf(wrapped, "jobs", "work --concurrency 4"), 0o755)
	if err := os.Link(filepath.Join(programs, "supervisor"), filepath.Join(dir, "supervisor")); err != nil {
		t.Fatal(err)
	}
	s.good = fmt.Sprintf(`
[supervisor]
admin   = %q
control = "s"
pidfile = "pid"

[pool.jobs]
command  = ["./jobs"]
ready    = "notify"
workers  = %d
env_file = "env"

[pool.web]
command  = ["./web"]
bind     = [%q]
workers  = %d
backlog  = 8
timeout  = 1
env_file = "env"
`, s.admin, workers, s.web, workers)
	s.write("toml", s.good, 0o644)
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *supervisor) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// start runs it until stop, or the test's end, and waits until it is ready.
func (s *supervisor) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("./supervisor", "-c", "toml")
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "SUPERVISOR_") && !strings.HasPrefix(pair, "APP_") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() && !s.told {
			s.told = true
			text := mustRead(filepath.Join(s.dir, "log"))
			s.t.Logf("the log of %s:\n%s", s.dir, text[max(0, len(text)-6000):])
		}
	})
	s.await("its readiness", func() bool {
		code, _ := s.ask("GET", "http://"+s.admin+"/health/ready")
		return code == http.StatusOK
	})
}

// pid gives the process in charge, as the pidfile says: after a self-upgrade it is no child of ours. 0: there is none.
func (s *supervisor) pid() (pid int) {
	_, _ = fmt.Sscan(mustRead(filepath.Join(s.dir, "pid")), &pid)
	return pid
}

// stop ends it and its workers at once.
func (s *supervisor) stop() {
	pid := s.pid()
	if pid == 0 || syscall.Kill(pid, syscall.SIGQUIT) != nil {
		return
	}
	for deadline := time.Now().Add(eventually); ; time.Sleep(20 * time.Millisecond) {
		if stat := mustRead(fmt.Sprintf("/proc/%d/stat", pid)); stat == "" || strings.Contains(stat, ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			s.t.Errorf("%s does not stop", s.dir)
			return
		}
	}
}

func (s *supervisor) await(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(eventually); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: never %s", s.dir, what)
		}
	}
}

// ask sends one request on a connection of its own and gives the status; 0: there was no answer.
func (s *supervisor) ask(method, url string, body ...byte) (int, []byte) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: eventually}).Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, answer
}

// ctl gives the output of a command that must succeed, or must not.
func (s *supervisor) ctl(good bool, words ...string) {
	s.t.Helper()
	cmd := exec.Command("./supervisor", append([]string{"ctl", "-s", "s"}, words...)...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); (err == nil) != good {
		s.t.Fatalf("ctl %v: %v\n%s", words, err, out)
	}
}

// pids gives the processes of a pool's workers.
func (s *supervisor) pids(pool string) (pids []int) {
	s.t.Helper()
	st, err := control.Dial(filepath.Join(s.dir, "s")).Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range st.Pools {
		for _, w := range p.Workers {
			if p.Name == pool && w.PID > 0 {
				pids = append(pids, w.PID)
			}
		}
	}
	return pids
}

// breaks lets a pool's workers die, now and each time that they are started, until repair.
func (s *supervisor) breaks(pool string) {
	s.t.Helper()
	s.write("broken-"+pool, "", 0o644)
	for _, pid := range s.pids(pool) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (s *supervisor) repair(pool string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dir, "broken-"+pool)); err != nil {
		s.t.Fatal(err)
	}
}

// strange stores a job that no runner has a handler for.
func (s *system) strange() {
	s.t.Helper()
	id, err := s.broker.Enqueue(s.t.Context(), "nobody-does-this", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.waiting = append(s.waiting, id)
}

// use loads both, each request one after the other, so that all sorts of answers and jobs come in; until ctx ends.
func (s *system) use(ctx context.Context) {
	for _, one := range []*supervisor{s.a, s.b} {
		if _, err := loadtest.Start(ctx, loadtest.Plan{
			Target: one.web, Mix: loadtest.Mix{Paused: 3}, Duration: time.Hour, MaxBody: 1000, LargeBody: -1,
		}); err != nil {
			s.t.Fatal(err)
		}
	}
	photo := []byte(read(s.t, "..", "..", "pkg", "app", "testdata", "video-001.jpeg"))
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			at := "http://" + s.a.web
			s.a.ask("POST", at+"/images?width=64", photo...)
			s.a.ask("POST", at+"/debug/job?ms=40")
			s.a.ask("GET", at+"/nowhere")
			if n%10 == 0 {
				s.a.ask("POST", at+"/debug/panic")
			}
			_, _ = s.broker.Enqueue(ctx, "drill", []byte("no drill"), tasks.MaxAttempts(1)) // fails
			if n == 0 {
				s.a.ask("GET", at+"/debug/sleep?ms=1500") // beyond the pool's timeout
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
}
