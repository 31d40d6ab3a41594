package worker

import (
	"net"
	"testing"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// null is a connection that costs nothing, so that only the wrapper is measured.
type null struct{ net.Conn }

func (null) Read(p []byte) (int, error)      { return len(p), nil }
func (null) Write(p []byte) (int, error)     { return len(p), nil }
func (null) SetReadDeadline(time.Time) error { return nil }
func (null) RemoteAddr() net.Addr            { return nil }

// request does what one request costs in the wrapper: the waiting Read, Begin, End, the Write, and the change to idle.
func request(c *Conn, buf []byte) {
	c.Read(buf)
	c.Active()
	now := c.w.Now()
	c.Begin(now)
	c.End(c.w.Now(), 200)
	c.Write(buf[:200])
	c.Idle()
}

func benchConn(w *Worker) *Conn {
	g := &gate{w: w, server: &Server{buffer: 1}}
	return g.wrap(null{}, protocol.Move{}, scoreboard.Accepted)
}

func BenchmarkRequest(b *testing.B) {
	w := newWorker(inheritance{board: scoreboard.Local(scoreboard.Settings{Timeout: time.Minute, MaxRequests: 1 << 40})})
	c, buf := benchConn(w), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		request(c, buf)
	}
}

func BenchmarkRequestParallel(b *testing.B) {
	w := newWorker(inheritance{board: scoreboard.Local(scoreboard.Settings{Timeout: time.Minute, MaxRequests: 1 << 40})})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c, buf := benchConn(w), make([]byte, 4096)
		for pb.Next() {
			request(c, buf)
		}
	})
}

// BenchmarkClock is the part of BenchmarkRequest that is two looks at the clock.
func BenchmarkClock(b *testing.B) {
	w := newWorker(inheritance{})
	for b.Loop() {
		w.Now()
		w.Now()
	}
}

func BenchmarkMonitorScan(b *testing.B) {
	w := newWorker(inheritance{board: scoreboard.Local(scoreboard.Settings{Timeout: time.Hour})})
	for range 10000 {
		benchConn(w).Begin(w.Now())
	}
	for b.Loop() {
		w.overdue(nil)
	}
}

func TestRequestAllocatesNothing(t *testing.T) {
	w := newWorker(inheritance{board: scoreboard.Local(scoreboard.Settings{Timeout: time.Minute, MaxRequests: 100})})
	c, buf := benchConn(w), make([]byte, 4096)
	if n := testing.AllocsPerRun(50, func() { request(c, buf) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}
