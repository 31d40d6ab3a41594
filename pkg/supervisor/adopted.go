package supervisor

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/sdnotify"
)

// A worker that an earlier supervisor started goes on with us: after a self-upgrade, and after that one was killed. Both ends of the
// change of hands are here: Pause and descriptors on the side that gives, adopt on the side that takes.

// pausePatience bounds how long the readers are awaited: a terminal that nobody reads holds up the workers' output.
const pausePatience = 2 * time.Second

// Pause stops everything that reads from the worker. What it said was told, or is still in the kernel for the one who reads next. Not to
// be called by the loop, which must go on to take what is told.
func (c *child) Pause() {
	past := time.Unix(1, 0)
	for _, p := range c.out {
		p.paused.Store(true)
		p.file.SetReadDeadline(past)
	}
	c.notify.SetReadDeadline(past)
	c.control.SetReadDeadline(past)
	stopped := make(chan struct{})
	go func() {
		c.readers.Wait()
		close(stopped)
	}()
	c.paused = stopped
	select {
	case <-stopped:
	case <-time.After(pausePatience):
	}
}

// Resume takes a Pause back that has returned. Readers that it did not wait for go first: two of one pipe would spoil each other's lines.
func (c *child) Resume() {
	stopped := c.paused
	go func() {
		<-stopped
		for _, p := range c.out {
			p.paused.Store(false)
			p.file.SetReadDeadline(time.Time{})
		}
		c.notify.SetReadDeadline(time.Time{})
		c.control.SetReadDeadline(time.Time{})
		c.listen()
	}()
}

// What a descriptor of a worker is.
const (
	shareControl = "C"
	shareNotify  = "N"
	shareBoard   = "B"
)

var shareOutput = [numStreams]string{streamOut: "O", streamErr: "E"}

// shares are all of them. As long as somebody has our end of the control channel, the worker takes us for alive.
var shares = append(shareOutput[:], shareControl, shareNotify, shareBoard)

// descriptors gives our ends of what we share with the worker. They stay ours.
func (c *child) descriptors() map[string]int {
	fds := map[string]int{shareControl: c.sendFD, shareBoard: c.boardFD}
	add := func(name string, conn syscall.Conn) {
		if raw, err := conn.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { fds[name] = int(fd) }) // not when it is closed
		}
	}
	add(shareNotify, c.notify)
	for _, p := range c.out {
		add(shareOutput[p.stream], p.file)
	}
	return fds
}

// errGone says that a process of the snapshot does not live any more.
var errGone = errors.New("the process is gone")

// adopt makes a child of a process that an earlier supervisor started, and takes its descriptors. l says what a new worker in its place
// would get.
func adopt(ws workerSnapshot, b *bundle, l launch) (_ *child, err error) {
	take := func(what string) int { return b.take(workerDescriptor(ws.PID, what)) }
	c := &child{
		pid: ws.PID, startTime: ws.StartTime, adopted: true, boardFD: take(shareBoard), sendFD: take(shareControl),
		read: make(chan struct{}), tell: l.tell,
	}
	close(c.read)
	defer func() {
		if err != nil {
			for _, p := range c.out {
				go p.run() // its last words; it ends with the pipe
			}
			if c.board == nil && c.boardFD >= 0 { // somebody may want to know what it did
				b.fds[workerDescriptor(ws.PID, shareBoard)], c.boardFD = c.boardFD, -1
			}
			c.Close()
		}
	}()
	for s, name := range shareOutput {
		if fd := take(name); fd >= 0 {
			p := openOutputPipe(stream(s), fd, l.id.String(), l.pool.Output, l.sink)
			p.partial = ws.Partial[s]
			c.out = append(c.out, p)
		}
	}
	notifyFD := take(shareNotify)
	if c.sendFD >= 0 {
		c.control = pollable(c.sendFD, "control "+l.id.String())
	}
	if notifyFD >= 0 {
		var l *sdnotify.Listener
		if l, err = sdnotify.Inherit(notifyFD); err == nil {
			c.notify = &notifySocket{Listener: l, pgid: ws.PID}
		}
	}
	pidfd, gone := unix.PidfdOpen(ws.PID, 0)
	if gone == nil {
		c.pidfd = pollable(pidfd, "pidfd")
		// After the open: from now on the number cannot become somebody else's unseen.
		if at, err := startTime(ws.PID); err != nil || at != ws.StartTime {
			gone = errGone
		}
	}
	switch {
	case gone != nil:
		return nil, fmt.Errorf("%w (pid %d)", errGone, ws.PID)
	case err != nil:
		return nil, err
	case c.control == nil || c.notify == nil || c.boardFD < 0:
		return nil, fmt.Errorf("descriptors of worker %s (pid %d) are missing", ws.id(), ws.PID)
	}
	if c.board, err = scoreboard.Open(c.boardFD); err != nil {
		return nil, err
	}
	return c, nil
}

// startTime gives when a process was started, in ticks since boot.
func startTime(pid int) (uint64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := p.Stat()
	return stat.Starttime, err
}
