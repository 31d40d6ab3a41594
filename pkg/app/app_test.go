package app

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// site is the application, served on a port of its own and spoken to by net/http: another HTTP implementation than ours.
type site struct {
	t    testing.TB
	app  *app
	addr string
	logs *observer.ObservedLogs

	reading  sync.Once
	contract *contract // made at the first request
}

func serve(t testing.TB, config Config, change ...func(*app)) *site {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	a := newApp(config, Worker{ID: "web.0.1", Generation: 3}, nil, zap.New(core))
	for _, f := range change {
		f(a)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := a.server()
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		listener.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &site{t: t, app: a, addr: listener.Addr().String(), logs: logs}
}

// answer is a response that was read to its end.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

func (s *site) do(method, path, contentType string, body []byte, headers ...string) answer {
	s.t.Helper()
	request, err := http.NewRequest(method, "http://"+s.addr+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.reading.Do(func() { s.contract = readContract(s.t, s.app) })
	s.contract.check(s.t, request, body, response.StatusCode, response.Header, all)
	return answer{s.t, response.StatusCode, response.Header, all}
}

func (s *site) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.do("GET", path, "", nil, headers...)
}

func (s *site) post(path string, body []byte) answer {
	s.t.Helper()
	return s.do("POST", path, "application/octet-stream", body)
}

// form sends body as a field of a multipart form, the way a browser does.
func (s *site) form(path, field string, body []byte) answer {
	s.t.Helper()
	contentType, form := formWith(s.t, field, body)
	return s.do("POST", path, contentType, form)
}

func formWith(t testing.TB, field string, body []byte) (contentType string, form []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.WriteField("comment", "a field before the file"); err != nil {
		t.Fatal(err)
	}
	part, err := w.CreateFormFile(field, "photo.jpg")
	if err != nil {
		t.Fatal(err)
	}
	part.Write(body)
	w.Close()
	return w.FormDataContentType(), b.Bytes()
}

// json decodes the answer, which must be JSON.
func (a answer) json() map[string]any {
	a.t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/json" {
		a.t.Fatalf("Content-Type is %q with body %.200q, want application/json", got, a.body)
	}
	v := map[string]any{}
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Fatalf("body %q: %v", a.body, err)
	}
	return v
}

// fails checks an error: its status, its code, and that its message has each of the words.
func (a answer) fails(status int, code string, words ...string) {
	a.t.Helper()
	if a.status != status {
		a.t.Errorf("status is %d with body %.200q, want %d", a.status, a.body, status)
	}
	failure, _ := a.json()["error"].(map[string]any)
	if len(failure) != 2 || failure["code"] != code {
		a.t.Errorf("error is %v, want code %q and message", failure, code)
	}
	message, _ := failure["message"].(string)
	for _, word := range words {
		if !strings.Contains(message, word) {
			a.t.Errorf("message %q does not say %q", message, word)
		}
	}
	a.isGuarded()
}

// refusesField checks an error about one field of a JSON body.
func (a answer) refusesField(status int, code, field string) {
	a.t.Helper()
	failure, _ := a.json()["error"].(map[string]any)
	message, _ := failure["message"].(string)
	if a.status != status || failure["code"] != code || failure["field"] != field || !strings.Contains(message, field) {
		a.t.Errorf("%d %v, want %d, code %q about %q", a.status, failure, status, code, field)
	}
	a.isGuarded()
}

// isGuarded checks what every answer must have.
func (a answer) isGuarded() {
	a.t.Helper()
	if a.header.Get("X-Content-Type-Options") != "nosniff" {
		a.t.Errorf("the answer lacks nosniff: %v", a.header)
	}
}
