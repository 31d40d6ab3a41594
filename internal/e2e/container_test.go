package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The supervisor as PID 1, which is the holder. What is done to it is the same with docker and without.

// container is a pid namespace with a holder in it.
type container struct {
	*server
	holder  int    // its pid, as we see it
	program string // the supervisor's file, "": nobody can write there
}

// childrenOf gives the child processes of one that is not ours. Each of its threads has its own.
func childrenOf(pid int) []int {
	var pids []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(word)
			pids = append(pids, child)
		}
	}
	return pids
}

// child gives the one child of a process.
func child(t *testing.T, pid int) int {
	t.Helper()
	for deadline := time.Now().Add(eventually); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if pids := childrenOf(pid); len(pids) > 0 {
			return pids[0]
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// namespaced starts a supervisor as PID 1 of a pid namespace, and nothing more of a container.
func namespaced(t *testing.T, env []string, args ...string) *container {
	t.Helper()
	needRoot(t)
	program := ownSupervisor(t)
	s := launchProgram(t, []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", program}, env, args...)
	holder := child(t, s.pid)
	s.pid = holder // unshare itself takes no signals
	return &container{s, holder, program}
}

// dockered starts one in a container of docker's, of a read-only image, as nobody in particular. docker itself passes signals on.
func dockered(t *testing.T, args ...string) *container {
	t.Helper()
	needRoot(t)
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		t.Skipf("no docker here: %s", bytes.TrimSpace(out))
	}
	dir, image := t.TempDir(), fmt.Sprintf("supervisor-e2e-%d", os.Getpid())
	build := exec.Command("go", "build", "-o", dir, "supervisor/cmd/supervisor", "supervisor/cmd/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	os.WriteFile(filepath.Join(dir, "supervisor.toml"), readFile(t, "../../etc/docker/supervisor.toml"), 0o644)
	if out, err := exec.Command("docker", "build", "-q", "-t", image, "-f", "../../etc/docker/Dockerfile.scratch", dir).CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", image).Run() })
	s := launchProgram(t, []string{
		"docker", "run", "--rm", "--name", image, "--read-only", "--user", "54321:54321", "--network", "host", "--cap-drop", "ALL",
		"-e", "APP_DEBUG=1", "-e", fmt.Sprintf("SUPERVISOR_ADMIN=127.0.0.1:%d", freePort(t)), image,
	}, nil, args...)
	s.await("pool serves", 1)
	out, err := exec.Command("docker", "inspect", "-f", "{{.State.Pid}}", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	holder, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	if out, err := exec.Command("docker", "exec", image, "supervisor", "ctl", "status").CombinedOutput(); err != nil || !strings.Contains(string(out), "pool web: ") {
		t.Errorf("docker exec … supervisor ctl status: %v: %s", err, out)
	}
	return &container{s, holder, ""}
}

// story: everything that replaces a part of it, under load, and then the end.
func (c *container) story(t *testing.T) {
	c.awaitAddress()
	c.await("pool serves", 1)
	load := startLoad(t, c.server, fewer)
	load.Await(500)

	n := c.count("reload done")
	c.signal(syscall.SIGHUP)
	c.await("reload done", n+1)
	load.Await(300)
	for i := range 2 {
		c.signal(syscall.SIGUSR2)
		c.await("this supervisor is in charge", i+1)
		c.await("holder: supervisor .* takes over from", i+1)
		load.Await(300)
	}
	for i := range pick(2, 4) {
		syscall.Kill(c.main(), syscall.SIGKILL)
		c.await("the supervisor before us died", i+1)
		c.await("reload done", n+2+i)
		load.Await(300)
	}
	if c.program != "" {
		replace(t, c.program, "#!/bin/sh\nexit 7\n")
		c.signal(syscall.SIGUSR2)
		c.await("self-upgrade failed, nothing changed.*exit status 7", 1)
		load.Await(300)
	}
	c.orphans(t, pick(2000, 10_000))
	load.Await(300)
	mustBeClean(t, load)

	c.signal(syscall.SIGTERM)
	if code := c.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	awaitEnd(t, c.holder)
	if n := c.count("worker died|worker is killed"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// main finds the supervisor: the holder's child that is the same program.
func (c *container) main() int {
	c.t.Helper()
	for _, pid := range childrenOf(c.holder) {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "supervisor\n" {
			return pid
		}
	}
	c.t.Fatal("the holder has no supervisor")
	return 0
}

// orphans makes processes in the namespace that lose their parent at once, and waits until none of them is left as a zombie.
func (c *container) orphans(t *testing.T, n int) {
	t.Helper()
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done", n)
	if out, err := exec.Command("nsenter", "-t", strconv.Itoa(c.holder), "-p", "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	zombies := func() (n int) {
		for _, pid := range childrenOf(c.holder) {
			if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(stat), ") Z ") {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(eventually); zombies() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d zombies", zombies())
		}
	}
}

func TestHolderAsPID1(t *testing.T) {
	namespaced(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve").story(t)
}

func TestHolderInDocker(t *testing.T) {
	t.Parallel()
	dockered(t, "-w", "2", "-b", "127.0.0.1:0", "--", "/usr/local/bin/app", "serve").story(t)
}

// A supervisor that cannot start says so with its own exit code, through the holder.
func TestExitCodeThroughTheHolder(t *testing.T) {
	for args, want := range map[string]int{"--holder -w 1 -b 127.0.0.1:0 -- /nowhere": 75, "--holder --nonsense": 64} {
		s := launch(t, nil, strings.Fields(args)...)
		if code := s.wait(); code != want {
			t.Errorf("%s: exit status %d, want %d", args, code, want)
		}
	}
}

// The two Dockerfiles differ in where the binaries come from, and in nothing else.
func TestDockerfilesAgree(t *testing.T) {
	const from = "# Any user will do"
	_, one, _ := strings.Cut(string(readFile(t, "../../Dockerfile")), from)
	_, other, _ := strings.Cut(string(readFile(t, "../../etc/docker/Dockerfile.scratch")), from)
	if one == "" || one != other {
		t.Error("Dockerfile and etc/docker/Dockerfile.scratch differ")
	}
}
