package tasks

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a client and Redis and loses answers: the command is executed, the connection breaks, nobody knows.
type proxy struct {
	listener net.Listener
	server   string
	lose     atomic.Pointer[string] // the next request that contains it gets no answer
	lost     atomic.Int32
	closed   atomic.Bool // connections are refused
	rate     int         // bytes per second from the server; 0: no limit
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

func startProxy(t testing.TB, url string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: strings.TrimPrefix(url, "redis://"), conns: make(map[net.Conn]bool)}
	go p.serve()
	t.Cleanup(func() { l.Close(); p.cut() })
	return p
}

func (p *proxy) url() string { return "redis://" + p.listener.Addr().String() }

// loseAnswer makes the next run of the script one without an answer.
func (p *proxy) loseAnswer(s *script) { p.lose.Store(&s.sha) }

// close breaks all connections and refuses new ones, or ends that.
func (p *proxy) close(closed bool) {
	p.closed.Store(closed)
	if closed {
		p.cut()
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) serve() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.closed.Load() {
			near.Close()
			continue
		}
		far, err := net.Dial("tcp", p.server)
		if err != nil {
			near.Close()
			continue
		}
		p.mu.Lock()
		p.conns[near], p.conns[far] = true, true
		p.mu.Unlock()
		var losing atomic.Bool
		go func() {
			defer far.Close()
			b := make([]byte, 64<<10)
			for {
				n, err := near.Read(b)
				if what := p.lose.Load(); what != nil && bytes.Contains(b[:n], []byte(*what)) && p.lose.CompareAndSwap(what, nil) {
					losing.Store(true)
				}
				if _, e := far.Write(b[:n]); err != nil || e != nil {
					return
				}
			}
		}()
		go func() {
			defer near.Close()
			b := make([]byte, 64<<10)
			for {
				n, err := far.Read(b)
				if losing.Load() && n > 0 {
					p.lost.Add(1)
					far.Close()
					return
				}
				if p.rate > 0 {
					time.Sleep(time.Duration(n) * time.Second / time.Duration(p.rate))
				}
				if _, e := near.Write(b[:n]); err != nil || e != nil {
					return
				}
			}
		}()
	}
}
