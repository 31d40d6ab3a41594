package supervisor

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// Signals gives the channel for Run: all signals that a supervisor understands, also those that its caller ignored (nohup).
func Signals() <-chan os.Signal {
	c := make(chan os.Signal, 64)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGWINCH)
	// Output that nobody reads must not kill the master.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return c
}

// signal does what a signal asks for.
func (s *Supervisor) signal(sig os.Signal) {
	if sig != unix.SIGWINCH || !hasTerminal() {
		name := unix.SignalName(sig.(syscall.Signal))
		s.log.Info("signal", zap.String("signal", name))
		s.record(control.EventSignal, control.LevelInfo, "%s", name)
	}
	switch sig {
	case unix.SIGTERM:
		s.beginStop()
	case unix.SIGINT, unix.SIGQUIT:
		s.stop(quick)
	case unix.SIGHUP:
		s.beginReload(s.note("reload")) // its commit ends a parking
	case unix.SIGUSR1:
		s.reopenLogs()
	case unix.SIGUSR2:
		s.beginUpgrade(s.note("upgrade"))
	case unix.SIGTTIN:
		s.scale(1)
	case unix.SIGTTOU:
		s.scale(-1)
	case unix.SIGWINCH:
		s.park()
	}
}

// scale adds or removes workers of the pool that serves an address; of the first one where there are several.
func (s *Supervisor) scale(delta int) {
	p := s.mainPool()
	if s.stopping != running || p == nil {
		return
	}
	n := max(1, p.wanted()+delta)
	if delta < 0 && p.onlyDrained(n) {
		s.log.Warn("nobody would serve: all others are drained by hand", zap.String("pool", p.cfg.Name), zap.Int("workers", n))
		return
	}
	s.setWorkers(p, n)
}

// park drains all workers and keeps the sockets, until HUP or TTIN. With a terminal WINCH only says that somebody resized it.
func (s *Supervisor) park() {
	if hasTerminal() || s.stopping != running {
		return
	}
	s.parked = true
	if r := s.reload; r != nil {
		s.abortReload(errors.New("all workers were told to park (SIGWINCH)"))
		if s.reload == r { // nobody comes back
			s.endReload(r)
		}
	}
	s.log.Info("parked: all workers drain, the sockets stay; HUP or TTIN starts them again")
	s.record(control.EventPark, control.LevelInfo, "parked: all workers drain, the sockets stay; HUP or TTIN starts them again")
	for _, p := range s.pools {
		for _, sl := range p.slots {
			s.empty(p, sl, protocol.DrainClose, reasonPark)
		}
	}
}

// hasTerminal reports whether we have a controlling terminal.
func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// openLogs opens the log files under these names.
func (s *Supervisor) openLogs(paths logPaths) {
	if s.sink == nil {
		return
	}
	s.sink.reopen(paths, func(err error) {
		if err != nil {
			s.log.Error("cannot reopen the logs, the old ones stay", zap.Error(err))
			s.do(func() {
				s.record(control.EventDegraded, control.LevelError, "cannot reopen the logs, the old ones stay: %v", err)
			})
			return
		}
		s.log.Info("logs reopened")
		s.do(func() { s.record(control.EventSignal, control.LevelInfo, "logs reopened") })
	})
}

// reopenLogs reopens our files and passes the wish on: by command, or by USR1 to a ready program that has a handler for it.
func (s *Supervisor) reopenLogs() {
	s.openLogs(logPathsOf(s.cfg))
	for _, p := range s.pools {
		for _, w := range p.workers() {
			switch {
			case w.state != ready:
			case w.speaks:
				w.proc.Send(protocol.Command{Verb: protocol.VerbReopen})
			case w.proc.Catches(syscall.SIGUSR1):
				w.proc.Signal(syscall.SIGUSR1)
			}
		}
	}
}
