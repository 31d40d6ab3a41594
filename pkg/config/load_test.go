package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/machine"
)

// writeFile makes a file in a new directory and gives its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, src Sources) *Config {
	t.Helper()
	cfg, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestWithoutAFileThereIsOnePoolFromFlags(t *testing.T) {
	cfg := mustLoad(t, Sources{
		Flags: map[string][]string{"workers": {"4"}, "bind": {":8080", "unix:/tmp/x.sock"}, "env": {"A=1,2", "B="}, "timeout": {"90"}, "pid": {"/tmp/p"}},
		Args:  []string{"app", "serve", "-w", "--", "x"},
	})
	want := Defaults()
	want.PIDFile = "/tmp/p"
	p := want.Pools[0]
	p.Command = []string{"app", "serve", "-w", "--", "x"}
	p.Workers, p.Timeout = 4, 90*time.Second
	p.Env = map[string]string{"A": "1,2", "B": ""}
	p.Bind = []Bind{{Name: "web", Network: "tcp", Address: ":8080"}, {Name: "web-2", Network: "unix", Address: "/tmp/x.sock", Mode: 0o600}}
	cfg.sources = nil
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", cfg, cfg.Pools[0], want, p)
	}
}

func TestDefaultsAreThoseOfTheDesign(t *testing.T) {
	cfg := mustLoad(t, Sources{File: writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nbind = ':1'\n[pool.jobs]\ncommand = ['x']")})
	web, jobs := cfg.Pools[0], cfg.Pools[1]
	if web.Workers != 1 || web.Backlog != 2048 || web.MaxRequests != 0 || web.Timeout != 30*time.Second || web.KeepAlive != 5*time.Second ||
		web.GracefulTimeout != 30*time.Second || web.OrphanTimeout != time.Minute || web.MaxUnavailable != 1 || web.Umask != -1 {
		t.Errorf("%+v", web)
	}
	if web.Ready != ReadyNotify || jobs.Ready != ReadyExec {
		t.Errorf("ready is %q with bind, %q without", web.Ready, jobs.Ready)
	}
}

func TestPoolsKeepTheOrderOfTheFile(t *testing.T) {
	var text strings.Builder
	want := []string{"zeta", "b", "a", "redis", "Web-1", "0"}
	for _, name := range want {
		text.WriteString("[pool." + name + "]\ncommand = ['x']\n")
	}
	for range 20 { // a map would be in order now and then
		if got := poolNames(mustLoad(t, Sources{File: writeFile(t, "c.toml", text.String())}).Pools); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestTheStrongerSourceWins(t *testing.T) {
	file := writeFile(t, "c.toml", "[supervisor]\nloglevel = 'error'\n[pool.web]\ncommand = ['x']\nbind = ':1'\nworkers = 2")
	src := Sources{File: file}
	steps := []struct {
		add     func()
		workers int
		level   string
		from    string
	}{
		{func() { src.File = ""; src.Args = []string{"x"} }, 1, "info", "default"},
		{func() { src.File = file; src.Args = nil }, 2, "error", file + ":6"},
		{func() { src.Env = map[string]string{"WORKERS": "3", "SUPERVISOR_LOGLEVEL": "warning"} }, 3, "warning", "environment WORKERS"},
		{func() { src.Env["SUPERVISOR_POOL_WEB_WORKERS"] = "4" }, 4, "warning", "environment SUPERVISOR_POOL_WEB_WORKERS"},
		{func() { src.Flags = map[string][]string{"workers": {"7", "5"}, "log-level": {"debug"}} }, 5, "debug", "flag --workers"},
	}
	for _, step := range steps {
		step.add()
		cfg := mustLoad(t, src)
		from := cfg.sources["pool.web.workers"].String()
		if cfg.Pools[0].Workers != step.workers || cfg.LogLevel != step.level || from != step.from {
			t.Errorf("got %d from %q, %q, want %d from %q, %q", cfg.Pools[0].Workers, from, cfg.LogLevel, step.workers, step.from, step.level)
		}
	}
}

func TestOnlyTheNamedPoolsRun(t *testing.T) {
	file := writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nbind = ':1'\nuser = 'nobody-here'\n[pool.jobs]\ncommand = ['y']\n[pool.cron]\ncommand = ['z']")
	src := Sources{File: file, Pools: []string{"jobs"}, Flags: map[string][]string{"workers": {"6"}}, Env: map[string]string{
		"WORKERS": "3", "SUPERVISOR_POOL_WEB_BACKLOG": "9",
	}}
	cfg := mustLoad(t, src)
	if got := poolNames(cfg.Pools); !slices.Equal(got, []string{"jobs"}) {
		t.Errorf("got %q", got)
	}
	if cfg.Pools[0].Workers != 6 {
		t.Errorf("the flag is about the pool that runs: got %d workers", cfg.Pools[0].Workers)
	}
	src.Flags = nil
	if cfg := mustLoad(t, src); cfg.Pools[0].Workers != 1 {
		t.Errorf("WORKERS is about the pool with bind, which does not run: got %d workers", cfg.Pools[0].Workers)
	}
	src.Pools = []string{"cron", "jobs", "cron"}
	if got := poolNames(mustLoad(t, src).Pools); !slices.Equal(got, []string{"jobs", "cron"}) {
		t.Errorf("got %q, want the order of the file", got)
	}
	src.Pools = []string{"job"}
	wantProblems(t, src, `flag --pool: no pool "job": there is web, jobs, cron; did you mean jobs?`)
}

func TestAutoIsOneWorkerPerCore(t *testing.T) {
	cfg := mustLoad(t, Sources{Args: []string{"x"}, Env: map[string]string{"WORKERS": "auto"}})
	if cfg.Pools[0].Workers != machine.Cores() {
		t.Errorf("got %d, want %d", cfg.Pools[0].Workers, machine.Cores())
	}
}

func TestALimitSwitchedOffFromAboveTakesItsJitterAlong(t *testing.T) {
	file := writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nmax_requests = 100\nmax_requests_jitter = 10")
	cfg := mustLoad(t, Sources{File: file, Flags: map[string][]string{"max-requests": {"0"}}})
	if p := cfg.Pools[0]; p.MaxRequests != 0 || p.MaxRequestsJitter != 0 {
		t.Errorf("got %d and %d", p.MaxRequests, p.MaxRequestsJitter)
	}
}

func TestEnvFileIsReadAtLoad(t *testing.T) {
	envFile := writeFile(t, "app.env", "A=1\nB='two words'\n")
	cfg := mustLoad(t, Sources{Args: []string{"x"}, Env: map[string]string{"SUPERVISOR_POOL_WEB_ENV_FILE": envFile}})
	if want := map[string]string{"A": "1", "B": "two words"}; !reflect.DeepEqual(cfg.Pools[0].EnvFromFile, want) {
		t.Errorf("got %q", cfg.Pools[0].EnvFromFile)
	}
}

// wantProblems loads what must not load; each line of the error must contain what is wanted there.
func wantProblems(t *testing.T, src Sources, want ...string) {
	t.Helper()
	cfg, err := Load(src)
	if err == nil {
		t.Fatalf("loaded %+v, want %q", cfg, want)
	}
	if _, ok := err.(*Error); !ok {
		t.Fatalf("error is a %T", err)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %d problems, want %d:\n%s", len(lines), len(want), err)
	}
	for i, line := range lines {
		if !strings.Contains(line, want[i]) {
			t.Errorf("got  %s\nwant %s", line, want[i])
		}
		if strings.ToLower(line[:1]) != line[:1] {
			t.Errorf("%q does not begin in lower case", line)
		}
	}
}

func TestErrorsNameLineAndKeyAndWhatIsRight(t *testing.T) {
	const web = "[pool.web]\ncommand = ['x']\n" // lines 1 and 2
	tests := []struct {
		name, text string
		want       []string
	}{
		{"syntax", "[pool.web]\ncommand = [\n", []string{`c.toml:2: column `}},
		{"key twice", web + "workers = 1\nworkers = 2", []string{`c.toml:4: column 1: `}},
		{"section twice", web + "[pool.web]", []string{`c.toml:3: column `}},
		{"empty", "", []string{`c.toml: has no pool; write [pool.web] and command = ["/usr/bin/app", "serve"]`}},
		{"only supervisor", "[supervisor]", []string{`has no pool`}},
		{"no command", "[pool.web]", []string{`c.toml:1: pool.web.command: is missing; write command = ["/usr/bin/app", "serve"]`}},
		{"empty command", "[pool.web]\ncommand = []", []string{`c.toml:2: pool.web.command: is empty; write ["/usr/bin/app", "serve"]`}},
		{"command is a text", "[pool.web]\ncommand = 'app serve'", []string{`"app serve" is not a command: write ["/usr/bin/app", "serve"]`}},
		{"argument is a number", "[pool.web]\ncommand = ['app', 5]", []string{`its argument 5 is not a text: write it in quotes`}},
		{"unknown key", web + "worker = 2", []string{`c.toml:3: pool.web.worker: unknown key; did you mean workers?`}},
		{"gunicorn's key", web + "keep_alive = 2", []string{`unknown key; did you mean keepalive?`}},
		{"far from any key", web + "colour = 'red'", []string{`c.toml:3: pool.web.colour: unknown key`}},
		{"gunicorn's alone", "preload_app = true\n[supervisor]\ndaemon = true\n" + web + "worker_class = 'gevent'", []string{
			`c.toml:1: preload_app: unknown key, one of gunicorn's: each worker executes its command anew`, `:3: supervisor.daemon: unknown key, one of gunicorn's`,
			`:6: pool.web.worker_class: unknown key, one of gunicorn's: a worker is any program`,
		}},
		{"control of a pool", web + "control = '/x'", []string{"c.toml:3: pool.web.control: belongs into [supervisor]"}},
		{"admin without a port", "[supervisor]\nadmin = 'localhost'\n" + web, []string{`c.toml:2: supervisor.admin: "localhost": has no port; write ":8080"`}},
		{"admin of systemd", "[supervisor]\nadmin = 'systemd:admin'\n" + web, []string{`c.toml:2: supervisor.admin: "systemd:admin": write "127.0.0.1:9900" or "unix:/path"`}},
		{"admin with a name", "[supervisor]\nadmin = 'a=:1'\n" + web, []string{`c.toml:2: supervisor.admin: "a=:1": write "127.0.0.1:9900"`}},
		{"admin where a pool is", "[supervisor]\nadmin = '127.0.0.1:81'\n" + web + "bind = ':81'", []string{`c.toml:2: supervisor.admin: 127.0.0.1:81 is also an address of pool web`}},
		{"abstract control", "[supervisor]\ncontrol = '@x'\n" + web, []string{`c.toml:2: supervisor.control: an abstract socket has no owner and no mode; use a path`}},
		{"control as an address", "[supervisor]\ncontrol = 'unix:/x'\n" + web, []string{`c.toml:2: supervisor.control: "unix:/x" is not a path; write "/x"`}},
		{"control in a directory", "[supervisor]\ncontrol = '/run/'\n" + web, []string{`c.toml:2: supervisor.control: "/run/" is a directory; write "/run/supervisor.sock"`}},
		{"long control", "[supervisor]\ncontrol = '/" + strings.Repeat("x", 107) + "'\n" + web, []string{`c.toml:2: supervisor.control: the path is 108 bytes long; a unix socket's has room for 107`}},
		{"negative delay", web + "drain_delay = -1", []string{`c.toml:3: pool.web.drain_delay: `}},
		{"bake", web + "bake = 'long'", []string{`c.toml:3: pool.web.bake: "long" is not a duration`}},
		{"health", web + "bind = ':1'\nhealth = 'curl localhost'", []string{`c.toml:4: pool.web.health: "curl localhost" is not a path such as "/health", or a command such as ["/usr/bin/check", "--quick"]`}},
		{"health of nothing", web + "bind = ':1'\nhealth = []", []string{`c.toml:4: pool.web.health: is empty`}},
		{"health a number", web + "health = 5", []string{`c.toml:3: pool.web.health: 5 is not a path`}},
		{"health without bind", web + "health = '/health'", []string{`c.toml:3: pool.web.health: asks for a path, and the pool has no bind to ask on; give a command instead`}},
		{"surge", web + "max_surge = '0%'", []string{`c.toml:3: pool.web.max_surge: "0%" is not a share of 1% to 100%`}},
		{"surge of none", web + "max_surge = 0", []string{`c.toml:3: pool.web.max_surge: 0 is not a share of the workers such as "25%", or a number of processes from 1`}},
		{"surge in words", web + "max_surge = 'all'", []string{`c.toml:3: pool.web.max_surge: "all" is not a share`}},
		{"hooks", web + "[pool.web.hooks]\nbefore_stat = ['x']\nafter_reload = 'y'\nx.y = 1", []string{
			`c.toml:4: pool.web.hooks.before_stat: unknown hook; did you mean before_start?`, `:5: pool.web.hooks.after_reload: "y" is not a command`, `:6: pool.web.hooks.x: unknown hook`,
		}},
		{"hooks a value", web + "hooks = ['x']", []string{`c.toml:3: pool.web.hooks: is a section; write [pool.web.hooks]`}},
		{"wrong section", "[supervisor]\nworkers = 1\n" + web + "pidfile = 'x'", []string{`c.toml:2: supervisor.workers: belongs into [pool.NAME]`, `c.toml:5: pool.web.pidfile: belongs into [supervisor]`}},
		{"above sections", "workers = 1\nloglevel = 'x'\nfoo = 1\n" + web, []string{`c.toml:1: workers: stands above the first section; it belongs into [pool.NAME]`, `:2: loglevel: stands above the first section; it belongs into [supervisor]`, `:3: foo: unknown key`}},
		{"unknown section", "[superviser]\na = 1\nb = 2\n" + web, []string{`c.toml:1: superviser: unknown section; there are [supervisor], [pool.NAME], [dev] and [deploy]; did you mean supervisor?`}},
		{"pool without name", "[pool]\nworkers = 1", []string{`c.toml:2: pool.workers: a pool has a name: write [pool.web], and the key below it`}},
		{"bad pool name", "[pool.'a b']\nworkers = 'x'", []string{`c.toml:1: pool.a b: a pool's name is of letters, digits, _ and -`}},
		{"list of pools", "[[pool.web]]\ncommand = ['x']\n[[pool.web]]\ncommand = ['x']", []string{`c.toml:1: pool.web: [[…]] is a list of sections; write [pool.web]`, `:2: pool.web.command: [[…]]`}},
		{"section for a value", "[pool.web.command]\nx = 1", []string{`c.toml:1: pool.web.command: is a value, not a section`}},
		{"workers 0", web + "workers = 0", []string{`c.toml:3: pool.web.workers: 0 is too small: at least 1`}},
		{"workers negative", web + "workers = -1", []string{`-1 is too small`}},
		{"workers huge", web + "workers = 100000", []string{`100000 is too large: at most 2000`}},
		{"workers a text", web + "workers = '4'", []string{`"4" is not a whole number, such as 4, or "auto"`}},
		{"workers a fraction", web + "workers = 1.5", []string{`1.5 is not a whole number`}},
		{"workers a list", web + "workers = [1]", []string{`a list of 1 is not a whole number`}},
		{"workers a date", web + "workers = 2020-01-01", []string{`2020-01-01 is not a whole number`}},
		{"auto where it means nothing", web + "max_requests = 'auto'", []string{`"auto" is not a whole number, such as 4`}},
		{"bad duration", web + "timeout = '5x'", []string{`c.toml:3: pool.web.timeout: "5x" is not a duration: write "30s", "1m30s" or a number of seconds`}},
		{"negative duration", web + "timeout = -1", []string{`-1s is negative`}},
		{"duration without end", web + "timeout = inf", []string{`is not a duration`}},
		{"duration a bool", web + "timeout = true", []string{`true is not a duration`}},
		{"boot_timeout 0", web + "boot_timeout = 0", []string{`must be more than 0`}},
		{"size", web + "max_memory = '1 zettabyte'", []string{`"1 zettabyte" is not a size: write "256MiB", "1GiB" or a number of bytes`}},
		{"size in no unit", web + "max_memory = 256", []string{`256 bytes are too little for any process; write "256MiB" if that is what you mean`}},
		{"bool", web + "nonblock = 'yes'", []string{`"yes" is not true or false`}},
		{"word", web + "sockets = 'slot'\nready = 1", []string{`"slot" is not one of "slots", "shared"; did you mean slots?`, `1 is not one of "notify", "exec"`}},
		{"loglevel", "[supervisor]\nloglevel = 'warn'\n" + web, []string{`"warn" is not one of "debug", "info", "warning", "error"`}},
		{"umask", web + "umask = 22", []string{`22 is not an octal mask in quotes, such as "0027"`}},
		{"umask text", web + "umask = '0888'", []string{`"0888" is not an octal mask`}},
		{"jitter", web + "max_requests_jitter = 1\nmax_lifetime_jitter = 1", []string{`c.toml:3: pool.web.max_requests_jitter: does nothing without max_requests: set it as well`, `:4: pool.web.max_lifetime_jitter`}},
		{"user", web + "user = 'nobody-here'\ngroup = 'no-group'", []string{`c.toml:3: pool.web.user: unknown user "nobody-here"`, `c.toml:4: pool.web.group: unknown group "no-group"`}},
		{"user of a socket", web + "bind = 'unix:/tmp/x?user=nobody-here&group=no-group'", []string{`c.toml:3: pool.web.bind: "web=unix:/tmp/x?group=no-group&user=nobody-here": unknown user "nobody-here"`, `unknown group`}},
		{"chdir", web + "chdir = '/nowhere'", []string{`c.toml:3: pool.web.chdir: /nowhere: no such file or directory`}},
		{"chdir to a file", web + "chdir = '/etc/passwd'", []string{`/etc/passwd is not a directory`}},
		{"env_file missing", web + "env_file = '/nowhere'", []string{`c.toml:3: pool.web.env_file: /nowhere: no such file or directory`}},
		{"env_file a directory", web + "env_file = '/tmp'", []string{`/tmp is a directory; it must be a regular file`}},
		{"env_file a device", web + "env_file = '/dev/zero'", []string{`/dev/zero is a special file`}},
		{"env_file bad", web + "env_file = 'testdata/bad.env'", []string{`c.toml:3: pool.web.env_file: testdata/bad.env:3: "export FOO"`}},
		{"env", web + "env = 'A=1'", []string{`"A=1" is not a table: write [pool.NAME.env]`}},
		{"env value", web + "[pool.web.env]\nA = 1.5\nB = ['x']", []string{`c.toml:4: pool.web.env.A: 1.5 is not a text: write it in quotes`, `:5: pool.web.env.B: a list of 1`}},
		{"env name", web + "[pool.web.env]\n'a b' = '1'", []string{`"a b" is not a variable's name`}},
		{"env section", web + "[pool.web.env.A]\nb = 1", []string{`c.toml:3: pool.web.env.A: is a variable, not a section`}},
		{"env of ours", web + "[pool.web.env]\nLISTEN_FDS = '1'\nSUPERVISOR_FDS = ''", []string{`LISTEN_FDS is for the supervisor to set`, `SUPERVISOR_FDS`}},
		{"bind", web + "bind = ['8080']", []string{`c.toml:3: pool.web.bind: "8080": write ":8080"`}},
		{"bind a number", web + "bind = [8080]", []string{`8080 is not an address: write ":8080" in quotes`}},
		{"bind twice", web + "bind = [':80', '127.0.0.1:80']", []string{`c.toml:3: pool.web.bind: web-2=127.0.0.1:80 overlaps web=:80 of pool.web.bind at `}},
		{"bind in two pools", web + "bind = 'unix:/tmp/x'\n[pool.b]\ncommand = ['x']\nbind = 'unix:/tmp/../tmp/x?mode=0666'", []string{`c.toml:6: pool.b.bind: b=unix:/tmp/x?mode=0666 overlaps web=unix:/tmp/x of pool.web.bind at `}},
		{"bind name twice", web + "bind = ['a=:80']\n[pool.a]\ncommand = ['x']\nbind = ':81'", []string{`c.toml:6: pool.a.bind: the name "a" is taken by pool.web.bind at `}},
		{"dev", web + "[dev]\nwatch = '*.go'\nignore = [1]\nreload_extra_files = ['[']\nbuild = 7\nreloud = true", []string{
			`c.toml:4: dev.watch: "*.go" is not a list of patterns: write ["**/*.go", "templates/**"]`, `:5: dev.ignore: its pattern 1 is not a text`,
			`:6: dev.reload_extra_files: "[" is not a pattern such as **/*.html`, `:7: dev.build: 7 is not a command`,
			`:8: dev.reloud: unknown key; did you mean reload?`,
		}},
		{"dev elsewhere", "reload = true\n[supervisor]\nreload = true\n[dev.watch]\nx = 1\n" + web + "build = ['x']", []string{
			`c.toml:1: reload: stands above the first section; it belongs into [dev]`, `:3: supervisor.reload: belongs into [dev]`,
			`:4: dev.watch: is a value, not a section`, `:8: pool.web.build: belongs into [dev]`,
		}},
		{"all at once", "[supervisor]\nlogfile = ''\n[pool.web]\nworkers = 0\ntimeout = 'x'\nuser = 'nobody-here'", []string{":2:", ":3: pool.web.command", ":4:", ":5:", ":6:"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { wantProblems(t, Sources{File: writeFile(t, "c.toml", test.text)}, test.want...) })
	}
}

func TestErrorsNameTheFlagOrVariable(t *testing.T) {
	two := writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nbind = ':1'\n[pool.api]\ncommand = ['x']\nbind = ':2'\n[pool.jobs]\ncommand = ['x']")
	none := writeFile(t, "c.toml", "[pool.a-b]\ncommand = ['x']\n[pool.c]\ncommand = ['x']")
	same := writeFile(t, "c.toml", "[pool.a-b]\ncommand = ['x']\n[pool.a_b]\ncommand = ['x']")
	type flags = map[string][]string
	type env = map[string]string
	x := []string{"x"}
	tests := []struct {
		name  string
		src   Sources
		want  []string
		usage bool
	}{
		{"nothing at all", Sources{}, []string{"command line: no command: give it after --, or name a config file with -c"}, true},
		{"no file", Sources{File: "/nowhere/c.toml"}, []string{"/nowhere/c.toml: cannot read the config file: no such file or directory"}, false},
		{"file is a directory", Sources{File: "/tmp"}, []string{"/tmp: /tmp is a directory; it must be a regular file"}, false},
		{"flag", Sources{Args: x, Flags: flags{"workers": {"0"}, "umask": {"8"}, "log-level": {"loud"}}}, []string{"flag --log-level: ", "flag --workers: 0 is too small", "flag --umask: "}, true},
		{"variable", Sources{Args: x, Env: env{"WORKERS": "many"}}, []string{`environment WORKERS: "many" is not a whole number`}, false},
		{"flag and variable", Sources{Args: x, Env: env{"KEEPALIVE": "x"}, Flags: flags{"timeout": {"x"}}}, []string{"environment KEEPALIVE", "flag --timeout"}, false},
		{"bad bind", Sources{Args: x, Flags: flags{"bind": {"80"}}}, []string{`flag --bind: "80": write ":80"`}, true},
		{"bind twice", Sources{Args: x, Flags: flags{"bind": {":80", ":80"}}}, []string{`flag --bind: web-2=:80 overlaps web=:80 of pool.web.bind at flag --bind`}, true},
		{"bad env", Sources{Args: x, Flags: flags{"env": {"A"}}}, []string{`flag --env: "A" is not NAME=VALUE`}, true},
		{"jitter", Sources{Args: x, Env: env{"MAX_REQUESTS_JITTER": "5"}}, []string{`environment MAX_REQUESTS_JITTER: does nothing without max_requests`}, false},
		{"user", Sources{Args: x, Flags: flags{"user": {"nobody-here"}}}, []string{`flag --user: unknown user "nobody-here"`}, true},
		{"several pools listen", Sources{File: two, Env: env{"WORKERS": "2"}}, []string{`environment WORKERS: is for the one pool with bind, but web, api listen; set workers in the file, or SUPERVISOR_POOL_WEB_WORKERS`}, false},
		{"several pools, flag", Sources{File: two, Flags: flags{"workers": {"2"}}}, []string{`flag --workers: is for the one pool with bind, but web, api listen`}, true},
		{"no pool listens", Sources{File: none, Env: env{"MAX_REQUESTS": "2"}}, []string{`environment MAX_REQUESTS: is for the one pool with bind, but a-b, c could be meant; set max_requests in the file, or SUPERVISOR_POOL_A_B_MAX_REQUESTS`}, false},
		{"command for several", Sources{File: two, Args: x}, []string{`command line: which pool's command is that? There are web, api, jobs`}, true},
		{"unknown pool in a variable", Sources{File: two, Env: env{"SUPERVISOR_POOL_JOB_WORKERS": "2"}}, []string{`environment SUPERVISOR_POOL_JOB_WORKERS: unknown setting; did you mean SUPERVISOR_POOL_JOBS_WORKERS?`}, false},
		{"unknown key in a variable, empty", Sources{Args: x, Env: env{"SUPERVISOR_POOL_WEB_DRAIN_DELEY": ""}}, []string{`environment SUPERVISOR_POOL_WEB_DRAIN_DELEY: unknown setting`}, false},
		{"one variable, two pools", Sources{File: same, Env: env{"SUPERVISOR_POOL_A_B_WORKERS": "2"}}, []string{`means both pool "a-b" and pool "a_b"; rename one`}, false},
		{"open quote", Sources{Env: env{"SUPERVISOR_POOL_WEB_COMMAND": "app 'x"}}, []string{`environment SUPERVISOR_POOL_WEB_COMMAND: "app 'x": a quote or a backslash at the end is left open`}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantProblems(t, test.src, test.want...)
			_, err := Load(test.src)
			if got := err.(*Error).Usage(); got != test.usage {
				t.Errorf("Usage() = %v", got)
			}
		})
	}
}

// The protocol's own variables and the guides' other ones are nobody's settings.
func TestForeignVariablesAreLeftAlone(t *testing.T) {
	cfg := mustLoad(t, Sources{Args: []string{"x"}, Env: map[string]string{
		"SUPERVISOR_FDS": "control:5", "SUPERVISOR_INSTANCE": "x", "SUPERVISOR_WORKER": "web.0.1", "SUPERVISOR_GENERATION": "7", "SUPERVISOR_SOCKET": "/x",
		"WORKERS": "", "SUPERVISOR_POOL_WEB_TIMEOUT": "", "SUPERVISOR_LOGLEVEL": "", "USER": "x", "BIND": "x",
	}})
	cfg.sources = nil
	want := Defaults()
	want.Pools[0].Command = []string{"x"}
	want.Pools[0].Ready = ReadyExec
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v %+v", cfg, cfg.Pools[0])
	}
}

func TestEverySettingHasAVariable(t *testing.T) {
	file := mustLoad(t, Sources{File: "testdata/full.toml", Pools: []string{"first"}})
	env := map[string]string{}
	unquote := strings.NewReplacer(`\"`, `"`, `\\`, `\`)
	for _, s := range supervisorSettings {
		env["SUPERVISOR_"+strings.ToUpper(s.key)] = unquote.Replace(strings.Trim(s.kind.show(s.field(file)), `"`))
	}
	for _, s := range devSettings {
		env["SUPERVISOR_DEV_"+strings.ToUpper(s.key)] = strings.NewReplacer(`", "`, " ", `["`, "", `"]`, "").Replace(s.kind.show(s.field(&file.Dev)))
	}
	first := file.Pools[0]
	for _, s := range poolSettings {
		env[variableName(first, s.key)] = unquote.Replace(strings.Trim(s.kind.show(s.field(first)), `"`))
	}
	env["SUPERVISOR_POOL_FIRST_COMMAND"] = "/bin/true -x ta\"\tb\" 'new\nline' ünï \"\x01\""
	env["SUPERVISOR_POOL_FIRST_HEALTH"] = "/bin/true --well"
	env["SUPERVISOR_POOL_FIRST_HOOKS_BEFORE_START"] = "/bin/true start"
	env["SUPERVISOR_POOL_FIRST_HOOKS_BEFORE_RELOAD"] = "/bin/true 'before a reload'"
	env["SUPERVISOR_POOL_FIRST_HOOKS_AFTER_RELOAD"] = "/bin/true after"
	env["SUPERVISOR_POOL_FIRST_HOOKS_ON_WORKER_EXIT"] = "/bin/true exit"
	env["SUPERVISOR_POOL_FIRST_ENV"] = `PLAIN="a # b" 'NUMBER=5' YES=true`
	env["SUPERVISOR_POOL_FIRST_BIND"] = "127.0.0.1:8081, spare=unix:/run/full.sock?mode=0660&user=root&group=root,tcp4:0.0.0.0:8082 systemd:fd"
	empty := writeFile(t, "c.toml", "[pool.first]")
	got := mustLoad(t, Sources{File: empty, Env: env})
	got.sources, file.sources = nil, nil
	got.Pools[0].EnvFromFile = file.Pools[0].EnvFromFile
	if !reflect.DeepEqual(got, file) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", got, got.Pools[0], file, file.Pools[0])
	}
}

func FuzzParseDocument(f *testing.F) {
	full, err := os.ReadFile("testdata/full.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(full))
	f.Add("a.b.c = { d = [{ e = 1 }] }\n[[x]]\n[x.y]\nz = 1")
	f.Add("[pool.web]\ncommand = ['x']\nenv = 5")
	f.Fuzz(func(t *testing.T, text string) {
		entries, _, err := parseDocument([]byte(text))
		for _, e := range entries {
			if len(e.path) == 0 || (err == nil && (e.line < 1 || e.line > strings.Count(text, "\n")+1)) {
				t.Errorf("%+v", e)
			}
		}
	})
}
