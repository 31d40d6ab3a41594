package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fds gives how many descriptors a process has open.
func fds(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Every kind of dump, under load, from 20 clients at once, of each worker and of the supervisor: no request is lost, nobody is replaced.
func TestDumpUnderLoad(t *testing.T) {
	c := configured(t, webPool("workers = 2"))
	load := startLoad(t, c.server, everybody)
	load.Await(200)
	dir := t.TempDir()
	c.ctl("dump", "web.0").is(t, 0, "fasthttp.(*Server).Serve")
	c.ctl("dump").is(t, 0, "supervisor.(*Supervisor).Run")
	for _, kind := range [][]string{{"--heap"}, {"--allocs"}, {"--cpu", "500ms"}} {
		file := filepath.Join(dir, strings.TrimPrefix(kind[0], "--"))
		c.ctl(append([]string{"dump", "web.1", "-o", file}, kind...)...).is(t, 0, " of web.1.2: go tool pprof "+file)
		out, err := exec.Command("go", "tool", "pprof", "-top", file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "flat%") {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		if cpu := kind[0] == "--cpu"; cpu != strings.Contains(string(out), "Type: cpu") || cpu != strings.Contains(string(out), "Duration: ") {
			t.Errorf("%s: %s", kind, out)
		}
	}
	var clients sync.WaitGroup
	busy, taken := make(chan bool, 20), make(chan bool, 20)
	for i := range 20 {
		clients.Go(func() {
			args := [][]string{{"dump", "web.0"}, {"dump", "web.1", "--heap"}, {"dump", "--allocs"}, {"dump", "web.0", "--cpu", "300ms"}}[i%4]
			s := c.ctl(append(args, "-o", filepath.Join(dir, fmt.Sprint(i)))...)
			switch {
			case s.code == 0:
				taken <- true
			case i%4 == 3:
				s.is(t, 1, "there can be one at a time")
				busy <- true
			default:
				t.Errorf("%+v", s)
			}
		})
	}
	clients.Wait()
	if len(taken) < 16 || len(taken)+len(busy) != 20 {
		t.Errorf("%d taken, %d busy", len(taken), len(busy))
	}
	load.Await(200)
	mustBeClean(t, load)
	c.ctl("status").is(t, 0, "2 of 2 ready")
	if n := c.count("worker starts"); n != 2 {
		t.Errorf("%d workers were started", n)
	}
}

// A file is written only when all of it has come, and none is overwritten unless it was named; nothing binary reaches a terminal.
func TestDumpFiles(t *testing.T) {
	t.Parallel()
	c := configured(t, webPool(""))
	dir := t.TempDir()
	in := func(line string) said {
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(line, "ctl", filepath.Join(bin, "supervisor")+" ctl -c "+c.file))
		cmd.Dir, cmd.Env = dir, cleanEnv()
		out, _ := cmd.CombinedOutput()
		return said{cmd.ProcessState.ExitCode(), string(out), ""}
	}
	in("ctl dump web.0 --heap").is(t, 0, "heap of web.0.1: go tool pprof web.0.1-heap.pprof")
	in("ctl dump web --heap").is(t, 0, "go tool pprof web.0.1-heap-2.pprof")
	in("ctl dump --cpu 10ms --json").is(t, 0, `"file": "supervisor-cpu.pprof"`)
	in("ctl dump web.0 --heap -o - | gzip -t && echo good").is(t, 0, "good")
	in("ctl dump web.0 -o stacks && cat stacks").is(t, 0, "goroutine 1 [")
	in("script -qec 'ctl dump web.0 --heap -o -' /dev/null").is(t, 64, "nothing for a terminal")
	in("ctl dump web.0 --cpu 10m -t 1s").is(t, 75, "--timeout is over: the profile was given up")
	in("ls").is(t, 0, "stacks\nsupervisor-cpu.pprof\nweb.0.1-heap-2.pprof\nweb.0.1-heap.pprof\n")
	in("cd /proc && ctl dump web.0 --heap").is(t, 1, "supervisor ctl: open web.0.1-heap.pprof: ")
}

// Clients that are killed in the middle of a profile leave no profile and no descriptor behind, here and there.
func TestDumpThatIsKilled(t *testing.T) {
	c := configured(t, webPool(""))
	worker := c.children()[0]
	c.ctl("dump", "web.0").is(t, 0, "goroutine ")
	here, there := fds(t, c.pid), fds(t, worker)
	for range 3 {
		cmd := exec.Command(filepath.Join(bin, "supervisor"), "ctl", "-c", c.file, "dump", "web.0", "--cpu", "10m")
		cmd.Dir, cmd.Env = t.TempDir(), cleanEnv()
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stderr.Read(make([]byte, 100)) // it has begun
		cmd.Process.Kill()
		cmd.Wait()
		for deadline := time.Now().Add(eventually); ; time.Sleep(5 * time.Millisecond) {
			if s := c.ctl("dump", "web.0", "--cpu", "10ms", "-o", "/dev/null"); s.code == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the profile of one that is gone goes on")
			}
		}
	}
	for deadline := time.Now().Add(eventually); fds(t, c.pid) > here || fds(t, worker) > there; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("descriptors: %d and %d, were %d and %d", fds(t, c.pid), fds(t, worker), here, there)
		}
	}
}

