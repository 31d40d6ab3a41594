//go:build linux

package worker_test

import (
	"bufio"
	"io"
	"strconv"
	"testing"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker/internal/fake"
)

func TestGiveMovesSoManyIdleConnections_AndServesOn(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		var clients []*client
		for range 10 {
			c := dial(t, p)
			c.send(get("/pid") + get("/pid")) // pipelined: it comes to its first boundary with two requests served
			c.answer()
			c.answer()
			clients = append(clients, c)
		}
		unused := dial(t, p)
		old.Await("its connections", func() bool { return old.Board.Connections() == 11 })
		w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		old.Tell(protocol.GiveIdle(3))
		w.Await("three connections", func() bool { return w.Board.Total(scoreboard.Adopted) == 3 })
		answered := map[string]int{}
		for _, c := range append(clients, unused) {
			a := c.get("/pid")
			if a.status != 200 || a.close {
				t.Errorf("%+v", a)
			}
			answered[a.body]++
		}
		if answered[strconv.Itoa(old.PID)] != 8 || answered[strconv.Itoa(w.PID)] != 3 {
			t.Errorf("answered by pid: %v; the old worker is %d, the new one %d", answered, old.PID, w.PID)
		}
		if n := old.Board.Total(scoreboard.Moved); n != 3 {
			t.Errorf("moved: %d", n)
		}
	})
}

// Clients that are never idle for long: their connections go at their next boundary, and nobody notices.
func TestGiveUnderLoad(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		l := &load{stop: make(chan struct{})}
		for range 16 {
			l.wait.Add(2)
			go l.keepAlive(p.Addr, 1)
			go l.keepAlive(p.Addr, 4)
		}
		old.Await("load", func() bool { return old.Board.Connections() == 32 && old.Board.Total(scoreboard.Finished) > 500 })
		w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		for i := 1; i <= 3; i++ {
			before := w.Board.Total(scoreboard.Finished)
			old.Tell(protocol.GiveIdle(4))
			w.Await("four connections more", func() bool { return w.Board.Total(scoreboard.Adopted) == uint64(4*i) })
			w.Await("requests on them", func() bool { return w.Board.Total(scoreboard.Finished) > before+100 })
		}
		close(l.stop)
		l.wait.Wait()
		if n, c := l.failed.Load(), l.closed.Load(); n+c != 0 {
			t.Errorf("%d of %d requests failed, %d connections were closed: %v", n, l.requests.Load(), c, l.first.Load())
		}
		if n := old.Board.Total(scoreboard.Moved); n != 12 {
			t.Errorf("moved: %d", n)
		}
	})
}

func TestGiveWithoutATakerClosesNothing(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.get("/pid")
		old.Tell(protocol.GiveIdle(1))
		time.Sleep(2 * protocol.ReceiptTimeout) // it asks for so long
		for range 2 {
			if a := c.get("/pid"); a.status != 200 || a.close {
				t.Errorf("%+v", a)
			}
		}
		if n := old.Board.Total(scoreboard.Moved); n != 0 {
			t.Errorf("moved: %d", n)
		}
	})
}

func TestServeAnswersTheOneWhoBroughtTheConnection(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		p.Start(role, fake.Options{}).AwaitReady().Adopt("on") // gets nothing of it
		for range 3 {
			conn := w.Serve("web")
			conn.SetDeadline(time.Now().Add(fake.Patience))
			io.WriteString(conn, get("/pid"))
			a, err := readAnswer(bufio.NewReader(conn))
			if err != nil || a.body != strconv.Itoa(w.PID) {
				t.Errorf("%+v, %v", a, err)
			}
			conn.Close()
		}
		conn := w.Serve("nobody")
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes for a bind that nobody serves", n)
		}
		w.Tell(drainMove)
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
}

// net/http answers nothing when a handler panics: for a judge that is as bad as a 500.
func TestAPanicCountsAsAnError(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("http", fake.Options{}).AwaitReady()
	c := dial(t, p)
	c.send(get("/panic"))
	c.ended()
	w.Await("an error", func() bool { return w.Board.Total(scoreboard.Errors) == 1 && w.Board.Total(scoreboard.Finished) == 1 })
}
