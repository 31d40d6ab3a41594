package app

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"supervisor/pkg/tracecontext"
)

const (
	someTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	someParent = "00-" + someTrace + "-00f067aa0ba902b7-01"
)

// accessLine is a line of the access log.
type accessLine struct {
	Remote    string
	Method    string
	Path      string
	Status    int
	Bytes     *int
	Referer   string
	UserAgent string `json:"user_agent"`
	RequestID string `json:"request_id"`
	TraceID   string `json:"trace_id"`
	Worker    string
}

// logged serves an app with an access log; end gives its lines.
func logged(t *testing.T, config Config, change ...func(*app)) (s *site, end func() []accessLine) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.log")
	config.AccessLog, config.AccessLogFile, config.AccessLogSample = "json", path, 1
	access, err := config.OpenAccessLog(Worker{ID: "web.0.1", Generation: 3}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	s = serve(t, config, append(change, func(a *app) { a.access = access })...)
	return s, func() (lines []accessLine) {
		t.Helper()
		access.Close(time.Minute)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(content)) {
			var line accessLine
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			lines = append(lines, line)
		}
		return lines
	}
}

func TestAccessLogHasEachRequestWithoutSecrets(t *testing.T) {
	t.Parallel()
	s, end := logged(t, Config{Debug: true})
	first := s.get("/health?token=s3cret&x=1", "Authorization", "Bearer s3cret", "Cookie", "s3cret", "Referer", "http://example.org/?password=s3cret", "User-Agent", "test")
	s.post("/images", []byte("s3cret"))
	s.get("/debug/panic")
	s.raw("nonsense\r\n\r\n")
	lines := end()
	if len(lines) != 4 {
		t.Fatalf("%d lines for 4 requests: %+v", len(lines), lines)
	}
	for i, want := range []accessLine{
		{Method: "GET", Path: "/health?token=***&x=1", Status: 200, Referer: "http://example.org/?password=***", UserAgent: "test"},
		{Method: "POST", Path: "/images", Status: 415, UserAgent: "Go-http-client/1.1"},
		{Method: "GET", Path: "/debug/panic", Status: 500, UserAgent: "Go-http-client/1.1"},
		{Status: 400},
	} {
		got := lines[i]
		if got.Remote != "127.0.0.1" || got.Worker != "web.0.1" || len(got.RequestID) != 16 || len(got.TraceID) != 32 || got.Bytes == nil || *got.Bytes == 0 {
			t.Errorf("%+v", got)
		}
		if i == 0 && (got.RequestID != first.header.Get("X-Request-ID") || got.TraceID != first.header.Get("X-Trace-ID") || *got.Bytes != len(first.body)) {
			t.Errorf("%+v of the answer %v", got, first.header)
		}
		want.Remote, want.Worker, want.RequestID, want.TraceID, want.Bytes = got.Remote, got.Worker, got.RequestID, got.TraceID, got.Bytes
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func TestAccessLogBelievesTrustedProxies(t *testing.T) {
	t.Parallel()
	proxies, err := ParseProxies("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s, end := logged(t, Config{Proxies: proxies})
	s.get("/health", "X-Forwarded-For", "192.0.2.7")
	if lines := end(); len(lines) != 1 || lines[0].Remote != "192.0.2.7" {
		t.Errorf("%+v", lines)
	}
}

func TestAccessLogOffAndBroken(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{}, {AccessLog: "off", AccessLogFile: "/no/such/directory/a.log"}} {
		if log, err := c.OpenAccessLog(Standalone(), zap.NewNop()); log != nil || err != nil {
			t.Errorf("%v, %v", log, err)
		}
	}
	c := Config{AccessLog: "json", AccessLogFile: "/no/such/directory/a.log", AccessLogSample: 1}
	if _, err := c.OpenAccessLog(Standalone(), zap.NewNop()); err == nil || !strings.Contains(err.Error(), "/no/such/directory/a.log") {
		t.Error(err)
	}
}

// Every answer names its request, whatever it is, and so does each line about it.
func TestRequestsHaveNames(t *testing.T) {
	t.Parallel()
	s, end := logged(t, Config{Debug: true})
	names := func(header http.Header) [2]string {
		return [2]string{header.Get("X-Request-ID"), header.Get("X-Trace-ID")}
	}
	seen := map[string]bool{}
	for i, a := range []answer{
		s.get("/health", "traceparent", someParent),
		s.get("/nowhere", "traceparent", someParent, "X-Request-ID", "proxy-17/a.b:c+d="),
		s.get("/debug/panic", "traceparent", someParent, "X-Request-ID", strings.Repeat("x", 65)),
		s.do("DELETE", "/health", "", nil, "traceparent", someParent, "X-Request-ID", "a b"),
		s.get("/health"),
		s.get("/health", "traceparent", strings.ToUpper(someParent)),
		s.get("/health", "traceparent", someParent+"-00"),
		s.raw("GET /health HTTP/1.1\r\nHost: a\r\ntraceparent: " + someParent + "\r\nTraceparent: " + someParent + "\r\nConnection: close\r\n\r\n"),
		s.raw("nonsense\r\n\r\n"),
	} {
		got := names(a.header)
		if inherits := i < 4; inherits != (got[1] == someTrace) || len(got[1]) != 32 || seen[got[0]] {
			t.Errorf("answer %d: %v", i, got)
		}
		if wished := i == 1; wished != (got[0] == "proxy-17/a.b:c+d=") || !wished && len(got[0]) != 16 {
			t.Errorf("answer %d: %v", i, got)
		}
		seen[got[0]] = true
	}
	for _, line := range end() {
		if !seen[line.RequestID] {
			t.Errorf("nobody got the id of %+v", line)
		}
		delete(seen, line.RequestID)
	}
	if len(seen) > 0 {
		t.Errorf("not in the access log: %v", seen)
	}
	panics := s.logs.FilterMessage("handler panicked").All()
	if len(panics) != 1 || panics[0].ContextMap()["trace_id"] != someTrace || len(panics[0].ContextMap()["request_id"].(string)) != 16 {
		t.Errorf("%v", panics)
	}
}

func TestOnlyProxiesMayNameRequests(t *testing.T) {
	t.Parallel()
	proxies, err := ParseProxies("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		config Config
		taken  bool
	}{
		{Config{}, true},
		{Config{TraceFrom: traceFromAnyone}, true},
		{Config{TraceFrom: traceFromProxies}, false},
		{Config{TraceFrom: traceFromProxies, Proxies: proxies}, true},
	} {
		header := serve(t, c.config).get("/health", "traceparent", someParent, "X-Request-ID", "abc").header
		if (header.Get("X-Trace-ID") == someTrace) != c.taken || (header.Get("X-Request-ID") == "abc") != c.taken {
			t.Errorf("%+v: %v", c.config, header)
		}
	}
}

func TestStateTravelsWithItsParentOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parent, state, want string }{
		{someParent, "a=1, b@c=2", "a=1,b@c=2"},
		{someParent, "a=1,A=2", ""},
		{"00-x", "a=1", ""},
	} {
		var header fasthttp.RequestHeader
		header.Set("traceparent", c.parent)
		header.Set("tracestate", c.state)
		if got := traceOf(&header); got.State != c.want {
			t.Errorf("%+v: %q", c, got.State)
		}
	}
}

