package config

import (
	"reflect"
	"strings"
	"testing"
)

func printed(t *testing.T, cfg *Config) string {
	t.Helper()
	var out strings.Builder
	if err := cfg.Print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPrintedConfigLoadsAsTheSame(t *testing.T) {
	full := mustLoad(t, Sources{File: "testdata/full.toml", Flags: map[string][]string{"log-level": {"error"}}})
	defaults := Defaults()
	for _, s := range supervisorSettings { // a key that the file forgets would not be tested
		if s.kind.show(s.field(full)) == s.kind.show(s.field(defaults)) {
			t.Errorf("testdata/full.toml does not change %s", s.key)
		}
	}
	for _, s := range poolSettings {
		if s.kind.show(s.field(full.Pools[0])) == s.kind.show(s.field(defaults.Pools[0])) {
			t.Errorf("testdata/full.toml does not change %s", s.key)
		}
	}
	text := printed(t, full)
	again := mustLoad(t, Sources{File: writeFile(t, "printed.toml", text)})
	full.sources, again.sources = nil, nil
	if !reflect.DeepEqual(full, again) {
		t.Errorf("printed\n%s\ngot %+v", text, again)
		for i := range full.Pools {
			t.Errorf("got  %+v\nwant %+v", again.Pools[i], full.Pools[i])
		}
	}
}

func TestPrintedConfigSaysWhereValuesComeFrom(t *testing.T) {
	file := writeFile(t, "c.toml", "[supervisor]\nloglevel = 'error'\n[pool.web]\ncommand = ['x']\nbind = ':1'\nworkers = 'auto'\n[pool.web.env]\nA = 'a'")
	text := printed(t, mustLoad(t, Sources{
		File: file, Args: []string{"y"}, Env: map[string]string{"KEEPALIVE": "75", "SUPERVISOR_POOL_WEB_ENV": "B=b"},
		Flags: map[string][]string{"timeout": {"1m"}, "env": {"C=c"}},
	}))
	for _, want := range []string{
		`pidfile = "" # default`, `loglevel = "error" # ` + file + ":2", `command = ["y"] # command line`, `bind = ["web=:1"] # ` + file + ":5",
		` # ` + file + `:6, "auto"`, `keepalive = "1m15s" # environment KEEPALIVE`, `timeout = "1m" # flag --timeout`, `ready = "notify" # default`,
		`[pool.web.env]`, `A = "a" # ` + file + ":8", `B = "b" # environment SUPERVISOR_POOL_WEB_ENV`, `C = "c" # flag --env`,
	} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestPrintedConfigHidesSecrets(t *testing.T) {
	cfg := mustLoad(t, Sources{
		Args: []string{"app", "--db", "postgres://me:hunter2@db/x", "--password=hunter2", "--api-token", "hunter2", "--key", "--plain"},
		Flags: map[string][]string{"env": {
			"DB_PASSWORD=hunter2", "SecretThing=hunter2", "API_KEY=hunter2", "GITHUB_TOKEN=hunter2", "REDIS_URL=redis://:hunter2@r:6379/0",
			"ODD_URL=postgres://u:hunter2 %zz@h/?x=y", "AT=redis://u:x@hunter2@h", "SLASH=redis://u:hunter2/hunter2@h",
			"QUERY=postgres://h/x?user=a&password=hunter2&b=c", "DSN=host=h password=hunter2 user=x", "LIST=a,amqp://u:hunter2@h,amqp://v:hunter2@i", "EMPTY_SECRET=", "PLAIN=http://host/a@b?x=1",
		}},
	})
	text := printed(t, cfg)
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret shows:\n%s", text)
	}
	for _, want := range []string{
		`"redis://REDACTED@r:6379/0" # flag --env, redacted`, `"REDACTED" # flag --env, redacted`, `EMPTY_SECRET = "" # flag --env`,
		`QUERY = "postgres://h/x?user=a&password=REDACTED&b=c"`, `DSN = "host=h password=REDACTED user=x"`,
		`PLAIN = "http://host/a@b?x=1" # flag --env`, `"--password=REDACTED", "--api-token", "REDACTED", "--key", "--plain"] # command line, redacted`,
	} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if cfg.Pools[0].Env["DB_PASSWORD"] != "hunter2" || cfg.Pools[0].Command[3] != "--password=hunter2" {
		t.Error("printing changed the config")
	}
}

// What programs get is what people see: every line of Print, read again.
func TestSettingsAreTheLinesOfPrint(t *testing.T) {
	cfg := mustLoad(t, Sources{File: "testdata/full.toml", Env: map[string]string{"SUPERVISOR_POOL_FIRST_ENV": `API_KEY=hunter2 'ODD=a"b\cé'`}})
	settings := cfg.Settings()
	lines := 0
	for line := range strings.Lines(printed(t, cfg)) {
		if strings.Contains(line, " = ") {
			lines++
		}
	}
	if len(settings) != lines {
		t.Errorf("%d settings, %d lines", len(settings), lines)
	}
	byKey := map[string]Setting{}
	for _, s := range settings {
		if s.Value == nil || s.From == "" {
			t.Errorf("%+v", s)
		}
		byKey[s.Key] = s
	}
	pool := "pool." + cfg.Pools[0].Name
	if s := byKey[pool+".env.API_KEY"]; s.Value != "REDACTED" || s.From != "environment SUPERVISOR_POOL_FIRST_ENV, redacted" {
		t.Errorf("%+v", s)
	}
	if s := byKey[pool+".env.ODD"]; s.Value != `a"b\cé` {
		t.Errorf("%+v", s)
	}
	if s := byKey[pool+".workers"]; s.Value != int64(cfg.Pools[0].Workers) || !strings.HasPrefix(s.From, "testdata/full.toml:") {
		t.Errorf("%+v", s)
	}
}

// A supervisor that goes on with a configuration that it has not read says where the values came from all the same.
func TestOriginsGoThroughASnapshot(t *testing.T) {
	file := writeFile(t, "c.toml", "[pool.web]\ncommand = ['x']\nworkers = 'auto'\n")
	cfg := mustLoad(t, Sources{File: file, Env: map[string]string{"SUPERVISOR_LOGLEVEL": "error"}, Flags: map[string][]string{"env": {"A=a"}}})
	before := printed(t, cfg)
	origins := cfg.Origins()
	if len(origins) > 6 {
		t.Errorf("the defaults are among them: %v", origins)
	}
	cfg.SetOrigins(origins)
	if after := printed(t, cfg); after != before {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
}
