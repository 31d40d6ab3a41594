package holder

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/sdnotify"
)

// The test binary is the holder, and the supervisors that it holds: what they do is named by their first argument. All of them write lines
// on the holder's stdout.

const envRole = "HOLDER_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "holder":
		os.Setenv(envRole, "supervisor")
		args, _ := Wanted(os.Args)
		os.Exit(Run(args))
	default:
		Settle()
		supervisors[os.Args[1]]()
	}
}

const eventually = time.Minute

func fact(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func die(sig syscall.Signal) {
	unix.Kill(os.Getpid(), sig)
	select {}
}

func notify(state string, fds ...int) {
	if err := sdnotify.Send(os.Getenv("NOTIFY_SOCKET"), state, fds...); err != nil {
		fact("notify: %v", err)
	}
}

// worked waits until the holder has worked off what was sent.
func worked() {
	if err := sdnotify.Barrier(os.Getenv("NOTIFY_SOCKET"), eventually); err != nil {
		fact("barrier: %v", err)
	}
}

// again starts this binary once more, in another role.
func again(role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fact("start: %v", err)
	}
	return cmd
}

// untilTerm stays until TERM.
func untilTerm() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	Listening()
	fact("ready %d", os.Getpid())
	<-c
}

// untilQuit tells every signal, until QUIT.
func untilQuit() {
	c := make(chan os.Signal, 64)
	signal.Notify(c, forwarded...)
	Listening()
	fact("ready %d", os.Getpid())
	for sig := range c {
		fact("got %s", unix.SignalName(sig.(syscall.Signal)))
		if sig == unix.SIGQUIT {
			return
		}
	}
}

var supervisors = map[string]func(){
	"exit":  func() { code, _ := strconv.Atoi(os.Args[2]); os.Exit(code) },
	"panic": func() { fact("started"); panic("on purpose") },
	"killed": func() {
		fact("started")
		die(syscall.SIGKILL)
	},
	"stay": untilTerm,
	"deaf": func() {
		signal.Ignore(unix.SIGTERM)
		fact("deaf %d", os.Getpid())
		select {}
	},
	"signals": untilQuit,
	// Dies before it listens to signals, and so does the next one; the third is there to stay.
	"late": func() {
		n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		if n == 2 {
			untilQuit()
			return
		}
		notify(fmt.Sprintf("FDSTORE=1\nFDNAME=%d", n), 0)
		worked()
		if n == 0 {
			fact("deaf")
			io.ReadFull(os.Stdin, make([]byte, 1))
		}
		die(unix.SIGKILL)
	},
	// Stores a listener, a pipe twice, and something that it removes again; dies; answers on the listener when it is back.
	"store": func() {
		if os.Getenv("LISTEN_FDS") == "" {
			l, _ := net.Listen("tcp", "127.0.0.1:0")
			f, _ := l.(*net.TCPListener).File()
			r, w, _ := os.Pipe()
			notify("FDSTORE=1\nFDNAME=supervisor.0", int(f.Fd()))
			for range 2 {
				notify("FDSTORE=1\nFDNAME=supervisor.1", int(r.Fd()), int(w.Fd()))
			}
			notify("FDSTORE=1\nFDNAME=gone", int(r.Fd()))
			notify("FDSTORE=1\nFDNAME=no:name", int(r.Fd()))
			notify("FDSTOREREMOVE=1\nFDNAME=gone")
			fact("address %s", l.Addr())
			io.ReadFull(os.Stdin, make([]byte, 1))
			die(syscall.SIGKILL)
		}
		fact("fds %s names %s own %v", os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"), os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()))
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err != nil {
			fact("listener: %v", err)
		}
		conn, _ := l.Accept()
		fmt.Fprint(conn, "served")
		os.NewFile(5, "w").Write([]byte("piped"))
		piped := make([]byte, 5)
		io.ReadFull(os.NewFile(4, "r"), piped)
		fact("%s", piped)
	},
	"sockets": func() {
		fact("fds %s names %s own %v", os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"), os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()))
	},
	"orphans": func() {
		n, _ := strconv.Atoi(os.Args[2])
		// Each loses its parent, a subshell that does not wait for it.
		out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done", n)).CombinedOutput()
		fact("made %d %s %v", n, out, err)
		untilTerm()
	},
	// One that upgrades itself: its successor announces itself, and it exits at once.
	"upgrade": func() {
		successor := again("successor")
		fact("successor %d", successor.Process.Pid)
		worked() // its exit follows the announcement as closely as can be
		io.ReadFull(os.Stdin, make([]byte, 1))
	},
	"successor": func() {
		notify("MAINPID=" + strconv.Itoa(os.Getpid()) + "\nREADY=1")
		unix.Kill(os.Getppid(), unix.SIGKILL) // whoever reads deaths before announcements restarts it
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGHUP)
		fact("announced")
		<-c
		fact("successor got SIGHUP")
		os.Exit(9)
	},
	// One that dies again and again, at last with a successor that announces itself while the next restart is due.
	"mortal": func() {
		n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		if n == 3 {
			again("heir")
			die(unix.SIGKILL)
		}
		notify(fmt.Sprintf("FDSTORE=1\nFDNAME=%d", n), 0)
		worked()
		die(unix.SIGKILL)
	},
	"heir": func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGHUP)
		for strconv.Itoa(os.Getppid()) != os.Getenv(EnvPID) { // until its parent is dead: then the holder is its parent
			time.Sleep(time.Millisecond)
		}
		notify("MAINPID=" + strconv.Itoa(os.Getpid()) + "\nREADY=1")
		<-c
		fact("successor got SIGHUP")
		os.Exit(9)
	},
	// One whose successor dies before it does, and is reaped by it.
	"bereft": func() {
		if os.Getenv("LISTEN_FDS") != "" {
			fact("back")
			return
		}
		notify("FDSTORE=1", 0)
		again("announce").Wait()
	},
	"announce": func() { notify("MAINPID=" + strconv.Itoa(os.Getpid())); worked() },
	"foreign":  func() { notify("MAINPID=1"); notify("MAINPID=rubbish"); worked(); os.Exit(3) },
	"leaves": func() {
		for _, role := range os.Args[2:] {
			cmd := exec.Command(os.Args[0], role)
			cmd.Stdout = os.Stdout
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			cmd.Start()
		}
		io.ReadFull(os.Stdin, make([]byte, 1))
		os.Exit(4)
	},
	"says": func() {
		notify("READY=1\nMAINPID=" + strconv.Itoa(os.Getpid()))
		notify("STATUS=4/4 workers\nX_OWN=1")
		notify("RELOADING=1\nMONOTONIC_USEC=5")
		notify("EXTEND_TIMEOUT_USEC=7")
		notify("FDSTORE=1\nFDNAME=x", 0)
		notify("WATCHDOG=1")
		notify("STOPPING=1")
		worked()
		fact("watchdog %s %q", os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"))
	},
}

