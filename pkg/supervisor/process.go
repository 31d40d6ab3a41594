package supervisor

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// launch is all that a new process needs.
type launch struct {
	id         protocol.WorkerID
	generation int
	instance   string
	pool       *PoolConfig
	sockets    []*bindSockets
	settings   scoreboard.Settings
	memory     int64 // GOMEMLIMIT in bytes, 0: none
	sink       *sink
	tell       func(event) // the worker is filled in by the loop's closure
}

// child is a process that we started: its pid, and our ends of what we share with it.
type child struct {
	pid     int
	pidfd   *os.File // in the netpoller
	control *os.File // in the netpoller, read by one goroutine
	sendFD  int      // the same descriptor, for writes that do not wait
	notify  *notifySocket
	board   *scoreboard.Reader
	out     []*outputPipe
}

// start forks and executes the stub, which becomes the worker.
func start(l launch) (process, error) {
	c := &child{}
	ok := false
	var theirs []int // ends of the child, closed here once it has them
	defer func() {
		for _, fd := range theirs {
			unix.Close(fd)
		}
		if !ok {
			c.Close()
		}
	}()

	files := []uintptr{0, 1, 2}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	theirs = append(theirs, null)
	files[0] = uintptr(null)
	if l.pool.Output != OutputInherit {
		for i, stream := range []stream{streamOut, streamErr} {
			pipe, writeEnd, err := newOutputPipe(stream, l)
			if err != nil {
				return nil, err
			}
			c.out = append(c.out, pipe)
			theirs = append(theirs, writeEnd)
			files[i+1] = uintptr(writeEnd)
		}
	}

	env := baseEnv(l.pool)
	var names []string
	for _, s := range l.sockets {
		fd, err := s.forSlot(l.id.Slot)
		if err != nil {
			return nil, err
		}
		files = append(files, uintptr(fd))
		names = append(names, s.bind.Name)
	}
	if len(names) > 0 {
		env = append(env, protocol.EnvListenFDs+"="+strconv.Itoa(len(names)), protocol.EnvListenNames+"="+strings.Join(names, ":"))
	}

	passed := protocol.FDs{}
	pass := func(name string, fd int) {
		passed[name] = len(files)
		files = append(files, uintptr(fd))
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	c.sendFD = pair[0]
	c.control = os.NewFile(uintptr(pair[0]), "control "+l.id.String())
	theirs = append(theirs, pair[1])
	pass(protocol.FDControl, pair[1])
	board, boardFD, err := scoreboard.Create(l.settings)
	if err != nil {
		return nil, err
	}
	c.board = board
	theirs = append(theirs, boardFD)
	pass(protocol.FDScoreboard, boardFD)
	for _, s := range l.sockets {
		pass(protocol.AdoptRx(s.bind.Name), s.adoptRx)
		pass(protocol.AdoptTx(s.bind.Name), s.adoptTx)
	}
	c.notify, err = newNotifySocket(l.instance, l.id)
	if err != nil {
		return nil, err
	}
	env = append(env,
		protocol.EnvNotifySocket+"="+c.notify.name,
		protocol.EnvFDs+"="+passed.String(),
		protocol.EnvInstance+"="+l.instance,
		protocol.EnvWorker+"="+l.id.String(),
		protocol.EnvGeneration+"="+strconv.Itoa(l.generation))
	if beat := l.pool.HeartbeatTimeout; beat > 0 {
		env = append(env, protocol.EnvWatchdogUsec+"="+strconv.FormatInt(beat.Microseconds(), 10))
	}
	env = addRuntimeEnv(env, l)

	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("report pipe: %w", err)
	}
	theirs = append(theirs, report[1])
	reportEnd := pollable(report[0], "report")
	spec := stubSpec{
		FDs: len(files) - protocol.FirstFD, Report: len(files),
		Listen: len(names) > 0, Watchdog: l.pool.HeartbeatTimeout > 0,
		Dir: l.pool.Chdir, Umask: l.pool.Umask, Nofile: l.pool.RlimitNofile,
	}
	if env, err = spec.setUser(l.pool, env); err != nil {
		reportEnd.Close()
		return nil, err
	}
	env = append(env, spec.env())
	files = append(files, uintptr(report[1]))

	pidfd := -1
	argv := append([]string{"supervisor", stubVerb}, l.pool.Command...)
	// Not os/exec: ExtraFiles clears O_NONBLOCK on the shared sockets.
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env: env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		reportEnd.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	ok = true
	c.pid = pid
	c.pidfd = pollable(pidfd, "pidfd")
	c.notify.pgid = pid
	for _, p := range c.out {
		go p.run()
	}
	go readReport(reportEnd, l.tell)
	go c.notify.run(l.tell)
	go readControl(c.control, l.tell)
	go c.wait(l.tell)
	return c, nil
}

