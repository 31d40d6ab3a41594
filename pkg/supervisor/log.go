package supervisor

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger makes the supervisor's log: one line per change of state, facts as fields. While trial is set its lines are the successor's: they
// stand among those of the supervisor that is in charge, and "stopped" must not look like its end.
func newLogger(out *sink, level string, trial *atomic.Bool) (*zap.Logger, zap.AtomicLevel) {
	atomic := zap.NewAtomicLevelAt(logLevel(level))
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.ISO8601TimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	config.ConsoleSeparator = " "
	config.EncodeName = func(name string, to zapcore.PrimitiveArrayEncoder) {
		if trial.Load() {
			name = "successor"
		}
		to.AppendString(name)
	}
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(config), out, atomic)).Named("supervisor"), atomic
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