// held is a holder in a process of its own.
type held struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu    sync.Mutex
	lines []string // of stdout and stderr
	grown *sync.Cond
	ended bool
}

func hold(t *testing.T, args ...string) *held {
	t.Helper()
	return holdWith(t, func(*exec.Cmd) {}, args...)
}

func holdWith(t *testing.T, prepare func(*exec.Cmd), args ...string) *held {
	t.Helper()
	h := &held{t: t, cmd: exec.Command(os.Args[0], append([]string{Flag}, args...)...)}
	h.grown = sync.NewCond(&h.mu)
	h.cmd.Env = append(os.Environ(), envRole+"=holder")
	prepare(h.cmd)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	h.cmd.Stdout, h.cmd.Stderr = w, w
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			h.mu.Lock()
			h.lines = append(h.lines, lines.Text())
			h.grown.Broadcast()
			h.mu.Unlock()
		}
		h.mu.Lock()
		h.ended = true
		h.grown.Broadcast()
		h.mu.Unlock()
	}()
	t.Cleanup(func() {
		h.killAll()
		h.cmd.Wait()
		if t.Failed() {
			h.mu.Lock()
			t.Log(strings.Join(h.lines, "\n"))
			h.mu.Unlock()
		}
	})
	return h
}

// await waits for a line, and gives what its group matched.
func (h *held) await(pattern string) string {
	h.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.AfterFunc(eventually, func() { h.mu.Lock(); h.ended = true; h.grown.Broadcast(); h.mu.Unlock() })
	defer late.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 0; ; i++ {
		for i >= len(h.lines) {
			if h.ended {
				h.t.Fatalf("no line matches %q", pattern)
			}
			h.grown.Wait()
		}
		if m := re.FindStringSubmatch(h.lines[i]); m != nil {
			return m[len(m)-1]
		}
	}
}

func (h *held) count(pattern string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.lines {
		if ok, _ := regexp.MatchString(pattern, line); ok {
			n++
		}
	}
	return n
}

func (h *held) goOn() { h.stdin.Write([]byte{0}) }

func (h *held) signal(sig syscall.Signal) { h.cmd.Process.Signal(sig) }

