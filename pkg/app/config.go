package app

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/zap/zapcore"

	"supervisor/pkg/accesslog"
	"supervisor/pkg/operator"
)

// accessLogOff is the access log of who asks for none.
const accessLogOff = "off"

// Config is what the environment may say. The address is a flag of `app serve`, limits are constants in server.go.
type Config struct {
	Debug     bool          // APP_DEBUG: the drills under /debug/
	LogFormat string        // APP_LOG_FORMAT: json, console, or "" for console on a terminal and json elsewhere
	LogLevel  zapcore.Level // APP_LOG_LEVEL: debug, info, warn, error
	Proxies   *Proxies      // APP_TRUSTED_PROXIES, or a flag: whose X-Forwarded-… is believed; nil: nobody's
	TraceFrom string        // APP_TRACE_FROM: anyone or proxies: whose traceparent and X-Request-ID are taken

	AccessLog       string  // ACCESS_LOG: off, combined or json
	AccessLogFile   string  // ACCESS_LOG_FILE; "" or "-" is stdout
	AccessLogSample float64 // ACCESS_LOG_SAMPLE, from 0 to 1: the share of requests that is logged, beside all that answer 5xx

	// AdminToken is what the operator's requests bear: APP_ADMIN_TOKEN; "": there are none. It never reaches a log or an error.
	AdminToken operator.Token
	Mail       *Mail     // SMTP_URL, MAIL_FROM, MAIL_ALLOW; nil: no mail is sent
	Webhooks   *Webhooks // WEBHOOK_SECRET, WEBHOOK_HOSTS, APP_WEBHOOK_ALLOW; nil: no webhooks are sent
	Report     Report

	Tasks bool // ENABLE_BACKGROUND_TASKS; without it: true exactly when there is a broker
	// The URLs may hold passwords: they never reach a log or an error.
	Broker string // TASK_BROKER_URL, else REDIS_URL: where jobs are; "" none
	// Store is the Redis of uploads and results: TASK_RESULT_BACKEND if it is one, else the broker. StoreInDatabase: they are in DATABASE_URL
	// instead, because that is set and TASK_RESULT_BACKEND names no Redis.
	Store           string
	StoreInDatabase bool
	// Results is where jobs' own results are: TASK_RESULT_BACKEND, a Redis or a PostgreSQL; "": with the jobs.
	Results  string
	Database Database
	// MaxWaiting bounds the bytes of uploads that wait for a runner: APP_MAX_WAITING.
	MaxWaiting int64
	// ClientQueues are the queues that POST /tasks may name: TASK_QUEUES, with commas; "" is default.
	ClientQueues string
}

// Queues gives what ClientQueues names. The first is where jobs go without a word.
func (c Config) Queues() []string {
	if names := words(c.ClientQueues); len(names) > 0 {
		return names
	}
	return []string{"default"}
}

// defaultMaxWaiting is some 300 photographs of 3 MB: what two runners do in half a minute, and what a small Redis can hold.
const defaultMaxWaiting = 1 << 30

