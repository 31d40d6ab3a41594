package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Exit codes of the supervisor, as DESIGN and --help have them.
const (
	exitUsage    = 64
	exitBind     = 69
	exitNotReady = 75
	exitConfig   = 78
)

func TestBusyPortLeavesNothingBehind(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	pidfile := filepath.Join(t.TempDir(), "supervisor.pid")
	s := launch(t, nil, "-p", pidfile, "-b", busy.Addr().String(), "--", app(), "serve")
	if code := s.wait(); code != exitBind {
		t.Errorf("exit code %d, want %d", code, exitBind)
	}
	s.await("could not bind .*"+busy.Addr().String(), 1)
	if _, err := os.Stat(pidfile); err == nil {
		t.Error("a pidfile is left")
	}
	if n := s.count("worker starts"); n > 0 {
		t.Error("workers were started")
	}
}

// Two supervisors with the same address: the second one is refused although both use SO_REUSEPORT.
func TestSecondSupervisorIsRefused(t *testing.T) {
	first := start(t, nil, "-b", "127.0.0.1:0", "--", app(), "serve")
	first.await("pool serves", 1)
	second := launch(t, nil, "-b", first.addr, "--", app(), "serve")
	if code := second.wait(); code != exitBind {
		t.Errorf("exit code %d, want %d", code, exitBind)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no command":      {[]string{"-w", "2"}, exitUsage, "no command"},
		"unknown flag":    {[]string{"--no-such-flag"}, exitUsage, "no-such-flag"},
		"missing file":    {[]string{"-c", "/no/such/file.toml"}, exitConfig, "/no/such/file.toml"},
		"worker fails":    {[]string{"-b", "127.0.0.1:0", "--", "/bin/false"}, exitNotReady, "no worker"},
		"worker missing":  {[]string{"-b", "127.0.0.1:0", "--", "/no/such/worker"}, exitNotReady, "/no/such/worker"},
		"worker leaves":   {[]string{"-b", "127.0.0.1:0", "--", "/bin/true"}, exitNotReady, "status 0 before it was ready"},
		"flag after args": {[]string{"extra", "-w", "2", "--", "/bin/true"}, exitUsage, "extra"},
	} {
		t.Run(name, func(t *testing.T) {
			s := launch(t, nil, c.args...)
			if code := s.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			s.await(c.says, 1)
		})
	}
}

func TestPIDFileNamesTheSupervisorAndGoesWithIt(t *testing.T) {
	pidfile := filepath.Join(t.TempDir(), "supervisor.pid")
	s := start(t, nil, "-p", pidfile, "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	if got := strings.TrimSpace(string(readFile(t, pidfile))); got != fmt.Sprint(s.cmd.Process.Pid) {
		t.Errorf("pidfile says %s, the supervisor is %d", got, s.cmd.Process.Pid)
	}
	second := launch(t, nil, "-p", pidfile, "-b", "127.0.0.1:0", "--", app(), "serve")
	if code := second.wait(); code != exitBind { // systemd shall not try again
		t.Errorf("a second supervisor with the same pidfile ended with %d, want %d", code, exitBind)
	}
	second.await(fmt.Sprintf("another supervisor runs with it .pid %d.", s.cmd.Process.Pid), 1)
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(pidfile); err == nil {
		t.Error("the pidfile is left")
	}
}

// Ctrl-C goes to the whole process group of the terminal, `pkill -HUP` to everything of that name: workers ride it out.
func TestSignalsToTheWholeGroup(t *testing.T) {
	s := start(t, nil, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	for _, pid := range append(s.children(), s.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGHUP)
	}
	s.await("reload done", 1)
	s.await("worker gone", 2)
	if n := s.count("worker died|leaves of its own"); n > 0 {
		t.Errorf("%d workers took the HUP for themselves", n)
	}
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGINT)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := s.count("worker died"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// The supervisor is killed: its workers notice, serve on for orphan_timeout, survive their next log line, and leave.
func TestOrphansServeOnAndLeave(t *testing.T) {
	t.Parallel()
	s := start(t, []string{"APP_DEBUG=1", "ACCESS_LOG=json"}, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
workers = 2
orphan_timeout = 3
`, app())))
	s.await("pool serves", 1)
	workers := s.children()
	s.signal(syscall.SIGKILL)
	<-s.done
	for range 20 {
		if resp, _ := s.get("/health"); resp.StatusCode != 200 { // each writes an access log line into a pipe that nobody reads
			t.Errorf("an orphan answered %d", resp.StatusCode)
		}
	}
	next := launch(t, nil, "-b", s.addr, "--", app(), "serve")
	if code := next.wait(); code != exitBind {
		t.Errorf("exit code %d beside the orphans, want %d", code, exitBind)
	}
	line := next.await("workers of a supervisor that is gone", 1)
	for _, pid := range workers {
		if !strings.Contains(line, fmt.Sprintf("pid %d (app)", pid)) {
			t.Errorf("it does not name the orphan %d: %s", pid, line)
		}
	}
	for _, pid := range workers {
		awaitEnd(t, pid)
	}
}
