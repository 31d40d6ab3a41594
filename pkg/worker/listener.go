package worker

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// gate is a listener as a server sees it: a listening socket, or the receiving end of its adopt socket. In a drain its Accept parks
// instead of failing, so that the server's loop (and fasthttp's pool of goroutines) is still there if the drain is taken back.
//
// The states of a gate, all under Worker.mu:
//
//	mode      listening socket                                   adopt socket
//	serving   accepts while there is room (worker_connections)   takes while there is room and the supervisor said adopt on
//	draining  accepts until its queue is empty, then parks       parks
//	ended     Accept fails with io.EOF                           the same
type gate struct {
	w       *Worker
	name    string // of the bind
	server  *Server
	socket  socket    // a listening socket, or
	adopt   adoptPair // tx: where its connections can go, nil: nowhere
	isAdopt bool      // Accept takes from adopt.rx

	// Guarded by Worker.mu.
	accepting bool      // Accept was called
	parked    bool      // Accept waits for the mode to change
	swept     bool      // the queue was found empty in this drain
	sweepTill time.Time // the sweep ends then, whatever comes
	deadline  bool      // a deadline is set on the socket
	closed    bool
}

const (
	// sweepStep is how long a queue must stay empty to count as empty. (On a busy machine the deadline may be over before Accept
	// looks; so the queue itself is asked, too.)
	sweepStep = 5 * time.Millisecond

	// sweepMove bounds the sweep when others serve the same queue: they would refill it for ever.
	sweepMove = 50 * time.Millisecond

	// sweepClose bounds the sweep when nobody stays. The supervisor's listen(fd, 0) keeps new connections out, so this is for
	// a signal that came without one; a full backlog is accepted in a fraction of it, unless the machine is starved.
	sweepClose = 5 * time.Second

	// Pauses after a failed accept (no descriptors, no memory): short enough not to be felt, long enough not to spin.
	acceptPause = 10 * time.Millisecond
	adoptPause  = 100 * time.Millisecond
)

// newGate registers a listening socket. mu is held.
func (w *Worker) newGate(s socket, server *Server) *gate {
	g := &gate{w: w, name: s.name, server: server, socket: s, adopt: w.inherited.adopt[s.name]}
	w.gates = append(w.gates, g)
	return g
}

// newAdoptGate registers the adopt socket of a socket's bind, and gives nil when there is none or another gate has it (a bind may be
// several sockets). It tells the supervisor that somebody is there to take connections that a socket without a worker holds. mu is held.
func (w *Worker) newAdoptGate(s socket, server *Server) *gate {
	name := s.name
	pair := w.inherited.adopt[name]
	if pair.rx == nil {
		return nil
	}
	for _, g := range w.gates {
		if g.isAdopt && g.name == name {
			return nil
		}
	}
	g := &gate{w: w, name: name, server: server, socket: socket{index: s.index}, adopt: pair, isAdopt: true}
	w.gates = append(w.gates, g)
	w.setTakes()
	return g
}

// setTakes publishes which adopt sockets are served. mu is held.
func (w *Worker) setTakes() {
	var takes uint64
	for _, g := range w.gates {
		if g.isAdopt && !g.closed {
			takes |= 1 << g.socket.index
		}
	}
	w.board.SetTakes(takes)
}

// Accept waits for a connection. io.EOF says that the process is done.
func (g *gate) Accept() (net.Conn, error) {
	for {
		if err := g.admit(); err != nil {
			return nil, err
		}
		if g.isAdopt {
			if raw, move, err := takeMove(g.adopt.rx); err == nil {
				return g.wrap(raw, move, scoreboard.Adopted), nil
			} else if errors.Is(err, errNoDescriptors) {
				time.Sleep(adoptPause) // leave the queue to the others
			} else if errors.Is(err, os.ErrClosed) {
				g.Close()
			}
			continue
		}
		raw, err := g.socket.Accept()
		if err == nil {
			return g.wrap(raw, protocol.Move{}, scoreboard.Accepted), nil
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !queued(g.socket.Listener) {
				g.empty()
			}
		case errors.Is(err, net.ErrClosed):
			g.Close()
		default:
			time.Sleep(acceptPause)
		}
	}
}

