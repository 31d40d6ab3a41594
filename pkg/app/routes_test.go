package app

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

func TestUnknownPathSaysWhereToLook(t *testing.T) {
	s := serve(t, Config{})
	for _, path := range []string{"/nope", "/images/", "/Health", "//health", "/health/worker/", "/%2e%2e/etc/passwd", "/debug/sleep?ms=1", "/debug/panic"} {
		s.get(path).fails(404, "not_found", "GET /")
	}
}

func TestWrongMethodNamesTheRightOnes(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range []struct{ method, path, allow string }{
		{"PUT", "/images", "OPTIONS, POST"},
		{"GET", "/images", "OPTIONS, POST"},
		{"POST", "/health", "GET, HEAD, OPTIONS"},
		{"DELETE", "/", "GET, HEAD, OPTIONS"},
		{"BREW", "/health/ready", "GET, HEAD, OPTIONS"},
	} {
		got := s.do(c.method, c.path, "", nil)
		got.fails(405, "method_not_allowed", c.method, c.allow)
		if allow := got.header.Get("Allow"); allow != c.allow {
			t.Errorf("%s %s: Allow is %q, want %q", c.method, c.path, allow, c.allow)
		}
	}
	if got := s.do("OPTIONS", "/images", "", nil); got.status != 204 || got.header.Get("Allow") != "OPTIONS, POST" {
		t.Errorf("OPTIONS /images: %d, Allow %q", got.status, got.header.Get("Allow"))
	}
}

func TestHeadAnswersLikeGetWithoutABody(t *testing.T) {
	s := serve(t, Config{})
	for _, path := range []string{"/", "/health", "/health/live"} {
		head := s.do("HEAD", path, "", nil)
		if head.status != 200 || len(head.body) != 0 || head.header.Get("Content-Length") == "0" {
			t.Errorf("HEAD %s: %d, %d bytes, %v", path, head.status, len(head.body), head.header)
		}
	}
}

func TestPanicCostsOneAnswer(t *testing.T) {
	s := serve(t, Config{Debug: true})
	s.get("/debug/panic").fails(500, "internal", "log")
	if got := s.get("/health"); got.status != 200 {
		t.Errorf("after a panic /health is %d", got.status)
	}
	lines := s.logs.FilterMessage("handler panicked").All()
	if len(lines) != 1 || !strings.Contains(lines[0].ContextMap()["stack"].(string), "debugPanic") {
		t.Errorf("want one line with the stack, got %v", lines)
	}
}

// raw sends bytes as they are, and reads one answer.
func (s *site) raw(request string) answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	return readAnswer(s.t, conn)
}

func readAnswer(t testing.TB, conn net.Conn) answer {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{t, response.StatusCode, response.Header, body}
}

func TestRequestThatIsNotHTTP(t *testing.T) {
	s := serve(t, Config{})
	for _, request := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client at the wrong port\r\n\r\n",
		"GET\r\n\r\n",
		"POST /images HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
		"POST /images HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nthis is no length\r\n",
	} {
		s.raw(request).fails(400, "bad_request", "HTTP/1.1")
	}
}

func TestHeadersHaveALimit(t *testing.T) {
	s := serve(t, Config{})
	cookie := "GET /health HTTP/1.1\r\nHost: a\r\nCookie: "
	if got := s.raw(cookie + strings.Repeat("c", maxHeaderBytes/2) + "\r\n\r\n"); got.status != 200 {
		t.Errorf("headers of half the limit: %d", got.status)
	}
	s.raw(cookie+strings.Repeat("c", maxHeaderBytes)+"\r\n\r\n").fails(431, "headers_too_large", "16384")
}

// trickle sends the beginning of a request and then a byte of the rest each second, until the server ends it. It runs in
// virtual time.
func trickle(t *testing.T, start, each string) (got answer, took time.Duration) {
	// fasthttp starts a clock for its Date header with its first answer. It never ends, so it must not begin in the bubble.
	server := newApp(Config{}, Standalone(), nil, zap.NewNop()).server()
	warm, client := net.Pipe()
	go server.ServeConn(warm)
	io.WriteString(client, "GET /health/live HTTP/1.0\r\nHost: a\r\n\r\n")
	readAnswer(t, client)

	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		begin := time.Now()
		go server.ServeConn(theirs)
		go func() {
			_, err := io.WriteString(ours, start)
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.WriteString(ours, each)
			}
		}()
		got = readAnswer(t, ours)
		took = time.Since(begin)
		ours.Close()
		time.Sleep(2 * time.Second)
	})
	return got, took
}

func TestSlowHeadersEndAtTheDeadline(t *testing.T) {
	got, took := trickle(t, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", "s")
	got.fails(408, "timeout", "10s")
	if took > headerTimeout+2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestSlowBodyHasMoreTimeAndEndsToo(t *testing.T) {
	got, took := trickle(t, "POST /images HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", "s")
	got.fails(408, "timeout", "1m0s")
	if took < bodyTimeout || took > bodyTimeout+2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestConnectionDoesNotKeepALargeBody(t *testing.T) {
	server := newApp(Config{Debug: true}, Standalone(), nil, zap.NewNop()).server()
	ctx := &fasthttp.RequestCtx{}
	ctx.Request.SetRequestURI("/debug/echo")
	ctx.Request.Header.SetMethod("POST")
	ctx.Request.SetBody(make([]byte, 1<<20))
	server.Handler(ctx)
	if capacity := cap(ctx.Request.Body()); capacity > keepBufferBytes {
		t.Errorf("the connection keeps %d bytes", capacity)
	}
}
