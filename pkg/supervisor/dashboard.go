package supervisor

import (
	"context"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/dashboard"
	"supervisor/pkg/operator"
)

// What pkg/dashboard sees of us. Its goroutines ask the loop, as all clients do.

const (
	fromDashboard = "dashboard"
	programPaths  = "/v1/" // of the control socket, for programs with the token
)

// adminRoutes are what the admin listener answers: health and metrics to everybody, the rest to the operator.
func (s *Supervisor) adminRoutes() http.Handler {
	open, programs, page := s.healthRoutes(), s.controlRoutes(), s.desk.dashboard
	delete(programs, control.PathStop) // nobody could start it again from there
	delete(programs, control.PathDump) // what is in a worker's memory is for who is on this machine
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case open[path].answer != nil:
			open.ServeHTTP(w, r)
		case !strings.HasPrefix(path, programPaths):
			page.ServeHTTP(w, r)
		default:
			if status, why := page.Program(w, r); programs[path].answer != nil && status != http.StatusOK {
				fail(w, status, "%s", why)
				return
			}
			programs.ServeHTTP(w, r)
		}
	})
}

func (s *Supervisor) newDashboard() *dashboard.Dashboard {
	return dashboard.New(dashboard.Options{
		Token: func() operator.Token { return *s.desk.token.Load() },
		Peer:  allowed,
		Hold:  hold,
		Read:  func(ctx context.Context) (control.Status, error) { return s.fullStatus(ctx, false) },
		Follow: func(ctx context.Context, send func(control.History) error) error {
			return s.FollowHistory(ctx, control.HistoryQuery{}, send)
		},
		Fault: func(err error) { s.log.Error("the dashboard failed, please report", zap.Error(err)) },
		Reload: func(ctx context.Context, begun func(string)) (control.Verdict, error) {
			return s.errandOf(ctx, "reload", begun, func(a asker) (string, error) { return s.beginReload(s.note("reload"), a.tell), nil })
		},
		Upgrade: func(ctx context.Context, begun func(string)) (control.Verdict, error) {
			return s.errandOf(ctx, "upgrade", begun, func(a asker) (string, error) { return s.beginUpgrade(s.note("upgrade"), a.tell), nil })
		},
		Scale: func(ctx context.Context, r control.ScaleRequest, begun func(string)) (control.Verdict, error) {
			return s.errandOf(ctx, "scale", begun, func(a asker) (string, error) { return s.scaleTo(r, a) })
		},
		Recycle: func(ctx context.Context, r control.RecycleRequest, begun func(string)) (control.Verdict, error) {
			return s.errandOf(ctx, "recycle", begun, func(a asker) (string, error) { return s.recycleTarget(r, a) })
		},
	})
}

// closeDashboard ends the streams of its pages: they would hold up the end, or the hand-over.
func (s *Supervisor) closeDashboard() {
	if s.desk.dashboard != nil {
		s.desk.dashboard.Close()
		s.desk.dashboard = nil
	}
}

// errandOf is a click on a button.
func (s *Supervisor) errandOf(ctx context.Context, what string, begun func(string), begin func(asker) (string, error)) (control.Verdict, error) {
	e, err := s.undertake(ctx, fromDashboard, what, true, begin)
	if err != nil {
		return control.Verdict{}, err
	}
	begun(e.begun)
	return e.end(ctx, s.over)
}
