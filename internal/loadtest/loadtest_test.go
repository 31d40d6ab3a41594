package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

var everyone = Mix{KeepAlive: 4, Paused: 4, OneShot: 2, Pipelined: 2, Standard: 2}

// listen opens a port (or a unix socket) that is closed when the test ends.
func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func run(t *testing.T, plan Plan) Result {
	t.Helper()
	if plan.Duration == 0 {
		plan.Duration = time.Minute
	}
	r, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	return r
}

func TestGoodServersPassEveryCheck(t *testing.T) {
	servers := map[string]func(net.Listener) error{
		"fasthttp": func(ln net.Listener) error { return fasthttp.Serve(ln, EchoFast("1")) },
		"net/http": func(ln net.Listener) error { return http.Serve(ln, EchoHTTP("1")) },
	}
	for name, serve := range servers {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				t.Parallel()
				ln := listen(t, network)
				go serve(ln)
				target := ln.Addr().String()
				if network == "unix" {
					target = "unix:" + target
				}
				r := run(t, Plan{Target: target, Mix: everyone, Requests: 1500, MaxPause: 20 * time.Millisecond})
				if err := r.Err(); err != nil {
					t.Error(err)
				}
				if r.OK != 1500 || r.Workers["1"] != 1500 || r.Latency.TotalCount() != 1500 {
					t.Errorf("%d right answers, %d by worker 1, %d in the histogram; want 1500 each", r.OK, r.Workers["1"], r.Latency.TotalCount())
				}
				for kind, n := range map[Kind]int{KeepAlive: everyone.KeepAlive, Paused: everyone.Paused, Pipelined: everyone.Pipelined} {
					if opened := r.Kinds[kind].Opened; opened != int64(n) {
						t.Errorf("%s clients opened %d connections, want one each: %d", kind, opened, n)
					}
				}
				// net/http puts a connection back in a goroutine of its own: on a busy machine the next request has dialled meanwhile.
				if standard := r.Kinds[Standard]; standard.Opened < int64(everyone.Standard) || standard.Opened > standard.OK/2 {
					t.Errorf("net/http clients opened %d connections for %d answers", standard.Opened, standard.OK)
				}
				if one := r.Kinds[OneShot]; one.Opened != one.OK {
					t.Errorf("one-shot clients opened %d connections for %d answers", one.Opened, one.OK)
				}
				for kind, c := range r.Kinds {
					if c.OK == 0 {
						t.Errorf("no %s client was answered", Kind(kind))
					}
				}
			})
		}
	}
}

// Bodies must reach the sizes that matter, and the server must see both methods.
func TestRequestsVaryInMethodAndSize(t *testing.T) {
	ln := listen(t, "tcp")
	var gets, empty, small, large, huge atomic.Int64
	go fasthttp.Serve(ln, func(ctx *fasthttp.RequestCtx) {
		switch n := len(ctx.PostBody()); {
		case ctx.IsGet():
			gets.Add(1)
		case n == 0:
			empty.Add(1)
		case n <= 1024:
			small.Add(1)
		case n <= 64<<10:
			large.Add(1)
		case n == 300_000:
			huge.Add(1)
		}
		EchoFast("1")(ctx)
	})
	r := run(t, Plan{Target: ln.Addr().String(), Mix: Mix{KeepAlive: 4}, Requests: 4000, Seed: 1})
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	for name, seen := range map[string]*atomic.Int64{"GET": &gets, "empty": &empty, "small": &small, "large": &large, "300,000 bytes": &huge} {
		if seen.Load() == 0 {
			t.Errorf("no request of sort %s", name)
		}
	}
}

// request is what a bad server needs to know of one.
type request struct {
	*http.Request
	nonce string
	body  []byte
}

// answerTo is the right answer.
func (r request) answer() []byte {
	body := r.body
	if r.Method == http.MethodGet {
		body = []byte(r.nonce)
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Nonce: %s\r\nX-Worker: bad\r\n\r\n%s", len(body), r.nonce, body)
}

// serveBadly answers n requests of each connection rightly and then lets fault do as it likes; the connection is closed when
// that returns.
func serveBadly(t *testing.T, ln net.Listener, n int, fault func(conn *net.TCPConn, in *bufio.Reader, next request)) {
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { ln.Close() })
	serve := func(conn *net.TCPConn) {
		defer conn.Close()
		in := bufio.NewReaderSize(conn, 64<<10)
		for i := 0; ; i++ {
			r, err := readRequest(in)
			if err != nil {
				return
			}
			if i == n {
				fault(conn, in, r)
				return
			}
			if _, err := conn.Write(r.answer()); err != nil {
				return
			}
		}
	}
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(conn.(*net.TCPConn)) })
		}
	})
}

