//go:build linux

// Package fake is a supervisor for tests: it holds the sockets of one bind, starts worker processes by re-executing the test binary, and
// says to them what a test wants said. It decides nothing by itself.
package fake

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// EnvRole names what a re-executed test binary is to be, see Main.
const EnvRole = "FAKE_WORKER_ROLE"

// Main runs the tests, or the role that a test asked this process to play.
func Main(m *testing.M, roles map[string]func()) {
	name := os.Getenv(EnvRole)
	if name == "" {
		flag.Set("test.parallel", "8") // most tests wait for processes and deadlines
		os.Exit(m.Run())
	}
	os.Unsetenv(EnvRole)
	os.Setenv(protocol.EnvListenPID, strconv.Itoa(os.Getpid())) // the supervisor's exec stub does this
	roles[name]()
	os.Exit(0)
}

var notifySockets atomic.Int64 // names them

// Patience bounds every wait of a test.
const Patience = 20 * time.Second

// Pool is one bind with its listening socket and its adopt pair.
type Pool struct {
	t        testing.TB
	Addr     string
	listener int
	rx, tx   int
	settings scoreboard.Settings
	serial   int
}

// NewPool opens a socket on a free port.
func NewPool(t testing.TB, settings scoreboard.Settings) *Pool {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := &Pool{t: t, Addr: ln.Addr().String(), settings: settings}
	raw, _ := ln.(*net.TCPListener).SyscallConn()
	raw.Control(func(fd uintptr) { p.listener, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 100) })
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.tx, p.rx = pair[0], pair[1]
	t.Cleanup(func() {
		unix.Close(p.listener)
		unix.Close(p.rx)
		unix.Close(p.tx)
	})
	return p
}

// CloseQueue is what a supervisor does before a full stop: no connection enters the queue any more.
func (p *Pool) CloseQueue() { unix.Listen(p.listener, 0) }

// FillAdoptQueue sends messages that nobody can use until the queue is full.
func (p *Pool) FillAdoptQueue() (n int) {
	for unix.Sendto(p.tx, []byte("x"), unix.MSG_DONTWAIT, nil) == nil {
		n++
	}
	return n
}

// Worker is one worker process.
type Worker struct {
	t       testing.TB
	PID     int
	Board   *scoreboard.Reader
	control *os.File
	notify  *net.UnixConn

	mu       sync.Mutex
	stderr   bytes.Buffer
	said     []string // notify datagrams
	commands []string
	news     chan struct{} // one token when something was said
	Exited   chan struct{}
	Status   syscall.WaitStatus // valid once Exited is closed
}

// Options change how a worker is started.
type Options struct {
	Env           []string
	NoBoard       bool
	UnknownBoard  bool // a scoreboard of a version that the worker does not know
	ClosedStdout  bool // stdout and stderr are pipes whose reader is gone
	WithoutListen bool
}

// Start starts a worker in a role.
func (p *Pool) Start(role string, o Options) *Worker {
	p.t.Helper()
	fatal := func(err error) {
		if err != nil {
			p.t.Helper()
			p.t.Fatal(err)
		}
	}
	p.serial++
	w := &Worker{t: p.t, news: make(chan struct{}, 1), Exited: make(chan struct{})}

	control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	fatal(err)
	w.control = os.NewFile(uintptr(control[0]), "control")
	var boardFD int
	w.Board, boardFD, err = scoreboard.Create(p.settings)
	fatal(err)
	if o.UnknownBoard {
		unix.Pwrite(boardFD, []byte{99}, 8)
	}
	name := fmt.Sprintf("@fake-%d-%d", os.Getpid(), notifySockets.Add(1))
	w.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	fatal(err)
	var out [2]int
	fatal(unix.Pipe2(out[:], unix.O_CLOEXEC))

	files := []uintptr{0, uintptr(out[1]), uintptr(out[1])}
	env := append(os.Environ(), o.Env...)
	if !o.WithoutListen {
		files = append(files, uintptr(p.listener))
		env = append(env, protocol.EnvListenFDs+"=1", protocol.EnvListenNames+"=web")
	}
	fds := protocol.FDs{}
	pass := func(name string, fd int) {
		fds[name] = len(files)
		files = append(files, uintptr(fd))
	}
	pass(protocol.FDControl, control[1])
	if !o.NoBoard {
		pass(protocol.FDScoreboard, boardFD)
	}
	pass(protocol.AdoptRx("web"), p.rx)
	pass(protocol.AdoptTx("web"), p.tx)
	env = append(env,
		EnvRole+"="+role,
		protocol.EnvNotifySocket+"="+name,
		protocol.EnvFDs+"="+fds.String(),
		protocol.EnvInstance+"=fake",
		protocol.EnvWorker+"=web.0."+strconv.Itoa(p.serial),
		protocol.EnvGeneration+"=3",
		"GOTRACEBACK=all",
		"GORACE=atexit_sleep_ms=0", // else a worker under the race detector takes a second to exit
	)
	w.PID, err = syscall.ForkExec("/proc/self/exe", []string{os.Args[0]}, &syscall.ProcAttr{Env: env, Files: files})
	fatal(err)
	unix.Close(control[1])
	unix.Close(boardFD)
	unix.Close(out[1])
	stdout := os.NewFile(uintptr(out[0]), "stdout")
	if o.ClosedStdout {
		stdout.Close()
	} else {
		go w.read(stdout)
	}
	go w.listen()
	go w.hear()
	go func() {
		syscall.Wait4(w.PID, &w.Status, 0, nil)
		close(w.Exited)
	}()
	p.t.Cleanup(func() {
		syscall.Kill(w.PID, syscall.SIGKILL)
		<-w.Exited
		w.control.Close()
		w.notify.Close()
		if p.t.Failed() {
			p.t.Logf("worker %d (%v) said %q and wrote:\n%.20000s", w.PID, role, w.Said(), w.Stderr())
		}
	})
	return w
}