// pollable gives a descriptor to Go's netpoller, so that a goroutine, not a thread, waits on it.
func pollable(fd int, name string) *os.File {
	unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// readReport waits for the exec: the stub's end closes with it, or carries the reason why it failed.
func readReport(f *os.File, tell func(event)) {
	defer f.Close()
	cause, _ := io.ReadAll(io.LimitReader(f, 4096))
	if len(cause) > 0 {
		tell(event{fact: factNotExecuted, cause: string(cause)})
		return
	}
	tell(event{fact: factExecuted})
}

// readControl tells what the worker says on its control channel. It ends with the channel.
func readControl(f *os.File, tell func(event)) {
	packet := make([]byte, protocol.MaxCommand)
	for {
		n, err := f.Read(packet)
		if n == 0 || err != nil {
			return
		}
		command, err := protocol.ParseCommand(packet[:n])
		if err != nil {
			continue
		}
		switch command.Verb {
		case protocol.VerbHello:
			tell(event{fact: factHello})
		case protocol.VerbRecycle:
			tell(event{fact: factRecycle, reason: command.Arg(0)})
		}
	}
}

// wait tells the worker's exit. The order matters: while the dead leader is not reaped, its pid and so its process group cannot be
// given to anybody else, and what it left behind can be killed by that number.
func (c *child) wait(tell func(event)) {
	raw, err := c.pidfd.SyscallConn()
	if err == nil {
		raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 || (err != nil && err != unix.EINTR)
		})
	}
	unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) // waits here if pidfds did not work
	unix.Kill(-c.pid, unix.SIGKILL)
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(c.pid, &status, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	exit := exitStatus{code: status.ExitStatus()}
	if status.Signaled() {
		exit.code, exit.signal = 0, syscall.Signal(status.Signal())
	}
	if exit.signal == syscall.SIGKILL {
		exit.oomKills = oomKills()
	}
	for _, p := range c.out {
		words, crash := p.finish()
		if p.stream == streamErr {
			exit.tail, exit.panicked = words, crash && exit.code == 2
		}
	}
	tell(event{fact: factExited, exit: exit})
}

func (c *child) Pid() int { return c.pid }

func (c *child) Signal(sig syscall.Signal) { unix.Kill(c.pid, sig) }

func (c *child) Kill() { unix.Kill(-c.pid, unix.SIGKILL) }

