package main

import (
	"strings"
	"testing"

	"supervisor/pkg/control"
)

func TestOneSectionOfAConfig(t *testing.T) {
	whole := func() control.Config {
		return control.Config{
			Notes: []string{"pool web: scaled by +1, to 2 workers", "pool website: scaled by -1, to 1 worker"},
			Text:  "[supervisor]\npidfile = \"\" # default\n\n[pool.web]\nworkers = 1 # a.toml:2\n\n[pool.web.env]\nA = \"[x]\" # a.toml:3\n\n[pool.website]\nworkers = 2 # default\n",
			Settings: []control.Setting{
				{Key: "supervisor.pidfile"}, {Key: "pool.web.workers"}, {Key: "pool.web.env.A"}, {Key: "pool.website.workers"},
			},
		}
	}
	for name, want := range map[string]string{
		"web":        "[pool.web]\nworkers = 1 # a.toml:2\n\n[pool.web.env]\nA = \"[x]\" # a.toml:3\n",
		"website":    "[pool.website]\nworkers = 2 # default\n",
		"supervisor": "[supervisor]\npidfile = \"\" # default\n",
	} {
		cfg := whole()
		if err := onlySection(&cfg, name); err != nil || cfg.Text != want {
			t.Errorf("%s: %v\n%s", name, err, cfg.Text)
		}
		if name == "web" && (len(cfg.Notes) != 1 || len(cfg.Settings) != 2) {
			t.Errorf("%+v", cfg)
		}
	}
	cfg := whole()
	if err := onlySection(&cfg, "wesbite"); err == nil || !strings.Contains(err.Error(), `there is no pool "wesbite"; there is web, website; did you mean website?`) {
		t.Errorf("%v", err)
	}
}
