package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/sdnotify"
)

// manager is what we tell who started us, systemd or the holder:
//
//	READY=1                      the first full set of all pools is ready; a reload has ended, well or not
//	RELOADING=1, MONOTONIC_USEC= a reload begins
//	STATUS=                      4/4 workers, generation 7, 1203 req/s; and why the last reload failed
//	WATCHDOG=1                   the loop turns; nothing else may say so
//	EXTEND_TIMEOUT_USEC=         we still start, reload or drain
//	STOPPING=1
//
// MAINPID= and FDSTORE= are in successor.go and store.go. Only used by the loop; a nil one has nobody to tell.
type manager struct {
	log      *zap.Logger
	socket   string        // NOTIFY_SOCKET
	interval time.Duration // between two beats; 0: nobody waits for them

	ready, reloading, stopping bool   // it knows
	trouble                    string // of the last reload
	status                     string // it knows
	lookedAt                   time.Time
	counted                    map[*worker]uint64 // requests, at lookedAt
	rate                       string             // requests a second, until lookedAt; "": nobody counts them
	mute                       bool               // a message was lost, and the log said so
}

const (
	// statusInterval is how often the status may change; a little less than tickInterval, so that each tick counts.
	statusInterval = tickInterval * 9 / 10
	// extension is how much time we ask for, at each look: several ticks, in case the machine is busy.
	extension = 15 * time.Second
)

// newManager reads our environment. The variables stay there for a successor; workers never see them. successor says that WATCHDOG_PID is
// that of the supervisor before us.
func newManager(log *zap.Logger, successor bool) *manager {
	socket := os.Getenv(sdnotify.EnvSocket)
	if socket == "" {
		return nil
	}
	m := &manager{log: log, socket: socket, counted: map[*worker]uint64{}}
	pid := os.Getenv(sdnotify.EnvWatchdogPID)
	if usec, err := strconv.ParseInt(os.Getenv(sdnotify.EnvWatchdogUsec), 10, 64); err == nil && usec > 0 &&
		(pid == "" || pid == strconv.Itoa(os.Getpid()) || successor) {
		m.interval = time.Duration(usec) * time.Microsecond / 2
	}
	return m
}

func (m *manager) tell(lines ...string) {
	err := sdnotify.Send(m.socket, strings.Join(lines, "\n"))
	if err != nil && !m.mute {
		m.log.Warn("cannot tell the manager", zap.Strings("what", lines), zap.Error(err))
	}
	m.mute = err != nil
}

// watch feeds the watchdog from now on, through the loop: one that stands still feeds nobody.
func (m *manager) watch(s *Supervisor) {
	if m == nil || m.interval == 0 {
		return
	}
	if !s.probation || s.succeeding { // until then the supervisor before us gives its own
		m.tell("WATCHDOG=1")
	}
	time.AfterFunc(m.interval, func() { s.do(func() { m.watch(s) }) })
}

// look tells what has changed. The loop calls it after every event.
func (m *manager) look(s *Supervisor) {
	if m == nil || s.probation {
		return
	}
	var lines []string
	switch {
	case s.stopping != running && !m.stopping:
		m.stopping, m.reloading = true, false
		lines = append(lines, "STOPPING=1")
	case s.stopping == running && !m.ready && s.allServe():
		m.ready = true
		lines = append(lines, "READY=1")
	case time.Since(m.lookedAt) < statusInterval:
		return
	}
	m.report(s, lines...)
}

// report sends these lines, with the status if that is another one, and with a request for more time where a deadline runs.
func (m *manager) report(s *Supervisor, lines ...string) {
	if status := m.describe(s); status != m.status {
		m.status = status
		lines = append(lines, "STATUS="+sdnotify.OneLine(status))
	}
	if !m.ready || m.reloading || m.stopping {
		lines = append(lines, "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(extension.Microseconds(), 10))
	}
	if len(lines) > 0 {
		m.tell(lines...)
	}
}

// reloadBegins: systemd's notify-reload compares the time with that of its own request.
func (m *manager) reloadBegins(s *Supervisor) {
	if m == nil || !m.ready { // READY=1 at its end would say that the start is over
		return
	}
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	m.reloading, m.trouble = true, ""
	m.report(s, "RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// reloadEnds: the service is up in any case; err says on which generation, and why.
func (m *manager) reloadEnds(s *Supervisor, err error) {
	if m == nil || !m.reloading {
		return
	}
	m.reloading = false
	if err != nil {
		m.trouble = cut(err.Error(), 256)
	}
	m.report(s, "READY=1")
}

// describe gives the status line.
func (m *manager) describe(s *Supervisor) string {
	serving, wanted := 0, 0
	for _, p := range s.pools {
		if !p.removed {
			wanted += p.wanted()
		}
		for _, sl := range p.slots {
			if sl.current != nil && sl.current.state == ready {
				serving++
			}
		}
	}
	workers := s.workers()
	if since := time.Since(m.lookedAt); since >= statusInterval {
		m.count(workers, since)
	}
	switch {
	case m.stopping:
		return fmt.Sprintf("stopping, %d workers left", len(workers))
	case s.parked:
		return fmt.Sprintf("parked, generation %d", s.generation)
	}
	text := fmt.Sprintf("%d/%d workers, generation %d%s", serving, wanted, s.generation, m.rate)
	if m.reloading {
		text += ", reloading"
	}
	if m.trouble != "" {
		text += "; " + m.trouble
	}
	return text
}

// count works out the rate since the last look. What a worker did between that and its end is not in it.
func (m *manager) count(workers []*worker, since time.Duration) {
	counted := map[*worker]uint64{}
	var requests uint64
	for _, w := range workers {
		if board := w.proc.Board(); board != nil && board.Joined() {
			counted[w] = board.Total(scoreboard.Finished)
			requests += counted[w] - min(m.counted[w], counted[w])
		}
	}
	m.rate = ""
	if len(counted) > 0 && !m.lookedAt.IsZero() {
		m.rate = fmt.Sprintf(", %.0f req/s", float64(requests)/since.Seconds())
	}
	m.lookedAt, m.counted = time.Now(), counted
}