func (c *child) Send(command protocol.Command) bool {
	return unix.Send(c.sendFD, command.Packet(), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil
}

func (c *child) Board() *scoreboard.Reader { return c.board }

// SinceBeat: the scoreboard's heartbeat or a WATCHDOG=1, whichever is younger.
func (c *child) SinceBeat() (time.Duration, bool) {
	age, ok := time.Duration(0), false
	if c.board.Joined() {
		age, ok = c.board.SinceBeat()
	}
	if at, beaten := c.notify.lastBeat(); beaten && (!ok || time.Since(at) < age) {
		age, ok = time.Since(at), true
	}
	return age, ok
}

func (c *child) Close() {
	for _, f := range []*os.File{c.pidfd, c.control} {
		if f != nil {
			f.Close()
		}
	}
	if c.notify != nil {
		c.notify.Close()
	}
	if c.board != nil {
		c.board.Close()
	}
	if c.pid == 0 { // never started: nobody reads the pipes
		for _, p := range c.out {
			p.file.Close()
		}
	}
}

// scrubbed are variables of our own life that no worker may see: the real systemd's sockets, tableflip's mark, our contracts.
func scrubbed(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID", "FDSTORE":
		return true
	}
	return strings.HasPrefix(name, "TABLEFLIP_") || strings.HasPrefix(name, "SUPERVISOR_")
}

// baseEnv is our environment without what is ours, overlaid by env_file and env.
func baseEnv(cfg *PoolConfig) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		_, inFile := cfg.EnvFromFile[name]
		_, inEnv := cfg.Env[name]
		if !scrubbed(name) && !inFile && !inEnv {
			env = append(env, pair)
		}
	}
	for name, value := range cfg.EnvFromFile {
		if _, inEnv := cfg.Env[name]; !inEnv {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range cfg.Env {
		env = append(env, name+"="+value)
	}
	return env
}

// addRuntimeEnv sizes a Go worker to its share of the machine, unless the environment says otherwise.
func addRuntimeEnv(env []string, l launch) []string {
	has := func(name string) bool {
		for _, pair := range env {
			if strings.HasPrefix(pair, name+"=") {
				return true
			}
		}
		return false
	}
	if !has("GOMAXPROCS") {
		n := l.pool.GOMAXPROCS
		if n == 0 {
			n = max(1, cores()/l.pool.Workers)
		}
		env = append(env, "GOMAXPROCS="+strconv.Itoa(n))
	}
	if l.memory > 0 && !has("GOMEMLIMIT") {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(l.memory, 10))
	}
	if !has("GOTRACEBACK") {
		env = append(env, "GOTRACEBACK=all") // a dump shows every goroutine, not only the one that got the signal
	}
	return env
}

// setUser resolves the pool's user and group, and adds the variables that a login would set.
func (s *stubSpec) setUser(cfg *PoolConfig, env []string) ([]string, error) {
	if cfg.User == "" && cfg.Group == "" {
		return env, nil
	}
	s.SetUser, s.UID, s.GID = true, os.Getuid(), os.Getgid()
	if cfg.User != "" {
		u, err := lookupUser(cfg.User)
		if err != nil {
			return nil, err
		}
		s.UID, _ = strconv.Atoi(u.Uid)
		s.GID, _ = strconv.Atoi(u.Gid)
		groups, err := u.GroupIds()
		if err == nil {
			for _, g := range groups {
				if gid, err := strconv.Atoi(g); err == nil {
					s.Groups = append(s.Groups, gid)
				}
			}
		}
		for name, value := range map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username} {
			if _, set := cfg.Env[name]; !set && value != "" {
				env = setEnv(env, name, value)
			}
		}
	}
	if cfg.Group != "" {
		gid, err := lookupGroup(cfg.Group)
		if err != nil {
			return nil, err
		}
		s.GID = gid
	}
	if len(s.Groups) == 0 {
		s.Groups = []int{s.GID}
	}
	return env, nil
}

func setEnv(env []string, name, value string) []string {
	for i, pair := range env {
		if strings.HasPrefix(pair, name+"=") {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}

// lookupUser finds a user by name or number; a number needs no entry in the user database.
func lookupUser(name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return u, nil
	}
	if _, convErr := strconv.Atoi(name); convErr == nil {
		if u, err := user.LookupId(name); err == nil {
			return u, nil
		}
		return &user.User{Uid: name, Gid: name}, nil
	}
	return nil, fmt.Errorf("unknown user %q", name)
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("unknown group %q", name)
	}
	return strconv.Atoi(g.Gid)
}

// cut bounds a text for a log line.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
