package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/control"
)

func TestBadCtlCommandLines(t *testing.T) {
	dir := t.TempDir()
	off := filepath.Join(dir, "off.toml")
	os.WriteFile(off, []byte("[supervisor]\ncontrol = 'off'\n[pool.web]\ncommand = ['x']\n"), 0o644)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/stale", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	tests := []struct {
		args, environ string
		code          int
		stderr        string
	}{
		{"ctl", "", 64, "which command? status, workers, top, history, logs, config, dump, reload, upgrade, scale, recycle, drain, undrain, stop"},
		{"ctl drain -s " + dir + "/none", "", 64, "drain: what? web.2, web.2.17, or a pool; to replace a worker is what recycle does"},
		{"ctl relaod", "", 64, `there is no command "relaod"; did you mean reload?`},
		{"ctl frobnicate", "", 64, `there is no command "frobnicate"; there are status, workers, `},
		{"ctl status web", "", 64, `status: unexpected argument "web"`},
		{"ctl recycle web jobs", "", 64, `recycle: unexpected argument "jobs"`},
		{"ctl status --tiemout 5", "", 64, "unknown flag --tiemout; did you mean --timeout?"},
		{"ctl status --wait", "", 64, "status does not take --wait"},
		{"ctl status -n 5", "", 64, "status does not take --number"},
		{"ctl history -n few -s " + dir + "/none", "", 64, `-n: "few" is no number`},
		{"ctl history -n -1 -s " + dir + "/none", "", 64, `-n: "-1" is no number`},
		{"ctl history --kind crsh -s " + dir + "/none", "", 64, `there is no event "crsh"; did you mean crash?`},
		{"ctl top --sort cpo -s " + dir + "/none", "", 64, `--sort: there is no order "cpo"; did you mean cpu?`},
		{"ctl top web jobs", "", 64, `top: unexpected argument "jobs"`},
		{"ctl history --all --kind crash -s " + dir + "/none", "", 64, "one at a time"},
		{"ctl reload --quick", "", 64, "reload does not take --quick"},
		{"ctl reload --wait=perhaps", "", 64, `flag --wait: "perhaps" is neither true nor false`},
		{"ctl reload --socket", "", 64, "flag --socket needs a value"},
		{"ctl reload --socket=", "", 64, "flag --socket needs a value"},
		{"ctl reload --timeout soon", "", 64, `--timeout: "soon" is not a time, such as 90s`},
		{"ctl reload --timeout 0 -s " + dir + "/none", "", 64, `--timeout: "0" is not a time`},
		{"ctl reload --timeout 5 --wait=false -s " + dir + "/none", "", 64, "--timeout is about waiting"},
		{"ctl scale -s " + dir + "/none", "", 64, "scale: how many? web=4, web=+1"},
		{"ctl scale web -s " + dir + "/none", "", 64, `scale: "web" is not web=4, web=+1, web=-1, 4, +1 or -1`},
		{"ctl scale web= -s " + dir + "/none", "", 64, `scale: "web=" is not`},
		{"ctl scale =4 -s " + dir + "/none", "", 64, `scale: "=4" is not`},
		{"ctl scale web=0 -s " + dir + "/none", "", 64, "a pool keeps at least one worker"},
		{"ctl scale web=99999999999999999999 -s " + dir + "/none", "", 64, "is not web=4"},
		{"ctl dump web.0 web.1", "", 64, `dump: unexpected argument "web.1"`},
		{"ctl status --heap", "", 64, "status does not take --heap"},
		{"ctl dump --wait", "", 64, "dump does not take --wait"},
		{"ctl dump -s " + dir + "/none web.0 --cpu --heap", "", 64, `--cpu: "--heap" is not a time`},
		{"ctl dump web.0 --heap --cpu 5 -s " + dir + "/none", "", 64, "one profile at a time"},
		{"ctl dump web.0 --json -s " + dir + "/none", "", 64, "say -o FILE"},
		{"ctl dump web.0 -s " + dir + "/none", "", 69, "there is no such file"},
		{"ctl status -- app", "", 64, "nothing may follow --"},
		{"-w 2 ctl status", "", 64, "ctl comes first, its flags after it: supervisor ctl status"},
		{"-c x.toml healthcheck", "", 64, "healthcheck comes first"},
		{"ctl status", "", 69, "where is the supervisor? Say --socket PATH, -c FILE, or set SUPERVISOR_SOCKET"},
		{"ctl status", "SUPERVISOR_SOCKET=" + dir + "/none", 69, "nobody listens on " + dir + "/none (from SUPERVISOR_SOCKET): there is no such file"},
		{"ctl status", "XDG_RUNTIME_DIR=" + dir, 69, "nobody listens on " + dir + "/supervisor.sock (from the default)"},
		{"ctl status --socket " + dir + "/stale", "", 69, "the socket is left over from a supervisor that is gone"},
		{"ctl --socket=" + off + " status", "", 69, "off.toml (from --socket): that is no socket"},
		{"ctl status -c " + off, "", 69, off + ` has control = "off": set it to a path`},
		{"ctl status -c /nowhere.toml", "", 78, "/nowhere.toml: cannot read the config file"},
		{"healthcheck web", "", 64, "it takes no arguments"},
		{"healthcheck -- web", "", 64, "it takes no arguments"},
		{"healthcheck --path /metrics", "", 64, `--path: "/metrics" is none of /health/ready, /health/live, /health/startup`},
		{"healthcheck --timeout never", "", 64, "is not a time"},
		{"healthcheck --socket x", "", 64, "unknown flag --socket"},
		{"healthcheck", "", 1, "which supervisor? Neither an admin listener nor a control socket"},
		{"healthcheck", "SUPERVISOR_ADMIN=nonsense", 1, "SUPERVISOR_ADMIN"},
		{"healthcheck", "SUPERVISOR_ADMIN=unix:" + dir + "/none", 1, dir + "/none: dial unix " + dir + "/none: connect: no such file"},
		{"healthcheck -c " + off, "", 1, "which supervisor?"},
		{"healthcheck --admin 127.0.0.1:1", "", 1, "127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			r := runCommand(strings.Fields(test.environ), strings.Fields(test.args)...)
			if r.code != test.code || !strings.Contains(r.stderr, test.stderr) || r.stdout != "" || r.cfg != nil {
				t.Errorf("got  %d %s%s\nwant %d %s", r.code, r.stderr, r.stdout, test.code, test.stderr)
			}
			for line := range strings.Lines(r.stderr) {
				if !strings.HasPrefix(line, "supervisor") {
					t.Errorf("%q does not say who speaks", line)
				}
			}
		})
	}
}