func readRequest(in *bufio.Reader) (request, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return request{}, err
	}
	body, err := io.ReadAll(r.Body)
	return request{r, r.URL.Query().Get("nonce"), body}, err
}

func write(format string, args ...any) func(*net.TCPConn, *bufio.Reader, request) {
	return func(conn *net.TCPConn, _ *bufio.Reader, _ request) { fmt.Fprintf(conn, format, args...) }
}

// The oracle is worth what it finds: each way to break a promise must be found and named.
func TestBadServersAreFoundOut(t *testing.T) {
	keepAlive, pipelined, paused, oneShot, standard := Mix{KeepAlive: 1}, Mix{Pipelined: 1}, Mix{Paused: 1}, Mix{OneShot: 1}, Mix{Standard: 1}
	reset := func(conn *net.TCPConn, _ *bufio.Reader, _ request) { conn.SetLinger(0) }
	hang := func(conn *net.TCPConn, in *bufio.Reader, _ request) { in.Peek(1) }
	swap := func(conn *net.TCPConn, in *bufio.Reader, first request) {
		second, err := readRequest(in)
		if err != nil {
			return
		}
		conn.Write(second.answer())
		conn.Write(first.answer())
	}
	lie := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		r.body = append([]byte(nil), r.body...)
		r.body[len(r.body)-1] ^= 1
		conn.Write(r.answer())
	}
	short := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		r.body = r.body[:len(r.body)-1]
		conn.Write(r.answer())
	}
	half := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		a := r.answer()
		conn.Write(a[:len(a)-1])
	}
	twice := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		a := r.answer()
		conn.Write(append(a, a...))
	}
	sayClose := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		conn.Write(bytes.Replace(r.answer(), []byte("\r\n"), []byte("\r\nConnection: close\r\n"), 1))
	}
	other := func(conn *net.TCPConn, _ *bufio.Reader, r request) {
		r.nonce = strings.Repeat("0", nonceSize)
		conn.Write(r.answer())
	}

	for _, test := range []struct {
		name  string
		mix   Mix
		fault func(*net.TCPConn, *bufio.Reader, request)
		want  Class
	}{
		{"closes before the answer", keepAlive, write(""), NoAnswer},
		{"resets before the answer", keepAlive, reset, ResetWaiting},
		{"closes before a pipelined answer", pipelined, write(""), NoAnswer},
		{"closes within the answer", keepAlive, half, Truncated},
		{"closes within the head", keepAlive, write("HTTP/1.1 200 OK\r\nContent-"), Truncated},
		{"answers 502", keepAlive, write("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n"), WrongStatus},
		{"speaks something else", keepAlive, write("SSH-2.0-OpenSSH_9.2\r\n"), Malformed},
		{"flips a bit", keepAlive, lie, WrongBody},
		{"loses a byte", keepAlive, short, WrongBody},
		{"answers with another nonce", keepAlive, other, WrongNonce},
		{"swaps two pipelined answers", pipelined, swap, WrongNonce},
		{"says close before the pipelined rest", pipelined, sayClose, Unanswered},
		{"answers twice", paused, twice, Stray},
		{"answers twice, pipelined", pipelined, twice, WrongNonce},
		{"answers a one-shot twice", oneShot, func(conn *net.TCPConn, in *bufio.Reader, r request) {
			sayClose(conn, in, r)
			conn.Write(r.answer())
		}, Stray},
		{"never answers", keepAlive, hang, TimedOut},
		{"answers half and hangs", keepAlive, func(conn *net.TCPConn, in *bufio.Reader, r request) { half(conn, in, r); hang(conn, in, r) }, TimedOut},
		{"closes before the answer", standard, write(""), NoAnswer},
		{"resets before the answer", standard, reset, ResetWaiting},
		{"closes within the answer", standard, half, Truncated},
		{"answers 502", standard, write("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n"), WrongStatus},
		{"speaks something else", standard, write("SSH-2.0-OpenSSH_9.2\r\n"), Malformed},
		{"flips a bit", standard, lie, WrongBody},
		{"answers with another nonce", standard, other, WrongNonce},
		{"never answers", standard, hang, TimedOut},
	} {
		kind := [kinds]string{}
		for k, n := range test.mix.counts() {
			if n > 0 {
				kind[0] = Kind(k).String()
			}
		}
		t.Run(kind[0]+"/"+test.name, func(t *testing.T) {
			t.Parallel()
			ln := listen(t, "tcp")
			// A fault in a body needs one: such a server waits for it.
			needsBody := test.want == WrongBody || test.want == Truncated || test.want == TimedOut
			// After an answer that is wrong but whole, the connection goes on.
			framed := test.want == WrongBody || test.want == WrongStatus || test.want == WrongNonce
			var once atomic.Bool
			serveBadly(t, ln, 0, func(conn *net.TCPConn, in *bufio.Reader, r request) {
				for {
					if (needsBody && len(r.body) <= nonceSize) || once.Swap(true) {
						conn.Write(r.answer())
					} else if test.fault(conn, in, r); !framed {
						return
					}
					var err error
					if r, err = readRequest(in); err != nil {
						return
					}
				}
			})
			timeout := 20 * time.Second // a starved machine is not a fault of the server
			if test.want == TimedOut {
				timeout = 2 * time.Second
			}
			r := run(t, Plan{Target: ln.Addr().String(), Mix: test.mix, Requests: 200, Timeout: timeout, MaxPause: time.Millisecond})
			if r.Failed[test.want] == 0 || r.Err() == nil {
				t.Errorf("not found out: want %q", test.want)
			}
			for class, n := range r.Failed {
				if n > 0 && Class(class) != test.want {
					t.Errorf("also blamed: %d %q", n, Class(class))
				}
			}
			if r.AllFailed() > Depth {
				t.Errorf("one fault, %d failures", r.AllFailed())
			}
			if r.OK+r.AllFailed() < 200 || r.OK < 190 {
				t.Errorf("%d right, %d failed: the clients did not go on", r.OK, r.AllFailed())
			}
		})
	}
}

