// Package holder is what stands above the supervisor where no systemd does: the supervisor itself, when it finds that it is PID 1 of a
// container, or with --holder. Linux only; it imports nothing that could fail or take long.
//
//	holder → supervisor → workers
//
// It starts the same program with the same arguments, and then
//
//   - passes TERM, INT, QUIT, HUP, USR1, USR2, TTIN, TTOU and WINCH on to it;
//   - reaps every process that loses its parent;
//   - is its NOTIFY_SOCKET (see package sdnotify): follows MAINPID after a self-upgrade, keeps the descriptors of FDSTORE=1, and repeats the
//     rest to its own NOTIFY_SOCKET, if it has one;
//   - starts it again when it died by a signal or a panic, with the stored descriptors from 3 on (LISTEN_FDS, LISTEN_FDNAMES), at most 5 times
//     in 60 s. Any other exit status becomes the holder's own.
//
// When it ends, everything ends. Descriptors and workers outlive a dead supervisor, so its clients notice nothing.
//
// Run is one loop, which owns all state. Everything that is read, it reads itself: so what a supervisor said is always worked off before
// its death is.
package holder

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/sdnotify"
)

const (
	// Flag asks for a holder where we are not PID 1.
	Flag = "--holder"
	// EnvPID tells a supervisor, and those that it becomes by self-upgrade, the pid of the holder above it.
	EnvPID = "SUPERVISOR_HOLDER"

	// A supervisor that dies more often than this is not started again: the fault stays, and the one above us should know.
	maxRestarts   = 5
	restartWindow = time.Minute
	// The first restart is at once, the next ones wait so long, × 4 each.
	restartPause = 100 * time.Millisecond

	// How long signals are held back from a supervisor that does not say that it has handlers for them.
	deafTime = 5 * time.Second

	// What processes that the supervisor left behind have to finish when we end, and how long KILL is tried.
	leftoverGrace = 5 * time.Second
	killPatience  = 5 * time.Second

	// exitPanic is the status of a Go program that panicked.
	exitPanic = 2
	// Exit statuses of a supervisor that could not be executed, as in a shell.
	exitNotExecutable = 126
	exitNotFound      = 127
)

// forwarded is what the supervisor understands.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH}

// Wanted reports whether this process shall be a holder, and gives the supervisor's command line.
func Wanted(args []string) (rest []string, ok bool) {
	ours := args
	if i := slices.Index(args, "--"); i >= 0 {
		ours = args[:i] // the rest is the worker's
	}
	i := slices.Index(ours, Flag)
	if i < 0 {
		return args, os.Getpid() == 1
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}

// Settle makes the descriptors that a holder passes ours, as sd_listen_fds wants it: only the new process knows its own pid. A process
// without a holder is left alone.
func Settle() {
	if pid := os.Getenv(EnvPID); pid != "" && os.Getenv("LISTEN_PID") == pid {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
}

// Listening tells the holder above this process, if there is one, that there are handlers for the signals that it passes on.
func Listening() {
	if os.Getenv(EnvPID) != "" {
		sdnotify.Send(os.Getenv(sdnotify.EnvSocket), listening+"=1")
	}
}

// listening is the name in that message. systemd passes over what it does not know.
const listening = "X_SUPERVISOR_LISTENS"

// holder is only used by the goroutine of Run.
type holder struct {
	path string // of the supervisor, absolute
	args []string
	env  []string

	socket  *sdnotify.Listener
	above   string // our own NOTIFY_SOCKET
	given   []stored
	store   []stored
	main    int // pid of the supervisor; 0: none runs
	pinned  int // its program, held open; -1: it is not the file at path (a script)
	started bool
	leaving bool                       // we were told to stop
	deaf    bool                       // the supervisor has no handlers for signals yet
	held    []syscall.Signal           // that came meanwhile, or while none ran
	crashes []time.Time                // of the last minute
	code    int                        // of the last supervisor
	dead    map[int]syscall.WaitStatus // reaped in this round
	retry   *time.Timer
	hears   *time.Timer // runs while the supervisor is deaf
}

// Run holds the supervisor that args start. It returns the exit status of this process.
func Run(args []string) int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded...)
	children := make(chan os.Signal, 1) // one that waits stands for any number
	signal.Notify(children, unix.SIGCHLD)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // stderr that nobody reads must not end everything

	h := &holder{pinned: -1, args: args, above: os.Getenv(sdnotify.EnvSocket), retry: time.NewTimer(0), hears: time.NewTimer(deafTime)}
	if err := h.open(); err != nil {
		say("%v", err)
		return exitNotFound
	}
	arrived, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		for h.socket.Wait() == nil {
			arrived <- struct{}{}
			<-goOn
		}
	}()
	for {
		over := false
		select {
		case sig := <-signals:
			over = h.reap() || h.forward(sig.(syscall.Signal)) // not to one that is dead
		case <-children:
			over = h.reap()
		case <-arrived:
			h.read()
			goOn <- struct{}{}
		case <-h.retry.C:
			over = h.start()
		case <-h.hears.C:
			h.listens() // an older one, that does not say so
		}
		if over {
			h.end(signals, children)
			return h.code
		}
	}
}