// After -- nothing is a subcommand.
func TestWorkerMayBeCalledLikeACommand(t *testing.T) {
	r := runCommand(nil, "--", "ctl", "status", "--json")
	if r.cfg == nil || strings.Join(r.cfg.Pools[0].Command, " ") != "ctl status --json" {
		t.Errorf("%+v", r)
	}
}

// Flags stand before, between or after the words, as one types them.
func TestCtlFlagsStandAnywhere(t *testing.T) {
	for _, line := range []string{
		"--json -t 5 scale web=2 --wait=false", "scale --json web=2 -t 5 --wait=false", "scale web=2 --wait=false -t=5 -json", "scale --timeout 5 --json=true --wait=0 web=2",
	} {
		c := &client{}
		if err := c.parse(ctlOptions(), strings.Fields(line)); err != nil || strings.Join(c.words, " ") != "scale web=2" || len(c.flags) != 3 ||
			c.flags["json"] != "true" || c.flags["timeout"] != "5" || c.flags["wait"] != "false" {
			t.Errorf("%s: %+v, %v", line, c, err)
		}
	}
	c := &client{}
	if err := c.parse(ctlOptions(), []string{"scale", "-1"}); err != nil || strings.Join(c.words, " ") != "scale -1" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestScaleArgument(t *testing.T) {
	for word, want := range map[string]control.ScaleRequest{
		"web=4": {Pool: "web", Workers: 4}, "web=+2": {Pool: "web", Delta: 2}, "web=-1": {Pool: "web", Delta: -1}, "4": {Workers: 4}, "+1": {Delta: 1}, "-1": {Delta: -1},
	} {
		if got, err := parseScale(word); err != nil || got != want {
			t.Errorf("%s: %+v, %v", word, got, err)
		}
	}
}

func TestStatusForPeople(t *testing.T) {
	var out strings.Builder
	writeStatus(&out, control.Status{
		PID: 7, Version: "v1.2.3 (go1.26)", State: "serving", NotReady: "pool web has 0 of 1 worker ready", Generation: 3, Uptime: 7300, Degraded: []string{"pool web: web.0 is in a crash loop"},
		Reload: &control.Reload{Generation: 4, Step: "pool web: bake, 1 of 2 ready", Age: 61, Queued: true},
		Last:   &control.Verdict{What: "reload", Text: "generation 3 is in force", At: time.Now().Add(-time.Hour)},
		Pools: []control.Pool{{Name: "web", Wanted: 1, Scaled: -1, Leaving: 1, Addresses: []string{":8080"}, Workers: []control.Worker{
			{Name: "web.0", State: "backoff", Generation: 3, Failures: 7},
			{
				Name: "web.0.2", PID: 9, State: "draining", Generation: 2, Age: 90, Scored: true, Requests: 5, InFlight: 1, Connections: 3, Memory: 99 << 20,
				Oldest: 45, Silent: 200000, Suspect: "it does not beat", Overdue: "max_requests", Reason: "max_requests",
			},
		}}},
	}, "v1.3.0 (go1.26)")
	want := `supervisor 7: serving, not ready (pool web has 0 of 1 worker ready), generation 3, up 2h1m
version v1.2.3 (go1.26); this ctl is v1.3.0 (go1.26)
a reload to generation 4 runs for 1m1s (pool web: bake, 1 of 2 ready), another one waits for it
last reload, 1h0m ago: generation 3 is in force
degraded: pool web: web.0 is in a crash loop

pool web: 0 of 1 ready (scaled by -1), 1 on the way out, on :8080
  WORKER   PID  STATE     GEN  AGE    REQUESTS  RUNNING  CONNS  MEMORY  NOTE
  web.0    -    backoff   3    -      -         -        -      -       7 starts failed
  web.0.2  9    draining  2    1m30s  5         1        3      99MiB   max_requests, no progress: it does not beat, silent for 2d7h, a request runs for 45s
`
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}

// Each help shows each flag that its command takes, fits a terminal, and is found with the flag before or after.
func TestHelpOfCtlAndHealthcheck(t *testing.T) {
	helps := map[string][]option{"ctl": commonOptions, "healthcheck": healthOptions}
	for _, command := range ctlCommands() {
		helps["ctl "+command.name] = slices.Concat(command.options, commonOptions)
	}
	for command, options := range helps {
		r := runCommand(nil, append(strings.Fields(command), "--help")...)
		if r.code != 0 || r.stderr != "" {
			t.Errorf("%v: %+v", command, r)
		}
		for _, o := range options {
			if !strings.Contains(r.stdout, "--"+o.long+" ") {
				t.Errorf("%v: no --%s", command, o.long)
			}
		}
		for line := range strings.Lines(r.stdout) {
			if len([]rune(line)) > 121 {
				t.Errorf("too long for a terminal: %s", line)
			}
		}
		if name, ok := strings.CutPrefix(command, "ctl "); ok {
			if before := runCommand(nil, "ctl", "-h", name); before.stdout != r.stdout {
				t.Errorf("-h %s: %s", name, before.stdout)
			}
			if !strings.Contains(ctlHelp(), "\n   "+name) {
				t.Errorf("ctl --help does not list %s", name)
			}
		}
	}
	if r := runCommand(nil, "ctl", "--help", "statsu"); r.code != 64 || !strings.Contains(r.stderr, "did you mean status?") {
		t.Errorf("%+v", r)
	}
}
