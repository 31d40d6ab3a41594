// Package fast is pkg/worker for fasthttp:
//
//	fast.Serve(&fasthttp.Server{Handler: handler}, ":8080")
//
// Do not call the server's Shutdown: it closes idle connections whether or not a request is on its way, and loses pipelined requests. The
// worker stops the server when its supervisor says so.
package fast

import (
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/worker"
)

// Serve serves s on the sockets that the supervisor passed, or on addr ("host:port", or "unix:/path") when there is none. It returns
// nil when the supervisor (or TERM) has stopped this worker and its last connection is gone.
//
// It wraps s.Handler and s.ConnState, and sets s.IdleTimeout from the pool's keepalive when it is 0. With certificates in s.TLSConfig
// it serves TLS. Connections of a server with MaxConnsPerIP cannot move (fasthttp hides them), and are not counted by request.
func Serve(s *fasthttp.Server, addr string) error {
	w := worker.Join()
	if s.IdleTimeout == 0 {
		s.IdleTimeout = w.Settings().KeepAlive
	}
	if s.Handler != nil {
		s.Handler = wrap(w, s.Handler)
	}

	connState := s.ConnState
	s.ConnState = func(nc net.Conn, state fasthttp.ConnState) {
		if c := worker.Find(nc); c != nil {
			switch state {
			case fasthttp.StateActive:
				c.Active()
			case fasthttp.StateIdle:
				c.Idle()
			case fasthttp.StateHijacked:
				c.Hijacked()
			}
		}
		if connState != nil {
			connState(nc, state)
		}
	}

	serve := s.Serve
	if t := s.TLSConfig; t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil) {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	idle := s.IdleTimeout
	if idle == 0 {
		idle = s.ReadTimeout
	}
	return w.Serve(addr, &worker.Server{Serve: serve, Idle: idle, Holds: true})
}

// wrap counts requests and gives each its deadline.
func wrap(w *worker.Worker, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		c := worker.Find(ctx.Conn())
		if c == nil {
			next(ctx)
			if w.Draining() {
				ctx.SetConnectionClose()
			}
			return
		}
		c.Begin(w.At(ctx.Time()))
		next(ctx)
		answer := &ctx.Response
		if late := ctx.LastTimeoutErrorResponse(); late != nil {
			answer = late // the handler's goroutine still uses ctx
		}
		c.End(w.Now(), answer.StatusCode())
		if c.Last() {
			answer.Header.SetConnectionClose()
		}
	}
}

// Overdue reports whether the running request took too long and was answered with 504 meanwhile: what its handler answers goes nowhere.
func Overdue(ctx *fasthttp.RequestCtx) bool {
	c := worker.Find(ctx.Conn())
	return c != nil && c.Overdue()
}

// NoDeadline ends the deadline (the pool's timeout) of this request: for answers that take their time before the first byte. Bodies that are
// streamed after the handler has returned need nothing.
func NoDeadline(ctx *fasthttp.RequestCtx) {
	if c := worker.Find(ctx.Conn()); c != nil {
		c.NoDeadline()
	}
}

// Extend gives this request that much more time.
func Extend(ctx *fasthttp.RequestCtx, d time.Duration) {
	if c := worker.Find(ctx.Conn()); c != nil {
		c.Extend(d)
	}
}