// What a client that merely waits can see: no request fails, but the column is there, and Err says so.
func TestCloseBetweenRequestsIsCounted(t *testing.T) {
	for _, test := range []struct {
		name   string
		mix    Mix
		fault  func(*net.TCPConn, *bufio.Reader, request)
		column func(Counts) int64
	}{
		{"announced", Mix{KeepAlive: 1}, func(conn *net.TCPConn, _ *bufio.Reader, r request) {
			conn.Write(bytes.Replace(r.answer(), []byte("\r\n"), []byte("\r\nConnection: close\r\n"), 1))
		}, func(c Counts) int64 { return c.Announced }},
		{"announced to net/http", Mix{Standard: 1}, func(conn *net.TCPConn, _ *bufio.Reader, r request) {
			conn.Write(bytes.Replace(r.answer(), []byte("\r\n"), []byte("\r\nConnection: close\r\n"), 1))
		}, func(c Counts) int64 { return c.Announced }},
		{"silent", Mix{Paused: 1}, func(conn *net.TCPConn, _ *bufio.Reader, r request) {
			conn.Write(r.answer())
		}, func(c Counts) int64 { return c.Silent }},
		{"reset", Mix{Paused: 1}, func(conn *net.TCPConn, _ *bufio.Reader, r request) {
			conn.Write(r.answer())
			time.Sleep(time.Millisecond) // a reset throws away what the client has not read yet
			conn.SetLinger(0)
		}, func(c Counts) int64 { return c.Reset }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ln := listen(t, "tcp")
			serveBadly(t, ln, 5, test.fault)
			r := run(t, Plan{Target: ln.Addr().String(), Mix: test.mix, Requests: 60, MaxPause: 200 * time.Millisecond})
			if n := test.column(r.Counts); n < 3 || n > r.Opened {
				t.Errorf("%d closes counted on %d connections of six requests each", n, r.Opened)
			}
			if test.column(r.Counts) != r.ServerClosed() && test.name != "reset" {
				t.Errorf("the wrong column: %s", r)
			}
			if r.Err() == nil {
				t.Error("Err is nil although kept-alive connections were closed")
			}
		})
	}
}

