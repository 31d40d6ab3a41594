package app

import (
	"errors"
	"fmt"

	"go.uber.org/zap/zapcore"
)

// Config is what the environment may say. The address is a flag of `app serve`, limits are constants in server.go.
type Config struct {
	Debug     bool          // APP_DEBUG: the drills under /debug/
	AccessLog bool          // APP_ACCESS_LOG: one JSON line per request on stdout
	LogFormat string        // APP_LOG_FORMAT: json, console, or "" for console on a terminal and json elsewhere
	LogLevel  zapcore.Level // APP_LOG_LEVEL: debug, info, warn, error
}

// ConfigFromEnv reads the configuration with getenv (os.Getenv). The error names every variable that is wrong, and what would
// be right.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	var c Config
	var errs [4]error
	c.Debug, errs[0] = boolean(getenv, "APP_DEBUG")
	c.AccessLog, errs[1] = boolean(getenv, "APP_ACCESS_LOG")
	c.LogFormat, errs[2] = oneOf(getenv, "APP_LOG_FORMAT", "json", "console")
	var level string
	level, errs[3] = oneOf(getenv, "APP_LOG_LEVEL", "debug", "info", "warn", "error")
	if err := errors.Join(errs[:]...); err != nil {
		return Config{}, err
	}
	if level != "" {
		// Cannot fail: oneOf let only levels pass.
		c.LogLevel, _ = zapcore.ParseLevel(level)
	}
	return c, nil
}

func boolean(getenv func(string) string, name string) (bool, error) {
	switch value := getenv(name); value {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, fmt.Errorf("%s=%q: want 1 or 0", name, value)
	}
}

// oneOf gives the value of a variable that may also be unset.
func oneOf(getenv func(string) string, name string, allowed ...string) (string, error) {
	value := getenv(name)
	if value == "" {
		return "", nil
	}
	for _, a := range allowed {
		if value == a {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s=%q: want one of %q", name, value, allowed)
}
