//go:build linux

package worker_test

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker"
	"supervisor/pkg/worker/internal/fake"
)

func TestDrainCloseAnswersWhatIsOnItsWay_ThenClosesAndExits(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		idle, quick, running, fresh := dial(t, p), dial(t, p), dial(t, p), dial(t, p)
		idle.get("/pid")
		quick.get("/pid")
		running.send(get("/sleep?300"))
		w.Await("connections", func() bool { return w.Board.Connections() == 4 && w.Board.Running() == 1 })
		p.CloseQueue()
		w.Tell(drainClose)
		w.AwaitSaid("STOPPING=1")
		if a := quick.send(post("/echo", "within the linger")).answer(); a.body != "within the linger" || !a.close {
			t.Errorf("kept-alive: %+v", a)
		}
		quick.ended()
		if a := fresh.get("/pid"); a.status != 200 || !a.close {
			t.Errorf("first request of a connection: %+v", a)
		}
		if a := running.answer(); a.body != "slept" || a.close != (role == "fast") { // net/http's headers are made already
			t.Errorf("the request that ran: %+v", a)
		}
		idle.ended()
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
		if n := w.Board.Total(scoreboard.ForceShut); n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		if a, c := w.Board.Total(scoreboard.Accepted), w.Board.Total(scoreboard.Closed); a != 4 || c != 4 {
			t.Errorf("accepted %d, closed %d", a, c)
		}
	})
}

// EDGE_CASES 29.
func TestFullStopAnswersAllThatIsInTheQueue(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		w.Stop()
		var clients []*client
		for range 200 { // they wait in the kernel
			clients = append(clients, dial(t, p).send(post("/echo", "queued")))
		}
		p.CloseQueue()
		w.Tell(drainClose)
		w.Signal(syscall.SIGCONT)
		for i, c := range clients {
			if a := c.answer(); a.body != "queued" {
				t.Fatalf("client %d: %+v", i, a)
			}
		}
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
}

func TestPipelinedAnswerSurvivesTheCloseOfADrain(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.send(get("/sleep?200"))
		w.Await("the handler", func() bool { return w.Board.Running() == 1 })
		w.Tell(drainClose)
		w.AwaitSaid("STOPPING=1")
		c.send(post("/echo", strings.Repeat("unread ", 10000))) // a plain close with this unread resets
		if a := c.answer(); a.body != "slept" {
			t.Errorf("%+v", a)
		}
		w.AwaitExit()
	})
}

func TestDeadlineOfADrainCutsAndCounts(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		stuck, hijacked := dial(t, p).send(get("/hung")), dial(t, p)
		hijacked.send(get("/hijack"))
		if line, err := hijacked.r.ReadString('\n'); !strings.Contains(line, "101") {
			t.Fatal(line, err)
		}
		w.Await("connections", func() bool { return w.Board.Connections() == 2 })
		w.Tell(protocol.Drain(protocol.DrainClose, 200*time.Millisecond))
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
		if n := w.Board.Total(scoreboard.ForceShut); n != 2 {
			t.Errorf("%d connections were cut, want 2", n)
		}
		_ = stuck
	})
}

func TestUndrainServesOn(t *testing.T) {
	for _, drain := range []protocol.Command{drainMove, drainClose} {
		t.Run(drain.Arg(0), func(t *testing.T) {
			adapters(t, func(t *testing.T, role string) {
				p := fake.NewPool(t, off)
				w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
				busy := dial(t, p).send(get("/sleep?200")) // keeps the process from ending
				w.Await("the handler", func() bool { return w.Board.Running() == 1 })
				for range 3 {
					w.Tell(drain)
					w.Await("the drain", func() bool { return w.Board.State() == scoreboard.Draining })
					time.Sleep(20 * time.Millisecond) // the queue is swept
					w.Tell(undrain)
					w.Await("service", func() bool { return w.Board.State() == scoreboard.Serving })
				}
				if a := busy.answer(); a.body != "slept" || a.close {
					t.Errorf("%+v", a)
				}
				for range 3 {
					c := dial(t, p)
					for range 3 {
						if a := c.get("/pid"); a.body != strconv.Itoa(w.PID) || a.close {
							t.Errorf("%+v", a)
						}
					}
				}
				// Its adopt gate is back, too.
				other := p.Start(role, fake.Options{}).AwaitReady()
				other.Tell(drainMove)
				other.AwaitExit()
			})
		})
	}
}

func TestDrainMoveTurnsIntoDrainClose(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.get("/pid")
		w.Tell(drainMove) // nobody takes it
		w.AwaitSaid("STOPPING=1")
		w.Signal(syscall.SIGTERM)
		c.ended()
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
}