// open finds the program and takes what our own caller gave us.
func (h *holder) open() error {
	path, err := exec.LookPath(h.args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("find the supervisor: %w", err)
	}
	h.path = path
	h.given = inherited()
	unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC) // what else our caller left open stays here
	name := fmt.Sprintf("@supervisor-holder/%d/%d", os.Getpid(), time.Now().UnixNano())
	if h.socket, err = sdnotify.Listen(name); err != nil {
		return err
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		switch name {
		case "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", sdnotify.EnvSocket, sdnotify.EnvWatchdogUsec, sdnotify.EnvWatchdogPID, EnvPID:
		default:
			h.env = append(h.env, pair)
		}
	}
	own := strconv.Itoa(os.Getpid())
	h.env = append(h.env, EnvPID+"="+own, sdnotify.EnvSocket+"="+name)
	// Beats are the supervisor's to give: without WATCHDOG_PID the interval is meant for it.
	if usec := os.Getenv(sdnotify.EnvWatchdogUsec); usec != "" && slices.Contains([]string{"", own}, os.Getenv(sdnotify.EnvWatchdogPID)) {
		h.env = append(h.env, sdnotify.EnvWatchdogUsec+"="+usec)
	}
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("PR_SET_CHILD_SUBREAPER: %w", err)
		}
	}
	return nil
}