// An overdue request was answered by the worker: what its handler makes of it later is not what the client saw.
func TestOverdueRequestIsA504(t *testing.T) {
	t.Parallel()
	labels := newLabels()
	s, end := logged(t, Config{}, func(a *app) {
		a.worker.Overdue = func(*fasthttp.RequestCtx) bool { return true }
		a.worker.Label = labels.Label
	})
	s.get("/health")
	if lines := end(); len(lines) != 1 || lines[0].Status != 504 {
		t.Errorf("%+v", lines)
	}
	if got := labels.read(); got[`http_requests_total{method="GET",route="/health",status="504"}`] != 1 {
		t.Errorf("%v", got)
	}
}

// What a request asks for belongs to its trace: the job, its pages, its runner's log, and the webhook that it sends.
func TestTraceGoesFromTheRequestToTheReceiverOfItsWebhook(t *testing.T) {
	t.Parallel()
	d := serveWebhooks(t)
	d.work()
	hook, got := receiver(t, saying(410))
	request := d.order(webhookTo(hook), "traceparent", someParent, "tracestate", "a=1, b=2")
	id, _ := request.json()["id"].(string)
	sent := <-got
	c, ok := tracecontext.Parse(sent.header.Get("traceparent"))
	if !ok || c.Trace.String() != someTrace || strings.Contains(someParent, c.Span.String()) || c.Flags != tracecontext.Sampled || sent.header.Get("tracestate") != "a=1,b=2" {
		t.Errorf("the receiver got %v", sent.header)
	}
	d.await(id, "dead")
	job, err := d.tasks.Inspector().Job(t.Context(), id, 0)
	if err != nil || job.Trace.Trace != c.Trace || job.Trace.Span.String() != request.header.Get("X-Request-ID") || job.Trace.Span == c.Span {
		t.Errorf("%+v, %v of %v", job.Trace, err, request.header)
	}
	if DescribeDetail(job).TraceID != someTrace || !slices.Contains(Facts(job, time.Time.String), Fact{"trace", someTrace}) {
		t.Errorf("%+v, %v", DescribeDetail(job), Facts(job, time.Time.String))
	}
	cookie := d.postForm("/admin/login", "", url.Values{"token": {testToken}}).Cookies()[0]
	if page := d.get("/admin/jobs/"+id, "Cookie", cookie.Name+"="+cookie.Value); !strings.Contains(string(page.body), someTrace) {
		t.Errorf("%s", page.body)
	}
}

// Jobs of all routes that make any.
func TestAllJobsOfRequestsHaveTheirTrace(t *testing.T) {
	t.Parallel()
	d := serveTasks(t, "APP_DEBUG", "1")
	for _, answer := range []answer{
		d.do("POST", "/debug/job?ms=1", "", nil, "traceparent", someParent),
		d.do("POST", "/images", "image/jpeg", encodeJPEG(t, landscape(30, 20)), "traceparent", someParent),
	} {
		id, _ := answer.json()["id"].(string)
		if job, err := d.tasks.Inspector().Job(t.Context(), id, 0); err != nil || job.Trace.Trace.String() != someTrace {
			t.Errorf("%s: %v, %v", answer.body, job.Trace, err)
		}
	}
}

func BenchmarkRequestWithLog(b *testing.B) {
	for _, format := range []string{"off", "json", "combined"} {
		b.Run(format, func(b *testing.B) {
			config := Config{AccessLog: format, AccessLogFile: filepath.Join(b.TempDir(), "access.log"), AccessLogSample: 1}
			labels := newLabels()
			worker := Worker{ID: "web.0.1", Label: labels.Label}
			access, err := config.OpenAccessLog(worker, zap.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			handler := NewServer(config, worker, nil, access, zap.NewNop()).Handler
			ctx := &fasthttp.RequestCtx{}
			b.ReportAllocs()
			for b.Loop() {
				ctx.Request.Header.SetMethod("GET")
				ctx.Request.SetRequestURI("/health/live")
				ctx.Request.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
				handler(ctx)
				ctx.Request.Reset()
				ctx.Response.Reset()
			}
			access.Close(time.Minute)
			_, lost := access.Stats()
			b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
		})
	}
}
