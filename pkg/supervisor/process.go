package supervisor

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// launch is all that a new process needs.
type launch struct {
	id         protocol.WorkerID
	generation int
	instance   string
	pool       *config.Pool
	sockets    []*bindSockets
	pin        *pin // nil: nothing is pinned
	settings   scoreboard.Settings
	memory     int64 // GOMEMLIMIT in bytes, 0: none
	pools      protocol.Pools
	sink       *sink
	tell       func(event) // the worker is filled in by the loop's closure
}

// child is the process of a worker: its pid, and our ends of what we share with it. One that an earlier supervisor started is not our
// child to the kernel; that makes a difference in wait only.
type child struct {
	pid       int
	startTime uint64        // in ticks since boot
	adopted   bool          // started by an earlier supervisor
	pidfd     *os.File      // in the netpoller
	reaped    atomic.Bool   // the pid may be somebody else's from now on
	read      chan struct{} // closed when the report of the exec has been read
	control   *os.File      // in the netpoller, read by one goroutine
	sendFD    int           // the same descriptor, for writes that do not wait
	notify    *notifySocket
	board     *scoreboard.Reader
	boardFD   int // of the board's memory, for a successor
	out       []*outputPipe
	tell      func(event)
	readers   sync.WaitGroup // what listens to the worker: see Pause
	paused    chan struct{}  // closed when the readers have stopped; of the last Pause
}

// start forks and executes the stub, which becomes the worker.
func start(l launch) (process, error) {
	c := &child{read: make(chan struct{}), boardFD: -1, tell: l.tell}
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
	if l.pool.Output != config.OutputInherit {
		for i, stream := range []stream{streamOut, streamErr} {
			pipe, writeEnd, err := newOutputPipe(stream, l.id.String(), l.pool.Output, l.sink)
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
	c.board, c.boardFD = board, boardFD
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
		protocol.EnvNotifySocket+"="+c.notify.Name(),
		protocol.EnvFDs+"="+passed.String(),
		protocol.EnvInstance+"="+l.instance,
		protocol.EnvWorker+"="+l.id.String(),
		protocol.EnvGeneration+"="+strconv.Itoa(l.generation),
		protocol.EnvPools+"="+l.pools.String())
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
	files = append(files, uintptr(report[1]))
	files = l.pin.pass(&spec, files)
	env = append(env, spec.env())

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
	c.startTime, _ = startTime(pid) // it is our child: it cannot be gone before we reap it
	c.pidfd = pollable(pidfd, "pidfd")
	c.notify.pgid = pid
	go c.readReport(reportEnd, l.tell)
	c.listen()
	go c.wait(l.tell)
	return c, nil
}

// listen starts what reads from the worker.
func (c *child) listen() {
	for _, p := range c.out {
		if !p.ended() {
			c.readers.Go(p.run)
		}
	}
	c.readers.Go(func() { c.notify.run(c.tell) })
	c.readers.Go(func() { readControl(c.control, c.tell) })
}

// pollable gives a descriptor to Go's netpoller, so that a goroutine, not a thread, waits on it.
func pollable(fd int, name string) *os.File {
	unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// readReport waits for the exec: the stub's end closes with it, or carries the reason why it failed.
func (c *child) readReport(f *os.File, tell func(event)) {
	defer close(c.read)
	defer f.Close()
	cause, _ := io.ReadAll(io.LimitReader(f, 4096))
	switch {
	case len(cause) > 0:
		tell(event{fact: factNotExecuted, cause: string(cause)})
	case !c.ended(): // a stub that was killed closes its end, too
		tell(event{fact: factExecuted})
	}
}

// ended reports whether the process is dead, reaped or not.
func (c *child) ended() bool {
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	raw.Control(func(fd uintptr) { ended = readable(fd) })
	return ended
}

// readable reports whether a descriptor is ready to be read; a pidfd is when its process is dead.
func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return n > 0 || (err != nil && err != unix.EINTR)
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

// wait tells the worker's exit, after all that it said before. The order matters: while the dead leader is not reaped, its pid and so its
// process group cannot be given to anybody else, and what it left behind can be killed by that number.
func (c *child) wait(tell func(event)) {
	if raw, err := c.pidfd.SyscallConn(); err == nil {
		raw.Read(readable)
	}
	if !c.adopted {
		unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) // waits here if pidfds did not work
	}
	unix.Kill(-c.pid, unix.SIGKILL)
	var exit exitStatus
	for _, p := range c.out {
		words, crash := p.finish()
		if p.stream == streamErr {
			exit.tail, exit.crash = words, crash
		}
	}
	<-c.read
	c.reaped.Store(true)
	if c.adopted {
		exit.unknown = true // the kernel tells its parent only
		tell(event{fact: factExited, exit: exit})
		return
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(c.pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	exit.code = status.ExitStatus()
	if exit.code != 2 {
		exit.crash = ""
	}
	if status.Signaled() {
		exit.code, exit.signal = 0, syscall.Signal(status.Signal())
	}
	if exit.signal == syscall.SIGKILL {
		exit.oomKills = machine.OOMKills()
	}
	tell(event{fact: factExited, exit: exit})
}

func (c *child) Pid() int { return c.pid }

func (c *child) Signal(sig syscall.Signal) {
	if !c.reaped.Load() {
		unix.Kill(c.pid, sig)
	}
}

func (c *child) Kill() {
	if !c.reaped.Load() {
		unix.Kill(-c.pid, unix.SIGKILL)
	}
}

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
	if c.boardFD >= 0 { // one that could not be adopted has no board, but its memory
		unix.Close(c.boardFD)
		c.boardFD = -1
	}
	if c.pid == 0 { // never started: nobody reads the pipes
		for _, p := range c.out {
			p.file.Close()
		}
	}
}
