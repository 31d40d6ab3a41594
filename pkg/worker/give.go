package worker

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// What a supervisor asks of workers while it judges a canary, the first worker of a new generation: the old ones give it some of their
// connections, and it serves a probe.

// giveTime bounds a give: connections that are busy all that time stay.
const giveTime = 5 * time.Second

// give lets the next n connections that stand between two requests move to workers that adopt. Only the loop calls it.
func (w *Worker) give(n int) {
	if w.mode.Load() != serving {
		return // all of them move already
	}
	w.toGive.Store(int64(n)) // first: a connection that comes to its boundary from here on looks at it itself
	w.registry.each(func(c *Conn) {
		if n > 0 && c.used.Load() && c.poke() {
			n--
		}
	})
}

// mayGive reports whether this connection, at its boundary, is one of those to give, and takes it off their number. One without a request
// so far stays: it may be a browser's spare one.
func (c *Conn) mayGive() bool {
	w := c.w
	if w.toGive.Load() <= 0 || !c.used.Load() || c.fixed || w.Now() < c.askAgain {
		return false
	}
	return w.toGive.Add(-1) >= 0
}

// serveOne serves a connection that the supervisor brought along, as if it came from the bind's listener.
func (w *Worker) serveOne(bind string, conn net.Conn) {
	if conn == nil {
		complain("control: serve %s came without a connection", bind)
		return
	}
	w.mu.Lock()
	var found *gate
	for _, g := range w.gates {
		if g.name == bind && !g.isAdopt && !g.closed && g.server != nil {
			found = g
			break
		}
	}
	w.mu.Unlock()
	if found == nil || w.mode.Load() != serving {
		conn.Close()
		return
	}
	one := &single{Listener: found}
	one.conn.Store(found.wrap(conn, protocol.Move{}, scoreboard.Accepted))
	go found.server.Serve(one)
}

// single is a listener with one connection.
type single struct {
	net.Listener // for its address
	conn         atomic.Pointer[Conn]
}

func (s *single) Accept() (net.Conn, error) {
	if c := s.conn.Swap(nil); c != nil {
		return c, nil
	}
	return nil, io.EOF
}

func (s *single) Close() error { return nil } // the listener behind it serves on
