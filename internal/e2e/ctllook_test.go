package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
)

// following is a ctl that goes on until its supervisor ends, or it is killed.
type following struct {
	t   *testing.T
	cmd *exec.Cmd

	mu   sync.Mutex
	text bytes.Buffer
}

func (f *following) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(p)
}

func (f *following) seen() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

func (c controlled) follow(t *testing.T, args ...string) *following {
	t.Helper()
	f := &following{t: t, cmd: exec.Command(filepath.Join(bin, "supervisor"), append([]string{"ctl", "-c", c.file}, args...)...)}
	f.cmd.Env, f.cmd.Stdout, f.cmd.Stderr = cleanEnv(), f, f
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.cmd.Process.Kill() })
	return f
}

func (f *following) await(words string) {
	f.t.Helper()
	for deadline := time.Now().Add(eventually); !strings.Contains(f.seen(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%q never came:\n%s", words, f.seen())
		}
	}
}

// status is what ctl status says to programs.
func (c controlled) status(t *testing.T) (st control.Status) {
	t.Helper()
	if s := c.ctl("status", "--json"); json.Unmarshal([]byte(s.out), &st) != nil {
		t.Fatalf("%+v", s)
	}
	return st
}

func contains(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(text) {
			t.Errorf("no %s in\n%s", p, text)
		}
	}
}

