package supervisor

import (
	"fmt"
	"net/http"
	"strings"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// answerConfig is GET /v1/config.
func (s *Supervisor) answerConfig(w http.ResponseWriter, r *http.Request) {
	answer := control.Config{Notes: []string{}}
	var cfg *config.Config // nobody changes one that is in force
	if err := s.inLoop(r.Context(), func() {
		cfg, answer.Generation = s.cfg, s.generation
		for _, p := range s.pools {
			if p.delta != 0 && !p.pending && !p.removed {
				answer.Notes = append(answer.Notes, fmt.Sprintf("pool %s: scaled by %+d, to %s", p.cfg.Name, p.delta, plural(p.wanted(), "worker")))
			}
		}
	}); err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	var text strings.Builder
	cfg.Print(&text) // to memory
	answer.Text = text.String()
	for _, setting := range cfg.Settings() {
		answer.Settings = append(answer.Settings, control.Setting(setting))
	}
	reply(w, http.StatusOK, answer)
}
