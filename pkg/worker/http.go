package worker

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
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
			defer func() { c.finished(time.Duration(h.w.Now() - began)) }()
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
	defer h.end(c) // after a panic, too
	h.next.ServeHTTP(rw, r)
}

func (h *handler) end(c *Conn) { c.End(h.w.Now(), 0) }

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

// Server is how a worker uses a server, for adapters (this file, and package fast). An adapter calls Begin and End around each handler
// and Active, Idle and Hijacked from the server's ConnState hook, and adds Connection: close when Conn.Last says so.
type Server struct {
	// Serve serves a listener until its Accept fails. It is called for several listeners at once.
	Serve func(net.Listener) error
	// Idle is how long the server lets a connection wait for its next request; 0: for ever.
	Idle time.Duration
	// Holds says that the server may hold back finished answers while it has a further request in its buffer.
	Holds bool

	buffer  int  // bytes that a Read at a boundary asks for at least
	nethttp bool // statuses are read from what is written; the first read deadline is computed before the wait
}

// Serve serves on all inherited sockets that nobody has taken, else on addr. It returns nil at the end of a drain.
func (w *Worker) Serve(addr string, s *Server) error {
	w.begun.Store(true)
	sockets, err := w.take(addr)
	if err != nil {
		return err
	}
	if len(sockets) == 0 {
		return errors.New("worker: no inherited socket is left to serve")
	}
	w.mu.Lock()
	var gates []*gate
	for _, socket := range sockets {
		gates = append(gates, w.newGate(socket, s))
		if g := w.newAdoptGate(socket.name, s); g != nil {
			gates = append(gates, g)
		}
	}
	w.mu.Unlock()
	results := make(chan error, len(gates))
	for _, g := range gates {
		go func() { results <- s.Serve(g) }()
	}
	for range gates {
		err := <-results
		if w.mode.Load() == ended {
			continue
		}
		if err == nil { // fasthttp after its own Shutdown
			err = io.EOF
		}
		return err
	}
	<-w.end
	return nil
}

// Find gives the Conn under a connection that a server knows, or nil. A Conn inside of another connection (TLS) cannot move.
func Find(nc net.Conn) *Conn {
	switch t := nc.(type) {
	case *Conn:
		return t
	case *tls.Conn:
		if c, ok := t.NetConn().(*Conn); ok {
			c.wrapped(t.ConnectionState().NegotiatedProtocol == "h2")
			return c
		}
	}
	return nil
}

// wrapped says that a connection around this one reads from it on the server's behalf.
func (c *Conn) wrapped(multi bool) {
	if !c.fixed {
		c.fixed = true
	}
	if multi {
		c.multi.Store(true)
	}
}
