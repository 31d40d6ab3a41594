package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

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
