//go:build linux

package worker_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker/internal/fake"
)

// load is clients that never stop asking, and what went wrong for them.
type load struct {
	requests, failed, closed atomic.Int64
	first                    atomic.Value // error
	stop                     chan struct{}
	wait                     sync.WaitGroup
}

func (l *load) fail(err error) {
	l.failed.Add(1)
	l.first.CompareAndSwap(nil, fmt.Sprint(err))
}

// keepAlive asks on one connection, depth requests at a time, with POST bodies, and checks each answer.
func (l *load) keepAlive(addr string, depth int) {
	defer l.wait.Done()
	for serial := 0; ; serial++ {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			l.fail(err)
			return
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		r := bufio.NewReader(conn)
		if err := l.talk(conn, r, depth); err != nil {
			l.fail(err)
		}
		conn.Close()
		select {
		case <-l.stop:
			return
		default:
			l.closed.Add(1)
		}
	}
}

func (l *load) talk(conn net.Conn, r *bufio.Reader, depth int) error {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return nil
		default:
		}
		var batch strings.Builder
		bodies := make([]string, depth)
		for i := range bodies {
			bodies[i] = strconv.Itoa(n) + strings.Repeat("x", rand.IntN(2000))
			batch.WriteString(post("/echo", bodies[i]))
		}
		if _, err := io.WriteString(conn, batch.String()); err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
		last := false
		for i, body := range bodies {
			if last {
				return fmt.Errorf("request %d.%d: not answered after Connection: close", n, i)
			}
			a, err := readAnswer(r)
			if err != nil {
				return fmt.Errorf("request %d.%d: %w", n, i, err)
			}
			if a.status != 200 || a.body != body {
				return fmt.Errorf("request %d.%d: wrong answer %d %.50q", n, i, a.status, a.body)
			}
			l.requests.Add(1)
			last = a.close
		}
		if last {
			return nil
		}
		if depth == 1 && n%8 == 0 {
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		}
	}
}

// oneShot asks one question per connection.
func (l *load) oneShot(addr string) {
	defer l.wait.Done()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		resp, err := client.Post("http://"+addr+"/echo", "text/plain", strings.NewReader("once"))
		if err != nil {
			l.fail(err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "once" {
			l.fail(fmt.Errorf("wrong answer %q, %v", body, err))
		}
		l.requests.Add(1)
	}
}

// replace starts a successor and drains the old worker, as a supervisor does at a reload.
func replace(p *fake.Pool, old *fake.Worker, role string) *fake.Worker {
	w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
	old.Adopt("off").Tell(drainMove)
	if code := old.AwaitExit(); code != 0 {
		panic(fmt.Sprint("old worker exited with ", code, old.Stderr()))
	}
	return w
}

func TestNoRequestIsLostAndNoConnectionCloses_WhileWorkersAreReplaced(t *testing.T) {
	for _, role := range []string{"http", "fast", "fast lean"} {
		t.Run(role, func(t *testing.T) {
			p := fake.NewPool(t, off)
			w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
			l := &load{stop: make(chan struct{})}
			for range 10 {
				l.wait.Add(1)
				go l.keepAlive(p.Addr, 1)
			}
			for range 4 {
				l.wait.Add(1)
				go l.keepAlive(p.Addr, 4)
			}
			for range 3 {
				l.wait.Add(1)
				go l.oneShot(p.Addr)
			}
			time.Sleep(50 * time.Millisecond)
			for range 6 {
				w = replace(p, w, role)
				time.Sleep(30 * time.Millisecond)
			}
			close(l.stop)
			l.wait.Wait()
			if n := l.failed.Load(); n != 0 || l.requests.Load() < 100 {
				t.Errorf("%d of %d requests failed: %v", n, l.requests.Load(), l.first.Load())
			}
			if n := l.closed.Load(); n != 0 {
				t.Errorf("%d connections were closed", n)
			}
			t.Logf("%d requests", l.requests.Load())
		})
	}
}

func TestIdleConnectionMovesAndIsServedByTheSuccessor(t *testing.T) {
	for _, role := range []string{"http", "http h2c", "http limits", "fast", "fast lean", "fast limits"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, off)
			old := p.Start(role, fake.Options{}).AwaitReady()
			used, unused := dial(t, p), dial(t, p)
			if a := used.get("/pid"); a.body != strconv.Itoa(old.PID) {
				t.Fatalf("answered by %s", a.body)
			}
			old.Await("two connections", func() bool { return old.Board.Connections() == 2 })
			w := replace(p, old, role)
			if strings.HasSuffix(role, "limits") {
				time.Sleep(500 * time.Millisecond) // beyond ReadTimeout, which is for requests and not for idle connections
			} else if a := unused.get("/pid"); a.body != strconv.Itoa(w.PID) {
				t.Errorf("the fresh connection: %+v", a)
			}
			if a := used.send(post("/echo", "moved")).answer(); a.body != "moved" || a.close {
				t.Errorf("after the move: %+v", a)
			}
			if got := old.Board.Total(scoreboard.Moved); got != 2 {
				t.Errorf("moved: %d", got)
			}
			if got := w.Board.Total(scoreboard.Adopted); got != 2 {
				t.Errorf("adopted: %d", got)
			}
		})
	}
}

