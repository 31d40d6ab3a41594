package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
)

// The canary is the first worker of a pool's new generation. It goes alone where something is to be learnt from it: where the pool has
// health or bake. Else all start together, and it is enough that each becomes ready.

// Words for every worker.
var (
	adoptOn  = protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"on"}}
	adoptOff = protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}}
)

const (
	// A worker that has just become ready may still be warming up: it is asked up to probeTries times, probePause apart.
	probeTries = 3
	probePause = time.Second

	// helloPatience is how long after READY=1 a worker's word on the control channel is awaited.
	helloPatience = 500 * time.Millisecond

	// probeTimeout is what it has for one answer to health = "/path".
	probeTimeout = 5 * time.Second
)

// judged reports whether a canary goes alone. A new pool has nothing to be compared with.
func (c *change) judged(r *reload) bool {
	return !r.forced && (c.cfg.Bake > 0 && !c.fresh || !c.cfg.Health.IsZero())
}

// startCanary starts the canary, and asks it whether it is well once it is ready.
func (s *Supervisor) startCanary(c *change) {
	if !c.judged(s.reload) {
		c.step = stepOthers
		return
	}
	c.pool.grow(1)
	sl := c.pool.slots[0]
	switch {
	case sl.next == nil && s.booting() < bootsAtOnce():
		if sl.next = s.spawn(c.pool, sl, c.blueprint(s.reload.generation)); sl.next != nil {
			c.canary = sl.next
		}
	case sl.next == nil || sl.next.state != ready:
	case c.cfg.Health.IsZero():
		s.beginBake(c)
	case c.cfg.Health.Path != "" && !sl.next.speaks && time.Since(sl.next.readyAt) < helloPatience:
		s.wake(helloPatience) // its word comes on another channel than READY=1
	default:
		c.step = stepProbe
		s.probe(c, 1)
	}
}

// probe asks the canary for the n-th time whether it is well.
func (s *Supervisor) probe(c *change, n int) {
	r := s.reload
	s.ask(c.canary, func(err error) {
		if s.reload != r || r.err != nil || c.step != stepProbe {
			return
		}
		switch {
		case err == nil:
			s.log.Info("canary is well", c.canary.fields()...)
			s.recordWorker(c.canary, control.EventReload, control.LevelInfo, "", "the canary is well")
			s.beginBake(c)
		case n < probeTries && !errors.Is(err, errCannotAsk):
			s.log.Warn("canary is not well, it is asked again", append(c.canary.fields(), zap.Error(err))...)
			s.recordWorker(c.canary, control.EventReload, control.LevelWarning, "", "the canary is not well, it is asked again: %v", err)
			time.AfterFunc(probePause, func() {
				s.do(func() {
					if s.reload == r && r.err == nil && c.step == stepProbe {
						s.probe(c, n+1)
					}
				})
			})
		default:
			r.fail(fmt.Errorf("canary %s is not well: %w", c.canary.id, err))
		}
	})
}

// errCannotAsk says that asking again is of no use.
var errCannotAsk = errors.New("it cannot be asked")

// askHealth asks a worker whether it is well, by the health of its pool. The answer comes as a call of done by the loop.
func (s *Supervisor) askHealth(w *worker, done func(error)) {
	health := w.cfg.Health
	if len(health.Command) > 0 {
		s.startHook(hook{
			name: "health", argv: health.Command, cfg: w.cfg, pin: s.pinOf(w), generation: w.generation,
			env: []string{protocol.EnvWorker + "=" + w.id.String(), envWorkerPID + "=" + strconv.Itoa(w.proc.Pid())},
		}, done)
		return
	}
	conn, err := s.connectTo(w)
	if err != nil {
		done(err)
		return
	}
	go func() {
		err := askPath(conn, health.Path)
		s.do(func() { done(err) })
	}()
}

// connectTo gives a connection that exactly this worker serves.
func (s *Supervisor) connectTo(w *worker) (net.Conn, error) {
	proc, ok := w.proc.(*child)
	if !ok || !w.speaks {
		return nil, fmt.Errorf(`%w over a connection of its own, since it does not use pkg/worker: give health a command`, errCannotAsk)
	}
	bind := w.sockets[0].bind
	ours, theirs, err := connectedPair(bind.Network == "unix")
	if err != nil {
		return nil, fmt.Errorf("connection for health: %w", err)
	}
	defer theirs.Close()
	raw, err := theirs.(syscall.Conn).SyscallConn()
	if err == nil {
		var sent error
		err = raw.Control(func(fd uintptr) { sent = protocol.SendServe(proc.sendFD, bind.Name, int(fd)) })
		err = errors.Join(err, sent)
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("connection for health: %w", err)
	}
	return ours, nil
}

// connectedPair gives both ends of a connection. TCP, so that the application finds addresses as it knows them; where that cannot be had
// it is a unix one.
func connectedPair(local bool) (ours, theirs net.Conn, err error) {
	if !local {
		if ours, theirs, err = tcpPair(); err == nil {
			return ours, theirs, nil
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		end, failed := net.FileConn(f)
		f.Close()
		ends[i], err = end, errors.Join(err, failed)
	}
	return ends[0], ends[1], err
}

func tcpPair() (ours, theirs net.Conn, err error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if ours, err = net.DialTimeout("tcp4", ln.Addr().String(), time.Second); err != nil {
		return nil, nil, err
	}
	for { // somebody else may have been faster
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Second))
		if theirs, err = ln.Accept(); err != nil {
			ours.Close()
			return nil, nil, err
		}
		if theirs.RemoteAddr().String() == ours.LocalAddr().String() {
			return ours, theirs, nil
		}
		theirs.Close()
	}
}

// askPath asks GET path over conn, which it closes. 200 to 399 is well.
func askPath(conn net.Conn, path string) error {
	defer conn.Close()
	client := &http.Client{
		Timeout: probeTimeout,
		Transport: &http.Transport{
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "supervisor")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	return fmt.Errorf("GET %s: status %d: %s", path, resp.StatusCode, strings.TrimSpace(string(body)))
}

// pinOf gives what belongs to a worker's generation.
func (s *Supervisor) pinOf(w *worker) *pin {
	if s.reload != nil && w.generation == s.reload.generation {
		for _, c := range s.reload.changes {
			if c.pool == w.pool {
				return c.pin
			}
		}
	}
	return w.pool.pin
}
