package app

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
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

// accessLog writes one JSON line per request. Each line is one write, so the lines of several workers on one pipe do not mix.
// Queries, headers and bodies stay out of it: they may hold secrets.
type accessLog struct {
	lines   *zap.Logger
	proxies *Proxies
}

func newAccessLog(w io.Writer, worker string, proxies *Proxies) *accessLog {
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey: "time", EncodeTime: zapcore.RFC3339NanoTimeEncoder, LineEnding: "\n",
	})
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), zapcore.InfoLevel)
	return &accessLog{zap.New(core).With(zap.String("worker", worker)), proxies}
}

// write is called after the handler, and before the answer leaves. A nil log writes nothing.
func (l *accessLog) write(ctx *fasthttp.RequestCtx) {
	if l == nil {
		return
	}
	size := -1 // not known yet: the answer is a stream
	if !ctx.Response.IsBodyStream() {
		size = len(ctx.Response.Body())
	}
	var took time.Duration // a request that could not be read has no start
	if start := ctx.Time(); !start.IsZero() {
		took = time.Since(start)
	}
	l.lines.Info("",
		zap.String("remote", l.proxies.remote(ctx)),
		zap.ByteString("method", ctx.Method()),
		zap.ByteString("path", ctx.Path()),
		zap.Int("status", ctx.Response.StatusCode()),
		zap.Int("bytes", size),
		zap.Float64("ms", float64(took.Microseconds())/1000),
	)
}
