package main

import (
	"bytes"
	"strings"
	"testing"

	"supervisor/pkg/app"
)

func runApp(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(append([]string{"app"}, args...), &out, &err)
	return code, out.String(), err.String()
}

func TestBadUsageExits64(t *testing.T) {
	for line, want := range map[string]string{
		"":                           "which command?",
		"sevre":                      `there is no command "sevre"`,
		"--port 80":                  "-port",
		"serve --port 80":            "-port",
		"serve --addr":               "-addr",
		"serve now":                  `serve takes no arguments, but got "now"`,
		"serve now --addr :80":       `"now --addr :80"`,
		"serve --addr localhost":     "want HOST:PORT",
		"serve --addr :http":         `port "http"`,
		"serve --addr :99999":        `port "99999"`,
		"serve --addr 127.0.0.1:-1":  `port "-1"`,
		"serve --addr [::1]:80 -- x": `"x"`,
		"work default":               `"default"`,
		"work --concurrency -1":      "want 0 or more",
		"work --grace 0":             "-grace",
		"work --grace -5s":           "more than 0s",
		"redis tmp/redis.sock":       `"tmp/redis.sock"`,
		"redis --addr unix:":         "want unix:PATH",
		"redis --addr tmp/redis":     "HOST:PORT",
		"dev --addr localhost":       "want HOST:PORT",
		"migrate status":             `"status"`,
		"dev now":                    `"now"`,
	} {
		code, stdout, stderr := runApp(strings.Fields(line)...)
		if code != exitUsage || stdout != "" || !strings.HasPrefix(stderr, "app: ") || !strings.Contains(stderr, want) {
			t.Errorf("app %s: exit %d, stdout %q, stderr %q: want 64 and %q", line, code, stdout, stderr, want)
		}
	}
}

func TestHelpIsTrue(t *testing.T) {
	for line, want := range map[string][]string{
		"--help":         {"app serve [--addr HOST:PORT]", "serve", "http://127.0.0.1:8080/"},
		"-h":             {"serve"},
		"serve --help":   {"--addr HOST:PORT", "127.0.0.1:8080", "APP_DEBUG=1", "ACCESS_LOG ", "ACCESS_LOG_SAMPLE", "ACCESS_LOG_FILE", "APP_TRACE_FROM", "APP_LOG_FORMAT", "APP_LOG_LEVEL", "REDIS_URL", "TASK_BROKER_URL", "TASK_RESULT_BACKEND", "APP_MAX_WAITING", "1GiB", "ENABLE_BACKGROUND_TASKS"},
		"work --help":    {"--queues NAMES", "--concurrency N", "--grace DURATION", "default: 30s", "graceful_timeout", "REDIS_URL"},
		"redis --help":   {"--addr unix:PATH", "unix:tmp/redis.sock", "end with this process"},
		"migrate --help": {"--status", "before_reload", "DATABASE_URL", "POSTGRES_MAX_CONNECTIONS"},
		"dev --help":     {"--addr HOST:PORT", "127.0.0.1:8080", "APP_DEBUG=1", "REDIS_URL"},
		"--version":      {"app version "},
	} {
		code, stdout, stderr := runApp(strings.Fields(line)...)
		if code != exitOK || stderr != "" {
			t.Errorf("app %s: exit %d, stderr %q", line, code, stderr)
		}
		for _, w := range want {
			if !strings.Contains(stdout, w) {
				t.Errorf("app %s lacks %q:\n%s", line, w, stdout)
			}
		}
	}
}

func TestRunnerWithoutABrokerExits78(t *testing.T) {
	t.Setenv("REDIS_URL", "")
	t.Setenv("TASK_BROKER_URL", "")
	if code, _, stderr := runApp("work"); code != exitConfig || !strings.Contains(stderr, "REDIS_URL") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
	t.Setenv("REDIS_URL", "redis://127.0.0.1:1")
	t.Setenv("ENABLE_BACKGROUND_TASKS", "false")
	if code, _, stderr := runApp("work"); code != exitConfig || !strings.Contains(stderr, "ENABLE_BACKGROUND_TASKS=false") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
	t.Setenv("ENABLE_BACKGROUND_TASKS", "")
	if code, _, stderr := runApp("work", "--queues", "a,a"); code != exitUsage || !strings.Contains(stderr, "named twice") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
	t.Setenv("REDIS_URL", "redis://:s3cret@host:port")
	for _, command := range []string{"work", "serve", "dev"} {
		if code, _, stderr := runApp(command); code != exitConfig || !strings.Contains(stderr, "REDIS_URL is not") || strings.Contains(stderr, "s3cret") {
			t.Errorf("%s: exit %d, stderr %q", command, code, stderr)
		}
	}
}

func TestBadConfigExits78(t *testing.T) {
	t.Setenv("APP_DEBUG", "yes")
	code, _, stderr := runApp("serve")
	if code != exitConfig || !strings.Contains(stderr, `app: APP_DEBUG="yes": want 1 or 0`) {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

// The help of serve is the one place that has every variable.
func TestHelpNamesEveryVariable(t *testing.T) {
	_, help, _ := runApp("serve", "--help")
	asked := map[string]bool{}
	for _, given := range []map[string]string{nil, {"SMTP_URL": "smtp://h", "WEBHOOK_SECRET": "whsec_" + strings.Repeat("A", 32), "MAIL_FROM": "a@b.org"}} {
		if _, err := app.ConfigFromEnv(func(name string) string { asked[name] = true; return given[name] }); err != nil {
			t.Fatal(err)
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %d are asked for", len(asked))
	}
	for name := range asked {
		if !strings.Contains(help, name) {
			t.Errorf("app serve --help does not name %s", name)
		}
	}
}
