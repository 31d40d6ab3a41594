package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// Hooks are commands that run beside the workers of a pool: as its user, in its directory and environment, through the same stub. The loop
// starts them and goes on; how they ended comes as a call. Variables of theirs:
//
//	SUPERVISOR_HOOK            before_start, before_reload, after_reload, on_worker_exit or health
//	SUPERVISOR_POOL            the pool's name
//	SUPERVISOR_GENERATION      the new one where there are two
//	SUPERVISOR_WORKER          on_worker_exit, health: <pool>.<slot>.<serial>
//	SUPERVISOR_WORKER_PID      the same
//	SUPERVISOR_REASON          on_worker_exit: why it went (reason.go)
//	SUPERVISOR_EXIT            on_worker_exit: "status 1", "SIGKILL"
const (
	envHook      = "SUPERVISOR_HOOK"
	envPool      = "SUPERVISOR_POOL"
	envWorkerPID = "SUPERVISOR_WORKER_PID"
	envReason    = "SUPERVISOR_REASON"
	envExit      = "SUPERVISOR_EXIT"
)

const (
	// hookTimeout is what a hook has; then its process group is killed.
	hookTimeout = 30 * time.Second

	// on_worker_exit: so many run at once and so many more wait. When all workers of a large pool die at once the rest is left out, and
	// the log says so.
	exitHooksAtOnce = 4
	exitHooksQueue  = 1000
)

// hook is one run of a command.
type hook struct {
	name       string
	argv       []string
	cfg        *config.Pool
	pin        *pin
	generation int
	env        []string // beyond those of every hook
	sink       *sink
}

// hookProcess is a hook that runs.
type hookProcess struct {
	wait func() error // until it is gone; not called by the loop
	kill func()
}

// hooks are those that run. Only used by the loop.
type hooks struct {
	processes []*hookProcess
	exits     []hook // of on_worker_exit that wait
	atExit    int    // of them that run
}

func (h *hooks) idle() bool { return len(h.processes) == 0 && len(h.exits) == 0 }

// end kills what runs and forgets what waits.
func (h *hooks) end() {
	h.exits = nil
	for _, r := range h.processes {
		r.kill()
	}
}

// startHook starts a hook; the loop calls done when it is over, with nil when its exit status was 0.
func (s *Supervisor) startHook(h hook, done func(error)) {
	h.sink = s.sink
	s.log.Debug("hook starts", h.fields()...)
	began := time.Now()
	over := func(err error) {
		if err != nil {
			err = fmt.Errorf("hook %s of pool %s: %w", h.name, h.cfg.Name, err)
		}
		s.log.Debug("hook is over", append(h.fields(), zap.Duration("took", time.Since(began).Round(time.Millisecond)), zap.Error(err))...)
		done(err)
	}
	r, err := s.exec(h)
	if err != nil {
		go s.do(func() { over(err) })
		return
	}
	s.hooks.processes = append(s.hooks.processes, r)
	go func() {
		err := r.wait()
		s.do(func() {
			s.hooks.processes = slices.DeleteFunc(s.hooks.processes, func(o *hookProcess) bool { return o == r })
			over(err)
		})
	}()
}

func (h hook) fields() []zap.Field {
	return []zap.Field{zap.String("hook", h.name), zap.String("pool", h.cfg.Name), zap.Int("generation", h.generation)}
}

// mayStart reports whether the hook before the pool's first worker has run, and starts it. To a supervisor that relieves another one by a
// self-upgrade the start is a reload.
func (s *Supervisor) mayStart(p *pool) bool {
	h := hook{name: "before_start", argv: p.cfg.Hooks.BeforeStart, cfg: p.cfg, pin: p.pin, generation: p.generation}
	if s.probation {
		h.name, h.argv = "before_reload", p.cfg.Hooks.BeforeReload
	}
	if p.begun || p.removed || len(h.argv) == 0 || s.revived || s.keptByPredecessor(p) {
		p.begun = true
		return true
	}
	if p.starting || s.stopping != running {
		return false
	}
	p.starting = true
	s.startHook(h, func(err error) {
		if p.starting = false; err != nil {
			s.fail(fmt.Errorf("%w: %w", ErrNotReady, err))
			return
		}
		p.begun = true
	})
	return false
}

// planHooks lists what runs before the first new worker: for a new pool before_start, for one that is replaced before_reload.
func (s *Supervisor) planHooks(r *reload) {
	for _, c := range r.changes {
		h := hook{name: "before_reload", argv: c.cfg.Hooks.BeforeReload, cfg: c.cfg, pin: c.pin, generation: r.generation}
		if c.fresh {
			h.name, h.argv = "before_start", c.cfg.Hooks.BeforeStart
		}
		if len(h.argv) > 0 && !r.forced && c.replaces() {
			r.hooks = append(r.hooks, h)
		}
		c.after = c.replaces() && !c.fresh && !r.forced
	}
}

// replaces reports whether the pool gets new workers: one with replace = "never" only if its section has changed.
func (c *change) replaces() bool { return !c.keep || !reflect.DeepEqual(c.pool.cfg, c.cfg) }

// runHooks runs them one after the other, and reports whether all are over. The first failure ends the reload.
func (s *Supervisor) runHooks(r *reload) bool {
	if len(r.hooks) == 0 || r.hooking {
		return !r.hooking
	}
	r.hooking = true
	s.startHook(r.hooks[0], func(err error) {
		r.hooking, r.hooks = false, r.hooks[1:]
		if err != nil && s.reload == r {
			r.fail(err)
		}
	})
	return false
}

// afterReload runs what is to know that the new generation is in force.
func (s *Supervisor) afterReload(r *reload) {
	for _, c := range r.changes {
		if c.after {
			s.runAfterReload(c.pool)
		}
	}
}