// ends waits for the holder's exit status.
func (h *held) ends(want int) {
	h.t.Helper()
	late := time.AfterFunc(eventually, h.killAll)
	defer late.Stop()
	h.mu.Lock()
	for !h.ended { // nobody has the pipe any more
		h.grown.Wait()
	}
	h.mu.Unlock()
	h.cmd.Wait()
	if got := h.cmd.ProcessState.ExitCode(); got != want {
		h.t.Errorf("exit status %d, want %d", got, want)
	}
}

// killAll ends the holder and all below it.
func (h *held) killAll() {
	for _, pid := range visible() {
		for p := pid; p > 1; p = parent(p) {
			if p == h.cmd.Process.Pid {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && unix.Kill(n, 0) == nil
}

func TestWantedLooksOnlyAtItsOwnArguments(t *testing.T) {
	for _, c := range []struct {
		args, rest string
		want       bool
	}{
		{"supervisor -w 4 -- app", "supervisor -w 4 -- app", false},
		{"supervisor --holder -w 4 -- app", "supervisor -w 4 -- app", true},
		{"supervisor -w 4 -- app --holder", "supervisor -w 4 -- app --holder", false},
		{"supervisor --holder -- app --holder", "supervisor -- app --holder", true},
	} {
		rest, ok := Wanted(strings.Fields(c.args))
		if got := strings.Join(rest, " "); got != c.rest || ok != c.want {
			t.Errorf("%s: %s, %v", c.args, got, ok)
		}
	}
}

func TestExitStatusBecomesTheHoldersOwn(t *testing.T) {
	for _, code := range []int{0, 1, 64, 69, 75, 78} {
		h := hold(t, "exit", strconv.Itoa(code))
		h.ends(code)
		if n := h.count(`supervisor \d+ started`); n != 1 {
			t.Errorf("status %d: started %d times", code, n)
		}
	}
}

func TestSixthCrashGivesUp(t *testing.T) {
	for role, code := range map[string]int{"killed": 128 + 9, "panic": 2} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			h := hold(t, role)
			h.ends(code)
			if n := h.count(`^started$`); n != 1+maxRestarts {
				t.Errorf("started %d times", n)
			}
			h.await(`giving up: 5 restarts within 1m0s`)
		})
	}
}

func TestNextSupervisorGetsTheStoredDescriptors(t *testing.T) {
	h := hold(t, "store")
	address := h.await(`address (.*)`)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h.goOn()
	h.await(`was killed by SIGKILL`)
	h.await(`fds 3 names supervisor.0:supervisor.1:supervisor.1 own true`)
	if answer, err := io.ReadAll(conn); string(answer) != "served" {
		t.Errorf("the connection that waited got %q, %v", answer, err)
	}
	h.await(`piped`)
	h.ends(0)
	h.await(`FDNAME="no:name": must be`)
	if h.count("notify:|listener:") > 0 {
		t.Error("see above")
	}
}

