package supervisor

import (
	"net"
	"net/http"
	"slices"
	"sync/atomic"
)

const (
	maxClients = 256 // connections of an endpoint at once
	maxHeld    = 192 // of them, those that keep their place whoever comes
)

// places is a listener with so many places for connections. Who comes when all are taken gets the place of the one that has been without progress
// for the longest: strangers who say nothing, or take no answer, cost each other, and no probe waits for them.
type places struct {
	net.Listener
	name  string   // of the endpoint, for people
	taken []*place // by connections, also some that have ended. Only used by the goroutine that accepts
	turn  atomic.Uint64
	held  atomic.Int32
}

// place is one connection.
type place struct {
	net.Conn
	of   *places
	last atomic.Uint64 // the turn of its last progress: it was accepted, a request began or ended
	is   atomic.Int32  // one of the constants below
}

const (
	placeOpen int32 = iota
	placeHeld
	placeEnded
)

func (l *places) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if len(l.taken) >= maxClients {
		l.taken = slices.DeleteFunc(l.taken, func(p *place) bool { return p.is.Load() == placeEnded })
	}
	for len(l.taken) >= maxClients {
		l.dismiss()
	}
	p := &place{Conn: c, of: l}
	p.advance()
	l.taken = append(l.taken, p)
	return p, nil
}

// dismiss ends the connection without progress for the longest. There is one: not all are held.
func (l *places) dismiss() {
	oldest := -1
	for i, p := range l.taken {
		if p.is.Load() != placeHeld && (oldest < 0 || p.last.Load() < l.taken[oldest].last.Load()) {
			oldest = i
		}
	}
	if p := l.taken[oldest]; p.is.CompareAndSwap(placeOpen, placeEnded) {
		p.Conn.Close()
	}
	if l.taken[oldest].is.Load() == placeEnded { // else it was held in this moment
		l.taken = slices.Delete(l.taken, oldest, oldest+1)
	}
}

func (p *place) advance() { p.last.Store(p.of.turn.Add(1)) }

func (p *place) Close() error {
	p.is.Store(placeEnded)
	return p.Conn.Close()
}

// placeKey finds a request's connection in its context.
type placeKey struct{}

func placeOf(r *http.Request) *place { return r.Context().Value(placeKey{}).(*place) }

// advancing notes when requests begin and end.
func advancing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := placeOf(r)
		p.advance()
		defer p.advance()
		next.ServeHTTP(w, r)
	})
}

// hold keeps the place of a request that may take long, of a client that we know, until release. With too many of them it stays as it was.
func hold(r *http.Request) (release func()) {
	p := placeOf(r)
	if p.of.held.Add(1) > maxHeld || !p.is.CompareAndSwap(placeOpen, placeHeld) {
		p.of.held.Add(-1)
		return func() {}
	}
	return func() {
		p.is.CompareAndSwap(placeHeld, placeOpen) // it may have ended
		p.of.held.Add(-1)
	}
}
