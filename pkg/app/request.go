package app

import (
	"bytes"
	"context"
	"encoding/hex"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"supervisor/pkg/accesslog"
	"supervisor/pkg/tracecontext"
)

// What names a request, and what is told of it at its end: to the metrics and to the access log.

// Headers that name requests: taken from whom TraceFrom believes, and given in every answer.
const (
	headerRequestID = "X-Request-ID" // of this one request, in our log; without it the id of its span
	headerTraceID   = "X-Trace-ID"   // in answers only: of all that is done for the same cause, here and elsewhere
	headerParent    = "traceparent"
	headerState     = "tracestate"

	maxRequestID = 64
)

// Who may name requests: APP_TRACE_FROM.
const (
	traceFromAnyone  = "anyone"
	traceFromProxies = "proxies"
)

// request is what we know of a request beside what fasthttp has. It lives from the begin to the end of the handler.
type request struct {
	route routeIndex
	trace tracecontext.Context // its span is this request
	id    []byte               // X-Request-ID
}

type requestKey struct{}

var requests = sync.Pool{New: func() any { return &request{id: make([]byte, 0, maxRequestID)} }}

// requestOf gives the request that a context belongs to, nil outside of one.
func requestOf(ctx *fasthttp.RequestCtx) *request {
	r, _ := ctx.UserValue(requestKey{}).(*request)
	return r
}

// routed notes which route has the request.
func routed(route routeIndex, h fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		requestOf(ctx).route = route
		h(ctx)
	}
}

// begin names the request.
func (a *app) begin(ctx *fasthttp.RequestCtx) *request {
	r := requests.Get().(*request)
	r.route, r.trace, r.id = otherRoute, tracecontext.Context{}, r.id[:0]
	if a.mayName(ctx) {
		header := &ctx.Request.Header
		r.trace = traceOf(header)
		if id := header.Peek(headerRequestID); isRequestID(id) {
			r.id = append(r.id, id...)
		}
	}
	if r.trace.Valid() {
		r.trace = r.trace.Child()
	} else {
		r.trace = tracecontext.New()
	}
	if len(r.id) == 0 {
		r.id = hex.AppendEncode(r.id, r.trace.Span[:])
	}
	ctx.SetUserValue(requestKey{}, r)
	r.setHeaders(ctx)
	return r
}

// setHeaders sets what every answer has.
func (r *request) setHeaders(ctx *fasthttp.RequestCtx) {
	setCommonHeaders(ctx)
	var trace [2 * len(r.trace.Trace)]byte
	hex.Encode(trace[:], r.trace.Trace[:])
	header := &ctx.Response.Header
	header.SetBytesV(headerRequestID, r.id)
	header.SetBytesV(headerTraceID, trace[:])
}

// mayName reports whether we take the names that a request brings. They are names and nothing else: a client that makes them up can confuse who
// reads the logs, no more, and each request has a span of its own beside them.
func (a *app) mayName(ctx *fasthttp.RequestCtx) bool {
	if a.config.TraceFrom != traceFromProxies {
		return true
	}
	_, yes := a.config.Proxies.believes(ctx)
	return yes
}

// traceOf reads what a request says of its trace. One that is not well-formed, or said twice, is none; so it is with the state alone.
func traceOf(header *fasthttp.RequestHeader) tracecontext.Context {
	parents := header.PeekAll(headerParent)
	if len(parents) != 1 {
		return tracecontext.Context{}
	}
	c, ok := tracecontext.Parse(bytes.Trim(parents[0], " \t"))
	if !ok {
		return tracecontext.Context{}
	}
	if lines := header.PeekAll(headerState); len(lines) > 0 {
		states := make([]string, len(lines))
		for i, line := range lines {
			states[i] = string(line)
		}
		c.State, _ = tracecontext.ParseState(states...)
	}
	return c
}

// isRequestID reports whether an id can stand in headers and logs as it is.
func isRequestID(id []byte) bool {
	for _, c := range id {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':' || c == '/' || c == '+' || c == '=') {
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxRequestID
}

// end tells what became of a request. It is called after the handler, before the answer leaves.
func (a *app) end(ctx *fasthttp.RequestCtx, r *request) {
	now := time.Now()
	took := now.Sub(ctx.Time())
	status := ctx.Response.StatusCode()
	if a.worker.Overdue(ctx) {
		status = fasthttp.StatusGatewayTimeout // the worker has answered for the handler
	}
	a.meter.observe(r.route, ctx.Method(), status, took)
	a.access.Log(ctx, &accesslog.Entry{Status: status, At: now, Took: took, ID: r.id, Trace: r.trace.Trace})
	ctx.RemoveUserValue(requestKey{})
	requests.Put(r)
}

// endUnread tells of a request that could not be read: nobody knows how long it took, and what it was.
func (a *app) endUnread(ctx *fasthttp.RequestCtx, r *request, unread bool) {
	a.meter.count(ctx.Response.StatusCode())
	a.access.Log(ctx, &accesslog.Entry{Status: ctx.Response.StatusCode(), At: time.Now(), ID: r.id, Trace: r.trace.Trace, Unread: unread})
	requests.Put(r)
}

// logOf is the log for lines about a request: with its names.
func (a *app) logOf(ctx *fasthttp.RequestCtx) *zap.Logger {
	r := requestOf(ctx)
	if r == nil {
		return a.log
	}
	return a.log.With(zap.String("request_id", string(r.id)), zap.Stringer("trace_id", r.trace.Trace))
}

// OpenAccessLog opens the access log that the environment asks for, nil when it asks for none. Close it after the server has ended.
func (c Config) OpenAccessLog(worker Worker, log *zap.Logger) (*accesslog.Log, error) {
	options := accesslog.Options{
		Path: c.AccessLogFile, Sample: c.AccessLogSample, Remote: c.Proxies.client, Worker: worker.ID, Generation: worker.Generation,
		Problem: func(err error) {
			log.Error("the access log cannot be opened again, its lines go on into the old file", zap.Error(err))
		},
	}
	switch c.AccessLog {
	case "", accessLogOff:
		return nil, nil
	case "combined":
		options.Format = accesslog.Combined
	}
	if worker.Label != nil {
		options.Lost = worker.Label("access_log_lost_total")
	}
	return accesslog.Open(options)
}

// askingTime bounds what one request asks of Redis, below the pool's timeout: a client shall read why, not 504. It is not the request's
// own context, which fasthttp uses again for the next request while a call may still be on its way; its trace is in it.
func askingTime(ctx *fasthttp.RequestCtx) (context.Context, context.CancelFunc) {
	limit := context.Background()
	if r := requestOf(ctx); r != nil {
		limit = tracecontext.With(limit, r.trace)
	}
	return context.WithTimeout(limit, 15*time.Second)
}
