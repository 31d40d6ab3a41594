package app

import (
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestConfigDefaults(t *testing.T) {
	got, err := ConfigFromEnv(env())
	if err != nil || got != (Config{MaxWaiting: defaultMaxWaiting, AccessLogSample: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfigReadsTheEnvironment(t *testing.T) {
	got, err := ConfigFromEnv(env("APP_DEBUG", "1", "ACCESS_LOG", "combined", "ACCESS_LOG_SAMPLE", "0.25", "ACCESS_LOG_FILE", "a.log", "APP_TRACE_FROM", "proxies", "APP_LOG_FORMAT", "json", "APP_LOG_LEVEL", "warn"))
	want := Config{Debug: true, AccessLog: "combined", AccessLogSample: 0.25, AccessLogFile: "a.log", TraceFrom: "proxies", LogFormat: "json", LogLevel: zapcore.WarnLevel, MaxWaiting: defaultMaxWaiting}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestConfigErrorNamesEverythingWrong(t *testing.T) {
	_, err := ConfigFromEnv(env("APP_DEBUG", "yes", "ACCESS_LOG", "on", "ACCESS_LOG_SAMPLE", "NaN", "APP_TRACE_FROM", "me", "APP_LOG_FORMAT", "xml", "APP_LOG_LEVEL", "loud"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`APP_DEBUG="yes": want 1 or 0`, `ACCESS_LOG="on": want one of ["off" "combined" "json"]`, `ACCESS_LOG_SAMPLE="NaN": want a number from 0 to 1`, `APP_TRACE_FROM="me"`, `APP_LOG_FORMAT="xml": want one of ["json" "console"]`, `APP_LOG_LEVEL="loud"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestSizesHaveUnits(t *testing.T) {
	for value, want := range map[string]int64{"": 1 << 30, "10485760": 10 << 20, "64MiB": 64 << 20, "20480KiB": 20 << 20, "2GiB": 2 << 30} {
		if got, err := ConfigFromEnv(env("APP_MAX_WAITING", value)); err != nil || got.MaxWaiting != want {
			t.Errorf("%q: %d, %v", value, got.MaxWaiting, err)
		}
	}
	for _, value := range []string{"9MiB", "0", "-1GiB", "1GB", "GiB", "1e9", "9007199254740992GiB"} {
		if _, err := ConfigFromEnv(env("APP_MAX_WAITING", value)); err == nil || !strings.Contains(err.Error(), "256MiB") || !strings.Contains(err.Error(), "10485760") {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestTasksAreOnExactlyWhenThereIsABroker(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want Config
	}{
		{[]string{"REDIS_URL", "redis://a"}, Config{Tasks: true, Broker: "redis://a", Store: "redis://a"}},
		{[]string{"REDIS_URL", "redis://a", "TASK_BROKER_URL", "redis://b/1"}, Config{Tasks: true, Broker: "redis://b/1", Store: "redis://b/1"}},
		{[]string{"TASK_BROKER_URL", "rediss://u:p@b:7000/", "TASK_RESULT_BACKEND", "unix:/run/c.sock"}, Config{Tasks: true, Broker: "rediss://u:p@b:7000/", Store: "unix:/run/c.sock", Results: "unix:/run/c.sock"}},
		{[]string{"REDIS_URL", "redis://a", "ENABLE_BACKGROUND_TASKS", "false"}, Config{Broker: "redis://a", Store: "redis://a"}},
		{[]string{"REDIS_URL", "redis://a", "ENABLE_BACKGROUND_TASKS", "true"}, Config{Tasks: true, Broker: "redis://a", Store: "redis://a"}},
		{[]string{"ENABLE_BACKGROUND_TASKS", "false"}, Config{}},
	} {
		c.want.MaxWaiting, c.want.AccessLogSample = defaultMaxWaiting, 1
		if got, err := ConfigFromEnv(env(c.env...)); err != nil || got != c.want {
			t.Errorf("%v: %+v, %v", c.env, got, err)
		}
	}
	if _, err := ConfigFromEnv(env("ENABLE_BACKGROUND_TASKS", "true")); err == nil || !strings.Contains(err.Error(), "REDIS_URL") {
		t.Errorf("true without a broker: %v", err)
	}
}

func TestRelativeSocketIsThatOfTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	got, err := ConfigFromEnv(env("REDIS_URL", "unix:tmp/redis.sock?db=2"))
	if want := "unix://" + dir + "/tmp/redis.sock?db=2"; err != nil || got.Broker != want {
		t.Errorf("%q, %v, want %q", got.Broker, err, want)
	}
}

func TestBadURLIsAnErrorWithoutItsPassword(t *testing.T) {
	for _, url := range []string{
		"http://:s3cret@host", "s3cret", "redis://:s3cret@host:port", "redis://:s3c/ret@host", "redis://host/s3cret", "redis://:s3cret@ho st", "unix:", "redis://:%zz@s3cret",
	} {
		for _, name := range []string{"REDIS_URL", "TASK_BROKER_URL", "TASK_RESULT_BACKEND"} {
			_, err := ConfigFromEnv(env(name, url))
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "redis://") {
				t.Errorf("%s=%s: %v", name, url, err)
			} else if strings.Contains(err.Error(), "s3c") || strings.Contains(err.Error(), "ret") {
				t.Errorf("%s=%s: the error tells the password: %v", name, url, err)
			}
		}
	}
}