// One worker is dead, one hangs, one does not get away, a slot is in a crash loop, clients are at it: each command that looks says so, to people and to
// programs, and disturbs nobody.
func TestCtlLooksAtASystemInTrouble(t *testing.T) {
	trap := filepath.Join(t.TempDir(), "trap")
	pools := webPool("workers = 4\ntimeout = 0\nheartbeat_timeout = 0\ngraceful_timeout = 600") +
		fmt.Sprintf("[pool.bad]\ncommand = [\"/bin/sh\", \"-c\", \"[ -e %s ] && echo caught in the trap >&2 && exit 3; exec sleep 1000\"]\nready = \"exec\"\n", trap) +
		"env = { API_TOKEN = \"hunter2\" }\n"
	c := configured(t, pools)
	load := startLoad(t, c.server, everybody)
	load.Await(200)

	held := dial(t, c.addr)
	fmt.Fprintf(held, "GET /debug/hang HTTP/1.1\r\nHost: x\r\n\r\n")
	holder := ""
	for holder == "" {
		for _, w := range c.status(t).Pools[0].Workers {
			if w.Oldest > 0.1 && w.InFlight > 0 {
				holder = w.Name
			}
		}
	}
	c.ctl("recycle", holder, "--wait=false").is(t, 0, "1 worker to be replaced")
	c.await("worker drains.*"+regexp.QuoteMeta(holder), 1)

	var killed, stopped control.Worker
	for _, w := range c.status(t).Pools[0].Workers {
		switch {
		case w.State != "ready":
		case killed.PID == 0:
			killed = w
		default:
			stopped = w
		}
	}
	load.Stop() // the connections of who is killed break
	if err := os.WriteFile(trap, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := c.status(t).Pools[1].Workers[0]
	unix.Kill(bad.PID, unix.SIGKILL)
	unix.Kill(killed.PID, unix.SIGKILL)
	unix.Kill(stopped.PID, unix.SIGSTOP)
	t.Cleanup(func() { unix.Kill(stopped.PID, unix.SIGCONT) })
	c.await("in a crash loop", 1)
	c.await("makes no progress", 1)
	load = startLoad(t, c.server, everybody)
	load.Await(200)

	quoted := regexp.QuoteMeta
	looks := map[string]struct {
		args   []string
		people []string
		json   []string
	}{
		"status": {nil, []string{`^pool web: 4 of 4 ready, 1 on the way out`, quoted(holder) + ` .* draining .*recycle`, quoted(stopped.Name) + ` .* ready `, `web: .*`,
			`^degraded: pool bad: bad.0 is in a crash loop .*caught in the trap`}, []string{`"state": "draining"`}},
		"workers": {nil, []string{quoted(holder) + ` .* draining .* recycle`, quoted(stopped.Name) + ` .* ready .* 0% .*no progress: it does not beat`, `^bad\.0\S* .* starts failed`,
			`^web\.\d\.\d+ +\d+ +ready +1 +\S+ +\d+ +[1-9]\d* `}, []string{`"requests_per_second": \d*[1-9]`, `"cpu_cores": `, `"p95_seconds": 0.0`}},
		"top": {nil, []string{`^supervisor \d+: serving, not ready .*by cpu$|^supervisor \d+: serving, ready.*by cpu$`, `^POOL +READY`, `^web +4/4 +1 `, quoted(holder) + ` .* draining`,
			`^bad +[01]/1 `}, []string{`"errors_per_second":`, `"workers":\[`}},
		"history": {[]string{"-n", "0"}, []string{`crash +` + quoted(killed.Name) + ` +crash:SIGKILL +\S+ +[1-9]\d* +SIGKILL +died, pid ` + strconv.Itoa(killed.PID),
			`crash +bad\.0\.\d+ +exit:3 `, `\| caught in the trap`, `hung +` + quoted(stopped.Name) + ` .*makes no progress`, `degraded +bad.0 .*in a crash loop after \d+ failures`},
			[]string{`"reason": "crash:SIGKILL"`, `"caught in the trap"`}},
		"logs":   {nil, []string{`^\[bad\.0\.\d+\] caught in the trap`, `^\[supervisor\] .*worker died`}, []string{`"stream": "stderr"`}},
		"config": {nil, []string{`^workers += 4 +# .*c.toml:\d+`, `^API_TOKEN += "REDACTED" .*redacted`, `^timeout += "0s?"`}, []string{`"key": "pool.web.workers",\s+"value": 4,`}},
	}
	var clients sync.WaitGroup
	for name, look := range looks {
		clients.Go(func() {
			contains(t, c.ctl(append([]string{name}, look.args...)...).is(t, 0, "").out, look.people...)
		})
		clients.Go(func() {
			s := c.ctl(append([]string{name, "--json"}, look.args...)...).is(t, 0, "")
			contains(t, s.out, look.json...)
			if !json.Valid([]byte(s.out)) || strings.Contains(s.out, "hunter2") {
				t.Errorf("%s --json: %s", name, s.out)
			}
		})
	}
	clients.Wait()
	// By pool, by slot, by process.
	slot := killed.Name[:strings.LastIndexByte(killed.Name, '.')]
	s := c.ctl("history", killed.Name, "--all").is(t, 0, "died")
	if strings.Contains(s.out, holder) {
		t.Errorf("of another worker:\n%s", s.out)
	}
	c.ctl("history", slot, "--kind", "crash").is(t, 0, "died")
	contains(t, c.ctl("workers", slot).is(t, 0, "").out, quoted(slot)+`\.\d+ .* ready`)
	c.ctl("logs", "bad", "--stderr", "-n", "1").is(t, 0, "caught in the trap")
	contains(t, c.ctl("config", "bad").out, `^\[pool\.bad\]`)
	c.ctl("logs", "web.99").is(t, 0, "no lines are kept of web.99")
	c.ctl("history", "web.99").is(t, 0, "no such events are kept of web.99")
	for _, name := range []string{"history", "logs", "workers", "config"} {
		c.ctl(name, "wbe").is(t, 64, "wbe")
	}
	if result := load.Stop(); result.AllFailed() > 0 {
		t.Errorf("%v", result)
	}
}

// Clients that follow see a self-upgrade as if it were nothing, and the stop as the end; what the workers write and what happens comes once.
func TestCtlFollows(t *testing.T) {
	program := ownSupervisor(t)
	dir := t.TempDir()
	c := controlled{file: filepath.Join(dir, "c.toml"), socket: filepath.Join(dir, "control")}
	c.rewrite(t, webPool("workers = 2"))
	c.server = launchProgram(t, []string{program}, []string{"APP_DEBUG=1"}, "-c", c.file)
	c.awaitAddress()
	c.await("pool serves", 1)
	history := c.follow(t, "history", "--follow", "--all", "--json", "-n", "0")
	logs := c.follow(t, "logs", "web", "--follow")
	history.await(`"kind":"ready"`)
	logs.await(`"msg":"serving"`)
	c.ctl("upgrade").is(t, 0, "has taken over, generation 2")
	history.await("self-upgrade done: supervisor")
	c.ctl("recycle", "web.1").is(t, 0, "1 worker replaced")
	history.await("asked on the control socket: recycle")
	serving := strings.Count(logs.seen(), `"msg":"serving"`)
	c.ctl("scale", "+1").is(t, 0, "3 workers ready")
	for deadline := time.Now().Add(eventually); strings.Count(logs.seen(), `"msg":"serving"`) == serving && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	c.ctl("stop").is(t, 0, "stopped")
	for _, f := range []*following{history, logs} {
		if err := f.cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, f.seen())
		}
	}
	var last uint64
	for line := range strings.Lines(history.seen()) {
		var e control.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Seq != last+1 {
			t.Errorf("event %d after %d", e.Seq, last)
		}
		last = e.Seq
	}
	if !strings.Contains(history.seen(), `"text":"stopped"`) {
		t.Errorf("no end:\n%s", history.seen())
	}
	// Two of the first supervisor, two of the second one, one by recycle, one by scale: none twice, none missing.
	if n := strings.Count(logs.seen(), `"msg":"serving"`); n != 6 {
		t.Errorf("%d workers said that they serve, want 6:\n%s", n, logs.seen())
	}
}

