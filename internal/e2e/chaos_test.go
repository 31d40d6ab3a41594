package e2e

import (
	"bytes"
	"encoding/json"
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
	"supervisor/pkg/control"
)

// Chaos: everything that can happen to a supervisor happens to this one, at random, under the client mix. The oracle: a request may fail
// only if a worker was killed by SIGKILL between the last moment at which its connection was well and its failure; everybody else gets
// exactly one right answer. At the end processes, descriptors, zombies and memory are back where they were.
//
//	CHAOS=10s go test ./internal/e2e -run Chaos              10 s, always the same seed
//	PROVE=1 go test ./internal/e2e -run Chaos                60 s, another seed each time
//	CHAOS=1h CHAOS_SEED=7 go test ./internal/e2e -run Chaos -timeout 2h
//
// The order of the events is the seed's; when exactly they meet the program is the machine's.
func TestChaos(t *testing.T) {
	if !proving() && os.Getenv("CHAOS") == "" {
		t.Skip("its oracle knows when a client read an answer, not when that came, and so blames the innocent now and then: PROVE=1 or CHAOS=10s")
	}
	duration, seed := chaosLength(t)
	t.Logf("CHAOS=%v CHAOS_SEED=%d", duration, seed)
	c := newChaos(t, seed)
	started := time.Now()
	load := startLoad(t, c.server, everybody)
	load.Await(500)
	c.calm()
	base := c.footprint()

	for end := time.Now().Add(duration); time.Now().Before(end) && !t.Failed(); {
		name, act := c.pick()
		c.note("%s", name)
		act()
		c.served(load, int64(20+c.rng.IntN(200)))
	}
	c.calm()
	result := load.Stop()
	t.Logf("%d events: %v\n%v", len(c.log), c.counts, result)
	c.judge(result, started)
	c.judgeFootprint(base)
}

// served waits for n more answers.
func (c *chaos) served(load *loadtest.Load, n int64) {
	c.t.Helper()
	came := make(chan struct{})
	go func() {
		load.Await(n)
		close(came)
	}()
	select {
	case <-came:
	case <-c.done:
		c.t.Fatalf("holder and supervisor have ended; the events:\n%s", strings.Join(c.log, "\n"))
	case <-time.After(eventually):
		c.t.Fatalf("nobody answers any more; the events:\n%s", strings.Join(c.log, "\n"))
	}
}

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

const chaosWorkers = 3

// span is a worker's death.
type span struct {
	worker   string
	from, to time.Time
}

// chaosLate is how much later than it came a client may have read the last answer of a worker.
const chaosLate = 2 * time.Second

// chaos is a supervisor under a holder, with programs and a configuration of its own to break.
type chaos struct {
	*server
	rng                    *rand.Rand
	mark                   string // in the environment of each of its processes
	program, app           string // paths
	goodProgram, goodApp   string // contents
	file, goodConfig, sock string
	delta                  int // workers that TTIN and TTOU have added
	log                    []string
	counts                 map[string]int
	kills                  []span // of workers: from the signal to the last sign of the process
	masterKills            []time.Time
}