// admit returns when the socket may be asked for a connection.
func (g *gate) admit() error {
	w := g.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !g.accepting {
		g.accepting = true
		w.checkReady()
	}
	for {
		switch mode := w.mode.Load(); {
		case mode == ended:
			return io.EOF
		case g.closed:
			return net.ErrClosed
		case g.isAdopt && mode == serving && w.adopting && w.room():
			g.setDeadline(time.Time{})
			return nil
		case g.isAdopt:
			g.park()
		case mode == serving && w.room():
			g.swept, g.sweepTill = false, time.Time{}
			g.setDeadline(time.Time{})
			return nil
		case mode == serving:
			w.turn.Wait()
		case g.swept:
			g.park()
		case !w.room() && time.Now().Before(g.sweepTill):
			w.turn.Wait() // connections that end make room; the monitor's tick looks at the time
		default:
			if g.sweepTill.IsZero() {
				g.sweepTill = time.Now().Add(sweepMove)
				if mode == closing {
					g.sweepTill = time.Now().Add(sweepClose)
				}
			}
			if !time.Now().Before(g.sweepTill) {
				g.swept = true
				continue
			}
			g.setDeadline(time.Now().Add(sweepStep))
			return nil
		}
	}
}

// park waits for a change, and tells the loop that this gate lets nobody in. mu is held.
func (g *gate) park() {
	g.parked = true
	g.w.tellSettled()
	g.w.turn.Wait()
	g.parked = false
}

// empty notes that nobody was in the queue.
func (g *gate) empty() {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	if g.w.mode.Load() != serving && !g.sweepTill.IsZero() {
		g.swept = true
	}
}

// wake breaks a wait inside Accept, which then looks at the mode. mu is held.
func (g *gate) wake() { g.setDeadline(time.Unix(1, 0)) }

// setDeadline sets the socket's deadline; the zero time is none. mu is held, so that it cannot overtake a change of mode.
func (g *gate) setDeadline(t time.Time) {
	if t.IsZero() && !g.deadline {
		return
	}
	g.deadline = !t.IsZero()
	if g.isAdopt {
		g.adopt.rx.SetReadDeadline(t)
	} else if l, ok := g.socket.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		l.SetDeadline(t)
	}
}

// Close takes the gate out; a server calls it in its own Shutdown.
func (g *gate) Close() error {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.w.turn.Broadcast()
	g.w.tellSettled()
	if g.isAdopt {
		g.w.setTakes()
		g.wake() // the socket itself is shared with the other workers, and stays
		return nil
	}
	return g.socket.Close()
}

// Addr gives the address of the listening socket.
func (g *gate) Addr() net.Addr {
	if g.isAdopt {
		return &net.UnixAddr{Name: "adopt." + g.name, Net: "unixpacket"}
	}
	return g.socket.Addr()
}

// room reports whether worker_connections allows one more. mu is held.
func (w *Worker) room() bool {
	return w.settings.MaxConns == 0 || w.open.Load() < int64(w.settings.MaxConns)
}

// checkReady says READY=1 once every listening socket is in Accept. mu is held.
func (w *Worker) checkReady() {
	if len(w.untaken) > 0 {
		return
	}
	for _, g := range w.gates {
		if !g.accepting && !g.isAdopt {
			return
		}
	}
	w.sayReady()
}

// take gives the sockets to serve: the inherited ones, else a new one on addr.
func (w *Worker) take(addr string) ([]socket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.inherited.sockets) > 0 {
		sockets := w.untaken
		w.untaken = nil
		return sockets, nil
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	return []socket{{name: addr, Listener: ln, ours: true}}, nil
}
