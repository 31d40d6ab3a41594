package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
)

func TestSaysHowAWorkerFailedToStart(t *testing.T) {
	for _, c := range []struct{ mode, message, reason string }{
		{"exit:0", "worker exited with status 0 before it was ready", "exit:0"},
		{"exit:1", "worker failed to start", "exit:1"},
		{"hang", "worker never sent READY=1 within boot_timeout", "boot_timeout"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			pool := onPort(testPool(c.mode))
			if c.mode == "hang" {
				pool.BootTimeout = 200 * time.Millisecond
			}
			m := startMaster(t, testConfig(pool))
			m.await(c.message, 1)
			m.look(func() {})
			for _, e := range m.logs.All() {
				if r, ok := e.ContextMap()["reason"]; ok && r != c.reason {
					t.Errorf("%s: reason %v, want %s", e.Message, r, c.reason)
				}
			}
		})
	}
}

func TestSaysHowAReadyWorkerDied(t *testing.T) {
	for mode, reason := range map[string]string{"serve-then-exit:7": "exit:7", "segv": "crash:SIGSEGV", "panic": "crash:panic"} {
		t.Run(mode, func(t *testing.T) {
			m := startMaster(t, testConfig(onPort(testPool(mode))))
			died := m.await("worker died", 1).ContextMap()
			if died["reason"] != reason {
				t.Errorf("reason %v, want %s", died["reason"], reason)
			}
			if words, _ := died["stderr"].(string); mode == "panic" && !strings.HasPrefix(words, "panic: out of luck") {
				t.Errorf("last words %q, want the panic first", words)
			}
			m.await("worker starts", 2) // the first respawn comes at once
		})
	}
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	os.WriteFile(plain, []byte("x"), 0o644)
	for _, command := range []string{"/no/such/worker", plain, "no-such-worker-in-path", dir} {
		t.Run(command, func(t *testing.T) {
			pool := onPort(testPool(""))
			pool.Command = []string{command}
			m := startMaster(t, testConfig(pool))
			cause := m.await("worker command cannot be executed", 1).ContextMap()["cause"].(string)
			if !strings.Contains(cause, command) {
				t.Errorf("cause %q does not name %s", cause, command)
			}
		})
	}
}

// A deploy that is still writing the binary: ETXTBSY passes.
func TestBinaryThatIsBeingWrittenIsTriedAgain(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "worker")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(self)
	pool := onPort(testPool("serve"))
	pool.Command = []string{path}
	m := startMaster(t, testConfig(pool))
	m.await("worker starts", 1)
	time.AfterFunc(100*time.Millisecond, func() { f.Close() })
	m.await("worker ready", 1)
	if n := m.count("cannot be executed"); n > 0 {
		t.Errorf("%d workers failed", n)
	}
}

func TestWorkerThatIgnoresTermIsKilled(t *testing.T) {
	pool := onPort(testPool("ignore-term"))
	pool.GracefulTimeout = 100 * time.Millisecond
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	pid := m.pids()[0]
	m.signal(syscall.SIGTERM)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
	if alive(pid) {
		t.Error("worker lives")
	}
	m.await("worker did not leave within graceful_timeout", 1)
	m.await("worker is killed", 1)
}

func TestFloodOfNotificationsLeavesTheLoopCalm(t *testing.T) {
	pool := onPort(testPool("flood"))
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	for range 50 { // the loop answers all the while
		m.look(func() {})
		mustGet(t, m.addr(), "/")
	}
	before := m.pids()[0]
	m.reload(testConfig(pool), nil)
	m.await("reload done", 1)
	m.until("the flooding worker is gone", func() bool { return len(m.pools[0].leaving) == 0 })
	if alive(before) {
		t.Error("worker lives")
	}
}

