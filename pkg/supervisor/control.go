package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
	"supervisor/pkg/dashboard"
	"supervisor/pkg/operator"
)

// desk is what the control socket and the admin listener need of the loop. Only used by the loop.
type desk struct {
	since     time.Time            // this service's start
	control   *endpoint            // nil: none
	admin     *endpoint            // nil: none
	dashboard *dashboard.Dashboard // on admin; nil: it does not serve
	dropped   []*endpoint          // of the supervisor before us, until it has left
	watches   []*watch             // clients that wait for an end
	leaving   []func(Verdict)
	last      *control.Verdict // of the last reload or upgrade, whoever asked for it
	started   bool             // every pool's first full set was ready once
	delay     *time.Timer      // runs during drain_delay, else nil

	token atomic.Pointer[operator.Token] // in force. Shared and safe
}

// nothing is where net/http's complaints about clients go: they are no business of an operator's.
var nothing = log.New(io.Discard, "", 0)

// openControl opens the control socket, unless it was handed over to us. Everything else works as well without it.
func (s *Supervisor) openControl() {
	path := s.cfg.ControlPath(os.Getenv)
	if s.desk.control = s.inheritedEndpoint(controlDescriptor, "control socket", path); s.desk.control != nil || path == "" {
		return
	}
	l, err := openUnix(config.Bind{Network: "unix", Address: path, Mode: 0o600})
	if err != nil {
		s.log.Info("no control socket: supervisor ctl will not work; set supervisor.control to a path of your own, or to \"off\"",
			zap.String("path", path), zap.String("cause", why(err)))
		return
	}
	s.desk.control = newEndpoint("control socket", path, l)
}

// why shortens an error for people.
func why(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "another supervisor has it"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, fs.ErrNotExist):
		return "its directory does not exist"
	}
	return err.Error()
}

// serveEndpoints begins to answer. A successor does so when it is in charge: until then the supervisor before it answers.
func (s *Supervisor) serveEndpoints() {
	if s.probation {
		return
	}
	if e := s.desk.admin; e != nil {
		s.desk.token.Store(&s.cfg.AdminToken)
		s.desk.dashboard = s.newDashboard()
		e.serve(s.adminRoutes())
		s.log.Info("admin listens", zap.String("address", e.listener.Addr().String()))
	}
	s.openControl()
	if e := s.desk.control; e != nil {
		e.serve(guard(s.controlRoutes()))
		s.log.Info("control socket listens", zap.String("path", e.address))
	}
}

// sayGoodbye answers those who wait for the end; closeEndpoints lets them hear it.
func (s *Supervisor) sayGoodbye() {
	if s.handedOver {
		v := Verdict{OK: true, Text: fmt.Sprintf("a self-upgrade came before the end: supervisor %d goes on with it", s.successor), Generation: s.generation + 1}
		for _, w := range s.desk.watches {
			w.tell(v)
		}
		return
	}
	v := Verdict{OK: s.err == nil, Text: "stopped", Generation: s.generation}
	if s.err != nil {
		v.Text = "stopped because of an error: " + s.err.Error()
	}
	answer(&s.desk.leaving, v)
	for _, w := range s.desk.watches {
		w.tell(s.refused("the supervisor was stopped meanwhile"))
	}
	s.desk.watches = nil
}

func (s *Supervisor) closeEndpoints() {
	s.closeDashboard()
	for _, e := range []*endpoint{s.desk.admin, s.desk.control} {
		if e != nil {
			if s.probation && e.foreign {
				e.file = socketFile{} // the supervisor before us goes on with it
			}
			e.close()
		}
	}
}

// Names of our listeners in a hand-over.
const (
	controlDescriptor = descriptorPrefix + "control"
	adminDescriptor   = descriptorPrefix + "admin"
)

// addEndpoints adds our listeners to what a successor gets.
func (s *Supervisor) addEndpoints(b *bundle) {
	add := func(e *endpoint, name string, address *string) {
		if e == nil {
			return
		}
		fd, err := e.share()
		if err != nil {
			s.log.Warn("the successor must open its own "+e.name, zap.Error(err))
			return
		}
		b.fds[name], *address = fd, e.address
	}
	add(s.desk.control, controlDescriptor, &b.snapshot.Control)
	add(s.desk.admin, adminDescriptor, &b.snapshot.Admin)
	b.snapshot.Since = s.desk.since
}

// inheritedEndpoint gives the listener of the supervisor before us if it has the right address; another one is closed when that
// supervisor has left.
func (s *Supervisor) inheritedEndpoint(descriptor, name, address string) *endpoint {
	if s.heritage.before == nil {
		return nil
	}
	fd := s.heritage.before.take(descriptor)
	if fd < 0 {
		return nil
	}
	was := s.heritage.before.snapshot.Control
	if descriptor == adminDescriptor {
		was = s.heritage.before.snapshot.Admin
	}
	e, err := inheritEndpoint(name, was, fd)
	if err != nil {
		s.log.Warn("the listener of the supervisor before us cannot be used", zap.Error(err))
		return nil
	}
	if was != address {
		s.desk.dropped = append(s.desk.dropped, e)
		return nil
	}
	return e
}

// passEndpointsOn leaves our listeners to the successor.
func (s *Supervisor) passEndpointsOn() {
	s.closeDashboard()
	for _, e := range []*endpoint{s.desk.admin, s.desk.control} {
		if e != nil {
			e.passOn()
		}
	}
}

