package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// Chaos: everything that can happen to a supervisor happens to this one, at random, under the client mix. Each request whose connection
// was held by no worker that was killed by SIGKILL gets exactly one right answer (chaosoracle_test.go), and in the end there are as many
// processes and descriptors as in the beginning, no zombies, and no more memory (chaosrest_test.go).
//
//	go test ./internal/e2e -run Chaos                                        10 s, always the same seed
//	PROVE=1 go test ./internal/e2e -run Chaos                                60 s, another seed each time
//	CHAOS=1h CHAOS_SEED=7 go test ./internal/e2e -run Chaos -timeout 2h
//
// The order of the events is the seed's; when exactly they meet the program is the machine's.
func TestChaos(t *testing.T) {
	duration, seed := chaosLength(t)
	t.Logf("CHAOS=%v CHAOS_SEED=%d", duration, seed)
	c := newChaos(t, seed)
	base := c.stretch()
	events, failed, right := map[string]int{}, int64(0), int64(0)
	for end := time.Now().Add(duration); time.Now().Before(end) && !t.Failed(); {
		round := c.begin()
		for till := earlier(end, time.Now().Add(chaosRound)); time.Now().Before(till); {
			c.happen(round)
		}
		c.rest(&base)
		result := round.load.Stop()
		for _, accusation := range round.accuse(result) {
			t.Error(accusation)
		}
		if t.Failed() {
			t.Logf("%v\nthe events, in seconds since the load began:\n%s", result, strings.Join(round.log, "\n"))
		}
		if n := c.count("worker is killed|worker is hung|impossible event"); n > 0 {
			t.Errorf("the supervisor killed %d workers", n)
		}
		for name, n := range round.counts {
			events[name] += n
		}
		right, failed = right+result.OK, failed+result.AllFailed()
	}
	t.Logf("%v; %d right answers, %d failed with their killed workers", events, right, failed)
	t.Logf("before: %v; after: %v", base, c.footprint())
}

// chaosRound is how long one load runs at most: it keeps each of its failures.
const chaosRound = time.Minute

func chaosLength(t *testing.T) (time.Duration, uint64) {
	t.Helper()
	duration, seed := time.Duration(pick(10, 60))*time.Second, uint64(1)
	if proving() {
		seed = rand.Uint64()
	}
	var err error
	if text := os.Getenv("CHAOS"); text != "" {
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHAOS: %v", err)
		}
	}
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CHAOS_SEED: %v", err)
		}
	}
	return duration, seed
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Between these the numbers of workers move.
const chaosWorkers, fewestChaosWorkers, mostChaosWorkers = 3, 2, 5

// chaos is a supervisor under a holder, with programs and a configuration of its own to break.
type chaos struct {
	*server
	rng                    *rand.Rand
	mark                   string // in the environment of each of its processes
	program, app           string // paths
	goodProgram, goodApp   string // contents
	bad                    string // what both may be instead: no script, whose shell would run whatever has its name by then
	file, goodConfig, sock string
	asked                  int // workers that TTIN and TTOU have asked for
	masterKills            []time.Time
	round                  *round // under way
}

// round is one load and what happened under it.
type round struct {
	load   *loadtest.Load
	log    []string
	counts map[string]int
	kills  []kill
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	dir := t.TempDir()
	c := &chaos{
		rng: rand.New(rand.NewPCG(seed, 1)), mark: fmt.Sprintf("CHAOS_MARK=%s.%d.%d", t.Name(), os.Getpid(), seed),
		program: filepath.Join(dir, "supervisor"), app: filepath.Join(dir, "app"), file: filepath.Join(dir, "supervisor.toml"),
		sock: filepath.Join(dir, "control.sock"), asked: chaosWorkers,
		goodProgram: string(readFile(t, filepath.Join(bin, "supervisor"))), goodApp: string(readFile(t, filepath.Join(bin, "app"))),
		bad: string(readFile(t, need(t, "false"))),
	}
	c.goodConfig = fmt.Sprintf(`
[supervisor]
control = %q
pidfile = %q

[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
workers = %d
max_memory = "160MiB"
[pool.web.env]
APP_DEBUG = "1"
`, c.sock, filepath.Join(dir, "pid"), c.app, chaosWorkers)
	replace(t, c.program, c.goodProgram)
	replace(t, c.app, c.goodApp)
	replace(t, c.file, c.goodConfig)
	c.server = launchProgram(t, []string{c.program, "--holder"}, []string{c.mark}, "-c", c.file)
	c.awaitAddress()
	c.await("pool serves", 1)
	return c
}

// begin starts a load.
func (c *chaos) begin() *round {
	c.t.Helper()
	c.round = &round{load: startLoad(c.t, c.server, everybody), counts: map[string]int{}}
	c.served(500)
	return c.round
}

