package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tinyModule makes a Go module with a worker that answers with a word, and gives its directory.
func tinyModule(t *testing.T) (dir string, save func(declaration string)) {
	t.Helper()
	dir = t.TempDir()
	put := func(name, text string) {
		t.Helper()
		new := write(t, "new", text) // and then in one step: a slow machine must not build what is half written
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.Rename(new, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	put("go.mod", "module tiny\n\ngo 1.26\n")
	put("cmd/app/main.go", `package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ln, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		panic(err)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() { <-term; ln.Close() }()
	notify, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		panic(err)
	}
	fmt.Fprint(notify, "READY=1")
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		for in := bufio.NewScanner(conn); in.Scan() && in.Text() != ""; {
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(word), word)
		conn.Close()
	}
}
`)
	save = func(declaration string) { put("cmd/app/word.go", "package main\n\n"+declaration+"\n") }
	return dir, save
}

// noNetwork is what go build has in these tests.
var noNetwork = []string{"GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off"}

func develop(t *testing.T, dir string, args ...string) *server {
	t.Helper()
	return launchIn(t, []string{need(t, "env"), "-C", dir}, noNetwork, append([]string{"--reload", "-b", "127.0.0.1:0"}, args...)...)
}

// The working day of somebody who writes code: what is saved answers; what does not compile is shown, and the code before it answers on; nobody who
// asks meanwhile is turned away.
func TestDevelopment(t *testing.T) {
	t.Parallel()
	dir, save := tinyModule(t)
	save(`const word = one`) // not even the first one compiles
	s := develop(t, dir, "--", "bin/app")
	s.await(`--reload: watching 3 directories for .*; built with go build -o bin/app ./cmd/app$`, 1)
	s.await(`^cmd/app/word.go:3:14: undefined: one$`, 1)
	s.await(`^━━ nothing runs yet: save a file to try again, Ctrl-C to give up ━`, 1)
	save(`const word = "one"`)
	s.awaitAddress()
	s.await("pool serves", 1)
	answers := func(want string) { // for a moment the one before, which shares the socket, may be faster
		t.Helper()
		for deadline := time.Now().Add(eventually); ; time.Sleep(5 * time.Millisecond) {
			resp, body := s.get("/")
			if resp.StatusCode == 200 && string(body) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d %q, want %q", resp.StatusCode, body, want)
			}
		}
	}
	answers("one")

	stop := make(chan struct{})
	var visitors sync.WaitGroup
	visitors.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if resp, body := s.get("/"); resp.StatusCode != 200 {
				t.Errorf("%d %s", resp.StatusCode, body)
				return
			}
		}
	})
	save(`const word = "two"`)
	s.await("generation 2 is in force$", 1)
	answers("two")
	save(`const word = "thr`)
	s.await(`^━━ go build -o bin/app ./cmd/app: exit status 1, after .* ━`, 2)
	s.await(`^cmd/app/word.go:3:\d+: .*(newline in string|string literal not terminated)`, 1)
	s.await(`^━━ the old code serves on: save a file to try again ━`, 1)
	answers("two")
	save(`const word = "three"`)
	s.await("generation 3 is in force$", 1)
	answers("three")
	save("const word = \"four\"\n\nfunc init() { panic(\"out of luck\") }") // it compiles, and does not start
	s.await(`^━━ the reload failed ━`, 1)
	s.await(`^reload failed, nothing changed: .*out of luck`, 1)
	answers("three")
	save(`const word = "five"`)
	s.await("is in force$", 3)
	answers("five")
	close(stop)
	visitors.Wait()
	s.signal(syscall.SIGINT)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Who stops it while nothing is built yet stops the build, too. A file is enough to have a build of one's own.
func TestDevelopmentIsStopped(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		dir := t.TempDir()
		file := filepath.Join(dir, "c.toml")
		text := "[pool.web]\ncommand = [\"./app\"]\n[dev]\nreload = true\nbuild = [\"sh\", \"-c\", \"echo $$ > pid; exec sleep 1000\"]\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s := launchIn(t, []string{need(t, "env"), "-C", dir}, nil, "-c", "c.toml")
		var pid int
		for deadline := time.Now().Add(eventually); pid == 0; time.Sleep(5 * time.Millisecond) {
			if text, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
				fmt.Sscan(string(text), &pid)
			}
			if time.Now().After(deadline) {
				t.Fatal("nothing is built")
			}
		}
		s.signal(sig)
		if code := s.wait(); code != 0 {
			t.Errorf("%v: exit code %d", sig, code)
		}
		awaitEnd(t, pid)
	}
}

// The kernel's limit is said with what to do, at the start and while it runs. A user namespace has limits of its own.
func TestDevelopmentAtTheLimitOfWatches(t *testing.T) {
	t.Parallel()
	limited := func(limit string) []string {
		return []string{"unshare", "--user", "--map-root-user", "sh", "-c", "echo " + limit + ` && exec "$@"`, "sh"}
	}
	if out, err := exec.Command("unshare", append(limited("5 > /proc/sys/user/max_inotify_watches")[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no user namespaces here: %s", out)
	}
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755)
	begin := func(limit string) *server {
		return launchIn(t, append(limited(limit), "env", "-C", dir), nil, "--reload", "--build", "true", "--ready", "exec", "--", "sleep", "1000")
	}
	s := begin("2 > /proc/sys/user/max_inotify_watches")
	s.await("supervisor: --reload: the kernel's limit of inotify watches is reached at a/b, after 2 directories .*: raise it, as in sysctl fs.inotify.max_user_watches=524288, or leave", 1)
	if code := s.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	s = begin("0 > /proc/sys/user/max_inotify_instances")
	s.await("the kernel's limit of inotify instances is reached", 1)
	s.wait()
	s = begin("5 > /proc/sys/user/max_inotify_watches")
	s.await("pool serves", 1)
	os.MkdirAll(filepath.Join(dir, "d/e"), 0o755)
	s.await("━━ not everything is watched ━", 1)
	s.await("^the kernel's limit of inotify watches is reached at d", 1)
	if err := os.WriteFile(filepath.Join(dir, "a/x.go"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.await("supervisor: a/x.go has changed: building", 1)
	s.await("generation 2 is in force", 1)
	if n := s.count("not everything is watched"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// Under a holder or systemd it works, and says whom it is for; without --reload nothing is watched.
func TestDevelopmentElsewhere(t *testing.T) {
	t.Parallel()
	args := []string{"--ready", "exec", "--", "sleep", "1000"}
	s := launch(t, nil, append([]string{"--holder", "--reload", "--build", "true"}, args...)...)
	s.await("--reload is for development", 1)
	s.await("pool serves", 1)
	s = launch(t, nil, args...)
	s.await("pool serves", 1)
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.pid))
	for _, link := range links {
		if target, _ := os.Readlink(link); strings.Contains(target, "inotify") {
			t.Error("it watches files")
		}
	}
	if len(links) == 0 {
		t.Error("no descriptors at all")
	}
}