// A stopped worker, a foreign one, a dead one, and one that drains.
func TestDumpOfOddWorkers(t *testing.T) {
	t.Parallel()
	c := configured(t, webPool("workers = 2\nheartbeat_timeout = 0")+"[pool.foreign]\ncommand = [\"sleep\", \"1000\"]\n")
	who := func(name string) int {
		t.Helper()
		out := c.ctl("status").out
		m := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(name) + `\.\d+ +(\d+) `).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no %s: %s", name, out)
		}
		pid := 0
		fmt.Sscan(m[1], &pid)
		return pid
	}
	foreign, stopped := who("foreign.0"), who("web.1")
	c.ctl("dump", "foreign").is(t, 1, fmt.Sprintf("does not use pkg/worker and cannot be asked for a profile; if it is a Go program, kill -QUIT %d", foreign))
	syscall.Kill(stopped, syscall.SIGSTOP)
	c.ctl("dump", "web.1", "--heap", "-o", "/dev/null").is(t, 1, fmt.Sprintf("worker web.1.2 (pid %d) does not answer: it is stopped (SIGSTOP); kill -CONT %d", stopped, stopped))
	syscall.Kill(stopped, syscall.SIGCONT)
	c.ctl("dump", "web.1").is(t, 0, "goroutine ")

	slow := dial(t, c.addr)
	fmt.Fprintf(slow, "GET /debug/sleep?ms=600000 HTTP/1.1\r\nHost: x\r\n\r\n")
	var name string
	for deadline := time.Now().Add(eventually); name == ""; time.Sleep(5 * time.Millisecond) {
		for _, w := range []string{"web.0.1", "web.1.2"} {
			if strings.Contains(c.ctl("dump", w).out, "debugSleep") {
				name = w
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody sleeps")
		}
	}
	c.ctl("recycle", name, "--wait=false").is(t, 0, "1 worker to be replaced")
	c.await(`worker drains .*"worker": "`+name+`"`, 1)
	c.ctl("dump", name).is(t, 0, "debugSleep")
	slot := name[:strings.LastIndexByte(name, '.')]
	if s := c.ctl("dump", slot); s.code != 0 || strings.Contains(s.out, "debugSleep") {
		t.Errorf("its successor: %+v", s)
	}
	victim := who(slot)
	syscall.Kill(victim, syscall.SIGKILL)
	c.await("worker died", 1)
	c.ctl("dump", slot+".3").is(t, 64, "there is no worker "+slot+".3; there is ")
	if who("foreign.0") != foreign {
		t.Error("the foreign one was replaced")
	}
}
