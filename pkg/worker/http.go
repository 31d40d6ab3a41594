package worker

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"supervisor/pkg/scoreboard"
)

// Serve serves srv on the sockets that the supervisor passed, or on addr ("host:port", or "unix:/path") when there is none. It is
// all that a net/http program needs:
//
//	worker.Serve(&http.Server{Handler: mux}, ":8080")
//
// It returns nil when the supervisor (or TERM) has stopped this worker and its last connection is gone, else the error of srv.Serve.
// It wraps srv's Handler, ConnContext and ConnState, and sets IdleTimeout from the pool's keepalive when it is 0. With certificates in
// srv.TLSConfig it serves TLS.
func Serve(srv *http.Server, addr string) error { return Join().serveHTTP(srv, addr) }

// netHTTPBuffer is the size of net/http's read buffers: it makes them by bufio.NewReader.
var netHTTPBuffer = bufio.NewReader(nil).Size()

type connKey struct{}

func (w *Worker) serveHTTP(srv *http.Server, addr string) error {
	if srv.IdleTimeout == 0 {
		srv.IdleTimeout = w.settings.KeepAlive
	}
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = &handler{w, next}

	connContext := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if c := Find(nc); c != nil {
			ctx = context.WithValue(ctx, connKey{}, c)
		}
		if connContext != nil {
			return connContext(ctx, nc)
		}
		return ctx
	}

	connState := srv.ConnState
	srv.ConnState = func(nc net.Conn, state http.ConnState) {
		if c := Find(nc); c != nil {
			switch state {
			case http.StateActive:
				c.Active()
			case http.StateIdle:
				c.Idle()
			case http.StateHijacked:
				c.Hijacked()
			}
		}
		if connState != nil {
			connState(nc, state)
		}
	}

	serve := srv.Serve
	if t := srv.TLSConfig; t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil) {
		serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
	}
	idle := srv.IdleTimeout
	if idle == 0 {
		idle = srv.ReadTimeout
	}
	return w.Serve(addr, &Server{Serve: serve, Idle: idle, buffer: netHTTPBuffer, nethttp: true})
}

// handler counts requests and gives each its deadline.
type handler struct {
	w    *Worker
	next http.Handler
}

func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(*Conn)
	if c == nil || r.ProtoMajor != 1 { // HTTP/2: many handlers on one connection
		if h.w.Draining() {
			rw.Header().Set("Connection", "close")
		}
		if c != nil {
			c.sc.Add(scoreboard.Started, 1)
			began := h.w.Now()
			defer func() {
				c.sc.Add(scoreboard.Succeeded, 1)
				c.finished(time.Duration(h.w.Now() - began))
			}()
		}
		h.next.ServeHTTP(rw, r)
		return
	}
	if c.Last() && r.Header["Upgrade"] == nil {
		rw.Header().Set("Connection", "close")
	}
	if c.fixed && r.Body != nil && r.Body != http.NoBody {
		r.Body = &timedBody{r.Body, c}
	}
	c.Begin(h.w.Now())
	panicked := true // then net/http cuts the connection, and no first line tells the status
	defer func() { h.end(c, panicked) }()
	h.next.ServeHTTP(rw, r)
	panicked = false
}

func (h *handler) end(c *Conn, panicked bool) {
	status := 0
	if panicked {
		status = http.StatusInternalServerError
	}
	c.End(h.w.Now(), status)
}

// timedBody stops a request's clock while its handler waits for the body, where the Conn below cannot tell: under TLS.
type timedBody struct {
	io.ReadCloser
	c *Conn
}

func (b *timedBody) Read(p []byte) (int, error) {
	word, from := b.c.pause()
	defer b.c.proceed(word, from)
	return b.ReadCloser.Read(p)
}

// NoDeadline ends the deadline (the pool's timeout) of the request with this context: for answers that take their time before the first
// byte. Streams need nothing: the first byte ends it.
func NoDeadline(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		c.NoDeadline()
	}
}

// Extend gives the request with this context that much more time.
func Extend(ctx context.Context, d time.Duration) {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		c.Extend(d)
	}
}
