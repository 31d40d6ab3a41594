package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// fewer is the client mix beside a whole systemd.
var fewer = loadtest.Mix{KeepAlive: 20, Paused: 20, OneShot: 5, Pipelined: 5}

// host is a systemd of its own, with the units of etc/ in it.
type host struct {
	t    *testing.T
	dir  string // /run/boot inside
	boot *exec.Cmd
	pid  int // of its PID 1, as we see it
	addr string
}

// bootSystemd boots one whose app.service runs this configuration.
func bootSystemd(t *testing.T, config, dropIn string) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it boots a systemd in namespaces")
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		t.Skip("systemd is not installed: run `make deps`")
	}
	h := &host{t: t, dir: t.TempDir(), addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	for d := h.dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	for _, name := range []string{"app.service", "app.socket"} {
		h.put(name, strings.ReplaceAll(string(readFile(t, "../../etc/"+name)), "8080", strings.TrimPrefix(h.addr, "127.0.0.1:")))
	}
	for _, program := range []string{"supervisor", "app"} {
		h.put(program, string(readFile(t, filepath.Join(bin, program))))
	}
	h.put("log", "")
	os.Chmod(filepath.Join(h.dir, "log"), 0o666)
	h.configure(config)
	os.Mkdir(filepath.Join(h.dir, "app.service.d"), 0o755)
	h.put("app.service.d/test.conf", `[Service]
ExecStart=
ExecStart=/run/boot/supervisor -c /run/boot/supervisor.toml
User=nobody
Group=nogroup
StandardOutput=append:/run/boot/log
StandardError=append:/run/boot/log
`+dropIn)

	h.boot = exec.Command("../../scripts/boot-systemd", h.dir)
	var console bytes.Buffer
	h.boot.Stdout, h.boot.Stderr = &console, &console
	if err := h.boot.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.boot.Process.Kill()
		h.boot.Wait()
		awaitEnd(t, h.pid)
		removeCgroups(h.boot.Process.Pid)
		if t.Failed() {
			t.Logf("systemd:\n%s\nthe service:\n%s", console.String(), h.log())
		}
	})
	h.until("systemd is up", func() bool {
		if pids := childrenOf(h.boot.Process.Pid); len(pids) == 1 {
			h.pid = pids[0]
		}
		state, _ := h.try("is-system-running")
		return strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded")
	})
	return h
}

// removeCgroups takes away what boot-systemd made.
func removeCgroups(pid int) {
	trees, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/boot-systemd-%d", pid))
	more, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/boot-systemd-%d", pid))
	for _, tree := range append(trees, more...) {
		exec.Command("find", tree, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
	}
}

func (h *host) put(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) configure(config string) {
	h.put("supervisor.toml", strings.ReplaceAll(config, "ADDR", h.addr))
}

func (h *host) log() string { return string(readFile(h.t, filepath.Join(h.dir, "log"))) }

func (h *host) until(what string, f func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(eventually); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("never: %s", what)
		}
	}
}

