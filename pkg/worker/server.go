package worker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// Server is how a worker uses a server, for adapters (http.go, and package fast). An adapter calls Begin and End around each handler
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
		if g := w.newAdoptGate(socket, s); g != nil {
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
