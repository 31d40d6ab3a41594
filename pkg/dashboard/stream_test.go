package dashboard

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// stream reads events over a real connection.
func (s *served) stream(server *httptest.Server) (next func() said, end func()) {
	s.t.Helper()
	r, err := http.NewRequest("GET", server.URL+"/live", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	session, _ := testToken.NewSession()
	r.AddCookie(&http.Cookie{Name: "supervisor-" + portOf(server), Value: session})
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%v %v", resp, err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() said {
		var e said
		for lines.Scan() {
			switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				if e.name == "" {
					e.name = "change"
				}
				return e
			}
		}
		return said{name: "end"}
	}, func() { resp.Body.Close() }
}

// said is an event as a client sees it; "change" is one without a name, "end" the end of the stream.
type said struct{ name, data string }

func portOf(server *httptest.Server) string {
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	return port
}

// A stream lives beyond the time in which a request must have come, and ends when the session does.
func TestAStreamLastsAsLongAsItsSession(t *testing.T) {
	t.Parallel()
	s := serve(t, newFake(1))
	server := httptest.NewUnstartedServer(s)
	server.Config.ReadTimeout, server.Config.ReadHeaderTimeout = 500*time.Millisecond, 500*time.Millisecond
	server.Start()
	defer server.Close()
	next, end := s.stream(server)
	defer end()
	if name := next().name; name != "whole" {
		t.Fatalf("it begins with %s", name)
	}
	for range 2 {
		if name := next().name; name != "change" {
			t.Fatalf("then comes %s", name)
		}
	}
	s.mu.Lock()
	s.token = "f" + testToken
	s.mu.Unlock()
	for name := next().name; name != "over"; name = next().name {
		if name != "change" {
			t.Fatalf("another token: %s", name)
		}
	}
	if name := next().name; name != "end" {
		t.Errorf("and then %s", name)
	}
}