// start starts the supervisor, with all that is stored. It reports whether we are at the end.
func (h *holder) start() bool {
	if h.main != 0 { // the successor of the one that died has announced itself meanwhile
		say("the next one runs already: %d", h.main)
		return false
	}
	files := []uintptr{0, 1, 2}
	var names []string
	for _, s := range append(slices.Clone(h.given), h.store...) {
		files = append(files, uintptr(s.fd))
		names = append(names, s.name)
	}
	env := h.env
	if len(names) > 0 {
		// LISTEN_PID: see Settle.
		env = append(slices.Clone(env), "LISTEN_PID="+strconv.Itoa(os.Getpid()), "LISTEN_FDS="+strconv.Itoa(len(names)),
			"LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	// A process group of its own: what is sent to a whole group, like Ctrl-C, comes once, through us.
	pid, err := syscall.ForkExec(h.program(), append([]string{h.path}, h.args[1:]...), &syscall.ProcAttr{
		Env: env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		h.code = exitNotExecutable
		if err == unix.ENOENT {
			h.code = exitNotFound
		}
		say("cannot start %s: %v", h.path, err)
		return !h.started || h.crashed()
	}
	h.main, h.started, h.deaf = pid, true, true
	h.pin()
	h.hears.Reset(deafTime)
	say("supervisor %d started, %d descriptors passed", pid, len(names))
	return false
}

// pin holds the program of the supervisor that is in charge open. One that dies is started again from the same program, although somebody may be
// in the middle of installing the next one under its name: that is what a self-upgrade is for.
func (h *holder) pin() {
	fd, err := unix.Open("/proc/"+strconv.Itoa(h.main)+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var running, installed unix.Stat_t
	if unix.Fstat(fd, &running) != nil || unix.Stat(h.path, &installed) != nil || running.Dev != installed.Dev || running.Ino != installed.Ino {
		unix.Close(fd)
		return
	}
	if h.pinned >= 0 {
		unix.Close(h.pinned)
	}
	h.pinned = fd
}

// program gives what to execute: by its path while that names the pinned file, so that people see the name.
func (h *holder) program() string {
	var pinned, installed unix.Stat_t
	if h.pinned < 0 || unix.Fstat(h.pinned, &pinned) != nil {
		return h.path
	}
	if unix.Stat(h.path, &installed) == nil && pinned.Dev == installed.Dev && pinned.Ino == installed.Ino {
		return h.path
	}
	say("%s is another file by now: starting the program that ran; SIGUSR2 upgrades", h.path)
	// Not /proc/self: in the child that descriptor has given way to one that is passed.
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.pinned)
}

// forward passes a signal on. It reports whether we are at the end.
func (h *holder) forward(sig syscall.Signal) bool {
	stop := stops(sig)
	h.leaving = h.leaving || stop
	if h.main == 0 && stop {
		return true
	}
	if h.main == 0 || h.deaf {
		if !slices.Contains(h.held, sig) {
			h.held = append(h.held, sig)
		}
		return false
	}
	if err := unix.Kill(h.main, sig); err != nil {
		say("pass %s on to supervisor %d: %v", unix.SignalName(sig), h.main, err)
	} else if sig != unix.SIGWINCH { // somebody resizes a terminal
		say("%s passed on to supervisor %d", unix.SignalName(sig), h.main)
	}
	return false
}

// listens: the supervisor has its handlers; before that, in its first milliseconds, most signals would kill it.
func (h *holder) listens() {
	held := h.held
	h.deaf, h.held = false, nil
	for _, sig := range held {
		h.forward(sig)
	}
}

func stops(sig os.Signal) bool {
	return sig == unix.SIGTERM || sig == unix.SIGINT || sig == unix.SIGQUIT
}

// reap takes the status of every dead child. It reports whether we are at the end.
func (h *holder) reap() bool {
	h.dead = reapAll()
	h.read() // a successor announces itself before its predecessor exits
	status, known := h.dead[h.main]
	h.dead = nil
	switch {
	case h.main == 0:
		return false
	case known && status.Exited():
		h.code = status.ExitStatus()
		if h.code != exitPanic {
			say("supervisor %d exited with status %d", h.main, h.code)
			return true
		}
		say("supervisor %d panicked", h.main)
	case known:
		h.code = 128 + int(status.Signal())
		say("supervisor %d was killed by %s", h.main, unix.SignalName(status.Signal()))
	case unix.Kill(h.main, 0) == unix.ESRCH:
		// Its parent, the supervisor before it, took its status.
		h.code = exitPanic
		say("supervisor %d is gone", h.main)
	default:
		return false
	}
	h.main = 0 // what is held is for the next one: it goes on with what was in force, and somebody who sent HUP wants more
	return h.crashed()
}

// crashed plans the next start. It reports whether there is none.
func (h *holder) crashed() bool {
	if h.leaving {
		return true
	}
	now := time.Now()
	h.crashes = slices.DeleteFunc(h.crashes, func(t time.Time) bool { return now.Sub(t) >= restartWindow })
	if len(h.crashes) >= maxRestarts {
		say("giving up: %d restarts within %v", maxRestarts, restartWindow)
		return true
	}
	pause := time.Duration(0)
	if n := len(h.crashes); n > 0 {
		pause = restartPause << (2 * (n - 1))
	}
	h.crashes = append(h.crashes, now)
	say("restart %d of %d within %v, in %v", len(h.crashes), maxRestarts, restartWindow, pause)
	h.retry.Reset(pause)
	return false
}

// end ends what the supervisor left: politely, then by force.
func (h *holder) end(signals, children <-chan os.Signal) {
	h.socket.Close()
	if !sweep(unix.SIGTERM) {
		return
	}
	say("ending the processes that the supervisor left")
	timer := time.NewTimer(leftoverGrace)
	for waiting := true; waiting; {
		select {
		case <-children:
			reapAll()
			if !left() {
				return
			}
		case sig := <-signals: // asked again: no patience
			waiting = !stops(sig)
		case <-timer.C:
			waiting = false
		}
	}
	for deadline := time.Now().Add(killPatience); sweep(unix.SIGKILL) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		reapAll()
	}
}

// say writes a line for the operator.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "holder: "+format+"\n", args...) }
