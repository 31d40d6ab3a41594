package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upgrade sends USR2 and waits until the successor is in charge and everything of the old one is gone.
func (s *server) upgrade() {
	s.t.Helper()
	n := s.count("this supervisor leaves")
	s.signal(syscall.SIGUSR2)
	line := s.await("this supervisor leaves", n+1)
	s.await("this supervisor is in charge", n+1)
	s.pid, _ = strconv.Atoi(regexp.MustCompile(`"successor": (\d+)`).FindStringSubmatch(line)[1])
}

// ownSupervisor gives the path of a copy of the supervisor that the test may break.
func ownSupervisor(t *testing.T) string {
	t.Helper()
	return write(t, "supervisor", string(readFile(t, filepath.Join(bin, "supervisor"))))
}

// replace puts another program in a path, as an installation does: a new file under the same name.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Self-upgrade after self-upgrade under the client mix: no request fails, no kept-alive connection is closed, and the pidfile names the one
// in charge.
func TestSelfUpgradesLoseNothing(t *testing.T) {
	pidfile := filepath.Join(t.TempDir(), "pid")
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "-p", pidfile, "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, everybody)
	load.Await(1000)
	for range pick(8, 50) {
		s.upgrade()
		if got := string(readFile(t, pidfile)); got != fmt.Sprintln(s.pid) {
			t.Errorf("pidfile says %q, want %d", got, s.pid)
		}
		load.Await(300)
	}
	mustBeClean(t, load)
	if n := s.count("worker died|worker is killed|died before"); n > 0 {
		t.Errorf("%d workers died", n)
	}
	s.signal(syscall.SIGTERM)
	<-s.done
	if _, err := os.Stat(pidfile); err == nil {
		t.Error("the pidfile is still there")
	}
}

// A successor that cannot be leaves the old supervisor as it was, and nothing of its own.
func TestBrokenSuccessorChangesNothing(t *testing.T) {
	program := ownSupervisor(t)
	good := string(readFile(t, program))
	config := func(command string) string {
		return fmt.Sprintf("[pool.web]\ncommand = [%s]\nbind = [\"127.0.0.1:0\"]\nworkers = 2\nboot_timeout = \"60s\"\n[pool.web.env]\nAPP_DEBUG = \"1\"\n", command)
	}
	file := write(t, "supervisor.toml", config(fmt.Sprintf("%q, \"serve\"", app())))
	s := launchProgram(t, []string{program}, nil, "-c", file)
	s.awaitAddress()
	s.await("pool serves", 1)
	workers := s.children()
	load := startLoad(t, s, everybody)
	load.Await(500)

	for i, c := range []struct {
		name, program, config, verdict string
	}{
		{"exits", "#!/bin/sh\nexit 7\n", "", "exit status 7"},
		{"no program", "\x00\x01garbage", "", "exec format error"},
		{"bad config", good, "[pool.web]\ncommand = 3\n", "command"},
		{"worker that cannot start", good, config(`"/bin/false"`), "no worker became ready"},
		{"worker that does not exist", good, config(`"/nowhere/at/all"`), "/nowhere/at/all"},
	} {
		if c.config == "" {
			c.config = config(fmt.Sprintf("%q, \"serve\"", app()))
		}
		replace(t, program, c.program)
		replace(t, file, c.config)
		s.signal(syscall.SIGUSR2)
		line := s.await("self-upgrade failed, nothing changed", i+1)
		if !regexp.MustCompile(regexp.QuoteMeta(c.verdict)).MatchString(line) {
			t.Errorf("%s: the verdict is %s, want it to say %q", c.name, line, c.verdict)
		}
		if !strings.Contains(line, program) {
			t.Errorf("%s: the verdict %s does not name %s", c.name, line, program)
		}
		load.Await(200)
	}
	s.await("info successor stopped", 1) // nobody shall think that it was the one in charge
	// And then a good one.
	replace(t, program, good)
	replace(t, file, config(fmt.Sprintf("%q, \"serve\"", app())))
	if got := s.children(); fmt.Sprint(got) != fmt.Sprint(workers) {
		t.Errorf("children %v, want the workers %v as before", got, workers)
	}
	s.upgrade()
	load.Await(500)
	mustBeClean(t, load)
}

// A self-upgrade neither waits for a request that takes long, nor does a second one right after it.
func TestUpgradeDoesNotWaitForSlowRequests(t *testing.T) {
	t.Parallel()
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	const slow = 4
	answers := make(chan error, slow)
	for range slow {
		go func() {
			resp, err := http.Get("http://" + s.addr + "/debug/sleep?ms=6000")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != 200 {
					err = fmt.Errorf("status %d", resp.StatusCode)
				}
			}
			answers <- err
		}()
	}
	s.awaitBusy(slow)
	for range 3 {
		s.upgrade()
	}
	select {
	case err := <-answers:
		t.Errorf("a slow request ended before the upgrades did: %v", err)
	default:
	}
	for range slow {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// awaitBusy waits until the workers together hold n connections besides the one that asks.
func (s *server) awaitBusy(n int) {
	s.t.Helper()
	held := map[string]int{}
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		h := s.health()
		held[h.WorkerID] = h.ActiveConnections - 1
		sum := 0
		for _, n := range held {
			sum += n
		}
		if sum >= n {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the workers hold %d connections, want %d", sum, n)
		}
	}
}

// A new supervisor that hangs is killed in time, and the next try, with a good one, works.
func TestHangingSuccessorIsGivenUp(t *testing.T) {
	if !proving() {
		t.Skip("takes 21 s of waiting: PROVE=1")
	}
	program := ownSupervisor(t)
	good := string(readFile(t, program))
	file := write(t, "supervisor.toml", fmt.Sprintf(
		"[pool.web]\ncommand = [%q, \"serve\"]\nbind = [\"127.0.0.1:0\"]\nworkers = 2\nboot_timeout = \"1s\"\n[pool.web.env]\nAPP_DEBUG = \"1\"\n", app()))
	s := launchProgram(t, []string{program}, nil, "-c", file)
	s.awaitAddress()
	s.await("pool serves", 1)
	load := startLoad(t, s, everybody)
	replace(t, program, "#!/bin/sh\nexec sleep 600\n")
	s.signal(syscall.SIGUSR2)
	s.await("self-upgrade failed, nothing changed.*timed out", 1)
	if n := len(s.children()); n != 2 {
		t.Errorf("%d children, want the 2 workers", n)
	}
	replace(t, program, good)
	s.upgrade()
	load.Await(300)
	mustBeClean(t, load)
}
