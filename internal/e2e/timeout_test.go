package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startWeb runs the application, with its drills, in one pool that has these settings more.
func startWeb(t *testing.T, settings string) *server {
	t.Helper()
	return start(t, drills, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
`, app())+settings))
}

// One handler is stuck for ever beside 99 that take 200 ms: one client gets 504, 99 are answered, the worker is replaced, and its
// stacks are in the log. A stream older than the timeout lives on all the while.
func TestOneStuckRequestCostsOneRequest(t *testing.T) {
	t.Parallel()
	s := startWeb(t, `
workers = 1
timeout = 1
timeout_grace = 1
`)
	s.await("pool serves", 1)

	stream, err := http.Get("http://" + s.addr + "/debug/stream?seconds=4")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()

	stuck := make(chan *http.Response, 1)
	go func() {
		resp, _ := s.get("/debug/hang")
		stuck <- resp
	}()
	answers := make(chan int, 99)
	for range 99 {
		go func() {
			resp, _ := s.get("/debug/sleep?ms=200")
			answers <- resp.StatusCode
		}()
	}
	for range 99 {
		if code := <-answers; code != http.StatusOK {
			t.Errorf("a neighbour got %d", code)
		}
	}
	if resp := <-stuck; resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("the stuck request got %d, want 504", resp.StatusCode)
	}
	s.await(`worker drains .*"reason": "timeout"`, 1)
	if s.count(`\] goroutine \d+`) == 0 || s.count(`pkg/app.*[Hh]ang`) == 0 {
		t.Error("the stacks of the stuck worker are not in the log")
	}
	s.await("worker ready", 2)
	if resp, _ := s.get("/health"); resp.StatusCode != http.StatusOK {
		t.Errorf("after the replacement: %d", resp.StatusCode)
	}
	lines := 0
	for body := bufio.NewScanner(stream.Body); body.Scan(); {
		if strings.HasPrefix(body.Text(), "data:") {
			lines++
		}
	}
	if lines < 4 {
		t.Errorf("the stream brought %d events, want at least 4: it was cut", lines)
	}
}

// A slow database: every request is overdue. Each client gets its 504, and the pool is not recycled over and over.
func TestSlowBackendIsNoReasonToRecycle(t *testing.T) {
	t.Parallel()
	s := startWeb(t, `
workers = 1
timeout = 0.5
timeout_grace = 60
`)
	s.await("pool serves", 1)
	answers := make(chan int)
	for range 30 {
		go func() {
			resp, _ := s.get("/debug/sleep?ms=2000")
			answers <- resp.StatusCode
		}()
	}
	for range 30 {
		if code := <-answers; code != http.StatusGatewayTimeout {
			t.Errorf("got %d, want 504", code)
		}
	}
	if n := s.count("worker drains|worker died"); n > 0 {
		t.Errorf("%d workers were replaced", n)
	}
}

// A client that sends a byte now and then takes its own time, not the application's.
func TestSlowUploadIsTheClientsTime(t *testing.T) {
	t.Parallel()
	s := startWeb(t, `
timeout = 0.5
`)
	s.await("pool serves", 1)
	conn := dial(t, s.addr)
	fmt.Fprintf(conn, "POST /debug/echo?body=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n")
	for i := range 8 {
		time.Sleep(200 * time.Millisecond) // the slowness is the point
		fmt.Fprintf(conn, "%d", i)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got %d", resp.StatusCode)
	}
}

// A panic in a handler costs one 500, not the worker.
func TestPanicCostsOneAnswer(t *testing.T) {
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "1", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	if resp, _ := s.get("/debug/panic"); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("got %d", resp.StatusCode)
	}
	if h := s.health(); h.WorkerID != "web.0.1" {
		t.Errorf("the worker was replaced: %+v", h)
	}
}

// SIGSTOP one of two workers: the other one serves, and the stopped one is killed at heartbeat_timeout and replaced.
func TestStoppedWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	s := startWeb(t, `
workers = 2
heartbeat_timeout = 3
`)
	s.await("pool serves", 1)
	syscall.Kill(s.children()[0], syscall.SIGSTOP)
	s.await("worker is hung", 1)
	s.await("worker ready", 3)
	s.await(`worker gone .*"reason": "heartbeat"`, 1)
	for range 10 {
		s.get("/health")
	}
}
