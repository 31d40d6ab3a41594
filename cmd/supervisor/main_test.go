package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/config"
)

// result is what a command line led to.
type result struct {
	code           int
	stdout, stderr string
	cfg            *config.Config // what would run; nil: nothing
}

func runCommand(environ []string, args ...string) (r result) {
	var stdout, stderr strings.Builder
	r.code = command(append([]string{"supervisor"}, args...), environ, &stdout, &stderr, func(load func() (*config.Config, error)) (_ int, err error) {
		r.cfg, err = load()
		return 42, err
	})
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

func TestEveryFlagReachesTheConfig(t *testing.T) {
	r := runCommand(nil, "-w", "3", "-b", ":8080", "--bind", "unix:/tmp/a,b", "-t", "9", "--graceful-timeout", "8s", "--keep-alive=75", "--max-requests", "100",
		"--max-requests-jitter", "10", "-u", "root", "-g", "root", "-m", "022", "-p", "/tmp/pid", "--chdir", "/tmp", "-e", "A=1,2", "--env", "B==", "-e", "C=",
		"--error-logfile", "/tmp/e", "--access-logfile", "-", "--log-level", "debug", "--", "app", "serve", "--check-config", "-h", "--", "-w", "9")
	if r.cfg == nil || r.code != 42 {
		t.Fatalf("%+v", r)
	}
	p := r.cfg.Pools[0]
	if p.Name != "web" || p.Workers != 3 || len(p.Bind) != 2 || p.Bind[1].Address != "/tmp/a,b" || p.Timeout != 9*time.Second || p.GracefulTimeout != 8*time.Second ||
		p.KeepAlive != 75*time.Second || p.MaxRequests != 100 || p.MaxRequestsJitter != 10 || p.User != "root" || p.Group != "root" || p.Umask != 0o22 ||
		p.Chdir != "/tmp" || p.Env["A"] != "1,2" || p.Env["B"] != "=" || p.Env["C"] != "" || len(p.Env) != 3 || r.cfg.PIDFile != "/tmp/pid" ||
		r.cfg.ErrorLog != "/tmp/e" || r.cfg.AccessLog != "-" || r.cfg.LogLevel != "debug" {
		t.Errorf("%+v %+v", r.cfg, p)
	}
	if want := []string{"app", "serve", "--check-config", "-h", "--", "-w", "9"}; !slices.Equal(p.Command, want) {
		t.Errorf("the worker's arguments are %q, want %q", p.Command, want)
	}
}

func TestOptionsAreThoseOfTheConfig(t *testing.T) {
	var names []string
	for _, o := range options {
		switch o.long {
		case "config", "pool", "holder", "check-config", "print-config", "version", "help":
		default:
			names = append(names, o.long)
		}
	}
	slices.Sort(names)
	if want := config.FlagNames(); !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestBadCommandLines(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("[pool.web]\ncommand = ['x']\nworkers = 0\ntimeout = '5x'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args    string
		environ string
		code    int
		stderr  string
	}{
		{"", "", 64, "command line: no command: give it after --, or name a config file with -c"},
		{"--", "", 64, "no command follows --"},
		{"-c x.toml --", "", 64, "no command follows --"},
		{"app serve", "", 64, `unexpected argument "app": a worker's command goes after --, as in: supervisor -w 4 -- app serve`},
		{"-w 2 app -b :80", "", 64, `unexpected argument "app": a worker's command goes after --, as in: supervisor -w 4 -- app -b :80`},
		{"app -w 2 -- x", "", 64, `unexpected argument "app": the flag -w after it would be ignored`},
		{"app -- x", "", 64, `unexpected argument "app" before --`},
		{"help", "", 64, `unexpected argument "help"`},
		{"version", "", 64, `unexpected argument "version"`},
		{"--check-config true -- x", "", 64, `unexpected argument "true" before --`},
		{"--workres 2", "", 64, "unknown flag --workres; did you mean --workers?"},
		{"--log_level debug", "", 64, "unknown flag --log_level; did you mean --log-level?"},
		{"--worker-class gevent", "", 64, "unknown flag --worker-class, one of gunicorn's: a worker is any program"},
		{"-k gevent", "", 64, "unknown flag -k\n"},
		{"-w4", "", 64, "unknown flag -w4; write -w 4"},
		{"-b:80", "", 64, "unknown flag -b:80; write -b :80"},
		{"-w", "", 64, "flag --workers needs a value"},
		{"--bind -- x", "", 64, "flag --bind needs a value"},
		{"-w zero -- x", "", 64, `flag --workers: "zero" is not a whole number`},
		{"-e A -- x", "", 64, `flag --env: "A" is not NAME=VALUE`},
		{"--check-config=maybe -- x", "", 64, `invalid boolean value "maybe"`},
		{"--check-config --print-config -- x", "", 64, "one at a time"},
		{"--pool jobs -- x", "", 64, `flag --pool: no pool "jobs": there is web`},
		{"-w 2 -- x", "WORKER_TIMEOUT=5x", 78, `environment WORKER_TIMEOUT: "5x" is not a duration`},
		{"-c /nowhere.toml", "", 78, "/nowhere.toml: cannot read the config file: no such file or directory"},
		{"-c " + bad, "", 78, bad + ":3: pool.web.workers: 0 is too small: at least 1\nsupervisor: " + bad + ":4: pool.web.timeout: "},
		{"-c " + bad + " --print-config", "", 78, "workers: 0 is too small"},
		{"-c " + bad + " --check-config", "", 78, "workers: 0 is too small"},
		{"--check-config -- /nowhere/app", "", 78, "command line: pool.web.command: /nowhere/app: no such file or directory"},
		{"--check-config -b unix:/etc/passwd -- /bin/true", "", 69, "/etc/passwd is in the way: a regular file, not a socket"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			r := runCommand(strings.Fields(test.environ), strings.Fields(test.args)...)
			if r.code != test.code || !strings.Contains(r.stderr, test.stderr) {
				t.Errorf("got  %d %s\nwant %d %s", r.code, r.stderr, test.code, test.stderr)
			}
			if r.cfg != nil || r.stdout != "" {
				t.Errorf("it ran, or printed %q", r.stdout)
			}
			for line := range strings.Lines(r.stderr) {
				if !strings.HasPrefix(line, "supervisor: ") {
					t.Errorf("%q does not say who speaks", line)
				}
			}
		})
	}
}

func TestGoodCommandLinesThatRunNothing(t *testing.T) {
	tests := []struct {
		args, stdout string
	}{
		{"--version", "supervisor "},
		{"--help", "USAGE\n   supervisor [flags] -- COMMAND"},
		{"-h", "   -w, --workers N "},
		{"--check-config -w 2 -- /bin/true", "config ok: 2 workers of 1 pool, 0 addresses\n"},
		{"--print-config -w 2 -- x", "workers             = 2                        # flag --workers\n"},
	}
	for _, test := range tests {
		r := runCommand(nil, strings.Fields(test.args)...)
		if r.code != 0 || !strings.Contains(r.stdout, test.stdout) || r.stderr != "" || r.cfg != nil {
			t.Errorf("%s: %+v", test.args, r)
		}
	}
}

// After -- nothing is ours: the worker's help is the worker's.
func TestHelpAfterDashesIsTheWorkers(t *testing.T) {
	r := runCommand(nil, "--", "app", "--help", "--version")
	if r.cfg == nil || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestHelpNamesEveryOptionAndNoUnknownOne(t *testing.T) {
	text := runCommand(nil, "--help").stdout
	for _, o := range options {
		if !strings.Contains(text, "--"+o.long+" ") {
			t.Errorf("no --%s", o.long)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 121 {
			t.Errorf("too long for a terminal: %s", line)
		}
	}
}