func TestSupervisorThatGoesBeforeItCommittedTakesTheWorkerAlong(t *testing.T) {
	p := fake.NewPool(t, scoreboard.Settings{OrphanTimeout: time.Hour})
	w := p.Start("http", fake.Options{}).AwaitReady()
	c := dial(t, p)
	c.get("/pid")
	w.Leave()
	c.ended()
	if code := w.AwaitExit(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestOrphanServesOnForItsTimeWhenItWasCommitted(t *testing.T) {
	p := fake.NewPool(t, scoreboard.Settings{OrphanTimeout: 300 * time.Millisecond})
	w := p.Start("http", fake.Options{}).AwaitReady()
	w.Tell(commit)
	began := time.Now()
	w.Leave()
	w.AwaitSaid("supervisor is gone")
	c := dial(t, p)
	if a := c.get("/pid"); a.close {
		t.Errorf("%+v", a)
	}
	c.ended()
	if code := w.AwaitExit(); code != 0 || time.Since(began) < 300*time.Millisecond {
		t.Errorf("exit %d after %v", code, time.Since(began))
	}
}

func TestSignals(t *testing.T) {
	t.Run("TERM finishes what runs and exits 0", func(t *testing.T) {
		t.Parallel()
		p := fake.NewPool(t, off)
		w := p.Start("http", fake.Options{}).AwaitReady()
		c := dial(t, p).send(get("/sleep?200"))
		w.Await("the handler", func() bool { return w.Board.Running() == 1 })
		w.Signal(syscall.SIGTERM)
		w.Signal(syscall.SIGTERM)
		if a := c.answer(); a.body != "slept" {
			t.Errorf("%+v", a)
		}
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
	for _, s := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGINT} {
		t.Run(s.String()+" cuts at once", func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, off)
			w := p.Start("fast", fake.Options{}).AwaitReady()
			dial(t, p).send(get("/hung"))
			w.Await("the handler", func() bool { return w.Board.Running() == 1 })
			w.Signal(s)
			if code := w.AwaitExit(); code != 0 {
				t.Errorf("exit %d", code)
			}
		})
	}
	t.Run("HUP means the supervisor, ABRT dumps", func(t *testing.T) {
		t.Parallel()
		p := fake.NewPool(t, off)
		w := p.Start("http", fake.Options{}).AwaitReady()
		w.Signal(syscall.SIGHUP)
		if a := dial(t, p).get("/pid"); a.close {
			t.Errorf("%+v", a)
		}
		w.Signal(syscall.SIGABRT)
		if code := w.AwaitExit(); code != 2 {
			t.Errorf("exit %d", code)
		}
		w.AwaitSaid("serveHTTP")
	})
}

func TestWorkerKeepsItsEnvironmentToItself_ReopensLogs_OutlivesItsOutput(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("chatty", fake.Options{ClosedStdout: true}).AwaitReady()
	w.AwaitSaid("STATUS=id web.0.1 generation 3 environment ")
	for _, said := range w.Said() {
		if strings.HasPrefix(said, "STATUS=id") && strings.TrimSpace(said) != "STATUS=id web.0.1 generation 3 environment" {
			t.Errorf("left in the environment: %q", said)
		}
	}
	if n := w.Board.Total(scoreboard.LostLines); n != 100 {
		t.Errorf("%d lines were lost, want 100", n)
	}
	w.Signal(syscall.SIGUSR1)
	w.AwaitSaid("STATUS=reopened")
	w.Tell(protocol.Command{Verb: protocol.VerbReopen})
	w.Await("a second reopening", func() bool { return strings.Count(strings.Join(w.Said(), " "), "reopened") == 2 })
	if a := dial(t, p).get("/pid"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	w.Tell(protocol.Command{Verb: "verb-of-a-later-version", Args: []string{"x"}})
	w.Tell(protocol.Command{Verb: protocol.VerbDrain, Args: []string{"sideways"}})
	if a := dial(t, p).get("/pid"); a.close {
		t.Errorf("%+v", a)
	}
}

func TestWorkerWithoutAUsableScoreboardServesUnscored(t *testing.T) {
	for name, o := range map[string]fake.Options{
		"none":            {NoBoard: true, Env: []string{"WATCHDOG_USEC=100000"}},
		"unknown version": {UnknownBoard: true, Env: []string{"WATCHDOG_USEC=100000"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, scoreboard.Settings{Timeout: time.Millisecond})
			w := p.Start("fast", o).AwaitReady()
			if a := dial(t, p).get("/sleep?10"); a.status != 200 {
				t.Errorf("%+v", a)
			}
			if o.UnknownBoard {
				w.AwaitSaid("version 99")
			}
			w.AwaitSaid("WATCHDOG=1")
			w.Tell(drainClose)
			w.AwaitExit()
		})
	}
}

func TestScoredWorkerBeatsOnItsScoreboard(t *testing.T) {
	p := fake.NewPool(t, scoreboard.Settings{Timeout: 200 * time.Millisecond})
	w := p.Start("http", fake.Options{}).AwaitReady()
	if !w.Board.Joined() || w.Board.State() != scoreboard.Serving {
		t.Errorf("joined %v, state %v", w.Board.Joined(), w.Board.State())
	}
	start := time.Now()
	w.Await("a fresh beat", func() bool {
		age, ok := w.Board.SinceBeat()
		return ok && time.Since(start) > 300*time.Millisecond && age < 150*time.Millisecond
	})
}

func TestRunEndsItsContextAtADrain(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("run", fake.Options{WithoutListen: true}).AwaitReady()
	w.AwaitSaid("STATUS=running")
	w.Tell(drainMove)
	if code := w.AwaitExit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	w.AwaitSaid("stopping within 10s because " + worker.ErrDraining.Error())
}

// The deadline is the command's, or what the program says for a TERM.
func TestRunKnowsItsDeadline(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("run", fake.Options{WithoutListen: true}).AwaitReady()
	w.AwaitSaid("STATUS=running")
	w.Signal(syscall.SIGTERM)
	w.AwaitSaid("stopping within 40s because")
	w.AwaitExit()
}

func TestWorkerAsksToBeReplacedAtMaxRequests_AndServesOn(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		const limit = 200
		p := fake.NewPool(t, scoreboard.Settings{MaxRequests: limit})
		w := p.Start(role, fake.Options{}).AwaitReady()
		clients := []*client{dial(t, p), dial(t, p), dial(t, p)}
		for i := range limit - 1 {
			clients[i%3].get("/pid")
		}
		if said := w.Recycles(); len(said) != 0 {
			t.Errorf("said %q after %d requests", said, limit-1)
		}
		for i := range 50 {
			clients[i%3].get("/pid")
		}
		w.AwaitSaid("recycle max_requests")
		if said := w.Recycles(); len(said) != 1 {
			t.Errorf("said %q", said)
		}
	})
}