// try runs systemctl in it.
func (h *host) try(args ...string) (string, error) {
	if h.pid == 0 {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-a", "systemctl"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (h *host) systemctl(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (h *host) property(name string) string {
	h.t.Helper()
	return h.systemctl("show", "-P", name, "app")
}

// kill sends a signal to the main process, whoever that is.
func (h *host) kill(sig string) { h.systemctl("kill", "--kill-whom=main", "-s", sig, "app") }

// next waits until another process than main is the main one, and the service is up.
func (h *host) next(main string) string {
	h.t.Helper()
	h.until("another main process", func() bool {
		now := h.property("MainPID")
		return now != main && now != "0" && h.property("ActiveState") == "active"
	})
	return h.property("MainPID")
}

func (h *host) count(text string) int { return strings.Count(h.log(), text) }

func (h *host) load() *loadtest.Load {
	h.t.Helper()
	load, err := loadtest.Start(context.Background(), loadtest.Plan{Target: h.addr, Mix: fewer, Duration: time.Hour, Timeout: eventually})
	if err != nil {
		h.t.Fatal(err)
	}
	load.Await(500)
	return load
}

const unitConfig = `
[supervisor]
pidfile = "/run/app/supervisor.pid"
[pool.web]
command = ["/run/boot/app", "serve"]
bind = ["ADDR"]
workers = 2
[pool.web.env]
APP_DEBUG = "1"
[pool.second]
command = ["/run/boot/app", "serve"]
bind = ["127.0.0.1:0"]
`

// The unit of etc/, in its sandbox: whatever is done to it, no request is lost.
func TestUnitUnderLoad(t *testing.T) {
	h := bootSystemd(t, unitConfig, "WatchdogSec=10s\n")
	h.systemctl("start", "app")
	// Not the log: its lines come a moment later.
	if status := h.property("StatusText"); !strings.HasPrefix(status, "3/3 workers, generation 1") {
		t.Errorf("systemctl start returned, and the status is %q", status)
	}
	load := h.load()
	main := h.property("MainPID")

	h.systemctl("reload", "app")
	h.until("generation 2 in the status", func() bool { return strings.HasPrefix(h.property("StatusText"), "3/3 workers, generation 2") })
	load.Await(300)

	h.configure("[pool.web]\ncommand = 3\n")
	h.systemctl("reload", "app")
	h.until("the failed reload in the status", func() bool {
		status := h.property("StatusText")
		return strings.HasPrefix(status, "3/3 workers, generation 2") && strings.Contains(status, "reload failed: ") && strings.Contains(status, "command")
	})
	if state, now := h.property("ActiveState"), h.property("MainPID"); state != "active" || now != main {
		t.Errorf("after a failed reload: %s, main process %s, was %s", state, now, main)
	}
	h.configure(unitConfig)
	load.Await(300)

	for i := range 2 {
		h.kill("USR2")
		main = h.next(main)
		h.until("the old supervisor has left", func() bool { return h.count("this supervisor leaves") == i+1 })
		load.Await(300)
	}
	program := string(readFile(t, app()))
	replace(t, filepath.Join(h.dir, "app"), string(readFile(t, need(t, "false")))) // half a deploy, of which those that follow start nothing
	for i := range pick(2, 10) {
		h.kill("KILL")
		main = h.next(main)
		h.until("the next one has replaced the workers", func() bool {
			return h.count("the supervisor before us died") == i+1 && strings.HasPrefix(h.property("StatusText"), fmt.Sprintf("3/3 workers, generation %d", 5+i))
		})
		load.Await(300)
		h.systemctl("reset-failed", "app") // it counts starts in a minute
	}
	replace(t, filepath.Join(h.dir, "app"), program)
	h.kill("STOP")
	h.next(main)
	load.Await(300)
	h.systemctl("reload", "app") // the one in charge now
	load.Await(300)
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}

	h.systemctl("stop", "app")
	if state, result := h.property("ActiveState"), h.property("Result"); state != "inactive" || result != "success" {
		t.Errorf("after the stop: %s, %s", state, result)
	}
	if left := h.property("ControlGroup"); left != "" {
		procs, _ := exec.Command("nsenter", "-t", strconv.Itoa(h.pid), "-a", "cat", "/sys/fs/cgroup"+left+"/cgroup.procs").Output()
		if len(procs) > 0 {
			t.Errorf("processes left: %s", procs)
		}
	}
}

// The first connection starts the service; what systemd holds outlives a stop.
func TestSocketUnitStartsTheService(t *testing.T) {
	h := bootSystemd(t, `
[pool.web]
command = ["/run/boot/app", "serve"]
bind = ["web=systemd:web"]
`, "")
	h.systemctl("start", "app.socket")
	ask := func() {
		t.Helper()
		resp, err := (&http.Client{Timeout: eventually}).Get("http://" + h.addr + "/health/live")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status %s", resp.Status)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	ask()
	h.until("the service is up", func() bool { return h.property("ActiveState") == "active" })
	h.kill("KILL")
	h.next(h.property("MainPID"))
	ask()
	h.systemctl("stop", "app")
	ask()
}

// What trying again would not help is not tried again.
func TestUnitWithABadConfigurationIsNotRestarted(t *testing.T) {
	h := bootSystemd(t, "[pool.web]\ncommand = 3\n", "")
	if out, err := h.try("start", "app"); err == nil {
		t.Errorf("started: %s", out)
	}
	if code, restarts := h.property("ExecMainStatus"), h.property("NRestarts"); code != "78" || restarts != "0" {
		t.Errorf("status %s, %s restarts", code, restarts)
	}
}

// The unit as it is written, checked by systemd itself.
func TestUnitsAreValid(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd is not installed: run `make deps`")
	}
	dir := t.TempDir()
	for _, name := range []string{"app.service", "app.socket"} {
		text := strings.ReplaceAll(string(readFile(t, "../../etc/"+name)), "/usr/local/bin/supervisor", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(verify, "verify", "--man=no", filepath.Join(dir, "app.service"), filepath.Join(dir, "app.socket")).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// freePort gives a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
