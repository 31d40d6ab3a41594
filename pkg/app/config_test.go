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
	if err != nil || got != (Config{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfigReadsTheEnvironment(t *testing.T) {
	got, err := ConfigFromEnv(env("APP_DEBUG", "1", "APP_ACCESS_LOG", "true", "APP_LOG_FORMAT", "json", "APP_LOG_LEVEL", "warn"))
	want := Config{Debug: true, AccessLog: true, LogFormat: "json", LogLevel: zapcore.WarnLevel}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestConfigErrorNamesEverythingWrong(t *testing.T) {
	_, err := ConfigFromEnv(env("APP_DEBUG", "yes", "APP_ACCESS_LOG", "on", "APP_LOG_FORMAT", "xml", "APP_LOG_LEVEL", "loud"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`APP_DEBUG="yes": want 1 or 0`, `APP_ACCESS_LOG="on"`, `APP_LOG_FORMAT="xml": want one of ["json" "console"]`, `APP_LOG_LEVEL="loud"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}