func TestWorkerThatClosesItsOutputLivesOn(t *testing.T) {
	m := startMaster(t, testConfig(onPort(testPool("close-stdout"))))
	m.await("pool serves", 1)
	mustGet(t, m.addr(), "/")
	if n := m.count("worker gone") + m.count("worker died"); n > 0 {
		t.Error("worker did not live")
	}
}

func TestWhatAWorkerLeavesBehindGoesWithIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "child")
	m := startMaster(t, testConfig(onPort(testPool("forks:"+file))))
	m.await("worker died", 1)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	child, _ := strconv.Atoi(string(text))
	for deadline := time.Now().Add(eventually); alive(child); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("child %d outlives its worker", child)
		}
	}
}

func TestWorkerSeesOnlyWhatIsMeantForIt(t *testing.T) {
	// What a careless caller leaves to us: descriptors without close-on-exec, systemd's variables, ignored signals.
	leak, err := unix.Open(os.DevNull, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	for name, value := range map[string]string{
		"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "7",
		"LISTEN_FDNAMES": "a:b", "TABLEFLIP_HAS_PARENT_7DIU3": "yes", "FROM_CALLER": "kept", "OVERRIDDEN": "caller",
	} {
		t.Setenv(name, value)
	}
	file := filepath.Join(t.TempDir(), "seen")
	pool := onPort(testPool("environment:" + file))
	pool.Env["OVERRIDDEN"] = "env"
	pool.EnvFromFile = map[string]string{"OVERRIDDEN": "file", "FROM_FILE": "yes"}
	pool.Chdir = "/usr"
	pool.Umask = 0o027
	pool.HeartbeatTimeout = 45 * time.Second
	pool.RlimitNofile = 333
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := string(text)
	pid := strconv.Itoa(m.pids()[0])
	for _, want := range []string{
		"LISTEN_PID=" + pid, "LISTEN_FDS=1", "LISTEN_FDNAMES=web", "WATCHDOG_USEC=45000000", "WATCHDOG_PID=" + pid,
		"FROM_CALLER=kept", "OVERRIDDEN=env", "FROM_FILE=yes", "SUPERVISOR_WORKER=web.0.1", "SUPERVISOR_GENERATION=1", "SUPERVISOR_POOLS=web=1+1", "DIR /usr",
		"GOMAXPROCS=" + strconv.Itoa(machine.Cores()), "Umask:\t0027", "SigBlk:\t0000000000000000",
	} {
		if !strings.Contains(seen, want+"\n") {
			t.Errorf("missing %q", want)
		}
	}
	for _, not := range []string{"TABLEFLIP_", "/run/systemd/notify", "LISTEN_FDS=7", envStub, "OVERRIDDEN=file"} {
		if strings.Contains(seen, not) {
			t.Errorf("%q leaked", not)
		}
	}
	var fds []string
	for line := range strings.Lines(seen) {
		if strings.HasPrefix(line, "FD ") && !strings.Contains(line, "anon_inode") && !strings.Contains(line, "/proc/") && !strings.Contains(line, "/sys/fs/cgroup") /* Go's runtime */ {
			fds = append(fds, strings.TrimSpace(line))
		}
	}
	// 0-2, the socket, control, scoreboard, two ends of the adopt socket.
	if len(fds) != 8 {
		t.Errorf("descriptors: %s", strings.Join(fds, "; "))
	}
	if t.Failed() {
		t.Log(seen)
	}
}

func TestWorkerGetsDefaultSignals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen")
	pool := onPort(testPool(""))
	pool.Command = []string{"/bin/sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status >" + file + "; sleep 60"}
	pool.Ready = config.ReadyExec
	// As under nohup; TTIN is one that Go's runtime leaves alone.
	undo := ignoreForTest(unix.SIGHUP, unix.SIGTTIN, unix.SIGPIPE)
	defer undo()
	m := startMaster(t, testConfig(pool))
	m.await("worker ready", 1)
	var text []byte
	for deadline := time.Now().Add(eventually); !bytes.Contains(text, []byte("SigIgn")) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		text, _ = os.ReadFile(file)
	}
	if !strings.Contains(string(text), "SigIgn:\t0000000000000000") {
		t.Errorf("the worker ignores signals: %s", text)
	}
}