// 20 clients at once, under load, each of another kind; then more followers than may follow at once, killed half-way. Nobody is disturbed, and nothing of them stays.
func TestCtlCrowdsAndKilledFollowers(t *testing.T) {
	c := configured(t, webPool("workers = 2"))
	load := startLoad(t, c.server, everybody)
	load.Await(100)
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			switch i % 5 {
			case 0:
				c.ctl("workers", "web").is(t, 0, "web.1.")
			case 1:
				c.ctl("top", "-n", "2").is(t, 0, "web.0.")
			case 2:
				c.ctl("history", "--json").is(t, 0, `"last": `)
			case 3:
				c.ctl("logs", "-n", "0").is(t, 0, "[supervisor]")
			case 4:
				c.ctl("config").is(t, 0, "[pool.web]")
			}
		})
	}
	clients.Wait()
	for range 4 {
		var killed []*following
		for i := range 20 {
			killed = append(killed, c.follow(t, []string{"history", "logs"}[i%2], "--follow"))
		}
		for _, f := range killed {
			f.await("supervisor ")
			f.cmd.Process.Kill()
			f.cmd.Wait()
		}
	}
	live := c.follow(t, "history", "--follow") // 80 have followed before it: their places are free
	c.ctl("reload").is(t, 0, "is in force")
	live.await("reload done")
	if result := load.Stop(); result.AllFailed() > 0 || result.KeptAlive.ServerClosed() > 0 {
		t.Errorf("%v", result)
	}
}

// A supervisor that hangs is told as that; the frame of a live top stays, and its keys work.
func TestTopOnATerminal(t *testing.T) {
	t.Parallel()
	c := configured(t, webPool("workers = 2"))
	load := startLoad(t, c.server, everybody)
	load.Await(100)
	run := func() *terminal {
		return onTerminal(t, []string{"SUPERVISOR_SOCKET=" + c.socket}, filepath.Join(bin, "supervisor"), "ctl", "top")
	}
	term := run()
	term.await("\x1b[?1049h", "\x1b[H", "web.0.", "web.1.", "by cpu")
	term.presses("\x1b[A\x1bOQm") // an arrow and a function key are no letters
	term.await("by memory")
	term.forget()
	term.await("REQ/S", "2/2") // the next frame
	c.signal(syscall.SIGSTOP)
	term.presses("n")
	term.await("by name")
	c.signal(syscall.SIGCONT)
	term.presses("q")
	if err := term.cmd.Wait(); err != nil {
		t.Error(err)
	}
	term.await("\x1b[?25h\x1b[?1049l")

	term = run()
	term.await("web.1.")
	term.cmd.Process.Signal(syscall.SIGTERM)
	term.await("\x1b[?25h\x1b[?1049l") // whatever ends it, the terminal is as before
	term.cmd.Wait()

	term = run()
	term.await("web.1.")
	load.Stop()
	c.ctl("stop").is(t, 0, "stopped")
	term.await("no answer since ")
	term.presses("\x03")
	term.await("\x1b[?25h\x1b[?1049l")
	term.cmd.Wait()
}