func newChaos(t *testing.T, seed uint64) *chaos {
	t.Helper()
	dir := t.TempDir()
	c := &chaos{
		rng: rand.New(rand.NewPCG(seed, 1)), counts: map[string]int{}, mark: fmt.Sprintf("CHAOS_MARK=%d.%d", os.Getpid(), seed),
		program: filepath.Join(dir, "supervisor"), app: filepath.Join(dir, "app"), file: filepath.Join(dir, "supervisor.toml"),
		sock:        filepath.Join(dir, "control.sock"),
		goodProgram: string(readFile(t, filepath.Join(bin, "supervisor"))), goodApp: string(readFile(t, filepath.Join(bin, "app"))),
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

func (c *chaos) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.log = append(c.log, time.Now().Format("05.000 ")+text)
	name, _, _ := strings.Cut(text, " ")
	c.counts[name]++
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
		{"broken-program", 1, func() { c.broken(c.program, "#!/bin/sh\nexit 7\n", c.goodProgram, syscall.SIGUSR2) }},
		{"broken-app", 1, func() { c.broken(c.app, "#!/bin/sh\nexit 7\n", c.goodApp, syscall.SIGHUP) }},
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

// marked gives the processes of this supervisor: workers by their name, all others as master, holder is left out.
func (c *chaos) marked() (workers map[string]int, masters, zombies []int) {
	workers = map[string]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == c.cmd.Process.Pid {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(rest, "Z") {
			if parent, _ := strconv.Atoi(strings.Fields(rest)[1]); parent == c.cmd.Process.Pid {
				zombies = append(zombies, pid)
			}
			continue
		}
		if err != nil || !bytes.Contains(env, []byte(c.mark)) {
			continue
		}
		name := ""
		for pair := range bytes.SplitSeq(env, []byte{0}) {
			if worker, ok := bytes.CutPrefix(pair, []byte("SUPERVISOR_WORKER=")); ok {
				name = string(worker)
			}
		}
		if name != "" {
			workers[name] = pid
		} else {
			masters = append(masters, pid)
		}
	}
	return workers, masters, zombies
}

// victim gives any worker.
func (c *chaos) victim() (string, int) {
	workers, _, _ := c.marked()
	for name, pid := range workers {
		return name, pid
	}
	return "", 0
}

func (c *chaos) killWorker() {
	name, pid := c.victim()
	if pid > 0 {
		c.note("kills %s (%d)", name, pid)
		kill := span{worker: name, from: time.Now()}
		syscall.Kill(pid, syscall.SIGKILL)
		for syscall.Kill(pid, 0) == nil { // its descriptors close while it ends
			time.Sleep(time.Millisecond)
		}
		kill.to = time.Now()
		c.kills = append(c.kills, kill)
	}
}

func (c *chaos) stopWorker() {
	_, pid := c.victim()
	if pid > 0 {
		syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(time.Duration(c.rng.IntN(2500)) * time.Millisecond) // below heartbeat_timeout
		syscall.Kill(pid, syscall.SIGCONT)
	}
}

func (c *chaos) scale() {
	if c.delta < 2 && (c.delta < 0 || c.rng.IntN(2) == 0) {
		c.delta++
		c.signal(syscall.SIGTTIN)
	} else {
		c.delta--
		c.signal(syscall.SIGTTOU)
	}
}

// broken puts something else in the place of a file, tells the supervisor, and after a while puts the good one back.
func (c *chaos) broken(path, bad, good string, sig syscall.Signal) {
	replace(c.t, path, bad)
	c.signal(sig)
	time.Sleep(time.Duration(100+c.rng.IntN(400)) * time.Millisecond)
	replace(c.t, path, good)
}

func (c *chaos) hog() {
	resp, err := http.Get("http://" + c.addr + "/debug/alloc?mb=200")
	if err == nil {
		resp.Body.Close()
	}
}

// killMaster: at most five restarts in a minute are the holder's patience.
func (c *chaos) killMaster() {
	if n := len(c.masterKills); n >= 4 && time.Since(c.masterKills[n-4]) < time.Minute {
		return
	}
	_, masters, _ := c.marked()
	if len(masters) == 1 { // else one of them may be a successor in the middle of taking over
		c.note("kills-master %d", masters[0])
		c.masterKills = append(c.masterKills, time.Now())
		syscall.Kill(masters[0], syscall.SIGKILL)
	}
}

// calm ends all that is under way: one master, chaosWorkers ready workers, nobody else.
func (c *chaos) calm() {
	c.t.Helper()
	var last string
	scaled := false
	for deadline := time.Now().Add(eventually); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if !scaled {
			out, err := exec.Command(filepath.Join(bin, "supervisor"), "ctl", "--socket", c.sock, "scale", fmt.Sprintf("web=%d", chaosWorkers)).CombinedOutput()
			if last = string(out); err != nil {
				continue
			}
			scaled = true
		}
		status, err := exec.Command(filepath.Join(bin, "supervisor"), "ctl", "--socket", c.sock, "--json", "status").Output()
		var s control.Status
		if err != nil || json.Unmarshal(status, &s) != nil {
			continue
		}
		workers, masters, _ := c.marked()
		last = fmt.Sprintf("%s\nworkers %v, masters %v", status, workers, masters)
		if len(masters) == 1 && len(workers) == chaosWorkers && len(s.Pools) == 1 && s.Pools[0].Ready == chaosWorkers && s.Pools[0].Leaving == 0 && s.Reload == nil {
			c.delta = 0
			return
		}
	}
	c.t.Fatalf("it does not come to rest: %s", last)
}

// footprint is what must not grow.
type footprint struct {
	zombies, fds int
	memory       int64 // kB
}

func (c *chaos) footprint() footprint {
	_, masters, zombies := c.marked()
	f := footprint{zombies: len(zombies)}
	for _, pid := range append(masters, c.cmd.Process.Pid) {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		f.fds += len(entries)
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(status)) {
			var kb int64
			if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
				f.memory += kb
			}
		}
	}
	return f
}

func (c *chaos) judgeFootprint(base footprint) {
	c.t.Helper()
	now := c.footprint()
	c.t.Logf("footprint of holder and supervisor: %+v before, %+v after", base, now)
	// Slots that were open once stay parked, each with its socket and its sender; a reloaded program is pinned.
	if allowed := base.fds + 24; now.fds > allowed {
		c.t.Errorf("%d descriptors, %d before", now.fds, base.fds)
	}
	if now.zombies > 0 {
		c.t.Errorf("%d zombies", now.zombies)
	}
	if now.memory > 2*base.memory+20<<10 {
		c.t.Errorf("%d kB of memory, %d before", now.memory, base.memory)
	}
}

// judge holds every failure against the kills.
func (c *chaos) judge(result loadtest.Result, started time.Time) {
	c.t.Helper()
	unexplained := 0
	for _, f := range result.Failures {
		explained := false
		for _, kill := range c.kills {
			to := kill.to.Sub(started)
			if f.Worker == kill.worker {
				to += chaosLate
			}
			explained = explained || f.Since <= to && kill.from.Sub(started) <= f.After
		}
		if !explained {
			if unexplained++; unexplained <= 10 {
				c.t.Errorf("no worker was killed between %.3f s and this: %v", f.Since.Seconds(), f)
			}
		}
	}
	if n := len(result.Failures); int64(n) != result.AllFailed() {
		c.t.Errorf("only %d of %d failures are known", n, result.AllFailed())
	}
	if unexplained > 0 {
		c.t.Errorf("%d failures without a reason; the events (the load began at %s):\n%s", unexplained, started.Format("05.000"), strings.Join(c.log, "\n"))
	}
	if n := c.count("worker is killed|worker is hung|impossible event"); n > 0 {
		c.t.Errorf("the supervisor killed %d workers", n)
	}
}
