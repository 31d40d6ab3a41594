package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/control"
)

// served is a dashboard, asked without a network.
type served struct {
	*Dashboard
	*fake
	t *testing.T
}

func serve(t *testing.T, f *fake, change ...func(*Options)) *served {
	t.Helper()
	opts := f.options()
	for _, c := range change {
		c(&opts)
	}
	d := New(opts)
	t.Cleanup(d.Close)
	return &served{d, f, t}
}

// ask asks with headers: name, value, name, value, …
func (s *served) ask(method, path string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, "http://admin:9900"+path, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		switch headers[i] {
		case "Remote":
			r.RemoteAddr = headers[i+1]
		case "Host":
			r.Host = headers[i+1]
		default:
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func (s *served) login() (cookie string) {
	s.t.Helper()
	w := s.ask("POST", "/login", url.Values{"token": {string(testToken)}})
	if w.Code != 303 || len(w.Result().Cookies()) != 1 {
		s.t.Fatalf("%d %v", w.Code, w.Header())
	}
	c := w.Result().Cookies()[0]
	return c.Name + "=" + c.Value
}

var formToken = regexp.MustCompile(`data-csrf="(\w+)"`)

func (s *served) csrf(cookie string) string {
	s.t.Helper()
	found := formToken.FindStringSubmatch(s.ask("GET", "/", nil, "Cookie", cookie).Body.String())
	if found == nil {
		s.t.Fatal("the page has no form")
	}
	return found[1]
}

// done waits until so many things were done, and gives them.
func (f *fake) done(t *testing.T, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		did := slices.Clone(f.did)
		f.mu.Unlock()
		if len(did) >= n || time.Now().After(deadline) {
			return did
		}
	}
}

func TestOnlyTheTokenOpensTheDashboard(t *testing.T) {
	t.Parallel()
	s := serve(t, newFake(2))
	for _, path := range []string{"/", "/live", "/reload", "/recycle?target=web"} {
		if w := s.ask("GET", path, nil); w.Code != 401 || strings.Contains(w.Body.String(), "web.0.1") || !strings.Contains(w.Body.String(), `name="token"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := s.ask("POST", "/login", url.Values{"token": {string(testToken) + "x"}}); w.Code != 401 || len(w.Result().Cookies()) != 0 {
		t.Errorf("a wrong token: %d %v", w.Code, w.Result().Cookies())
	}
	if w := s.ask("GET", "/", nil, "Cookie", "supervisor-9900=1"); w.Code != 401 {
		t.Errorf("no session: %d", w.Code)
	}
	if s.looks() != 0 {
		t.Errorf("strangers made us look %d times", s.looks())
	}
	right := url.Values{"token": {string(testToken)}, "back": {"//evil.example/"}}
	for _, from := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://admin:8080"}, {"Origin", "null"}} {
		if w := s.ask("POST", "/login", right, from...); w.Code != 403 || len(w.Result().Cookies()) != 0 {
			t.Errorf("%v: %d", from, w.Code)
		}
	}
	w := s.ask("POST", "/login", right, "Sec-Fetch-Site", "same-origin", "Origin", "http://admin:9900")
	if w.Code != 303 || w.Header().Get("Location") != "./" || len(w.Result().Cookies()) != 1 {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	c := w.Result().Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || strings.Contains(c.Value, string(testToken)) || time.Until(c.Expires) > 13*time.Hour || c.Name != "supervisor-9900" {
		t.Errorf("%v", c)
	}
	w = s.ask("GET", "/", nil, "Cookie", c.Name+"="+c.Value)
	body, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
	if w.Code != 200 || !strings.Contains(body, "web.0.1") || strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") ||
		w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Frame-Options") != "DENY" || regexp.MustCompile(`<script>|<style|style=| on\w+=`).MatchString(body) {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), body)
	}
	if w := s.ask("POST", "/login", right, "X-Forwarded-Proto", "https"); !w.Result().Cookies()[0].Secure {
		t.Error("behind a proxy with TLS the cookie goes over plain HTTP, too")
	}
	if w := s.ask("GET", "/nothing", nil); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("GET", "/assets/dashboard.html", nil); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
	for _, name := range []string{"operator.css", "dashboard.js"} {
		if w := s.ask("GET", "/assets/"+name, nil); w.Code != 200 || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Body.Len() == 0 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}

	off := serve(t, newFake(1))
	off.token = ""
	if w := off.ask("GET", "/", nil); w.Code != 403 || !strings.Contains(w.Body.String(), "admin_token_file") || strings.Contains(w.Body.String(), `name="token"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := off.ask("POST", "/login", url.Values{"token": {""}}); w.Code != 403 || len(w.Result().Cookies()) != 0 {
		t.Errorf("%d", w.Code)
	}
}

func TestOnlyAFormOfThisPageChangesSomething(t *testing.T) {
	t.Parallel()
	s := serve(t, newFake(2))
	cookie := s.login()
	csrf := s.csrf(cookie)
	yes := url.Values{"csrf": {csrf}, "target": {"web.0"}}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"no form":        s.ask("POST", "/recycle", url.Values{"target": {"web.0"}}, "Cookie", cookie),
		"another form":   s.ask("POST", "/recycle", url.Values{"target": {"web.0"}, "csrf": {csrf[1:]}}, "Cookie", cookie),
		"another's form": s.ask("POST", "/recycle", yes, "Cookie", s.login()),
		"another site":   s.ask("POST", "/recycle", yes, "Cookie", cookie, "Sec-Fetch-Site", "cross-site"),
		"another port":   s.ask("POST", "/recycle", yes, "Cookie", cookie, "Sec-Fetch-Site", "same-site"),
		"another origin": s.ask("POST", "/recycle", yes, "Cookie", cookie, "Origin", "http://evil.example"),
	} {
		if w.Code != 403 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	if w := s.ask("POST", "/recycle?target=web.0&csrf="+csrf, nil, "Cookie", cookie); w.Code != 403 {
		t.Errorf("a form in the address: %d", w.Code)
	}
	if w := s.ask("POST", "/recycle", yes); w.Code != 401 {
		t.Errorf("no session: %d", w.Code)
	}
	for path, want := range map[string]string{"/reload": "Reload?", "/recycle?target=web.0": "Recycle web.0?", "/scale?pool=web&by=-2": "2 workers fewer in pool web?"} {
		w := s.ask("GET", path, nil, "Cookie", cookie) // it asks, and does nothing
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) || !strings.Contains(w.Body.String(), csrf) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for path, form := range map[string]url.Values{"/recycle": {"csrf": {csrf}}, "/scale": {"csrf": {csrf}, "pool": {"web"}, "by": {"x"}}} {
		if w := s.ask("POST", path, form, "Cookie", cookie); w.Code != 400 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := s.ask("POST", "/recycle", url.Values{"csrf": {csrf}, "target": {strings.Repeat("x", maxForm)}}, "Cookie", cookie); w.Code != 400 {
		t.Errorf("a large form: %d", w.Code)
	}
	if w := s.ask("PUT", "/reload", nil, "Cookie", cookie); w.Code != 405 {
		t.Errorf("%d", w.Code)
	}
	if did := s.done(t, 0); len(did) != 0 {
		t.Errorf("meanwhile it did %q", did)
	}

	want := []string{"recycle web.0", "scale web -1", "reload", "upgrade"}
	for _, form := range []url.Values{{"": {"recycle"}, "target": {"web.0"}}, {"": {"scale"}, "pool": {"web"}, "by": {"-1"}}, {"": {"reload"}}, {"": {"upgrade"}}} {
		path := "/" + form.Get("")
		form.Del("")
		form.Set("csrf", csrf)
		if w := s.ask("POST", path, form, "Cookie", cookie, "Sec-Fetch-Site", "same-origin"); w.Code != 303 || w.Header().Get("Location") != "./" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	did := s.done(t, len(want))
	slices.Sort(did)
	slices.Sort(want)
	if !slices.Equal(did, want) {
		t.Errorf("it did %q", did)
	}

	if w := s.ask("POST", "/logout", url.Values{"csrf": {"x"}}, "Cookie", cookie); w.Code != 403 {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("POST", "/logout", url.Values{"csrf": {csrf}}, "Cookie", cookie); w.Code != 303 || w.Result().Cookies()[0].Value != "" {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("GET", "/", nil, "Cookie", cookie); w.Code != 401 {
		t.Errorf("after the end of its session: %d", w.Code)
	}
}

func TestProgramsBearTheToken(t *testing.T) {
	t.Parallel()
	s := serve(t, newFake(2))
	right := []string{"Authorization", "Bearer " + string(testToken), "Remote", "10.0.0.1:1"}
	if w := s.ask("GET", "/", nil, right...); w.Code != 200 || !strings.Contains(w.Body.String(), "web.0.1") {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("POST", "/reload", nil, right...); w.Code != 303 {
		t.Errorf("%d", w.Code)
	}
	if did := s.done(t, 1); len(did) != 1 {
		t.Errorf("it did %q", did)
	}
	if w := s.ask("POST", "/reload", nil, append(right, "Sec-Fetch-Site", "cross-site")...); w.Code != 403 {
		t.Errorf("a stranger's page with the token: %d", w.Code)
	}
	for _, bad := range []string{"Bearer " + string(testToken[1:]), "Basic " + string(testToken), "Bearer"} {
		if w := s.ask("GET", "/", nil, "Authorization", bad); w.Code != 401 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
}

func TestWrongTokensAreFew(t *testing.T) {
	t.Parallel()
	s := serve(t, newFake(1))
	right := url.Values{"token": {string(testToken)}}
	cookie := s.login()
	for i := range maxWrong {
		headers := []string{"Remote", fmt.Sprintf("[2001:db8::%x]:1", i)} // they are one client's
		var w *httptest.ResponseRecorder
		if i%2 == 0 {
			w = s.ask("POST", "/login", url.Values{"token": {"wrong"}}, headers...)
		} else {
			w = s.ask("GET", "/", nil, append(headers, "Authorization", "Bearer wrong")...)
		}
		if w.Code != 401 {
			t.Fatalf("%d: %d", i, w.Code)
		}
	}
	from := []string{"Remote", "[2001:db8::ffff]:1"}
	if w := s.ask("POST", "/login", right, from...); w.Code != 429 || len(w.Result().Cookies()) != 0 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := s.ask("GET", "/", nil, append(from, "Cookie", cookie)...); w.Code != 200 {
		t.Errorf("who is in: %d", w.Code)
	}
	if w := s.ask("POST", "/login", right, "Remote", "[2001:db8:0:1::1]:1"); w.Code != 303 {
		t.Errorf("somebody else: %d", w.Code)
	}
	for i := range 3 * maxAddresses {
		s.attempts.failed(fmt.Sprint(i))
	}
	if n := len(s.attempts.wrong); n > maxAddresses+1 {
		t.Errorf("%d addresses are remembered", n)
	}
	if s.attempts.wait("a newcomer") == 0 {
		t.Error("who comes with a thousand addresses may try for ever")
	}
}

func TestPeersAreProgramsOnly(t *testing.T) {
	t.Parallel()
	f := newFake(1)
	f.token = ""
	s := serve(t, f, func(o *Options) { o.Peer = func(r *http.Request) bool { return r.Header.Get("X-Test-Uid") == "0" } })
	own := []string{"X-Test-Uid", "0", "Host", "localhost"}
	if w := s.ask("GET", "/", nil, own...); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("POST", "/reload", nil, own...); w.Code != 303 || len(s.done(t, 1)) != 1 {
		t.Errorf("%d", w.Code)
	}
	if w := s.ask("GET", "/", nil, "X-Test-Uid", "1000", "Host", "localhost"); w.Code != 403 {
		t.Errorf("another user: %d", w.Code)
	}
	for _, browser := range [][]string{
		{"Sec-Fetch-Site", "same-origin"}, {"Origin", "http://localhost"}, {"X-Forwarded-For", "10.0.0.1"}, {"Cookie", "a=b"}, {"Host", "evil.example:9900"},
	} {
		if w := s.ask("POST", "/reload", nil, append(own, browser...)...); w.Code != 403 {
			t.Errorf("%v: %d", browser, w.Code)
		}
	}
}

func TestThePageEscapesWhatOthersSay(t *testing.T) {
	t.Parallel()
	f := newFake(1)
	evil := `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	f.happens(control.Event{Kind: evil, Worker: evil, Text: evil, Reason: evil, Exit: evil, Words: []string{evil}})
	f.change(func(st *control.Status) {
		st.Version, st.Degraded, st.Last = evil, []string{evil}, &control.Verdict{What: evil, Text: evil}
		st.Reload = &control.Reload{Step: evil}
		w := &st.Pools[0].Workers[0]
		w.Name, w.Reason, w.State = evil, evil, evil
		st.Pools[0].Addresses = []string{evil}
	})
	s := serve(t, f)
	cookie := s.login()
	for _, path := range []string{"/", "/recycle?target=" + url.QueryEscape(evil), "/scale?by=1&pool=" + url.QueryEscape(evil)} {
		w := s.ask("GET", path, nil, "Cookie", cookie)
		if body := w.Body.String(); w.Code != 200 || strings.Contains(body, "<img") || strings.Contains(body, "<script>") || !strings.Contains(body, "alert(1)") {
			t.Errorf("%s: %d %s", path, w.Code, body)
		}
	}
}
