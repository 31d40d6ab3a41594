package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// controlled is a supervisor with a file, and with what ctl and healthcheck say to it.
type controlled struct {
	*server
	file, socket string
}

// configured writes a file with a control socket and an admin listener on a unix socket, and starts a supervisor with it.
func configured(t *testing.T, pools string) controlled {
	t.Helper()
	dir := t.TempDir()
	c := controlled{file: filepath.Join(dir, "c.toml"), socket: filepath.Join(dir, "control")}
	c.rewrite(t, pools)
	c.server = launch(t, []string{"APP_DEBUG=1"}, "-c", c.file)
	c.awaitAddress()
	c.await("pool serves", strings.Count(pools, "[pool."))
	return c
}

func (c controlled) rewrite(t *testing.T, pools string) {
	t.Helper()
	text := fmt.Sprintf("[supervisor]\ncontrol = %q\nadmin = %q\n%s", c.socket, "unix:"+filepath.Join(filepath.Dir(c.file), "admin"), pools)
	if err := os.WriteFile(c.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func webPool(settings string) string {
	return fmt.Sprintf("[pool.web]\ncommand = [%q, \"serve\"]\nbind = [\"127.0.0.1:0\"]\n%s\n", app(), settings)
}

// said is what a command printed, and its exit code.
type said struct {
	code        int
	out, stderr string
}

func tell(args ...string) said {
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "supervisor"), args...)
	cmd.Env = cleanEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	s := said{0, stdout.String(), stderr.String()}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		s.code = exit.ExitCode()
	} else if err != nil {
		s.code, s.stderr = -1, err.Error()
	}
	return s
}

func (c controlled) ctl(args ...string) said {
	return tell(append([]string{"ctl", "-c", c.file}, args...)...)
}

func (s said) is(t *testing.T, code int, words string) said {
	t.Helper()
	if s.code != code || !strings.Contains(s.out+s.stderr, words) {
		t.Errorf("exit code %d, want %d with %q:\n%s%s", s.code, code, words, s.out, s.stderr)
	}
	return s
}

// Each command, as an operator types it, under load: nothing is lost, and each says how it went.
func TestCtl(t *testing.T) {
	c := configured(t, webPool("workers = 2"))
	load, err := loadtest.Start(context.Background(), loadtest.Plan{
		Target: c.addr, Mix: loadtest.Mix{KeepAlive: 5, Paused: 10, OneShot: 3}, Duration: 10 * time.Minute, Timeout: eventually,
	})
	if err != nil {
		t.Fatal(err)
	}
	load.Await(100)
	c.ctl("status").is(t, 0, "pool web: 2 of 2 ready, on "+c.addr)
	c.ctl("status", "--json").is(t, 0, `"state": "serving"`)
	c.ctl("scale", "web=4").is(t, 0, "pool web: 4 workers ready")
	c.ctl("scale", "-1").is(t, 0, "pool web: 3 workers ready")
	c.ctl("scale", "+1", "--wait=false").is(t, 0, "pool web: from 3 to 4 workers")
	c.ctl("scale", "web=2", "--timeout", "80s").is(t, 0, "pool web: 2 workers ready")
	c.ctl("recycle", "web.0").is(t, 0, "1 worker replaced")
	c.ctl("recycle").is(t, 0, "2 workers replaced")
	c.ctl("reload").is(t, 0, "generation 2 is in force")
	c.rewrite(t, webPool("workers = 2\nnonsense = 1"))
	c.ctl("reload").is(t, 1, c.file+":8: pool.web.nonsense: unknown key") // it is found although the file is broken
	c.ctl("reload", "--json").is(t, 1, `"ok": false`)
	c.ctl("status").is(t, 0, "last reload, ")
	c.rewrite(t, "[supervisor")
	c.ctl("reload").is(t, 78, c.file+":4: ")
	tell("ctl", "reload", "--socket", c.socket).is(t, 1, c.file+":4: ")
	c.rewrite(t, webPool("workers = 2"))
	tell("healthcheck", "-c", c.file).is(t, 0, `"status":"ok"`)
	tell("healthcheck", "--admin", "unix:"+filepath.Dir(c.file)+"/admin", "--path", "live").is(t, 0, `"status":"ok"`)

	c.ctl("scale", "db=2").is(t, 64, `there is no pool "db"; there is web`)
	c.ctl("recycle", "web.9").is(t, 64, "there is no worker web.9; there is web.0.")
	load.Await(100)
	if result := load.Stop(); result.AllFailed() > 0 || result.KeptAlive.ServerClosed() > 0 {
		t.Errorf("%v", result)
	}
	c.ctl("stop").is(t, 0, "stopped (")
	if c.wait() != 0 {
		t.Error("it ended with an error")
	}
	c.ctl("status").is(t, 69, "nobody listens on "+c.socket)
	tell("healthcheck", "-c", c.file).is(t, 1, "admin: connect: no such file or directory")
}

// A supervisor that is stopped answers nobody; the clients say so, and go. What they asked for may happen later.
func TestCtlWithAStoppedSupervisor(t *testing.T) {
	t.Parallel()
	c := configured(t, webPool(""))
	c.signal(syscall.SIGSTOP)
	var clients sync.WaitGroup
	clients.Go(func() { c.ctl("reload").is(t, 69, "does not answer: it hangs, or is stopped") })
	clients.Go(func() { c.ctl("status", "--timeout", "1s").is(t, 75, "--timeout is over") })
	clients.Go(func() { tell("healthcheck", "-c", c.file, "--timeout", "1s").is(t, 1, "gave no answer within 1s") })
	clients.Wait()
	c.signal(syscall.SIGCONT)
	c.ctl("status").is(t, 0, "serving, ready")
}