func TestKillNineOfOneWorkerLeavesNothingBehind(t *testing.T) {
	times := 40
	if os.Getenv("PROVE") != "" {
		times = 1000
	}
	pool := onPort(testPool("serve"))
	pool.Workers = 2
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	m.look(func() { m.pools[0].slots[0].failures = 0 })
	kill := func() {
		var pid, ready int
		m.until("both serve", func() bool {
			ready = m.pools[0].readyCount()
			if ready == 2 {
				pid = m.pools[0].slots[0].current.proc.Pid()
				// It lived long enough: this test is not about back-off.
				m.pools[0].slots[0].failures = 0
			}
			return ready == 2
		})
		n := m.count("worker died")
		syscall.Kill(pid, syscall.SIGKILL)
		m.await("worker died", n+1)
	}
	for range 5 {
		kill()
	}
	m.until("both serve", func() bool { return m.pools[0].readyCount() == 2 })
	fds, goroutines := openFDs(t), runtime.NumGoroutine()
	for range times {
		kill()
	}
	m.until("both serve", func() bool { return m.pools[0].readyCount() == 2 })
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		moreFDs, moreGoroutines := openFDs(t)-fds, runtime.NumGoroutine()-goroutines
		if moreFDs <= 0 && moreGoroutines <= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d kills: %d descriptors and %d goroutines more", times, moreFDs, moreGoroutines)
		}
	}
	if z := zombies(t); z > 0 {
		t.Errorf("%d zombies", z)
	}
}

func TestKillNineOfAllRefusesNoConnection(t *testing.T) {
	pool := onPort(testPool("serve"))
	pool.Workers = 3
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	addr := m.addr()
	var refused, answered atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := get(addr, "/")
				if errors.Is(err, syscall.ECONNREFUSED) {
					refused.Add(1)
				}
				if err == nil {
					answered.Add(1)
				}
			}
		})
	}
	for round := range 3 {
		for _, pid := range m.pids() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		m.await("worker died", 3*(round+1))
		n := answered.Load()
		m.until("answers come again", func() bool { return m.pools[0].readyCount() == 3 && answered.Load() > n+20 })
	}
	close(stop)
	clients.Wait()
	if refused.Load() > 0 {
		t.Errorf("%d connections refused", refused.Load())
	}
}

func TestSilentWorkerIsHungButOnlyIfItEverBeat(t *testing.T) {
	pool := onPort(testPool("watchdog"))
	pool.HeartbeatTimeout = 2 * time.Second
	m := startMaster(t, testConfig(pool))
	e := m.await("worker is hung", 1)
	m.await("worker gone", 1)
	if got := m.await("worker gone", 1).ContextMap()["reason"]; got != "heartbeat" {
		t.Errorf("%v: reason %v", e, got)
	}
	never := onPort(testPool("serve"))
	never.HeartbeatTimeout = time.Second
	m = startMaster(t, testConfig(never))
	m.await("pool serves", 1)
	for range 4 {
		n := m.lastTickNumber()
		m.until("a tick", func() bool { return m.lastTick.After(n) })
	}
	if n := m.count("worker is hung"); n > 0 {
		t.Error("a program without beats was judged")
	}
}

func (m *master) lastTickNumber() (at time.Time) {
	m.look(func() { at = m.lastTick })
	return at
}

func TestMemoryOverTheLimitIsRecycled(t *testing.T) {
	pool := onPort(testPool("memory:200"))
	pool.MaxMemory = 100 << 20
	m := startMaster(t, testConfig(pool))
	if got := m.await("worker drains", 1).ContextMap()["reason"]; got != "memory" {
		t.Errorf("reason %v", got)
	}
	if m.count("worker ready") < 2 {
		t.Error("it drained before its replacement was ready")
	}
}

