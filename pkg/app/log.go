package app

import (
	"os"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLog makes the operator's log on w, which is stderr: one line per change of state, nothing per request.
func (c Config) NewLog(w *os.File) *zap.Logger {
	format := c.LogFormat
	if format == "" {
		format = "json"
		if info, err := w.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			format = "console"
		}
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(encoding)
	if format == "console" {
		encoding.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		encoder = zapcore.NewConsoleEncoder(encoding)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(w), c.LogLevel)).Named("app")
}

// serverLog takes what fasthttp says. A connection that ends in the middle of a request is the client's affair and happens all
// day; the rest (no descriptors left, too many connections) an operator wants to know.
type serverLog struct {
	log *zap.SugaredLogger
}

func (l serverLog) Printf(format string, args ...any) {
	if strings.HasPrefix(format, "error when serving connection") {
		l.log.Debugf(format, args...)
		return
	}
	l.log.Warnf(format, args...)
}