func TestWorkerConnectionsBoundWhatIsAccepted(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, scoreboard.Settings{MaxConns: 2})
		w := p.Start(role, fake.Options{}).AwaitReady()
		a, b, c := dial(t, p), dial(t, p), dial(t, p)
		a.get("/pid")
		b.get("/pid")
		c.send(get("/pid")) // waits in the kernel
		time.Sleep(50 * time.Millisecond)
		if n := w.Board.Connections(); n != 2 {
			t.Errorf("%d connections", n)
		}
		a.Close()
		if a := c.answer(); a.status != 200 {
			t.Errorf("%+v", a)
		}
		w.Tell(drainClose)
		w.AwaitExit()
	})
}

func TestIdleConnectionEndsAfterThePoolsKeepalive(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, scoreboard.Settings{KeepAlive: 100 * time.Millisecond})
		old := p.Start(role, fake.Options{}).AwaitReady()
		c, moved := dial(t, p), dial(t, p)
		c.get("/pid")
		c.ended()
		moved.get("/pid")
		replace(p, old, role)
		moved.ended()
	})
}

func TestBytesAreCounted(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		request := post("/echo", "some bytes")
		c.send(request).answer()
		if n := w.Board.Total(scoreboard.BytesIn); n != uint64(len(request)) {
			t.Errorf("in: %d, want %d", n, len(request))
		}
		w.Await("bytes out", func() bool { // counted after the write
			n := w.Board.Total(scoreboard.BytesOut)
			return n > 50 && n < 500
		})
		c.get("/fail")
		w.Await("an error", func() bool { return w.Board.Total(scoreboard.Errors) == 1 })
		w.Await("the end", func() bool { return w.Board.Running() == 0 })
		totals := w.Board.Totals()
		var n uint64
		for _, bucket := range totals.Latency {
			n += bucket
		}
		if n != 2 {
			t.Errorf("latencies: %v", totals.Latency)
		}
	})
}

// drain_delay: EDGE_CASES 30.
func TestLameWorkerServesEverybodyOnce(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		w := p.Start(role, fake.Options{}).AwaitReady()
		kept := dial(t, p)
		if a := kept.get("/pid"); a.close {
			t.Errorf("before: %+v", a)
		}
		w.Tell(protocol.Command{Verb: protocol.VerbLame})
		w.Await("Connection: close", func() bool { return dial(t, p).get("/pid").close })
		if a := kept.get("/pid"); a.status != 200 || !a.close {
			t.Errorf("kept-alive: %+v", a)
		}
		kept.ended()
		for range 20 {
			c := dial(t, p)
			if a := c.get("/pid"); a.body != strconv.Itoa(w.PID) || !a.close {
				t.Errorf("new: %+v", a)
			}
			c.ended()
		}
		w.Tell(undrain)
		w.Await("no Connection: close", func() bool { return !dial(t, p).get("/pid").close })
		if slices.Contains(w.Said(), "STOPPING=1") {
			t.Error("it said that it stops")
		}
		w.Tell(protocol.Command{Verb: protocol.VerbLame})
		w.Tell(drainClose)
		if code := w.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	})
}
