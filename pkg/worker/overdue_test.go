//go:build linux

package worker_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker/internal/fake"
)

var short = scoreboard.Settings{Timeout: 400 * time.Millisecond, TimeoutGrace: time.Hour}

// EDGE_CASES 20.
func TestStuckRequestIsAnswered504_ItsNeighboursFinish(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, short)
		w := p.Start(role, fake.Options{}).AwaitReady()
		used, fresh, fine := dial(t, p), dial(t, p), dial(t, p)
		used.get("/pid")
		used.send(get("/hung"))
		fresh.send(get("/hung"))
		for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
			if a := fine.get("/sleep?20"); a.body != "slept" {
				t.Fatalf("%+v", a)
			}
		}
		for _, c := range []*client{used, fresh} {
			a := c.answer()
			if a.status != 504 || !a.close || !strings.HasPrefix(a.body, `{"error":`) {
				t.Errorf("%+v", a)
			}
			c.ended()
		}
		if n := w.Board.Total(scoreboard.TimedOut); n != 2 {
			t.Errorf("timed out: %d", n)
		}
		if d := w.Board.Oldest(); d > 100*time.Millisecond {
			t.Errorf("the master still sees a request of %v", d)
		}
	})
}

func TestHandlerWhoseContextEndsIsFreeAfterIts504(t *testing.T) {
	p := fake.NewPool(t, short)
	w := p.Start("http", fake.Options{}).AwaitReady()
	c := dial(t, p)
	if a := c.get("/stuck"); a.status != 504 {
		t.Errorf("%+v", a)
	}
	c.Close()
	w.Await("the end of the handler", func() bool { return w.Board.Running() == 0 })
	w.Tell(drainClose)
	w.AwaitExit()
}

// The client must not read the 504 as the answer to the first request, which was executed.
func TestStuckRequestBehindAnExecutedOneIsNotAnsweredForIt(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, short)
		p.Start(role, fake.Options{}).AwaitReady()
		for _, big := range []int{0, 3000, 6000} { // an answer that overflows the server's buffer is half written
			body := strings.Repeat("paid", big/4+1)
			c := dial(t, p)
			c.get("/pid")
			c.send(post("/echo", body) + post("/echo", body) + get("/hung"))
			for i := range 2 {
				a, err := readAnswer(c.r)
				if err != nil {
					break // nothing, or a piece: the client knows that it does not know
				}
				if a.status != 200 || a.body != body {
					t.Errorf("%d bytes: answer %d to an executed request: %d %.40q", big, i, a.status, a.body)
				}
			}
		}
	})
}

func TestRequestThatWaitedForItsBytesInPiecesIsAnswered504(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, short)
		w := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.send(post("/echo", "first") + get("/hung")[:10])
		if a := c.answer(); a.body != "first" {
			t.Errorf("%+v", a)
		}
		c.send(get("/hung")[10:])
		if a := c.answer(); a.status != 504 {
			t.Errorf("%+v", a)
		}
		_ = w
	})
}

// EDGE_CASES 21.
func TestSlowUploadIsTheClientsTime(t *testing.T) {
	for _, role := range []string{"http", "fast", "fast stream", "http tls", "fast tls"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, short)
			p.Start(role, fake.Options{}).AwaitReady()
			for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
				c := dial(t, p)
				if strings.HasSuffix(role, "tls") {
					c = secure(c)
				}
				c.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n" + expect + "\r\n")
				if expect != "" {
					if line, err := c.r.ReadString('\n'); !strings.Contains(line, "100") {
						t.Fatal(line, err)
					}
					c.r.ReadString('\n')
				}
				for range 8 {
					time.Sleep(80 * time.Millisecond)
					c.send("x")
				}
				if a := c.answer(); a.body != "xxxxxxxx" {
					t.Errorf("%+v", a)
				}
			}
		})
	}
}

func TestStreamsAndExemptRequestsOutliveTheTimeout(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, short)
		w := p.Start(role, fake.Options{}).AwaitReady()
		sse, exempt, hijacked := dial(t, p), dial(t, p), dial(t, p)
		sse.send(get("/sse?16"))
		exempt.send(get("/slow-ok?800"))
		hijacked.send(get("/hijack"))
		if a := sse.answer(); strings.Count(a.body, "data: ") != 16 {
			t.Errorf("%+v", a)
		}
		if a := exempt.answer(); a.body != "slept" {
			t.Errorf("%+v", a)
		}
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = hijacked.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		hijacked.send("still here\n")
		if line, _ := hijacked.r.ReadString('\n'); line != "still here\n" {
			t.Errorf("hijacked: %q", line)
		}
		if n := w.Board.Total(scoreboard.TimedOut); n != 0 {
			t.Errorf("timed out: %d", n)
		}
	})
}

func TestInterimAnswerDoesNotStopTheClock(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, short)
		p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p).send(get("/early"))
		all, err := io.ReadAll(c.r)
		if text := string(all); err != nil || !strings.HasPrefix(text, "HTTP/1.1 103") || !strings.Contains(text, "HTTP/1.1 504") {
			t.Errorf("%q, %v", text, err)
		}
	})
}

func TestHandlerThatRunsOnAfterItsGraceGetsTheWorkerReplaced(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, scoreboard.Settings{Timeout: 100 * time.Millisecond, TimeoutGrace: 200 * time.Millisecond})
		w := p.Start(role, fake.Options{}).AwaitReady()
		for range 3 {
			dial(t, p).send(get("/hung"))
		}
		w.AwaitSaid("recycle timeout")
		w.AwaitSaid("_test.go") // the dump names the handler's line
		if a := dial(t, p).get("/pid"); a.status != 200 || a.close {
			t.Errorf("a worker that asked to be replaced serves on: %+v", a)
		}
		time.Sleep(300 * time.Millisecond)
		if said := w.Recycles(); len(said) != 1 {
			t.Errorf("said %q", said)
		}
	})
}

// EDGE_CASES 44.
func TestOverdueRequestsThatEndDoNotGetTheWorkerReplaced(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, scoreboard.Settings{Timeout: 100 * time.Millisecond, TimeoutGrace: 500 * time.Millisecond})
		w := p.Start(role, fake.Options{}).AwaitReady()
		var clients []*client
		for range 20 {
			clients = append(clients, dial(t, p).send(get("/sleep?300")))
		}
		for _, c := range clients {
			if a := c.answer(); a.status != 504 {
				t.Errorf("%+v", a)
			}
		}
		w.Await("the end of the handlers", func() bool { return w.Board.Running() == 0 })
		time.Sleep(300 * time.Millisecond)
		if said := w.Recycles(); len(said) != 0 {
			t.Errorf("said %q", said)
		}
	})
}
