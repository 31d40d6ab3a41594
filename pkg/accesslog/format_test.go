package accesslog

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tracecontext"
)

// line formats one request.
func line(f Format, ctx *fasthttp.RequestCtx, e *Entry, remote netip.Addr) string {
	var r record
	r.fill(ctx, e, remote)
	return string(newFormatter(Options{Format: f, Worker: "web.0.7", Generation: 3}).append(nil, &r))
}

func TestFormats(t *testing.T) {
	remote := netip.MustParseAddr("2001:db8::1")
	was := time.Local
	time.Local = time.FixedZone("", 3600)
	defer func() { time.Local = was }()

	whole := request("/a b?x=%20&access_token=abc&y", "Referer", "https://ada:secret@example.org/?password=1", "User-Agent", "cu\"rl\\\x01\x7fü\u202e\xff")
	e := entry(200)
	e.Trace, _ = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	bare := request("/")
	bare.Request.Header.SetNoDefaultContentType(true)
	bare.Request.Header.SetProtocol("HTTP/1.0")
	bare.Response.SetBodyStream(strings.NewReader("x"), -1)
	head := request("/h")
	head.Request.Header.SetMethod("HEAD")
	for name, c := range map[string]struct{ got, want string }{
		"json": {
			line(JSON, whole, e, remote),
			`{"time":"2026-03-01T12:00:00.123456Z","remote":"2001:db8::1","method":"GET","path":"/a b?x=%20&access_token=***&y","status":200,"bytes":5,` +
				`"ms":1.234,"referer":"https://***@example.org/?password=***","user_agent":"cu\"rl\\\u0001\u007f\u00fc\u202e\ufffd","request_id":"00f067aa0ba902b7",` +
				`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","worker":"web.0.7","generation":3}` + "\n",
		},
		"combined": {
			line(Combined, whole, e, remote),
			`2001:db8::1 - - [01/Mar/2026:13:00:00 +0100] "GET /a b?x=%20&access_token=***&y HTTP/1.1" 200 5 "https://***@example.org/?password=***" ` +
				`"cu\x22rl\x5c\x01\x7f\xc3\xbc\xe2\x80\xae\xff" rt=0.001234 id=00f067aa0ba902b7 trace=4bf92f3577b34da6a3ce929d0e0e4736 worker=web.0.7 gen=3` + "\n",
		},
		"bare json": {
			line(JSON, bare, &Entry{Status: 503, At: entry(0).At}, netip.Addr{}),
			`{"time":"2026-03-01T12:00:00.123456Z","remote":"-","method":"GET","path":"/","status":503,"bytes":null,"ms":0.000,"worker":"web.0.7","generation":3}` + "\n",
		},
		"bare combined": {
			line(Combined, bare, &Entry{Status: 503, At: entry(0).At, Took: 2 * time.Hour}, netip.Addr{}),
			`- - - [01/Mar/2026:13:00:00 +0100] "GET / HTTP/1.0" 503 - "-" "-" rt=7200.000000 id=- trace=- worker=web.0.7 gen=3` + "\n",
		},
		"head": {
			line(Combined, head, &Entry{Status: 200, At: entry(0).At}, netip.MustParseAddr("192.0.2.1")),
			`192.0.2.1 - - [01/Mar/2026:13:00:00 +0100] "HEAD /h HTTP/1.1" 200 0 "-" "-" rt=0.000000 id=- trace=- worker=web.0.7 gen=3` + "\n",
		},
		"unread json": {
			line(JSON, whole, &Entry{Status: 400, At: entry(0).At, Unread: true}, remote),
			`{"time":"2026-03-01T12:00:00.123456Z","remote":"2001:db8::1","method":"","path":"","status":400,"bytes":5,"ms":0.000,"worker":"web.0.7","generation":3}` + "\n",
		},
		"unread combined": {
			line(Combined, whole, &Entry{Status: 400, At: entry(0).At, Unread: true}, remote),
			`2001:db8::1 - - [01/Mar/2026:13:00:00 +0100] "-" 400 5 "-" "-" rt=0.000000 id=- trace=- worker=web.0.7 gen=3` + "\n",
		},
	} {
		if c.got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, c.got, c.want)
		}
	}
}