// ConfigFromEnv reads the configuration with getenv (os.Getenv). The error names every variable that is wrong, and what would
// be right.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	var c Config
	var errs [18]error
	c.Debug, errs[0] = boolean(getenv, "APP_DEBUG")
	c.AccessLog, errs[1] = oneOf(getenv, "ACCESS_LOG", accessLogOff, "combined", "json")
	c.AccessLogFile = getenv("ACCESS_LOG_FILE")
	c.AccessLogSample, errs[16] = share(getenv, "ACCESS_LOG_SAMPLE", accesslog.All)
	c.TraceFrom, errs[17] = oneOf(getenv, "APP_TRACE_FROM", traceFromAnyone, traceFromProxies)
	c.LogFormat, errs[2] = oneOf(getenv, "APP_LOG_FORMAT", "json", "console")
	var level string
	level, errs[3] = oneOf(getenv, "APP_LOG_LEVEL", "debug", "info", "warn", "error")
	var redis string
	redis, errs[4] = redisURL(getenv, "REDIS_URL", "")
	c.Broker, errs[5] = redisURL(getenv, "TASK_BROKER_URL", redis)
	c.Store = c.Broker
	if isPostgres(getenv("TASK_RESULT_BACKEND")) {
		c.Results, errs[6] = postgresURL(getenv, "TASK_RESULT_BACKEND")
	} else if c.Store, errs[6] = redisURL(getenv, "TASK_RESULT_BACKEND", c.Broker); c.Store != c.Broker {
		c.Results = c.Store
	}
	c.Tasks = c.Broker != ""
	if getenv("ENABLE_BACKGROUND_TASKS") != "" {
		c.Tasks, errs[7] = boolean(getenv, "ENABLE_BACKGROUND_TASKS")
	}
	if c.Tasks && c.Broker == "" && errors.Join(errs[4:7]...) == nil {
		errs[7] = errors.New("ENABLE_BACKGROUND_TASKS=true, but there is no broker: set REDIS_URL or TASK_BROKER_URL, as in redis://127.0.0.1:6379")
	}
	c.MaxWaiting, errs[8] = size(getenv, "APP_MAX_WAITING", defaultMaxWaiting, maxUploadBytes)
	if c.Proxies, errs[9] = ParseProxies(getenv("APP_TRUSTED_PROXIES")); errs[9] != nil {
		errs[9] = fmt.Errorf("APP_TRUSTED_PROXIES: %w", errs[9])
	}
	c.AdminToken, errs[10] = adminToken(getenv)
	c.Database, errs[11] = databaseFromEnv(getenv)
	asked := getenv("TASK_RESULT_BACKEND")
	c.StoreInDatabase = c.Database.URL != "" && (asked == "" || isPostgres(asked))
	c.Mail, errs[14] = parseMail(getenv)
	c.Webhooks, errs[12] = parseWebhooks(getenv)
	c.Report, errs[15] = parseReport(getenv)
	c.ClientQueues = getenv("TASK_QUEUES")
	for _, queue := range c.Queues() {
		if !validQueue(queue) {
			errs[13] = fmt.Errorf("TASK_QUEUES: %q is no queue: want letters, digits, '_' and '-', as in default,mail", queue)
		}
	}
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

// share reads a number from 0 to 1.
func share(getenv func(string) string, name string, otherwise float64) (float64, error) {
	value := getenv(name)
	if value == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !(n >= 0 && n <= 1) {
		return 0, fmt.Errorf("%s=%q: want a number from 0 to 1, as in 0.1 for every tenth", name, value)
	}
	return n, nil
}

// size reads a number of bytes, or of KiB, MiB, GiB.
func size(getenv func(string) string, name string, otherwise, least int64) (int64, error) {
	value := getenv(name)
	if value == "" {
		return otherwise, nil
	}
	digits, shift := value, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if d, ok := strings.CutSuffix(value, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64>>shift || n<<shift < least {
		return 0, fmt.Errorf("%s=%q: want a number of bytes, as in 256MiB, and at least %d", name, value, least)
	}
	return n << shift, nil
}

// redisURL gives the address of a Redis; unix:path may be relative to the working directory, as in a configuration that works in every
// checkout. The error does not repeat the value, which may hold a password.
func redisURL(getenv func(string) string, name, otherwise string) (string, error) {
	value := getenv(name)
	if value == "" {
		return otherwise, nil
	}
	if path, ok := strings.CutPrefix(value, "unix:"); ok && path != "" && !strings.HasPrefix(path, "/") {
		path, query, _ := strings.Cut(path, "?")
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		value = (&url.URL{Scheme: "unix", Path: absolute, RawQuery: query}).String()
	}
	if _, err := redisOptions(value); err != nil {
		return "", fmt.Errorf("%s is not the URL of a Redis: %w", name, err)
	}
	return value, nil
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