func TestReopenedLogGetsAllThatFollows(t *testing.T) {
	cfg := testConfig(onPort(testPool("usr1")))
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	old := cfg.AccessLog + ".1"
	if err := os.Rename(cfg.AccessLog, old); err != nil {
		t.Fatal(err)
	}
	m.signal(syscall.SIGUSR1)
	m.await("logs reopened", 1)
	for deadline := time.Now().Add(eventually); ; time.Sleep(time.Millisecond) {
		text, _ := os.ReadFile(cfg.AccessLog)
		if strings.Contains(string(text), "reopened") { // the worker handles USR1, so it got it
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing in the new file")
		}
	}
	text, _ := os.ReadFile(old)
	if len(text) > 0 {
		t.Errorf("old file got %q", text)
	}
}

func TestForeignWorkerWithoutHandlerSurvivesUSR1(t *testing.T) {
	m := startMaster(t, testConfig(sleeping(testPool(""))))
	m.await("pool serves", 1)
	pid := m.pids()[0]
	m.signal(syscall.SIGUSR1)
	m.await("logs reopened", 1)
	m.look(func() {})
	if !alive(pid) || m.count("worker died") > 0 {
		t.Error("USR1 killed it")
	}
}

// sleeping makes the workers a program that knows nothing of us.
func sleeping(p *config.Pool) *config.Pool {
	p.Command, p.Ready = []string{"/bin/sleep", "600"}, config.ReadyExec
	return p
}

func TestScaleBySignals(t *testing.T) {
	m := startMaster(t, testConfig(sleeping(testPool(""))))
	m.await("pool serves", 1)
	for i := range 50 {
		m.signal(syscall.SIGTTIN)
		m.await("workers", i+1)
	}
	m.until("51 workers", func() bool { return m.pools[0].readyCount() == 51 })
	for range 60 {
		m.signal(syscall.SIGTTOU)
	}
	m.until("one worker", func() bool { return m.pools[0].readyCount() == 1 && len(m.pools[0].workers()) == 1 })
}

func TestTermTwiceAndThenIntStopsQuickly(t *testing.T) {
	pool := onPort(testPool("serve"))
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	addr := m.addr()
	asked := make(chan error, 1)
	go func() { _, err := get(addr, "/?sleep=60000"); asked <- err }()
	m.until("the request is there", func() bool { return established(t, addr) > 0 })
	m.signal(syscall.SIGTERM)
	m.signal(syscall.SIGTERM)
	m.await("worker drains", 1)
	m.signal(syscall.SIGINT)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("the long request was answered")
	}
	if n := m.count("worker drains"); n != 1 {
		t.Errorf("drained %d times", n)
	}
}

func TestWorkerStoppedFromOutsideIsReplaced(t *testing.T) {
	m := startMaster(t, testConfig(onPort(testPool("serve"))))
	m.await("pool serves", 1)
	syscall.Kill(m.pids()[0], syscall.SIGTERM)
	m.await("worker ready", 2)
	mustGet(t, m.addr(), "/")
}

// established gives how many connections of others are open to the address.
func established(t *testing.T, addr string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(addr, ":")
	n, _ := strconv.Atoi(port)
	return strings.Count(string(text), fmt.Sprintf(":%04X 0100007F:", n))
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// zombies counts our children that nobody reaped.
func zombies(t *testing.T) int {
	t.Helper()
	entries, _ := os.ReadDir("/proc")
	n := 0
	for _, e := range entries {
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if fields[0] == "Z" && fields[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}

// ignoreForTest makes this process ignore signals as its caller might have, behind the back of Go's runtime.
func ignoreForTest(signals ...syscall.Signal) func() {
	var undo []func()
	for _, sig := range signals {
		undo = append(undo, setDisposition(sig, 1))
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}