func TestSlowBodyAfterAMoveHasTheServersWholeReadTimeout(t *testing.T) {
	for _, role := range []string{"http limits", "fast limits"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, off)
			old := p.Start(role, fake.Options{}).AwaitReady()
			c := dial(t, p)
			c.get("/pid")
			replace(p, old, role)
			time.Sleep(400 * time.Millisecond)
			request := post("/echo", "slow body")
			c.send(request[:len(request)-4])
			time.Sleep(100 * time.Millisecond)
			if a := c.send(request[len(request)-4:]).answer(); a.body != "slow body" {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestPipelinedRequestsCutAnywhereSurviveAMove sends two requests cut at every offset, the rest while the worker drains: whatever part of
// the second one net/http had in its buffers must not be lost by a move.
func TestPipelinedRequestsCutAnywhereSurviveAMove(t *testing.T) {
	for _, role := range []string{"http", "http h2c", "fast", "fast lean"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, off)
			requests := post("/echo", "one") + post("/echo", "two") + get("/sleep?1")
			first := len(post("/echo", "one"))
			var clients []*client
			w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
			for cut := first; cut < len(requests); cut++ {
				c := dial(t, p)
				c.get("/pid") // its second request can move
				clients = append(clients, c.send(requests[:cut]))
			}
			next := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
			var answered sync.WaitGroup
			for i, c := range clients {
				if heldBack(role, requests[first:first+i]) {
					continue
				}
				answered.Add(1)
				go func() {
					defer answered.Done()
					if a, err := readAnswer(c.r); err != nil || a.body != "one" {
						t.Errorf("cut at %d: %+v %v", first+i, a, err)
					}
				}()
			}
			answered.Wait()
			w.Adopt("off").Tell(drainMove)
			w.Await("moves", func() bool { return w.Board.Total(scoreboard.Moved) > 0 })
			for i, c := range clients {
				cut := first + i
				io.WriteString(c, requests[cut:])
				if heldBack(role, requests[first:cut]) {
					c.answer()
				}
				a, err := readAnswer(c.r)
				if err != nil || a.body != "two" || a.close {
					t.Errorf("cut at %d %q: %+v %v", cut, requests[:cut], a, err)
					continue
				}
				a, err = readAnswer(c.r)
				if err != nil || a.body != "slept" || a.close {
					t.Errorf("cut at %d, third: %+v %v", cut, a, err)
				}
				c.Close()
			}
			w.AwaitExit()
			_ = next
		})
	}
}

// heldBack reports whether fasthttp keeps the answer before this part of a POST to itself: it does while it waits for a body.
func heldBack(role, part string) bool {
	_, body, headers := strings.Cut(part, "\r\n\r\n")
	return strings.HasPrefix(role, "fast") && headers && len(body) < len("two")
}

