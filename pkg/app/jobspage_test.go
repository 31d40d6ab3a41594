package app

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/tasks"
)

// post sends a form, and follows nothing.
func (d *desk) postForm(path, cookie string, form url.Values, headers ...string) *http.Response {
	d.t.Helper()
	request, err := http.NewRequest("POST", "http://"+d.addr+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Cookie", cookie)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	response.Body.Close()
	return response
}

func TestOnlyASessionOpensTheJobsPage(t *testing.T) {
	d := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	dead := d.dead([]byte("x"))
	closed := d.get("/admin/jobs")
	if closed.status != 401 || strings.Contains(string(closed.body), dead) || !strings.Contains(string(closed.body), `name="token"`) {
		t.Errorf("%d %s", closed.status, closed.body)
	}
	if r := d.postForm("/admin/login", "", url.Values{"token": {testToken + "x"}}); r.StatusCode != 401 || len(r.Cookies()) != 0 {
		t.Errorf("a wrong token: %d %v", r.StatusCode, r.Cookies())
	}
	if r := d.postForm("/admin/login", "", url.Values{"token": {testToken}}, "Sec-Fetch-Site", "cross-site"); r.StatusCode != 401 {
		t.Errorf("from another site: %d", r.StatusCode)
	}
	r := d.postForm("/admin/login", "", url.Values{"token": {testToken}, "back": {"//evil.example/admin/jobs"}})
	if r.StatusCode != 303 || r.Header.Get("Location") != "/admin/jobs" || len(r.Cookies()) != 1 {
		t.Fatalf("%d %v", r.StatusCode, r.Header)
	}
	cookie := r.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/admin" || strings.Contains(cookie.Value, testToken) || time.Until(cookie.Expires) > 13*time.Hour {
		t.Errorf("%v", cookie)
	}
	session := cookie.Name + "=" + cookie.Value
	open := d.get("/admin/jobs?state=dead", "Cookie", session)
	body := string(open.body)
	csp := open.header.Get("Content-Security-Policy")
	if open.status != 200 || !strings.Contains(body, dead) || strings.Contains(csp, "unsafe") || !strings.HasPrefix(csp, "default-src 'none'") || regexp.MustCompile(`<script>|<style|style=| on\w+=`).MatchString(body) {
		t.Errorf("%d, policy %q\n%s", open.status, csp, body)
	}
	for _, bad := range []string{cookie.Value[1:], cookie.Value[:len(cookie.Value)-1], "9" + cookie.Value, "", "..", strings.Replace(cookie.Value, ".", "0.", 1)} {
		if got := d.get("/admin/jobs", "Cookie", cookie.Name+"="+bad); got.status != 401 {
			t.Errorf("session %q: %d", bad, got.status)
		}
	}

	csrf := regexp.MustCompile(`name="csrf" value="(\w+)"`).FindStringSubmatch(body)[1]
	retry, yes := "/admin/jobs/"+dead+"/retry", url.Values{"csrf": {csrf}, "confirmed": {"yes"}, "back": {"/admin/jobs?state=dead"}}
	for name, r := range map[string]*http.Response{
		"no form":      d.postForm(retry, session, url.Values{"confirmed": {"yes"}}),
		"another form": d.postForm(retry, session, url.Values{"confirmed": {"yes"}, "csrf": {csrf[1:]}}),
		"another site": d.postForm(retry, session, yes, "Sec-Fetch-Site", "same-site"),
	} {
		if r.StatusCode != 403 {
			t.Errorf("%s: %d", name, r.StatusCode)
		}
	}
	if r := d.postForm(retry, "", yes); r.StatusCode != 401 {
		t.Errorf("no session: %d", r.StatusCode)
	}
	if r := d.postForm(retry, session, url.Values{"csrf": {csrf}}); r.StatusCode != 200 { // it asks
		t.Errorf("unconfirmed: %d", r.StatusCode)
	}
	d.await(dead, "dead")
	if r := d.postForm(retry, session, yes); r.StatusCode != 303 || r.Header.Get("Location") != "/admin/jobs?state=dead" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	d.await(dead, "pending")
	if got := d.get("/admin/jobs/default.0.none", "Cookie", session); got.status != 404 || !strings.Contains(string(got.body), "no job") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if r := d.postForm("/admin/logout", session, url.Values{"csrf": {csrf}}); len(r.Cookies()) != 1 || r.Cookies()[0].Value != "" {
		t.Errorf("%v", r.Cookies())
	}
	without := serveTasks(t)
	if got := without.get("/admin/jobs"); got.status != 403 || !strings.Contains(string(got.body), "APP_ADMIN_TOKEN") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestJobsPageEscapesWhatJobsSay(t *testing.T) {
	d := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	id, err := d.tasks.client.Enqueue(t.Context(), `<img src=x onerror=alert(1)>`, []byte("</pre><script>alert(1)</script>"), tasks.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	cookie := d.postForm("/admin/login", "", url.Values{"token": {testToken}}).Cookies()[0]
	for _, path := range []string{"/admin/jobs", "/admin/jobs/" + id, "/admin/jobs?queue=%3Cscript%3E"} {
		got := d.get(path, "Cookie", cookie.Name+"="+cookie.Value)
		if body := string(got.body); strings.Contains(body, "<img") || strings.Contains(body, "<script>") {
			t.Errorf("%s: %s", path, body)
		}
	}
}
