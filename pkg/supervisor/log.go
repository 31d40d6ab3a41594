package supervisor

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"supervisor/pkg/config"
)

// logTuning is how the log looks, and what of it a reload may change. Safe for all.
type logTuning struct {
	level zap.AtomicLevel
	json  atomic.Bool

	forPeople, forPrograms zapcore.Encoder // set once
}

// newLogTuning reads loglevel and logformat. While trial is set the lines are the successor's: they stand among those of the supervisor that is in
// charge, and "stopped" must not look like its end.
func newLogTuning(cfg *config.Config, trial *atomic.Bool) *logTuning {
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeName = func(name string, to zapcore.PrimitiveArrayEncoder) {
		if trial.Load() {
			name = "successor"
		}
		to.AppendString(name)
	}
	t := &logTuning{level: zap.NewAtomicLevel()}
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder // as the application's
	t.forPrograms = zapcore.NewJSONEncoder(encoding)
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	encoding.ConsoleSeparator = " "
	t.forPeople = zapcore.NewConsoleEncoder(encoding)
	t.set(cfg)
	return t
}

// set takes loglevel and logformat anew. A tuning of nobody (the loop's tests) is nil.
func (t *logTuning) set(cfg *config.Config) {
	if t == nil {
		return
	}
	t.level.SetLevel(logLevel(cfg.LogLevel))
	t.json.Store(cfg.LogFormat == config.LogJSON)
}

// line is a line that does not come from a logger.
func (t *logTuning) line(level zapcore.Level, message string, facts ...zap.Field) []byte {
	encoder := t.forPeople
	if t.json.Load() {
		encoder = t.forPrograms
	}
	text, err := encoder.EncodeEntry(zapcore.Entry{Level: level, Time: time.Now(), LoggerName: loggerName, Message: message}, facts)
	if err != nil {
		return nil
	}
	return text.Bytes()
}

const loggerName = "supervisor"

// newLogger makes the supervisor's log: one line per change of state, facts as fields. It is two logs, of which one has the word: so a logger that was
// made before a reload changes its format, too.
func newLogger(out *sink, t *logTuning) *zap.Logger {
	when := func(json bool) zap.LevelEnablerFunc {
		return func(level zapcore.Level) bool { return t.json.Load() == json && t.level.Enabled(level) }
	}
	return zap.New(zapcore.NewTee(zapcore.NewCore(t.forPeople, out, when(false)), zapcore.NewCore(t.forPrograms, out, when(true)))).Named(loggerName)
}

// logLevel reads loglevel; the configuration has been validated.
func logLevel(name string) zapcore.Level {
	switch name {
	case "debug":
		return zap.DebugLevel
	case "warning":
		return zap.WarnLevel
	case "error":
		return zap.ErrorLevel
	}
	return zap.InfoLevel
}
