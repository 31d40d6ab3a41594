package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

// problem is an error that the client can do something about. Every answer from 400 up has this shape:
//
//	{"error": {"code": "not_an_image", "message": "…, send a JPEG, PNG, GIF or WebP"}}
//
// The code is for programs and does not change; the message is for people and says what would be right. Where one field of a JSON body
// is wrong it is named: "field": "args.to[0]".
type problem struct {
	status     int
	code       string
	message    string
	field      string
	retryAfter time.Duration // 0: trying again does not help
}

// errorBody is what an answer says of an error.
type errorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
}

// seconds rounds up: a client that comes too early is sent away again.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

func (p *problem) Error() string { return p.code + ": " + p.message }

func newProblem(status int, code, format string, args ...any) *problem {
	return &problem{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *problem {
	return newProblem(fasthttp.StatusBadRequest, "bad_request", format, args...)
}

// answering turns a handler that may fail into one that always answers.
func (a *app) answering(h func(*fasthttp.RequestCtx) error) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if err := h(ctx); err != nil {
			a.fail(ctx, err)
		}
	}
}

// fail answers with err. What is not a problem is our own fault: the client learns only that, the log has the rest.
func (a *app) fail(ctx *fasthttp.RequestCtx, err error) {
	var p *problem
	if !errors.As(err, &p) {
		a.logOf(ctx).Error("request failed", zap.ByteString("method", ctx.Method()), zap.ByteString("path", ctx.Path()), zap.Error(err))
		p = newProblem(fasthttp.StatusInternalServerError, "internal", "the server failed to answer this request, its log says why")
	}
	if p.retryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(seconds(p.retryAfter)))
	}
	answerJSON(ctx, p.status, map[string]any{"error": errorBody{p.code, p.message, p.field}})
}

// panicked answers for a handler that panicked: it costs one 500 and a line in the log, not the worker.
func (a *app) panicked(ctx *fasthttp.RequestCtx, cause any) {
	a.logOf(ctx).Error("handler panicked", zap.ByteString("method", ctx.Method()), zap.ByteString("path", ctx.Path()),
		zap.Any("panic", cause), zap.ByteString("stack", debug.Stack()))
	ctx.Response.Reset()
	requestOf(ctx).setHeaders(ctx)
	a.fail(ctx, newProblem(fasthttp.StatusInternalServerError, "internal", "the server failed to answer this request, its log says why"))
}

func (a *app) notFound(ctx *fasthttp.RequestCtx) {
	a.fail(ctx, newProblem(fasthttp.StatusNotFound, "not_found", "there is nothing at %q, GET / lists what there is", ctx.Path()))
}

// methodNotAllowed answers after the router has set Allow.
func (a *app) methodNotAllowed(ctx *fasthttp.RequestCtx) {
	a.fail(ctx, newProblem(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "%q does not take %s, but %s",
		ctx.Path(), ctx.Method(), ctx.Response.Header.Peek(fasthttp.HeaderAllow)))
}

// unreadable answers when fasthttp could not read a request. It closes the connection after that.
func (a *app) unreadable(ctx *fasthttp.RequestCtx, err error) {
	var timeout net.Error
	var tooLong *fasthttp.ErrSmallBuffer
	p := badRequest("this is not an HTTP/1.1 request that the server understands")
	unread := true
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		unread = false // all but its body
		discardBody(ctx)
		p = tooLarge()
	case errors.As(err, &tooLong):
		p = newProblem(fasthttp.StatusRequestHeaderFieldsTooLarge, "headers_too_large",
			"the request line and headers may have %d bytes together", maxHeaderBytes)
	case errors.As(err, &timeout) && timeout.Timeout():
		p = newProblem(fasthttp.StatusRequestTimeout, "timeout",
			"headers must arrive within %v, the body within %v", headerTimeout, bodyTimeout)
	}
	r := a.begin(ctx)
	a.fail(ctx, p)
	a.endUnread(ctx, r, unread)
}

// discardBody reads what a client goes on sending, for a while. Closing a connection with unread bytes in it resets it, and the
// client would see that instead of the answer.
func discardBody(ctx *fasthttp.RequestCtx) {
	const (
		patience = 300 * time.Millisecond // without a byte: the client has sent all of it, or waits for us
		most     = 4 * maxUploadBytes
	)
	conn, buffer := ctx.Conn(), make([]byte, 64<<10)
	for read := 0; read < most; {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return
		}
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		read += n
	}
}

// answerJSON answers with v and a newline: people read these answers in a terminal.
func answerJSON(ctx *fasthttp.RequestCtx, status int, v any) {
	ctx.Response.ResetBody()
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json")
	encoder := json.NewEncoder(ctx.Response.BodyWriter())
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // only a type that cannot be JSON gets here
	}
}