// net/http repeats a GET whose kept-alive connection died; nobody would ever hear of it.
func TestHiddenRetryOfTheStandardClientIsFoundOut(t *testing.T) {
	ln := listen(t, "tcp")
	serveBadly(t, ln, 3, write(""))
	r := run(t, Plan{Target: ln.Addr().String(), Mix: Mix{Standard: 1}, GetOnly: true, Requests: 40})
	if r.Failed[Retried] == 0 {
		t.Error("the secret retries of net/http were not found out")
	}
}

func TestNobodyListensIsRefused(t *testing.T) {
	ln := listen(t, "tcp")
	target := ln.Addr().String()
	ln.Close()
	for _, target := range []string{target, "unix:" + filepath.Join(t.TempDir(), "none")} {
		r := run(t, Plan{Target: target, Mix: everyone, Requests: 30})
		if r.Failed[DialRefused] != 30 {
			t.Errorf("%s: %d refused, want 30", target, r.Failed[DialRefused])
		}
	}
}

// What a kill of one worker may cost is known by the connections that it had answered on.
func TestFailuresNameTheWorkerThatHeldTheConnection(t *testing.T) {
	ln := listen(t, "tcp")
	serveBadly(t, ln, 2, write(""))
	r := run(t, Plan{Target: ln.Addr().String(), Mix: Mix{KeepAlive: 1}, Requests: 9})
	if n := len(r.FailedAfter("bad")); n != 3 {
		t.Errorf("%d failures after worker bad, want 3", n)
	}
}

func TestOnlyThisMachineIsATarget(t *testing.T) {
	for _, target := range []string{"192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:80", "example:80", "http://192.0.2.1/", "127.0.0.1", "ftp://127.0.0.1:21/", "unix:", ""} {
		if _, err := Run(t.Context(), Plan{Target: target, Mix: Mix{KeepAlive: 1}, Requests: 1}); err == nil {
			t.Errorf("target %q was not refused", target)
		}
	}
	for target, want := range map[string]endpoint{
		"http://localhost:8080/echo?x=1": {"tcp", "127.0.0.1:8080", "/echo?x=1"},
		"http://[::1]:8080":              {"tcp", "[::1]:8080", ""},
		"127.0.0.2:81":                   {"tcp", "127.0.0.2:81", ""},
		"unix:/run/app.sock":             {"unix", "/run/app.sock", ""},
	} {
		if got, err := parseTarget(target); err != nil || got != want {
			t.Errorf("target %q: %v, %v", target, got, err)
		}
	}
}

func TestARunHasAnEnd(t *testing.T) {
	for name, plan := range map[string]Plan{
		"no end":        {Mix: Mix{KeepAlive: 1}},
		"no client":     {Requests: 1},
		"too many":      {Mix: Mix{KeepAlive: maxClients + 1}, Requests: 1},
		"negative":      {Mix: Mix{KeepAlive: 2, Paused: -1}, Requests: 1},
		"too long":      {Mix: Mix{KeepAlive: 1}, Duration: 2 * maxDuration},
		"nothing at it": {},
	} {
		plan.Target = "127.0.0.1:1"
		if _, err := Run(t.Context(), plan); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	ln := listen(t, "tcp")
	go fasthttp.Serve(ln, EchoFast("1"))

	r := run(t, Plan{Target: ln.Addr().String(), Mix: everyone, Duration: 100 * time.Millisecond})
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Elapsed > 2*time.Second {
		t.Errorf("100 ms took %v", r.Elapsed)
	}

	ctx, cancel := context.WithCancel(t.Context())
	load, err := Start(ctx, Plan{Target: ln.Addr().String(), Mix: everyone, Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if !load.Await(100) {
		t.Error("Await gave up")
	}
	cancel()
	if r := load.Wait(); r.Err() != nil || r.OK < 100 {
		t.Errorf("after cancel: %v", r)
	}
	if load.Await(1) {
		t.Error("Await promises answers of a run that is over")
	}
}

// The clients share the cores with the servers: what they cost themselves is lost for the measurement.
func BenchmarkKeepAliveRequest(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go fasthttp.Serve(ln, EchoFast("1"))
	b.ReportAllocs()
	r, err := Run(b.Context(), Plan{Target: ln.Addr().String(), Mix: Mix{KeepAlive: 16}, Requests: int64(b.N), Duration: time.Minute, GetOnly: true})
	if err != nil || r.AllFailed() > 0 {
		b.Fatal(err, r)
	}
}