func (w *Worker) read(f *os.File) {
	defer f.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		w.note(func() { w.stderr.Write(buf[:n]) })
		if err != nil {
			return
		}
	}
}

func (w *Worker) listen() {
	buf := make([]byte, 4096)
	for {
		n, err := w.notify.Read(buf)
		if err != nil {
			return
		}
		w.note(func() { w.said = append(w.said, string(buf[:n])) })
	}
}

func (w *Worker) hear() {
	buf := make([]byte, protocol.MaxCommand)
	for {
		n, err := w.control.Read(buf)
		if err != nil {
			return
		}
		w.note(func() { w.commands = append(w.commands, string(buf[:n])) })
	}
}

func (w *Worker) note(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// Said gives what the worker sent to its notify socket.
func (w *Worker) Said() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.said...)
}

// Commands gives what the worker sent over its control channel.
func (w *Worker) Commands() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.commands...)
}

// Recycles gives the worker's requests to be replaced.
func (w *Worker) Recycles() (said []string) {
	for _, c := range w.Commands() {
		if strings.HasPrefix(c, protocol.VerbRecycle) {
			said = append(said, c)
		}
	}
	return said
}

// Stderr gives what the worker wrote.
func (w *Worker) Stderr() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stderr.String()
}

// Await waits until ok holds, looking whenever the worker said something (and now and then for what is only in its scoreboard).
func (w *Worker) Await(what string, ok func() bool) {
	w.t.Helper()
	end := time.Now().Add(Patience)
	for !ok() {
		if time.Now().After(end) {
			w.t.Fatalf("worker %d: no %s in %v; it said %q %q\n%.4000s", w.PID, what, Patience, w.Said(), w.Commands(), w.Stderr())
		}
		select {
		case <-w.news:
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// AwaitReady waits for READY=1.
func (w *Worker) AwaitReady() *Worker {
	w.t.Helper()
	w.Await("READY=1", func() bool { return contains(w.Said(), "READY=1") })
	return w
}

// AwaitSaid waits for a line on stderr, a command or a notify datagram that contains the text.
func (w *Worker) AwaitSaid(text string) {
	w.t.Helper()
	w.Await(strconv.Quote(text), func() bool {
		return contains(w.Said(), text) || contains(w.Commands(), text) || strings.Contains(w.Stderr(), text)
	})
}

func contains(list []string, text string) bool {
	for _, s := range list {
		if strings.Contains(s, text) {
			return true
		}
	}
	return false
}

// AwaitExit waits for the end of the process and gives its exit code, -1 for a signal.
func (w *Worker) AwaitExit() int {
	w.t.Helper()
	select {
	case <-w.Exited:
	case <-time.After(Patience):
		w.t.Fatalf("worker %d did not exit; connections %d, running %d\n%.4000s", w.PID, w.Board.Connections(), w.Board.Running(), w.Stderr())
	}
	return w.Status.ExitStatus()
}

// Tell sends a command.
func (w *Worker) Tell(c protocol.Command) {
	w.t.Helper()
	if _, err := w.control.Write(c.Packet()); err != nil {
		w.t.Errorf("tell %v: %v", c, err)
	}
}

// Serve makes the worker serve one end of a fresh connection, and gives the other.
func (w *Worker) Serve(bind string) net.Conn {
	w.t.Helper()
	return w.sendEnd(func(control, conn int) error { return protocol.SendServe(control, bind, conn) })
}

// Profile asks for a profile, and gives the stream on which it comes.
func (w *Worker) Profile(kind string, d time.Duration) net.Conn {
	w.t.Helper()
	return w.sendEnd(func(control, conn int) error { return protocol.SendProfile(control, kind, d, conn) })
}

// WithConn sends any command with one end of a fresh connection, and gives the other.
func (w *Worker) WithConn(c protocol.Command) net.Conn {
	w.t.Helper()
	return w.sendEnd(func(control, conn int) error {
		return unix.Sendmsg(control, c.Packet(), unix.UnixRights(conn), nil, unix.MSG_DONTWAIT)
	})
}

// sendEnd sends one end of a fresh connection, and gives the other.
func (w *Worker) sendEnd(send func(control, conn int) error) net.Conn {
	w.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer unix.Close(pair[1])
	raw, err := w.control.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = send(int(fd), pair[1]) })
	}
	f := os.NewFile(uintptr(pair[0]), "near end")
	defer f.Close()
	conn, connErr := net.FileConn(f)
	if err = errors.Join(err, connErr); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// Adopt says adopt on or off.
func (w *Worker) Adopt(how string) *Worker {
	w.Tell(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{how}})
	return w
}

// Leave closes the control channel, as a supervisor does that dies.
func (w *Worker) Leave() { w.control.Close() }

// Signal sends a signal.
func (w *Worker) Signal(s syscall.Signal) { syscall.Kill(w.PID, s) }

// Stop stops the process and waits until it stands still.
func (w *Worker) Stop() {
	w.t.Helper()
	w.Signal(syscall.SIGSTOP)
	w.Await("stopped state", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.PID))
		_, state, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(state, "T")
	})
}
