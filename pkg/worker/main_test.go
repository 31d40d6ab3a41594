//go:build linux

package worker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker"
	"supervisor/pkg/worker/fast"
	"supervisor/pkg/worker/internal/fake"
)

// The test binary is its own worker: each test starts processes of it in one of these roles.
func TestMain(m *testing.M) {
	fake.Main(m, map[string]func(){
		"http":     func() { exit(worker.Serve(&http.Server{Handler: mux()}, "127.0.0.1:0")) },
		"http h2c": func() { exit(worker.Serve(h2cServer(), "127.0.0.1:0")) },
		"http limits": func() {
			exit(worker.Serve(&http.Server{Handler: mux(), ReadTimeout: 300 * time.Millisecond, IdleTimeout: time.Minute}, "127.0.0.1:0"))
		},
		"fast": func() { exit(fast.Serve(&fasthttp.Server{Handler: fastHandler, LogAllErrors: false}, "127.0.0.1:0")) },
		"fast lean": func() {
			exit(fast.Serve(&fasthttp.Server{Handler: fastHandler, ReduceMemoryUsage: true}, "127.0.0.1:0"))
		},
		"fast limits": func() {
			exit(fast.Serve(&fasthttp.Server{Handler: fastHandler, ReadTimeout: 300 * time.Millisecond, IdleTimeout: time.Minute}, "127.0.0.1:0"))
		},
		"fast stream": func() {
			exit(fast.Serve(&fasthttp.Server{Handler: fastHandler, StreamRequestBody: true}, "127.0.0.1:0"))
		},
		"http tls":  func() { exit(worker.Serve(&http.Server{Handler: mux(), TLSConfig: fake.TLS()}, "")) },
		"fast tls":  func() { exit(fast.Serve(&fasthttp.Server{Handler: fastHandler, TLSConfig: fake.TLS()}, "")) },
		"by hand":   func() { exit(worker.Serve(&http.Server{Handler: mux()}, os.Getenv("TEST_ADDR"))) },
		"fast hand": func() { exit(fast.Serve(&fasthttp.Server{Handler: fastHandler}, os.Getenv("TEST_ADDR"))) },
		"run":       func() { exit(worker.Run(runner)) },
		"chatty": func() {
			w := worker.Join()
			log := w.Output(os.Stdout)
			for range 100 {
				fmt.Fprintln(log, "a line that nobody reads")
				fmt.Fprintln(os.Stderr, "another one")
			}
			w.OnReopen(func() { w.Status("reopened") })
			w.Status(fmt.Sprint("id ", w.ID(), " generation ", w.Generation(), " environment ", os.Getenv(protocol.EnvFDs), os.Getenv(protocol.EnvListenPID)))
			exit(worker.Serve(&http.Server{Handler: mux()}, ""))
		},
	})
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runner(ctx context.Context) error {
	w := worker.Join()
	w.StopWithin(40 * time.Second) // in the place of StopTimeout
	if !w.Deadline().IsZero() {
		w.Status("a deadline without a drain")
	}
	w.Status("running")
	<-ctx.Done()
	left := time.Until(w.Deadline()).Round(5 * time.Second)
	w.Status(fmt.Sprintf("stopping within %v because %v", left, context.Cause(ctx)))
	return nil
}

func h2cServer() *http.Server {
	srv := &http.Server{Handler: mux(), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

// What every role answers:
//
//	/pid      the worker's pid
//	/echo     the request's body
//	/sleep?N  after N ms
//	/stuck    never (until its context ends, in net/http)
//	/hung     never
//	/fail     500
//	/panic    nothing (net/http)
//	/sse      a line at once and then one every 50 ms, ?N of them
//	/early    103 Early Hints, then never the rest
//	/slow-ok  like /sleep, without a deadline
//	/hijack   takes the connection and echoes lines
func mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/pid", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, os.Getpid()) })
	m.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Write(body)
	})
	m.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(milliseconds(r.URL.RawQuery))
		fmt.Fprint(w, "slept")
	})
	m.HandleFunc("/stuck", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	m.HandleFunc("/hung", func(w http.ResponseWriter, r *http.Request) { select {} })
	m.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) })
	m.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("out of luck") })
	m.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		<-r.Context().Done()
	})
	m.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		for i := range n {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	})
	m.HandleFunc("/slow-ok", func(w http.ResponseWriter, r *http.Request) {
		worker.NoDeadline(r.Context())
		time.Sleep(milliseconds(r.URL.RawQuery))
		fmt.Fprint(w, "slept")
	})
	m.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(conn, buf)
	})
	return m
}

func fastHandler(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/pid":
		fmt.Fprint(ctx, os.Getpid())
	case "/echo":
		if body := ctx.RequestBodyStream(); body != nil {
			data, err := io.ReadAll(body)
			if err != nil {
				return
			}
			ctx.Write(data)
			return
		}
		ctx.Write(ctx.PostBody())
	case "/sleep":
		time.Sleep(milliseconds(string(ctx.QueryArgs().QueryString())))
		ctx.WriteString("slept")
	case "/stuck", "/hung":
		select {}
	case "/fail":
		ctx.Error("no", 500)
	case "/early":
		ctx.Response.Header.Set("Link", "</a.css>; rel=preload")
		ctx.EarlyHints()
		select {}
	case "/sse":
		n := ctx.QueryArgs().GetUintOrZero("n")
		if n == 0 {
			n, _ = strconv.Atoi(string(ctx.QueryArgs().QueryString()))
		}
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			for i := range n {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.Flush()
				time.Sleep(50 * time.Millisecond)
			}
		})
	case "/slow-ok":
		fast.NoDeadline(ctx)
		time.Sleep(milliseconds(string(ctx.QueryArgs().QueryString())))
		ctx.WriteString("slept")
	case "/hijack":
		ctx.Response.SetStatusCode(101)
		ctx.Response.Header.Set("Connection", "Upgrade")
		ctx.Response.Header.Set("Upgrade", "echo")
		ctx.Hijack(func(conn net.Conn) { io.Copy(conn, conn) })
	}
}

func milliseconds(s string) time.Duration {
	n, _ := strconv.Atoi(s)
	return time.Duration(n) * time.Millisecond
}

// client is a connection that reads answers and knows whether the server ended it.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, p *fake.Pool) *client {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(fake.Patience))
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) send(text string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Errorf("send: %v", err)
	}
	return c
}

func (c *client) get(path string) answer {
	c.t.Helper()
	return c.send(get(path)).answer()
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

type answer struct {
	status int
	body   string
	close  bool // said Connection: close
}

func (c *client) answer() answer {
	c.t.Helper()
	a, err := readAnswer(c.r)
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	return a
}

func readAnswer(r *bufio.Reader) (answer, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(body), resp.Close}, err
}

// ended waits for the server's FIN, and fails at a reset or further bytes.
func (c *client) ended() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if err != nil || len(rest) > 0 {
		c.t.Errorf("the connection ended with %q, %v; want a clean end", rest, err)
	}
}

// adapters runs a test for both servers.
func adapters(t *testing.T, f func(t *testing.T, role string)) {
	for _, role := range []string{"http", "fast"} {
		t.Run(role, func(t *testing.T) { t.Parallel(); f(t, role) })
	}
}

var (
	drainMove  = protocol.Drain(protocol.DrainMove, 10*time.Second)
	drainClose = protocol.Drain(protocol.DrainClose, 10*time.Second)
	undrain    = protocol.Command{Verb: protocol.VerbUndrain}
	commit     = protocol.Command{Verb: protocol.VerbCommit}
)

var off = scoreboard.Settings{}
