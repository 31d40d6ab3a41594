package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"supervisor/pkg/control"
)

// fakeDaemon answers a control socket with this status.
func fakeDaemon(t *testing.T, st control.Status) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(st) })}
	go server.Serve(l)
	t.Cleanup(func() { server.Shutdown(context.Background()) })
	return path
}

func TestCandidates(t *testing.T) {
	socket := fakeDaemon(t, control.Status{Pools: []control.Pool{
		{Name: "web", Ready: 1, Wanted: 2, Workers: []control.Worker{
			{Name: "web.0.17", PID: 99, State: "ready"}, {Name: "web.0.18", PID: 100, State: "starting"}, {Name: "web.1", State: "backoff"},
		}},
		{Name: "jobs", Workers: []control.Worker{{Name: "jobs.0.3", PID: 101, State: "ready"}}},
	}})
	for line, want := range map[string]string{
		"|":                       "ctl healthcheck completion",
		"--work|":                 "--workers",
		"-w 4 --pi|":              "--pid",
		"--ready |":               "notify exec",
		"-c |":                    ":files",
		"--config=|":              ":files",
		"--config = x|":           ":files", // as bash has it
		"-w 4 -- ct|":             ":files",
		"ctl hi|":                 "history",
		"ctl --socket |":          ":files",
		"ctl history |":           "web web.0 web.1 jobs jobs.0",
		"ctl history web.|":       "web.0 web.1",
		"ctl history web.0.|":     "web.0.17 web.0.18",
		"ctl history web |":       "",
		"ctl history --kind cr|":  "crash",
		"ctl history -k crash,h|": "crash,hung crash,hook",
		"ctl history --kind=ga|":  "",
		"ctl history --kind=go|":  "--kind=gone",
		"ctl history -n |":        "",
		"ctl logs su|":            "supervisor",
		"ctl config |":            "web jobs supervisor",
		"ctl scale |":             "web= jobs=",
		"ctl scale -|":            "",
		"ctl scale web=+1 --wa|":  "--wait",
		"ctl stop |":              "",
		"ctl stop --q|":           "--quick",
		"ctl nonsense |":          "",
		"ctl -|":                  "--socket --config --timeout --json --help",
		"healthcheck --a|":        "--admin",
		"completion |":            "bash zsh fish",
		"completion bash |":       "",
	} {
		words := strings.Split(strings.TrimSuffix(line, "|"), " ")
		r := runCommand([]string{"SUPERVISOR_SOCKET=" + socket}, append([]string{"completion", "for"}, words...)...)
		var got []string
		for line := range strings.Lines(r.stdout) {
			word, _, tab := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if got = append(got, word); !tab {
				t.Errorf("no tab in %q", line)
			}
		}
		if strings.Join(got, " ") != want || r.code != 0 || r.stderr != "" {
			t.Errorf("%s: %v, want %s (%d %s)", line, got, want, r.code, r.stderr)
		}
	}
	if r := runCommand([]string{"SUPERVISOR_SOCKET=/nowhere"}, "completion", "for", "ctl", "logs", ""); r.stdout+r.stderr != "" || r.code != 0 {
		t.Errorf("without a supervisor: %+v", r)
	}
}

func TestCompletionCommandLines(t *testing.T) {
	for shell, words := range map[string]string{"bash": "complete -F", "zsh": "#compdef supervisor", "fish": "complete -c supervisor"} {
		if r := runCommand(nil, "completion", shell); r.code != 0 || !strings.Contains(r.stdout, words) {
			t.Errorf("%s: %+v", shell, r)
		}
	}
	if r := runCommand(nil, "completion", "--help"); r.code != 0 || !strings.Contains(r.stdout, "source <(supervisor completion bash)") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}, {"completion", "bash", "zsh"}} {
		if r := runCommand(nil, args...); r.code != 64 || !strings.Contains(r.stderr, "for which shell? bash, zsh or fish") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