func parse(parent string) (tracecontext.TraceID, bool) {
	c, ok := tracecontext.Parse(parent)
	return c.Trace, ok
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"/":                                  "/",
		"/x?":                                "/x?",
		"/x?token=abc":                       "/x?token=***",
		"/x?token=":                          "/x?token=",
		"/x?token":                           "/x?token",
		"/x?a=1&Access-Token=abc&b=2":        "/x?a=1&Access-Token=***&b=2",
		"/x?a=1;api_key=abc;b=2":             "/x?a=1;api_key=***;b=2",
		"/x?%74oken=abc":                     "/x?%74oken=***",
		"/x?t%6Fken=abc":                     "/x?t%6Fken=***",
		"/x?password[]=abc":                  "/x?password[]=***",
		"/x?X-Amz-Signature=abc":             "/x?X-Amz-Signature=***",
		"/x?code=abc&state=1":                "/x?code=***&state=1",
		"/x?monkey=1&author=2&keyboard=3":    "/x?monkey=1&author=2&keyboard=3",
		"/x?token=a=b=c":                     "/x?token=***",
		"/x?y=1?token=abc":                   "/x?y=1?token=***",
		"/x#access_token=abc":                "/x#access_token=abc", // browsers do not send it
		"/x?y#access_token=abc":              "/x?y#access_token=***",
		"http://u:p@example.org/x":           "http://***@example.org/x",
		"//u:p@example.org":                  "//***@example.org",
		"/x//u:p@example.org/":               "/x//u:p@example.org/",
		"http://example.org/@x":              "http://example.org/@x",
		"/x?next=http://u@h/&csrf_token=abc": "/x?next=http://u@h/&csrf_token=***",
		"/x?%zz%=1&%":                        "/x?%zz%=1&%",
	} {
		if got := string(appendMasked(nil, []byte(uri))); got != want {
			t.Errorf("%s is logged as %s, want %s", uri, got, want)
		}
	}
}

// A path that was cut in the ring says so, and a secret that was cut with it is one still.
func TestLongTextsAreCut(t *testing.T) {
	t.Parallel()
	got := line(JSON, request("/?token="+strings.Repeat("x", 5000), "User-Agent", strings.Repeat("ü", 1000)), entry(200), netip.Addr{})
	if !strings.Contains(got, `"path":"/?token=***..."`) || len(got) > 2000 {
		t.Error(got)
	}
}

// Whatever clients send, a line is one line of printable ASCII that is not too long, and JSON is JSON.
func FuzzLine(f *testing.F) {
	f.Add([]byte("GET"), []byte("/?a=\"b\\"), []byte("http://x/\r\n"), []byte("\x00\x1b[31m\xff\xf0\x9f\x92\xa9"), []byte("id"))
	f.Fuzz(func(t *testing.T, method, uri, referer, agent, id []byte) {
		ctx := request("/")
		ctx.Request.Header.SetMethodBytes(method)
		ctx.Request.Header.SetRequestURIBytes(uri)
		ctx.Request.Header.SetRefererBytes(referer)
		ctx.Request.Header.SetUserAgentBytes(agent)
		e := entry(200)
		e.ID = id
		for _, format := range []Format{JSON, Combined} {
			got := line(format, ctx, e, netip.MustParseAddr("192.0.2.1"))
			if len(got) > pipeChunk || strings.Count(got, "\n") != 1 || got[len(got)-1] != '\n' ||
				strings.ContainsFunc(got[:len(got)-1], func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%d bytes: %q", len(got), got)
			}
			if format == JSON && !json.Valid([]byte(got)) {
				t.Errorf("no JSON: %s", got)
			}
		}
	})
}