// takeEndpointsOver begins to answer in the place of the supervisor before us.
func (s *Supervisor) takeEndpointsOver() {
	if since := s.heritage.before.snapshot.Since; !since.IsZero() {
		s.desk.since = since
	}
	s.note("upgrade")(Verdict{OK: true, Text: fmt.Sprintf("supervisor %d has taken over, generation %d is in force", os.Getpid(), s.generation), Generation: s.generation})
	s.serveEndpoints()
	for _, e := range s.desk.dropped {
		e.close()
	}
	s.desk.dropped = nil
}

// guard lets root and our own user in.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r) {
			fail(w, http.StatusForbidden, "only root and the supervisor's own user (uid %d) may talk to it", os.Geteuid())
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Supervisor) controlRoutes() routes {
	t := s.healthRoutes()
	t[control.PathStatus] = route{http.MethodGet, s.answerStatus}
	t[control.PathConfig] = route{http.MethodGet, s.answerConfig}
	t[control.PathLogs] = route{http.MethodGet, s.answerLogs}
	t[control.PathHistory] = route{http.MethodGet, s.answerHistory}
	t[control.PathReload] = post(s, "reload", func(_ control.Wait, a asker) (string, error) {
		return s.beginReload(s.note("reload"), a.tell), nil
	})
	t[control.PathUpgrade] = post(s, "upgrade", func(_ control.Wait, a asker) (string, error) {
		return s.beginUpgrade(s.note("upgrade"), a.tell), nil
	})
	t[control.PathScale] = post(s, "scale", s.scaleTo)
	t[control.PathRecycle] = post(s, "recycle", s.recycleTarget)
	t[control.PathDrain] = post(s, "drain", s.drainTarget)
	t[control.PathUndrain] = post(s, "undrain", s.undrainTarget)
	t[control.PathStop] = post(s, "stop", s.askStop)
	t[control.PathDump] = route{http.MethodPost, s.answerDump}
	return t
}

// post makes the route of a command.
func post[R interface{ Waits() bool }](s *Supervisor, what string, begin func(R, asker) (string, error)) route {
	return route{http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
		var request R
		if read(w, r, &request) {
			s.command(w, r, what, request.Waits(), func(a asker) (string, error) { return begin(request, a) })
		}
	}}
}

// askStop begins a stop, whose end is the end.
func (s *Supervisor) askStop(r control.StopRequest, a asker) (string, error) {
	s.desk.leaving = append(s.desk.leaving, a.tell)
	if r.Quick {
		s.stop(quick)
		return "quick stop begun", nil
	}
	s.beginStop()
	return "stop begun", nil
}

// note keeps a verdict for the status, besides those that get it.
func (s *Supervisor) note(what string) func(Verdict) {
	return func(v Verdict) {
		wire := wireVerdict(what, v)
		s.desk.last = &wire
	}
}

func wireVerdict(what string, v Verdict) control.Verdict {
	return control.Verdict{OK: v.OK, What: what, Text: v.Text, Generation: v.Generation, Took: v.Took.Seconds(), At: time.Now()}
}

// ourselves names this process, for who waits for its end.
var ourselves = control.FindProcess(os.Getpid())

// command begins something in the loop, and answers that it has begun, or how it ended. An error of begin says that it was not begun. The
// client may go away whenever it likes.
func (s *Supervisor) command(w http.ResponseWriter, r *http.Request, what string, wait bool, begin func(asker) (begun string, err error)) {
	e, err := s.undertake(r.Context(), placeOf(r).of.name, what, wait, begin)
	if err != nil {
		if errors.Is(err, errLoopEnded) || errors.Is(err, errSuccessor) {
			w.Header().Set("Retry-After", "0")
		}
		status := http.StatusServiceUnavailable
		if refused := new(control.Error); errors.As(err, &refused) {
			status = refused.Status
		}
		fail(w, status, "%v", err)
		return
	}
	select {
	case v := <-e.verdict: // it failed at once, or there was nothing to do
		reply(w, http.StatusOK, e.wire(v))
		return
	default:
	}
	if !wait {
		reply(w, http.StatusAccepted, e.wire(control.Verdict{OK: true, What: what, Text: e.begun, At: e.at}))
		return
	}
	defer hold(r)()
	w.Header().Set(control.HeaderBegun, e.begun)
	w.WriteHeader(http.StatusProcessing)
	w.Header().Del(control.HeaderBegun)
	switch v, err := e.end(r.Context(), s.over); {
	case err == nil:
		reply(w, http.StatusOK, v)
	case errors.Is(err, errLoopEnded):
		fail(w, http.StatusServiceUnavailable, "%v", err)
	}
}

// watch is a client that waits until the loop's state is one that it asked for.
type watch struct {
	asker
	look func() (v Verdict, ended bool) // after every event
}

// await makes a client wait until look has a verdict.
func (s *Supervisor) await(a asker, look func() (v Verdict, ended bool)) {
	if a.wait {
		s.desk.watches = append(s.desk.watches, &watch{a, look})
	}
}

// look tells waiting clients what has come about. The loop calls it after every event.
func (s *Supervisor) look() {
	if !s.desk.started && s.stopping == running {
		s.desk.started = !slices.ContainsFunc(s.pools, func(p *pool) bool { return !p.pending && !p.removed && !p.serving })
	}
	s.desk.watches = slices.DeleteFunc(s.desk.watches, func(w *watch) bool {
		if w.gone.Err() != nil {
			return true
		}
		v, ended := w.look()
		if !ended && s.stopping >= graceful {
			v, ended = s.refused("the supervisor is stopping"), true
		}
		if ended {
			w.tell(v)
		}
		return ended
	})
}
