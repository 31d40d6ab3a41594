package supervisor

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/scoreboard"
)

// What a successor that failed leaves behind: workers of its own. They go by themselves, or are ended; until then they may have slot sockets.

// groupsAreOurs reports whether nobody else has slot sockets in the kernel's groups of our addresses: neither a successor that starts, nor the
// workers of one that failed. Else the next socket of ours would have another number there than we count.
func (s *Supervisor) groupsAreOurs() bool { return s.upgrade == nil && len(s.ending) == 0 }

// awaitEnd waits for the workers of a failed successor. They leave by themselves, as their control channel has ended; one that does not within
// our longest graceful_timeout is hung, and is ended.
func (s *Supervisor) awaitEnd(workers []processID, boards map[int]foreignBoard) {
	patience := time.Duration(0)
	for _, p := range s.cfg.Pools {
		patience = max(patience, p.GracefulTimeout)
	}
	s.ending, s.endingBoards, s.endingTill = slices.Clone(workers), boards, time.Now().Add(patience+quitGrace+killGrace)
	time.AfterFunc(patience, func() {
		for _, id := range workers {
			endForeign(id)
		}
	})
	s.lookAtEnding()
}

// lookAtEnding forgets those that are gone, and in the end those that sit in the kernel.
func (s *Supervisor) lookAtEnding() {
	if len(s.ending) > 0 && time.Now().After(s.endingTill) {
		s.log.Error(s.stillEnding() + ", not even by SIGKILL: new connections may go to them")
		s.record(control.EventDegraded, control.LevelError, "%s, not even by SIGKILL: new connections may go to them", s.stillEnding())
		for _, id := range s.ending {
			s.foldForeign(id)
		}
		s.ending = nil
	}
	s.ending = slices.DeleteFunc(s.ending, func(id processID) bool {
		if p, err := procfs.NewProc(id.PID); err == nil {
			if stat, err := p.Stat(); err == nil && stat.Starttime == id.StartTime && stat.State != "Z" {
				return false
			}
		}
		s.foldForeign(id)
		return true
	})
	if len(s.ending) > 0 {
		s.wake(endingInterval)
	}
}

// foreignBoard is that of a worker of a successor. If the successor fails, we count what its workers have done: clients were answered.
type foreignBoard struct {
	pool  string
	board *scoreboard.Reader
}

// foldForeign counts it, once.
func (s *Supervisor) foldForeign(id processID) {
	if b, ok := s.endingBoards[id.PID]; ok {
		delete(s.endingBoards, id.PID)
		s.tallyOf(b.pool).fold(b.board)
		b.board.Close()
	}
}

const endingInterval = 100 * time.Millisecond

// stillEnding says whom a change must wait for that may open slot sockets, or "".
func (s *Supervisor) stillEnding() string {
	if len(s.ending) == 0 {
		return ""
	}
	pids := make([]string, len(s.ending))
	for i, id := range s.ending {
		pids[i] = strconv.Itoa(id.PID)
	}
	return "workers of the self-upgrade that failed have not left yet (pid " + strings.Join(pids, ", ") + ")"
}

// endForeign ends the process group of a worker that a failed successor left behind.
func endForeign(id processID) {
	if at, err := startTime(id.PID); err != nil || at != id.StartTime {
		return
	}
	unix.Kill(-id.PID, unix.SIGTERM)
	time.AfterFunc(quitGrace, func() {
		if at, err := startTime(id.PID); err == nil && at == id.StartTime {
			unix.Kill(-id.PID, unix.SIGKILL)
		}
	})
}
