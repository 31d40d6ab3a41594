package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// eventually bounds every wait: long enough for a machine with both cores busy, never waited out by a green run.
const eventually = 90 * time.Second

// proving reports whether this is `make prove`: the same stories, longer.
func proving() bool { return os.Getenv("PROVE") != "" }

// pick gives the short or the long form of a number.
func pick(short, long int) int {
	if proving() {
		return long
	}
	return short
}

var bin string // the directory of the built programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "e2e")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin = dir
		// The programs as people get them, without the race detector: the packages' own tests have it.
		build := exec.Command("go", "build", "-o", dir, "supervisor/cmd/supervisor", "supervisor/cmd/app")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// server is a supervisor in a process of its own.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	env    []string
	logEnd *os.File // the end of its stderr that is written to
	pid    int      // of the supervisor in charge: another one after a self-upgrade
	addr   string   // of the first bind

	mu    sync.Mutex
	log   []string
	grown *sync.Cond
	ended bool
	err   error
	done  chan struct{}
}

// start runs the supervisor with these arguments and environment until the test ends.
func start(t *testing.T, env []string, args ...string) *server {
	t.Helper()
	s := launch(t, env, args...)
	s.awaitAddress()
	return s
}

func (s *server) awaitAddress() {
	s.t.Helper()
	line := s.await(`listening .*"address": "([^"]*)"`, 1)
	s.addr = regexp.MustCompile(`"address": "([^"]*)"`).FindStringSubmatch(line)[1]
}

// launch is start without waiting for an address.
func launch(t *testing.T, env []string, args ...string) *server {
	t.Helper()
	return launchIn(t, nil, env, args...)
}

// launchIn is launch behind a command that becomes another one, as in `nice supervisor …`.
func launchIn(t *testing.T, wrapper, env []string, args ...string) *server {
	t.Helper()
	return launchProgram(t, append(slices.Clone(wrapper), filepath.Join(bin, "supervisor")), env, args...)
}

// launchProgram is launch of another supervisor than the built one.
func launchProgram(t *testing.T, program, env []string, args ...string) *server {
	t.Helper()
	s := launchKept(t, program, env, args...)
	s.logEnd.Close() // the log ends with the last process that writes to it
	return s
}

// launchKept is launchProgram with a log that ends in cleanup.
func launchKept(t *testing.T, program, env []string, args ...string) *server {
	t.Helper()
	s := &server{t: t, env: env, done: make(chan struct{})}
	s.grown = sync.NewCond(&s.mu)
	argv := append(slices.Clone(program), args...)
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Env = append(cleanEnv(), env...)
	s.cmd.Stdout = nil
	stderr, writeEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr, s.logEnd = writeEnd, writeEnd
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = s.cmd.Process.Pid
	go s.read(stderr)
	t.Cleanup(s.cleanup)
	return s
}

// cleanEnv is our environment without what would change the programs' settings.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		switch name {
		case "REDIS_URL", "TASK_BROKER_URL", "TASK_RESULT_BACKEND", "ENABLE_BACKGROUND_TASKS", "WORKERS", "WORKER_TIMEOUT",
			"MAX_REQUESTS", "MAX_REQUESTS_JITTER", "GRACEFUL_TIMEOUT", "KEEPALIVE", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR":
			return true
		}
		return strings.HasPrefix(name, "SUPERVISOR_") || strings.HasPrefix(name, "APP_")
	})
}

func (s *server) read(stderr io.Reader) {
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		s.mu.Lock()
		if line != "" {
			s.log = append(s.log, strings.TrimRight(line, "\n"))
		}
		s.grown.Broadcast()
		s.mu.Unlock()
		if err != nil {
			break
		}
	}
	err := s.cmd.Wait()
	s.mu.Lock()
	s.ended, s.err = true, err
	s.grown.Broadcast()
	s.mu.Unlock()
	close(s.done)
}