// A client that is killed in the middle leaves everything as it should be.
func TestCtlThatIsKilled(t *testing.T) {
	c := configured(t, webPool("workers = 2"))
	for i := range 5 {
		cmd := exec.Command(filepath.Join(bin, "supervisor"), "ctl", "-c", c.file, "reload")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.await("reload begins", i+1)
		cmd.Process.Kill()
		cmd.Wait()
		c.await("reload done", i+1)
	}
	c.ctl("reload").is(t, 0, "generation 7 is in force")
}

func TestCtlTwentyAtOnce(t *testing.T) {
	c := configured(t, webPool("workers = 2"))
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			switch i % 4 {
			case 0:
				c.ctl("status").is(t, 0, "serving")
			case 1:
				c.ctl("reload").is(t, 0, "is in force")
			case 2:
				if s := c.ctl("recycle"); s.code != 0 && !strings.Contains(s.stderr, "no worker is ready") {
					t.Errorf("%+v", s)
				}
			case 3:
				if s := c.ctl("scale", fmt.Sprint("web=", 1+i/4)); s.code != 0 && !strings.Contains(s.stderr, "was scaled to") {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	clients.Wait()
	c.ctl("scale", "web=2").is(t, 0, "2 workers ready")
	tell("healthcheck", "-c", c.file).is(t, 0, "")
}

// EDGE_CASES 30: after TERM new connections work on, answers say Connection: close, readiness fails at once; nobody fails.
func TestDrainDelayUnderLoad(t *testing.T) {
	c := configured(t, webPool("workers = 2\ndrain_delay = 600"))
	load, err := loadtest.Start(context.Background(), loadtest.Plan{
		Target: c.addr, Mix: loadtest.Mix{KeepAlive: 5, Paused: 10, OneShot: 5, Standard: 2}, Duration: 10 * time.Minute, Timeout: eventually,
	})
	if err != nil {
		t.Fatal(err)
	}
	load.Await(200)
	c.signal(syscall.SIGTERM)
	c.await("stopping after drain_delay", 1)
	tell("healthcheck", "-c", c.file).is(t, 1, "drain_delay has begun")
	tell("healthcheck", "-c", c.file, "--path", "live").is(t, 0, "")
	c.ctl("status").is(t, 0, "delaying, not ready")
	c.ctl("reload").is(t, 1, "the supervisor is stopping")
	c.ctl("scale", "+1").is(t, 1, "the supervisor is stopping")
	if resp, body := c.get("/health/ready"); resp.StatusCode != 503 || !resp.Close {
		t.Errorf("the app's own readiness: %d %s, Connection: close %v", resp.StatusCode, body, resp.Close)
	}
	load.Await(500)
	result := load.Stop() // the load balancer has looked away
	if result.AllFailed() > 0 || result.KeptAlive.Reset > 0 {
		t.Errorf("%v", result)
	}
	c.ctl("stop").is(t, 0, "stopped") // a second time: the delay is over
	if c.wait() != 0 {
		t.Error("it ended with an error")
	}
}

// Self-upgrades asked for by ctl, with clients at both sockets all the while: the control socket and the admin listener go over to the
// successor, and nobody ever finds them shut. A broken program is told as the verdict.
func TestCtlUpgrade(t *testing.T) {
	program := ownSupervisor(t)
	working := string(readFile(t, program))
	dir := t.TempDir()
	c := controlled{file: filepath.Join(dir, "c.toml"), socket: filepath.Join(dir, "control")}
	pools := webPool("workers = 2")
	c.rewrite(t, pools)
	c.server = launchProgram(t, []string{program}, []string{"APP_DEBUG=1"}, "-c", c.file)
	c.awaitAddress()
	c.await("pool serves", 1)
	load := startLoad(t, c.server, everybody)
	load.Await(200)
	first := c.cmd.Process.Pid

	stop := make(chan struct{})
	var clients sync.WaitGroup
	asks := 0
	clients.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.ctl("status").is(t, 0, "supervisor ")
				tell("healthcheck", "-c", c.file).is(t, 0, `"ok"`)
				asks++
			}
		}
	})
	for i := range pick(3, 20) {
		c.ctl("upgrade").is(t, 0, fmt.Sprintf("has taken over, generation %d is in force", i+2))
		c.ctl("status").is(t, 0, "last upgrade, ")
		if s := c.ctl("status"); strings.Contains(s.out, fmt.Sprintf("supervisor %d:", first)) {
			t.Errorf("the first one answers still: %s", s.out)
		}
		c.ctl("scale", "+1").is(t, 0, "workers ready")
		c.ctl("scale", "-1").is(t, 0, "workers ready")
	}
	close(stop)
	clients.Wait()
	if asks == 0 {
		t.Error("nobody asked meanwhile")
	}

	replace(t, program, "#!/bin/sh\nexit 7\n")
	c.ctl("upgrade").is(t, 1, "self-upgrade failed, nothing changed: ")
	c.ctl("status").is(t, 0, "last upgrade, ")
	replace(t, program, working)

	// Another path: the successor opens it, and the old file goes.
	old := c.socket
	c.socket = filepath.Join(dir, "other")
	c.rewrite(t, pools)
	tell("ctl", "upgrade", "--socket", old).is(t, 0, "has taken over")
	c.ctl("status").is(t, 0, "serving, ready")
	if _, err := os.Lstat(old); err == nil {
		t.Error("the old socket's file is still there")
	}
	if result := load.Stop(); result.AllFailed() > 0 || result.KeptAlive.Reset > 0 { // all those processes cost time: some connections move too late
		t.Errorf("%v", result)
	}
	c.ctl("stop").is(t, 0, "stopped")
}