// runAfterReload runs a pool's after_reload: also when the new generation is that of a successor.
func (s *Supervisor) runAfterReload(p *pool) {
	if argv := p.cfg.Hooks.AfterReload; len(argv) > 0 {
		s.startHook(hook{name: "after_reload", argv: argv, cfg: p.cfg, pin: p.pin, generation: s.generation}, s.logFailure)
	}
}

func (s *Supervisor) logFailure(err error) {
	if err != nil {
		s.log.Error("hook failed", zap.Error(err))
		s.record(control.EventHook, control.LevelWarning, "%v", err)
	}
}

// afterExit runs on_worker_exit, a few at a time.
func (s *Supervisor) afterExit(w *worker, exit exitStatus) {
	argv := w.cfg.Hooks.OnWorkerExit
	if len(argv) == 0 || s.stopping == quick {
		return
	}
	if len(s.hooks.exits) >= exitHooksQueue {
		s.log.Error("too many workers die: on_worker_exit is left out", w.fields()...)
		s.recordWorker(w, control.EventHook, control.LevelWarning, "", "too many workers die: on_worker_exit is left out")
		return
	}
	s.hooks.exits = append(s.hooks.exits, hook{
		name: "on_worker_exit", argv: argv, cfg: w.cfg, pin: s.pinOf(w), generation: w.generation, env: []string{
			protocol.EnvWorker + "=" + w.id.String(), envWorkerPID + "=" + strconv.Itoa(w.proc.Pid()),
			envReason + "=" + string(w.died), envExit + "=" + exit.String(),
		},
	})
	s.runExitHooks()
}

func (s *Supervisor) runExitHooks() {
	for len(s.hooks.exits) > 0 && s.hooks.atExit < exitHooksAtOnce {
		h := s.hooks.exits[0]
		s.hooks.exits = s.hooks.exits[1:]
		s.hooks.atExit++
		s.startHook(h, func(err error) {
			s.hooks.atExit--
			s.logFailure(err)
			s.runExitHooks()
		})
	}
}

// startHook forks a hook's process. (The one that Supervisor.exec is.)
func startHook(h hook) (*hookProcess, error) {
	var ours []*outputPipe
	var theirs []int
	ok := false
	defer func() {
		for _, fd := range theirs {
			unix.Close(fd)
		}
		for _, p := range ours {
			if !ok {
				p.file.Close()
			}
		}
	}()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	theirs = append(theirs, null)
	files := []uintptr{uintptr(null)}
	for _, stream := range []stream{streamOut, streamErr} {
		pipe, end, err := newOutputPipe(stream, h.cfg.Name+" "+h.name, h.cfg.Output, h.sink)
		if err != nil {
			return nil, err
		}
		ours, theirs, files = append(ours, pipe), append(theirs, end), append(files, uintptr(end))
	}
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("report pipe: %w", err)
	}
	theirs = append(theirs, report[1])
	reportEnd := pollable(report[0], "report")
	spec := stubSpec{Report: len(files), Dir: h.cfg.Chdir, Umask: h.cfg.Umask, Nofile: h.cfg.RlimitNofile}
	files = append(files, uintptr(report[1]))
	files = h.pin.passDir(&spec, files)
	env := append(baseEnv(h.cfg), envHook+"="+h.name, envPool+"="+h.cfg.Name, protocol.EnvGeneration+"="+strconv.Itoa(h.generation))
	if env, err = spec.setUser(h.cfg, append(env, h.env...)); err != nil {
		reportEnd.Close()
		return nil, err
	}
	pidfd := -1
	pid, err := syscall.ForkExec("/proc/self/exe", append([]string{"supervisor", stubVerb}, h.argv...), &syscall.ProcAttr{
		Env: append(env, spec.env()), Files: files, Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		reportEnd.Close()
		return nil, fmt.Errorf("start: %w", err)
	}
	ok = true
	end := pollable(pidfd, "pidfd")
	for _, p := range ours {
		go p.run()
	}
	return &hookProcess{
		wait: func() error { return waitForHook(pid, end, reportEnd, ours) },
		// By pidfd: the number may be somebody else's by now. What the hook leaves in its group goes when it was waited for.
		kill: func() {
			if raw, err := end.SyscallConn(); err == nil {
				raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
			}
		},
	}, nil
}

// waitForHook waits for the process, at most hookTimeout, kills what is left of its group, and gives its fate.
func waitForHook(pid int, pidfd, report *os.File, out []*outputPipe) error {
	cause, _ := io.ReadAll(io.LimitReader(report, 4096)) // until the exec, or the stub's end
	report.Close()
	pidfd.SetReadDeadline(time.Now().Add(hookTimeout))
	late := false
	if raw, err := pidfd.SyscallConn(); err == nil {
		late = errors.Is(raw.Read(readable), os.ErrDeadlineExceeded)
	}
	if late {
		unix.Kill(-pid, unix.SIGKILL)
	}
	unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	unix.Kill(-pid, unix.SIGKILL) // before it is reaped: the number is still its own
	var exit exitStatus
	for _, p := range out {
		words, crash := p.finish()
		if p.stream == streamErr {
			exit.tail, exit.crash = words, crash
		}
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	pidfd.Close()
	if exit.code = status.ExitStatus(); status.Signaled() {
		exit.code, exit.signal = 0, status.Signal()
	}
	words := briefly(exit)
	if words != "" {
		words = ": " + words
	}
	switch {
	case len(cause) > 0:
		return errors.New(strings.TrimSpace(string(cause)))
	case late:
		return fmt.Errorf("killed after %v%s", hookTimeout, words)
	case exit.code != 0 || exit.signal != 0:
		return fmt.Errorf("%v%s", exit, words)
	}
	return nil
}
