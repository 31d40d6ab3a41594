package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDevOnTheCommandLine(t *testing.T) {
	src := Sources{Args: []string{"bin/app"}, Flags: map[string][]string{
		"bind": {":8080"}, "reload": {"true"}, "reload-extra-file": {"a b/*.sql", "**/*.html"}, "build": {"true", `go build -ldflags "-s -w" ./cmd/app`},
	}}
	cfg := mustLoad(t, src)
	if d := cfg.Dev; !d.Reload || !slices.Equal(d.Extra, []string{"a b/*.sql", "**/*.html"}) ||
		!slices.Equal(d.Build, []string{"go", "build", "-ldflags", "-s -w", "./cmd/app"}) || !reflect.DeepEqual(d.Watch, devDefaults().Watch) {
		t.Errorf("%+v", d)
	}
	src.Flags["build"] = []string{`go "build`}
	wantProblems(t, src, `flag --build: "go \"build": a quote or a backslash at the end is left open`)
	src.Flags["build"] = []string{""}
	if cfg := mustLoad(t, src); cfg.Dev.Build != nil {
		t.Errorf("%q", cfg.Dev.Build)
	}
}

// Who saves a file does not wait for a stream's end, unless he wants to; jobs are not cut for it.
func TestDevShortensGracefulTimeout(t *testing.T) {
	text := "[pool.web]\ncommand = ['x']\nbind = [':8080']\n[pool.jobs]\ncommand = ['x']\n[pool.own]\ncommand = ['x']\nbind = [':8081']\ngraceful_timeout = 9\n"
	for reload, want := range map[string][]time.Duration{
		"[dev]\nreload = true": {devDraining, 30 * time.Second, 9 * time.Second}, "": {30 * time.Second, 30 * time.Second, 9 * time.Second},
	} {
		cfg := mustLoad(t, Sources{File: writeFile(t, "c.toml", text+reload)})
		for i, p := range cfg.Pools {
			if p.GracefulTimeout != want[i] {
				t.Errorf("%q: pool %s has %v, want %v", reload, p.Name, p.GracefulTimeout, want[i])
			}
		}
		var out strings.Builder
		cfg.Print(&out)
		if shown := strings.Contains(out.String(), "# default, with reload"); shown != (reload != "") {
			t.Errorf("%s", out.String())
		}
	}
}

func TestFilesOfAConfiguration(t *testing.T) {
	env := writeFile(t, "env", "A=1\n")
	src := Sources{File: writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nenv_file = '"+env+"'\n[pool.jobs]\ncommand = ['x']\nenv_file = '"+env+"'\n")}
	if files := mustLoad(t, src).Files(); !slices.Equal(files, []string{src.File, env}) {
		t.Errorf("%q", files)
	}
}