// happen lets one thing happen, and waits for some answers.
func (c *chaos) happen(r *round) {
	c.t.Helper()
	name, act := c.pick()
	r.note("%s", name)
	r.counts[name]++
	act()
	c.served(int64(20 + c.rng.IntN(200)))
}

func (r *round) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf("%8.3f ", r.load.Elapsed().Seconds())+fmt.Sprintf(format, args...))
}

// served waits for n more answers.
func (c *chaos) served(n int64) {
	c.t.Helper()
	came := make(chan struct{})
	go func() {
		c.round.load.Await(n)
		close(came)
	}()
	select {
	case <-came:
	case <-c.done:
		c.t.Fatalf("holder and supervisor have ended; the events:\n%s", strings.Join(c.round.log, "\n"))
	case <-time.After(eventually):
		c.t.Fatalf("nobody answers any more; the events:\n%s", strings.Join(c.round.log, "\n"))
	}
}

// pick gives the next event.
func (c *chaos) pick() (string, func()) {
	events := []struct {
		name   string
		weight int
		act    func()
	}{
		{"kill-worker", 3, c.killWorker},
		{"stop-worker", 2, c.stopWorker},
		{"reload", 4, func() { c.signal(syscall.SIGHUP) }},
		{"upgrade", 3, func() { c.signal(syscall.SIGUSR2) }},
		{"scale", 3, c.scale},
		{"broken-program", 1, func() { c.broken(c.program, c.bad, c.goodProgram, syscall.SIGUSR2) }},
		{"broken-app", 1, func() { c.broken(c.app, c.bad, c.goodApp, syscall.SIGHUP) }},
		{"broken-config", 1, func() { c.broken(c.file, "[pool.web]\nworkers = \"a few\"\n", c.goodConfig, syscall.SIGHUP) }},
		{"memory-hog", 1, c.hog},
		{"kill-master", 1, c.killMaster},
	}
	sum := 0
	for _, e := range events {
		sum += e.weight
	}
	n := c.rng.IntN(sum)
	for _, e := range events {
		if n -= e.weight; n < 0 {
			return e.name, e.act
		}
	}
	panic("unreachable")
}

// victim gives any worker: which of those that there are is the seed's.
func (c *chaos) victim() (string, int) {
	at := c.rng.Float64()
	workers := c.processes().workers
	if len(workers) == 0 {
		return "", 0
	}
	w := workers[int(at*float64(len(workers)))]
	return w.name, w.pid
}

func (c *chaos) killWorker() {
	name, pid := c.victim()
	if pid == 0 {
		return
	}
	if k, ok := c.killNine(pid); ok {
		c.round.note("killed %s (%d) with %d connections", name, pid, len(k.held))
		c.round.kills = append(c.round.kills, k)
	}
}

func (c *chaos) stopWorker() {
	_, pid := c.victim()
	pause := time.Duration(c.rng.IntN(2500)) * time.Millisecond // below heartbeat_timeout
	if pid > 0 {
		syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(pause)
		syscall.Kill(pid, syscall.SIGCONT)
	}
}

// scale asks for one worker more or less. A signal may reach a supervisor that leaves, and nobody: the log tells what was heard.
func (c *chaos) scale() {
	now := c.wanted(chaosWorkers)
	switch more := c.rng.IntN(2) == 0; {
	case more && max(now, c.asked) < mostChaosWorkers:
		c.asked++
		c.signal(syscall.SIGTTIN)
	case !more && min(now, c.asked) > fewestChaosWorkers:
		c.asked--
		c.signal(syscall.SIGTTOU)
	}
}

// broken puts something else in the place of a file, tells the supervisor, and after a while puts the good one back.
func (c *chaos) broken(path, bad, good string, sig syscall.Signal) {
	pause := time.Duration(100+c.rng.IntN(400)) * time.Millisecond
	replace(c.t, path, bad)
	c.signal(sig)
	time.Sleep(pause)
	replace(c.t, path, good)
}

func (c *chaos) hog() {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: eventually}).Get("http://" + c.addr + "/debug/alloc?mb=200")
	if err == nil {
		resp.Body.Close()
	}
}

// killMaster: at most five restarts in a minute are the holder's patience.
func (c *chaos) killMaster() {
	if n := len(c.masterKills); n >= 4 && time.Since(c.masterKills[n-4]) < time.Minute {
		return
	}
	if masters := c.processes().masters; len(masters) > 0 { // the first is in charge, a second one its successor in the middle of taking over
		c.round.note("killed the supervisor (%d)", masters[0])
		c.masterKills = append(c.masterKills, time.Now())
		syscall.Kill(masters[0], syscall.SIGKILL)
	}
}

// ctl runs a command of the supervisor's.
func (c *chaos) ctl(args ...string) ([]byte, error) {
	return exec.Command(filepath.Join(bin, "supervisor"), append([]string{"ctl", "--socket", c.sock}, args...)...).CombinedOutput()
}