func TestSocketsOfASocketUnitComeFirst(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// LISTEN_PID must be the holder's own pid: a shell knows it before it becomes the holder.
	h := holdWith(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{f, f, f}
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web: exec "$0" "$@"`, os.Args[0]}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
	}, "sockets")
	h.await(`fds 2 names web:unknown own true`)
	h.ends(0)
}

func TestSignalsArePassedOn(t *testing.T) {
	h := hold(t, "signals")
	h.await(`ready`)
	for _, sig := range forwarded {
		if sig != unix.SIGQUIT {
			h.signal(sig.(syscall.Signal))
			h.await("got " + unix.SignalName(sig.(syscall.Signal)))
		}
	}
	h.signal(unix.SIGQUIT)
	h.ends(0)
	if n := h.count("got "); n != len(forwarded) {
		t.Errorf("%d signals, want %d", n, len(forwarded))
	}
}

func TestSignalToTheWholeGroupComesOnce(t *testing.T) {
	h := holdWith(t, func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }, "signals")
	h.await(`ready`)
	unix.Kill(-h.cmd.Process.Pid, unix.SIGHUP)
	h.await(`got SIGHUP`)
	h.signal(unix.SIGQUIT)
	h.ends(0)
	if n := h.count("got SIGHUP"); n != 1 {
		t.Errorf("%d times", n)
	}
}

// A reload that is asked for while no supervisor runs, or one that dies before it listens, is for the next one: that goes on with the
// configuration which was in force.
func TestSignalsWaitForTheNextSupervisor(t *testing.T) {
	h := hold(t, "late")
	h.await(`deaf`)
	h.signal(unix.SIGHUP)
	h.signal(unix.SIGUSR1)
	time.Sleep(20 * time.Millisecond) // it holds them back, and says nothing of it
	h.goOn()
	h.await(`restart 2 of 5`)
	h.signal(unix.SIGTTIN)
	for _, sig := range []string{"SIGHUP", "SIGUSR1", "SIGTTIN"} {
		h.await("got " + sig)
	}
	h.signal(unix.SIGQUIT)
	h.ends(0)
}

func TestStopBetweenTwoSupervisors(t *testing.T) {
	h := hold(t, "panic")
	h.await(`restart 4 of 5`)
	h.signal(unix.SIGTERM)
	h.ends(2)
	if n := h.count(`^started$`); n != 4 {
		t.Errorf("started %d times", n)
	}
}

func TestSupervisorThatDiesWhileItStopsIsNotStartedAgain(t *testing.T) {
	h := hold(t, "deaf")
	pid := h.await(`deaf (\d+)`)
	h.signal(unix.SIGTERM)
	h.await(`SIGTERM passed on`)
	n, _ := strconv.Atoi(pid)
	unix.Kill(n, unix.SIGKILL)
	h.ends(128 + int(unix.SIGKILL))
	if n := h.count(`started,`); n != 1 {
		t.Errorf("started %d times", n)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	h := hold(t, "orphans", "10000")
	h.await(`made 10000  <nil>`)
	pid, _ := strconv.Atoi(h.await(`ready (\d+)`))
	zombies := func() (n int) {
		all, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range all {
			stat, _ := os.ReadFile(path)
			_, rest, _ := strings.Cut(string(stat), ") ")
			if f := strings.Fields(rest); len(f) > 1 && f[0] == "Z" && (f[1] == strconv.Itoa(h.cmd.Process.Pid) || f[1] == strconv.Itoa(pid)) {
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
	h.signal(unix.SIGTERM)
	h.ends(0)
}

func TestSuccessorIsFollowed(t *testing.T) {
	h := hold(t, "upgrade")
	h.await(`announced`)
	h.await(`takes over from`)
	h.signal(unix.SIGHUP)
	h.await(`successor got SIGHUP`)
	h.ends(9)
	if n := h.count(`supervisor \d+ started`); n != 1 {
		t.Errorf("started %d times: the death was read before the announcement", n)
	}
}

func TestNobodyIsStartedBesideASuccessor(t *testing.T) {
	h := hold(t, "mortal")
	h.await(`restart 4 of 5 within 1m0s, in 1.6s`)
	h.await(`takes over from 0`)
	h.await(`the next one runs already`)
	h.signal(unix.SIGHUP)
	h.await(`successor got SIGHUP`)
	h.ends(9)
	if n := h.count(`supervisor \d+ started`); n != 4 {
		t.Errorf("started %d times, want 4", n)
	}
}

func TestSuccessorThatDiesFirstIsNoticed(t *testing.T) {
	h := hold(t, "bereft")
	h.await(`supervisor \d+ is gone`)
	h.await(`back`)
	h.ends(0)
}

func TestMainPIDMustBeOurs(t *testing.T) {
	h := hold(t, "foreign")
	h.ends(3)
	if n := h.count(`MAINPID=.* is not a process of ours`); n != 2 {
		t.Errorf("refused %d of 2", n)
	}
}

func TestWhatTheSupervisorLeftEndsWithTheHolder(t *testing.T) {
	h := hold(t, "leaves", "stay", "deaf")
	polite, deaf := h.await(`ready (\d+)`), h.await(`deaf (\d+)`)
	h.goOn()
	h.ends(4)
	h.await(`ending the processes`)
	if alive(polite) || alive(deaf) {
		t.Error("lives on")
	}
}

func TestWhatTheSupervisorSaysGoesUp(t *testing.T) {
	up, err := sdnotify.Listen(fmt.Sprintf("@holder-test/%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	h := holdWith(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+up.Name(), "WATCHDOG_USEC=3000000")
	}, "says")
	var got []string
	for len(got) < 6 {
		m, err := up.Read()
		if err != nil {
			t.Fatal(err)
		}
		if m.PID != h.cmd.Process.Pid || len(m.FDs) > 0 {
			t.Errorf("from %d with %d descriptors", m.PID, len(m.FDs))
		}
		got = append(got, strings.ReplaceAll(m.State, "\n", " "))
	}
	want := []string{"READY=1", "STATUS=4/4 workers", "RELOADING=1 MONOTONIC_USEC=5", "EXTEND_TIMEOUT_USEC=7", "WATCHDOG=1", "STOPPING=1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	h.await(`watchdog 3000000 ""`)
	h.ends(0)
}

func TestMissingProgramIsAnError(t *testing.T) {
	h := holdWith(t, func(cmd *exec.Cmd) { cmd.Args[0] = "/nonexistent/supervisor" }, "exit", "0")
	h.ends(exitNotFound)
	h.await(`find the supervisor: .*/nonexistent/supervisor`)
}