func (s *server) cleanup() {
	syscall.Kill(s.pid, syscall.SIGQUIT)
	s.logEnd.Close()
	select {
	case <-s.done:
	case <-time.After(eventually):
		s.t.Error("the supervisor does not stop")
		syscall.Kill(s.pid, syscall.SIGKILL)
		<-s.done
	}
	if s.t.Failed() {
		s.mu.Lock()
		defer s.mu.Unlock()
		lines := s.log
		if len(lines) > 400 {
			lines = append(append(lines[:100:100], "…"), lines[len(lines)-300:]...)
		}
		s.t.Log("the supervisor's log:\n" + strings.Join(lines, "\n"))
	}
}

// await waits until the n-th line of the log matches and gives it.
func (s *server) await(pattern string, n int) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	timer := time.AfterFunc(eventually, func() { s.grown.Broadcast() })
	defer timer.Stop()
	deadline := time.Now().Add(eventually)
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, next := 0, 0
	for {
		for ; next < len(s.log); next++ {
			if re.MatchString(s.log[next]) {
				if seen++; seen == n {
					return s.log[next]
				}
			}
		}
		if s.ended || !time.Now().Before(deadline) {
			s.t.Fatalf("log line %q came %d times, want %d (ended: %v)", pattern, seen, n, s.ended)
		}
		s.grown.Wait()
	}
}

// count gives how many lines of the log match.
func (s *server) count(pattern string) int {
	re := regexp.MustCompile(pattern)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, line := range s.log {
		if re.MatchString(line) {
			n++
		}
	}
	return n
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// reload sends HUP and waits for the verdict.
func (s *server) reload() {
	s.t.Helper()
	n := s.count("reload done")
	s.signal(syscall.SIGHUP)
	s.await("reload done", n+1)
}

// wait gives the exit code.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.done:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(eventually):
		s.t.Fatal("the supervisor does not end")
		return -1
	}
}

// get asks once on a connection of its own.
func (s *server) get(path string) (*http.Response, []byte) {
	s.t.Helper()
	return s.do("GET", path, nil)
}

func (s *server) do(method, path string, body []byte) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.addr+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: eventually}).Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, answer
}

// health asks the worker that answers who it is.
func (s *server) health() (h struct {
	Status            string  `json:"status"`
	WorkerID          string  `json:"worker_id"`
	PID               int     `json:"pid"`
	Uptime            float64 `json:"uptime"`
	ActiveConnections int     `json:"active_connections"`
	Generation        int     `json:"generation"`
}) {
	s.t.Helper()
	_, body := s.get("/health/worker")
	if err := json.Unmarshal(body, &h); err != nil {
		s.t.Fatalf("%s: %v", body, err)
	}
	return h
}

// children gives the pids of the supervisor's child processes.
func (s *server) children() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		var pid, parent int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		var state string
		if fmt.Sscan(rest, &state, &parent); parent == s.pid && state != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// write makes a file in the test's directory and gives its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func app() string { return filepath.Join(bin, "app") }

// need gives the path of a program that `make deps` installs.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: run `make deps`", name)
	}
	return path
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// thumbnail sends a photograph and checks that a smaller JPEG comes back.
func (s *server) thumbnail(photo []byte) error {
	resp, err := http.Post("http://"+s.addr+"/images?width=64", "image/jpeg", bytes.NewReader(photo))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	thumb, err := jpeg.Decode(resp.Body)
	if err != nil {
		return err
	}
	if b := thumb.Bounds(); b.Dx() != 64 {
		return fmt.Errorf("thumbnail is %v, want a width of 64", b)
	}
	return nil
}

// awaitEnd waits until a process that is not our child is gone.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

func startLoad(t *testing.T, s *server, mix loadtest.Mix) *loadtest.Load {
	t.Helper()
	load, err := loadtest.Start(t.Context(), loadtest.Plan{Target: s.addr, Mix: mix, Duration: 30 * time.Minute, Timeout: eventually})
	if err != nil {
		t.Fatal(err)
	}
	return load
}

func mustBeClean(t *testing.T, load *loadtest.Load) {
	t.Helper()
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
}
