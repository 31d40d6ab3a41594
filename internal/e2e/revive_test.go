package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"supervisor/internal/loadtest"
	"supervisor/pkg/sdnotify"
)

// keeper is a service manager as far as a descriptor store goes: what systemd and the holder do for a supervisor that is killed.
type keeper struct {
	t        *testing.T
	listener *sdnotify.Listener

	mu    sync.Mutex
	names []string
	fds   []int
}

func startKeeper(t *testing.T) *keeper {
	t.Helper()
	l, err := sdnotify.Listen(fmt.Sprintf("@e2e/%d/%s", os.Getpid(), t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	k := &keeper{t: t, listener: l}
	go func() {
		for {
			m, err := l.Read()
			if err != nil {
				return
			}
			k.take(m)
		}
	}()
	return k
}

func (k *keeper) take(m sdnotify.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := m.Get("FDNAME")
	switch {
	case m.Get("FDSTORE") == "1":
		for _, fd := range m.FDs {
			k.names, k.fds = append(k.names, name), append(k.fds, fd)
		}
		return
	case m.Get("FDSTOREREMOVE") == "1":
		for i := 0; i < len(k.names); {
			if k.names[i] != name {
				i++
				continue
			}
			unix.Close(k.fds[i])
			k.names, k.fds = append(k.names[:i], k.names[i+1:]...), append(k.fds[:i], k.fds[i+1:]...)
		}
	}
	m.Close()
}

// restart starts another supervisor with what is in the store, as systemd would, after the first one is gone. Its log goes to the same place.
func (k *keeper) restart(s *server, args ...string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	files := []uintptr{0, 1, s.logEnd.Fd()}
	for _, fd := range k.fds {
		files = append(files, uintptr(fd)) // not by os/exec: it would clear O_NONBLOCK on them
	}
	script := fmt.Sprintf("LISTEN_PID=$$ exec %s \"$@\"", filepath.Join(bin, "supervisor"))
	env := append(cleanEnv(), s.env...)
	env = append(env, fmt.Sprintf("LISTEN_FDS=%d", len(k.fds)), "LISTEN_FDNAMES="+strings.Join(k.names, ":"))
	pid, err := syscall.ForkExec("/bin/sh", append([]string{"sh", "-c", script, "sh"}, args...), &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		k.t.Fatal(err)
	}
	s.pid = pid
	go syscall.Wait4(pid, nil, 0, nil)
}

// kill -9 of the supervisor under load, again and again, with somebody above it who keeps its descriptors: no connection is lost, and its
// workers are replaced with their connections moved.
func TestKillNineOfTheSupervisorCostsNothing(t *testing.T) {
	k := startKeeper(t)
	args := []string{"-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve"}
	s := launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"APP_DEBUG=1", "NOTIFY_SOCKET=" + k.listener.Name()}, args...)
	s.awaitAddress()
	s.await("pool serves", 1)
	load := startLoad(t, s, everybody)
	load.Await(1000)
	for i := range pick(5, 30) {
		syscall.Kill(s.pid, syscall.SIGKILL)
		load.Await(200)
		k.restart(s, args...)
		s.await("the supervisor before us died", i+1)
		s.await("reload done", i+1)
		load.Await(300)
	}
	mustBeClean(t, load)
	if n := s.count("worker died|worker is killed|cannot be adopted"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// EDGE_CASES 46: a pool with replace = "never" lives on over self-upgrades, one right after the other, and over a kill -9 of the supervisor: the
// same process, of which nobody loses sight.
func TestNeverPoolOutlivesItsSupervisors(t *testing.T) {
	k := startKeeper(t)
	args := []string{"-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.cache]
command = ["sleep", "600"]
replace = "never"

[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
`, app()))}
	s := launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"NOTIFY_SOCKET=" + k.listener.Name()}, args...)
	s.awaitAddress()
	s.await("pool serves .*web", 1)
	first := s.await(`worker starts .*"cache.0.1"`, 1)
	var pid int
	if _, err := fmt.Sscanf(first[strings.Index(first, `"pid": `):], `"pid": %d`, &pid); err != nil {
		t.Fatal(first, err)
	}
	s.upgrade()
	s.upgrade()
	syscall.Kill(s.pid, syscall.SIGKILL)
	k.restart(s, args...)
	s.await("reload done", 1)
	if n := s.count(`worker starts .*"cache\.`); n != 1 {
		t.Errorf("%d processes were started for the pool, want 1", n)
	}
	s.await(fmt.Sprintf(`worker adopted .*"cache.0.1", "pid": %d`, pid), 3)
	// It is watched still: when it dies there is a new one.
	syscall.Kill(pid, syscall.SIGKILL)
	s.await(`worker starts .*"cache\.`, 2)
}

// A supervisor that is killed while another configuration lies on disk, which nobody has loaded: the next one goes on with the one in force,
// whether the other is broken, could not be bound, or would do. It says so, and a reload is what puts it in force.
func TestKillNineIsNoDeploy(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	k := startKeeper(t)
	config := func(more string) string {
		return fmt.Sprintf("[pool.web]\ncommand = [%q, \"serve\"]\nworkers = 2\n%s\n", app(), more)
	}
	const one = `bind = ["127.0.0.1:0"]`
	file := write(t, "supervisor.toml", config(one))
	args := []string{"-c", file}
	s := launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"APP_DEBUG=1", "NOTIFY_SOCKET=" + k.listener.Name()}, args...)
	s.awaitAddress()
	s.await("pool serves", 1)
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 5, OneShot: 5})
	load.Await(100)
	for i, c := range []struct{ text, says string }{
		{config(one + "\nwrokers = 3"), "did you mean workers"},
		{config(fmt.Sprintf(`bind = ["127.0.0.1:0", "more=%s"]`, busy.Addr())), `\[pool.web\] changed`},
		{config(one + "\n[pool.web.env]\nVERSION = \"2\""), `\[pool.web\] changed`},
	} {
		replace(t, file, c.text)
		syscall.Kill(s.pid, syscall.SIGKILL)
		k.restart(s, args...)
		s.await("goes on with the configuration that was in force.*"+c.says, 1)
		s.await("reload done", i+1)
		load.Await(100)
	}
	s.signal(syscall.SIGHUP)
	s.await("reload done", 4)
	mustBeClean(t, load)
	syscall.Kill(s.pid, syscall.SIGKILL) // now it is the one in force
	k.restart(s, args...)
	s.await("reload done", 5)
	if n := s.count("goes on with the configuration that was in force"); n != 3 {
		t.Errorf("it went on with another configuration %d times, want 3", n)
	}
}

