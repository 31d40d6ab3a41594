package supervisor

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// openAdmin binds the admin listener.
func (s *Supervisor) openAdmin() error {
	b := s.cfg.Admin
	address := ""
	if b.Network != "" {
		address = b.String()
	}
	if s.desk.admin = s.inheritedEndpoint(adminDescriptor, "admin listener", address); s.desk.admin != nil || address == "" {
		return nil
	}
	var l net.Listener
	var err error
	if b.Network == "unix" {
		l, err = openUnix(b)
	} else {
		l, err = net.Listen(b.Network, b.Address)
	}
	if err != nil {
		if l != nil {
			newEndpoint("admin listener", "", l).close()
		}
		return fmt.Errorf("%w admin address %s: %w", ErrBind, b, err)
	}
	s.desk.admin = newEndpoint("admin listener", address, l)
	return nil
}

// checkEndpoints puts a new token in force after a reload, and says what it could not change.
func (s *Supervisor) checkEndpoints(before, after *config.Config) {
	if before.Control != after.Control {
		s.log.Warn("control changes only with a restart or a self-upgrade", zap.String("in use", before.Control), zap.String("configured", after.Control))
	}
	s.desk.token.Store(&after.AdminToken)
	if before.Admin != after.Admin {
		s.log.Warn("admin changes only with a restart or a self-upgrade", zap.Stringer("in use", before.Admin), zap.Stringer("configured", after.Admin))
	}
}

// healthRoutes are about the supervisor as a whole: a hung worker cannot answer for itself.
func (s *Supervisor) healthRoutes() routes {
	return routes{
		control.PathMetrics: {http.MethodGet, s.scraper.answer},
		control.PathLive:    {http.MethodGet, s.health(func() string { return "" })},
		control.PathReady:   {http.MethodGet, s.health(s.notReady)},
		control.PathStartup: {http.MethodGet, s.health(s.notStarted)},
	}
}

// health is the answer of a health endpoint.
type health struct {
	Status string       `json:"status"` // ok, failing, or hung
	Reason string       `json:"reason,omitempty"`
	Uptime float64      `json:"uptime_seconds"`
	Pools  []poolHealth `json:"pools,omitempty"`
}

type poolHealth struct {
	Name   string `json:"name"`
	Wanted int    `json:"wanted"`
	Ready  int    `json:"ready"`
	// Drained are slots that have no worker because somebody wants it so.
	Drained int `json:"drained,omitempty"`
}

// health answers 200, or 503 with what is wrong; also when the loop does not say in time.
func (s *Supervisor) health(wrong func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := health{Status: "ok"}
		err := s.inLoop(r.Context(), func() {
			h.Reason, h.Uptime = wrong(), time.Since(s.desk.since).Seconds()
			for _, p := range s.pools {
				if !p.pending && !p.removed {
					h.Pools = append(h.Pools, poolHealth{p.cfg.Name, p.wanted(), p.readyCount(), len(p.drained())})
				}
			}
		})
		code := http.StatusOK
		switch {
		case err != nil:
			h = health{Status: "hung", Reason: err.Error()}
			code = http.StatusServiceUnavailable
		case h.Reason != "":
			h.Status = "failing"
			code = http.StatusServiceUnavailable
		}
		reply(w, code, h)
	}
}

// notReady says why no new clients should be sent to us; "": they should.
func (s *Supervisor) notReady() string {
	switch {
	case s.stopping == delaying:
		return "stopping: drain_delay has begun"
	case s.stopping != running:
		return "stopping"
	case s.parked:
		return "parked: no workers until a reload"
	}
	var bad []string
	for _, p := range s.pools {
		switch {
		case p.pending || p.removed || p.serving && p.readyCount() > 0:
		case p.onlyDrained(p.wanted()):
			bad = append(bad, fmt.Sprintf("pool %s is drained by hand (supervisor ctl undrain %s)", p.cfg.Name, p.cfg.Name))
		default:
			bad = append(bad, fmt.Sprintf("pool %s has %d of %s ready", p.cfg.Name, p.readyCount(), plural(p.wanted(), "worker")))
		}
	}
	return strings.Join(bad, ", ")
}

// notStarted says what the start still waits for. Once it is over it stays so.
func (s *Supervisor) notStarted() string {
	if s.desk.started {
		return ""
	}
	for _, p := range s.pools {
		if !p.serving {
			return fmt.Sprintf("pool %s has %d of %s ready", p.cfg.Name, p.readyCount(), plural(p.wanted(), "worker"))
		}
	}
	return "stopping"
}