func TestRequestThatArrivesDuringAHandlerIsAnsweredAcrossAMove(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		for _, early := range []int{1, 2, 3, 4, 5, 20} { // bytes of the next request that come while the handler runs
			c := dial(t, p)
			c.get("/pid")
			c.send(get("/sleep?200"))
			time.Sleep(20 * time.Millisecond)
			c.send(get("/pid")[:early])
			defer func() {
				if a := c.answer(); a.body != "slept" {
					t.Errorf("%d early bytes: %+v", early, a)
				}
				if a := c.send(get("/pid")[early:]).answer(); a.status != 200 {
					t.Errorf("%d early bytes: %+v", early, a)
				}
				if a := c.get("/pid"); a.status != 200 {
					t.Errorf("%d early bytes, afterwards: %+v", early, a)
				}
			}()
		}
		p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		old.Tell(drainMove)
	})
}

func TestHungAdopterCostsNothing_TheSenderServes(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.get("/pid")
		hung := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		hung.Stop()
		old.Tell(drainMove)
		old.AwaitSaid("STOPPING=1")
		a := c.send(post("/echo", "during the wait")).answer()
		for !a.close { // it came before the offer
			a = c.send(post("/echo", "during the wait")).answer()
		}
		if a.body != "during the wait" || !a.close {
			t.Errorf("%+v", a)
		}
		c.ended()
		hung.Signal(syscall.SIGCONT)
		if code := old.AwaitExit(); code != 0 {
			t.Errorf("exit %d", code)
		}
		if n := hung.Board.Total(scoreboard.Started); n != 0 {
			t.Errorf("the hung worker served %d requests, too", n)
		}
	})
}

func TestFullAdoptQueueCostsNothing_TheSenderServes(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.get("/pid")
		if n := p.FillAdoptQueue(); n == 0 {
			t.Fatal("the queue takes nothing")
		}
		old.Tell(drainMove)
		old.AwaitSaid("STOPPING=1")
		a := c.get("/pid")
		for !a.close { // it came before the offer
			a = c.get("/pid")
		}
		if a.body != strconv.Itoa(old.PID) || !a.close {
			t.Errorf("%+v", a)
		}
		c.ended()
		// Junk in the queue does not keep a taker from what comes after it.
		w := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		c = dial(t, p)
		c.get("/pid")
		w.Adopt("off")
		next := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
		w.Tell(drainMove)
		w.AwaitExit()
		if a := c.get("/pid"); a.body != strconv.Itoa(next.PID) {
			t.Errorf("%+v", a)
		}
	})
}

func TestAdopterAtItsDescriptorLimitLeavesTheConnectionToTheSender(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		c := dial(t, p)
		c.get("/pid")
		poor := p.Start(role, fake.Options{}).AwaitReady()
		limit(t, poor.PID)
		poor.Adopt("on")
		old.Tell(drainMove)
		old.AwaitSaid("STOPPING=1")
		a := c.send(post("/echo", "kept")).answer()
		if a.body != "kept" {
			t.Errorf("%+v", a)
		}
		if n := old.Board.Total(scoreboard.Moved); n != 0 {
			t.Errorf("%d connections moved to a worker without descriptors", n)
		}
	})
}

// limit takes a process its free descriptors.
func limit(t *testing.T, pid int) {
	t.Helper()
	lowest := 3
	for ; ; lowest++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, lowest)); err != nil {
			break
		}
	}
	limit := syscall.Rlimit{Cur: uint64(lowest), Max: uint64(lowest)}
	if err := prlimit(pid, &limit); err != nil {
		t.Fatal(err)
	}
}

func TestWorkersReplacedWithHundredsOfIdleConnections(t *testing.T) {
	adapters(t, func(t *testing.T, role string) {
		p := fake.NewPool(t, off)
		old := p.Start(role, fake.Options{}).AwaitReady()
		clients := make([]*client, 400)
		for i := range clients {
			clients[i] = dial(t, p)
			clients[i].get("/pid")
		}
		began := time.Now()
		w := replace(p, old, role)
		t.Logf("moved %d connections, with the start of the successor in %v", old.Board.Total(scoreboard.Moved), time.Since(began))
		for _, c := range clients {
			if a := c.get("/pid"); a.close || a.body != strconv.Itoa(w.PID) {
				t.Fatalf("%+v, want an answer of %d", a, w.PID)
			}
		}
	})
}