// A supervisor that is killed in the middle of a deploy: what lies on disk does not start. The next one's workers are of the release that was in
// force, though its link leads elsewhere and its program is replaced, in place of those that it adopts and of one that is killed; its hook runs there, too.
// Then the deploy is complete, and a reload starts it. (From then on every worker exited with 1, until a HUP.)
func TestKillNineStartsNoProgramThatNobodyReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, bad := string(readFile(t, app())), string(readFile(t, need(t, "false")))
	deploy := func(release, program string) {
		os.Mkdir(filepath.Join(dir, release), 0o755)
		replace(t, filepath.Join(dir, release, "app"), program)
		replace(t, filepath.Join(dir, release, "note"), "this is release "+release+"\n")
		os.Symlink(release, filepath.Join(dir, "next"))
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current")); err != nil {
			t.Fatal(err)
		}
	}
	deploy("1", good)
	s := launch(t, nil, "--holder", "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.web]
command = ["./app", "serve"]
chdir   = %q
bind    = ["127.0.0.1:0"]
workers = 2
[pool.web.env]
APP_DEBUG = "1"
[pool.web.hooks]
on_worker_exit = ["sh", "-c", "cat note >&2"]
`, filepath.Join(dir, "current"))))
	s.awaitAddress()
	s.await("pool serves", 1)
	answersFrom := func(release string) {
		t.Helper()
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.health().PID)); err != nil || cwd != filepath.Join(dir, release) {
			t.Errorf("a worker in %s answers, want release %s (%v)", cwd, release, err)
		}
	}
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 5, OneShot: 5})
	load.Await(100)
	deploy("2", bad)
	replace(t, filepath.Join(dir, "1", "app"), bad)
	for i := range 2 { // what the second one inherits, the first one had inherited
		started := s.await(`holder: supervisor \d+ started`, i+1)
		pid, _ := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(started))
		syscall.Kill(pid, syscall.SIGKILL)
		s.await("the supervisor before us died", i+1)
		s.await("reload done", i+1)
		load.Await(100)
	}
	mustBeClean(t, load)
	answersFrom("1")
	ready := s.count("worker ready")
	syscall.Kill(s.health().PID, syscall.SIGKILL)
	s.await("worker ready", ready+1)
	s.await("this is release 1", 1) // on_worker_exit
	answersFrom("1")
	if n := s.count("failed to start|this is release 2"); n > 0 {
		t.Errorf("%d lines of what was started from release 2", n)
	}

	deploy("3", good)
	gone := s.count(`worker gone .*"reason": "reload"`)
	s.reload()
	s.await(`worker gone .*"reason": "reload"`, gone+2) // until then they, too, answer
	answersFrom("3")
	ready = s.count("worker ready")
	syscall.Kill(s.health().PID, syscall.SIGKILL)
	s.await("worker ready", ready+1)
	answersFrom("3")
}

// A manager that is too busy to read misses sockets, and a self-upgrade comes. The successor does not take them for stored: the manager has them as
// soon as it reads, and a supervisor that is killed then costs nothing. (It opened the address anew, beside its clients.)
func TestBusyManagerGetsWhatItMissed(t *testing.T) {
	t.Parallel()
	k := startKeeper(t)
	args := []string{"-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve"}
	s := launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"APP_DEBUG=1", "NOTIFY_SOCKET=" + k.listener.Name()}, args...)
	s.awaitAddress()
	s.await("pool serves", 1)
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 10, Paused: 20, OneShot: 5})
	k.mu.Lock() // it reads one message more
	for n := range 3 {
		s.scaleBy(syscall.SIGTTIN)()
		s.await("worker ready", 3+n)
	}
	s.await("cannot store descriptors with the manager", 1)
	s.signal(syscall.SIGUSR2)
	line := s.await("this supervisor leaves", 1)
	s.await("this supervisor is in charge", 1)
	s.pid, _ = strconv.Atoi(regexp.MustCompile(`"successor": (\d+)`).FindStringSubmatch(line)[1])
	s.await("cannot store descriptors with the manager", 2)
	k.mu.Unlock()
	s.await("the manager has all descriptors again", 1)
	load.Await(100)
	syscall.Kill(s.pid, syscall.SIGKILL)
	load.Await(100)
	k.restart(s, args...)
	s.await("reload done", 1)
	load.Await(300)
	mustBeClean(t, load)
	if n := s.count("is opened anew|worker died|cannot be adopted"); n > 0 {
		t.Errorf("%d lines of what was lost", n)
	}
}
