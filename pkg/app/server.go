package app

import (
	"bytes"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"supervisor/pkg/accesslog"
)

// Limits on what one client may cost. A handler's own time is limited by the supervisor's `timeout`.
const (
	maxHeaderBytes = 16 << 10                // request line and headers; room for cookies of a few sites
	maxUploadBytes = 10 << 20                // an image, which is also the largest job that level 3 takes
	maxBodyBytes   = maxUploadBytes + 64<<10 // an image in its multipart wrapping

	headerTimeout = 10 * time.Second // first byte to last header: who trickles headers holds a connection no longer than this
	bodyTimeout   = 60 * time.Second // to the last byte of the body: 10 MiB at 1.4 Mbit/s
	writeTimeout  = 30 * time.Second // the whole answer, from the handler's return

	// keepBufferBytes is how much of a body's buffer a connection keeps for its next request. Without it each of a thousand idle
	// clients that once sent 10 MiB would hold 10 MiB.
	keepBufferBytes = 64 << 10
)

// app is what the handlers share. Set once, by NewServer.
type app struct {
	config Config
	worker Worker
	log    *zap.Logger
	access *accesslog.Log // nil: off
	meter  *httpMeter     // nil: off
	images *queue
	tasks  *Tasks // nil: off
	start  time.Time
	routes []route
}

// NewServer makes the server. Serve it with fast.Serve, or with its own methods where there is no supervisor. Without background (nil)
// clients wait for what else a runner would do. Without access (nil; see Config.OpenAccessLog) no request is logged.
func NewServer(config Config, worker Worker, background *Tasks, access *accesslog.Log, log *zap.Logger) *fasthttp.Server {
	a := newApp(config, worker, background, log)
	a.access = access
	return a.server()
}

func newApp(config Config, worker Worker, background *Tasks, log *zap.Logger) *app {
	a := &app{config: config, worker: worker, log: log, images: newQueue(), tasks: background, start: time.Now()}
	if a.worker.Draining == nil {
		a.worker.Draining = func() bool { return false }
	}
	if a.worker.Overdue == nil {
		a.worker.Overdue = func(*fasthttp.RequestCtx) bool { return false }
	}
	return a
}

func (a *app) server() *fasthttp.Server {
	handler := a.newHandler()
	server := &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			r := a.begin(ctx)
			handler(ctx)
			a.end(ctx, r)
			ctx.Request.ReleaseBody(keepBufferBytes)
		},
		ErrorHandler:   a.unreadable,
		HeaderReceived: limitsOf,

		ReadBufferSize:     maxHeaderBytes,
		MaxRequestBodySize: maxBodyBytes,
		ReadTimeout:        headerTimeout,
		WriteTimeout:       writeTimeout,
		// IdleTimeout is the pool's keepalive: fast.Serve sets it. Without a supervisor it is ReadTimeout.

		// images.go reads multipart bodies itself: fasthttp would spill them to files in /tmp.
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		SecureErrorLogMessage:        true,
		Logger:                       serverLog{a.log.Named("fasthttp").Sugar()},
	}
	if a.worker.Connections == nil {
		a.worker.Connections = func() int { return int(server.GetOpenConnectionsCount()) }
	}
	return server
}

// limitsOf gives a request that has a body the time to send it, once its headers are here.
func limitsOf(header *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if header.ContentLength() == 0 || bytes.Equal(header.Method(), []byte(fasthttp.MethodGet)) {
		return fasthttp.RequestConfig{}
	}
	return fasthttp.RequestConfig{ReadTimeout: bodyTimeout}
}

func setCommonHeaders(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set(fasthttp.HeaderXContentTypeOptions, "nosniff")
}
