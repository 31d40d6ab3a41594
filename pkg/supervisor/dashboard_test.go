package supervisor

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

const adminToken = "0123456789abcdef0123456789abcdef"

// browser is one at the admin listener, without a script.
type browser struct {
	t    *testing.T
	base string
	http http.Client
	csrf string
}

func (m *master) browse() *browser {
	b := &browser{t: m.t, base: "http://" + m.desk.admin.listener.Addr().String()}
	b.http = http.Client{Jar: jar{}, Timeout: eventually}
	return b
}

// jar keeps the cookies of one host. net/http/cookiejar wants a list of public suffixes.
type jar map[string]*http.Cookie

func (j jar) SetCookies(_ *url.URL, cookies []*http.Cookie) {
	for _, c := range cookies {
		j[c.Name] = c
	}
}

func (j jar) Cookies(*url.URL) (list []*http.Cookie) {
	for _, c := range j {
		list = append(list, c)
	}
	return list
}

// page gets the page.
func (b *browser) page() (status int, body string) {
	b.t.Helper()
	resp, err := b.http.Get(b.base + "/")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if found := regexp.MustCompile(`data-csrf="(\w+)"`).FindSubmatch(text); found != nil {
		b.csrf = string(found[1])
	}
	return resp.StatusCode, string(text)
}

// post sends a form, and follows to the page.
func (b *browser) post(path string, form url.Values) (status int, body string) {
	b.t.Helper()
	form.Set("csrf", b.csrf)
	resp, err := b.http.PostForm(b.base+path, form)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// until gets the page until it shows something.
func (b *browser) until(what string) string {
	b.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(50 * time.Millisecond) {
		_, body := b.page()
		if strings.Contains(body, what) {
			return body
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the page never shows %s:\n%s", what, body)
		}
	}
}

func withToken(cfg *config.Config) *config.Config {
	cfg.AdminToken = adminToken
	return adminOnPort(cfg)
}

func TestDashboard(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	m := startMaster(t, withToken(testConfig(pool)))
	m.until("all pools serve", func() bool { return m.desk.started })
	b := m.browse()
	if status, body := b.page(); status != 401 || strings.Contains(body, "web.0") {
		t.Errorf("a stranger: %d %s", status, body)
	}
	status, body := b.post("/login", url.Values{"token": {adminToken}})
	for _, want := range []string{"web.0.1", "web.1.2", "2 of 2 workers ready", "of 1,024", m.addr(), "supervisor " + strconv.Itoa(os.Getpid()) + " starts"} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%d, no %q in\n%s", status, want, body)
		}
	}
	b.page()
	if status, _ := b.post("/recycle", url.Values{"target": {"web.0"}}); status != 200 {
		t.Errorf("%d", status)
	}
	body = b.until("Recycle web.0 done")
	if !strings.Contains(body, "1 worker replaced") || !strings.Contains(body, "web.0.3") || !strings.Contains(body, "asked on the dashboard: recycle") {
		t.Error(body)
	}
	b.post("/scale", url.Values{"pool": {"web"}, "by": {"1"}})
	if body = b.until("Scale web by &#43;1 done"); !strings.Contains(body, "3 of 3 workers ready") && !strings.Contains(body, "pool web: 3 workers ready") {
		t.Error(body)
	}
	b.post("/recycle", url.Values{"target": {"web.7"}})
	if body = b.until("Recycle web.7 refused"); !strings.Contains(body, "there is no worker web.7") {
		t.Error(body)
	}

	// A crash, with its last words.
	crash := *pool
	crash.Workers, crash.Env = 3, map[string]string{envTestWorker: "crashes", "GORACE": "atexit_sleep_ms=0"}
	m.mu.Lock()
	m.next = withToken(testConfig(&crash))
	m.mu.Unlock()
	b.post("/reload", url.Values{})
	b.until("Reload done")
	get(m.addr(), "/")
	if body = b.until(`>crash</span>`); !strings.Contains(body, "last words") || !strings.Contains(body, "panic") {
		t.Error(body)
	}

	// Another token ends the session with the reload that brings it.
	next := withToken(testConfig(pool))
	next.AdminToken = "f" + adminToken
	m.mu.Lock()
	m.next = next
	m.mu.Unlock()
	b.post("/reload", url.Values{})
	m.await("reload done", 2)
	if status, _ := b.page(); status != 401 {
		t.Errorf("after a change of the token: %d", status)
	}

}

// Everything of the control socket but stop is for programs with the token.
func TestProgramsAtTheAdminListener(t *testing.T) {
	m := startMaster(t, withToken(testConfig(onPort(testPool("worker")))))
	m.until("all pools serve", func() bool { return m.desk.started })
	base := "http://" + m.desk.admin.listener.Addr().String()
	ask := func(method, path, token, body string) (status int, text string) {
		r, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		all, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(all)
	}
	for _, path := range []string{control.PathStatus, control.PathHistory, control.PathReload} {
		if status, text := ask("GET", path, "", ""); status != 401 || !strings.Contains(text, "Bearer") {
			t.Errorf("%s without a token: %d %s", path, status, text)
		}
		if status, _ := ask("POST", path, adminToken[1:], ""); status != 401 {
			t.Errorf("%s with another one: %d", path, status)
		}
	}
	var st control.Status
	if status, text := ask("GET", control.PathStatus, adminToken, ""); status != 200 || json.Unmarshal([]byte(text), &st) != nil || len(st.Pools) != 1 {
		t.Errorf("%d %s", status, text)
	}
	if status, text := ask("POST", control.PathRecycle, adminToken, `{"wait":true}`); status != 200 || !strings.Contains(text, "1 worker replaced") {
		t.Errorf("%d %s", status, text)
	}
	for _, path := range []string{control.PathStop, control.PathDump} {
		if status, text := ask("POST", path, adminToken, ""); status != 404 {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, _ := ask("GET", control.PathMetrics, "", ""); status != 200 {
		t.Errorf("metrics: %d", status)
	}
}

func TestDashboardOnAUnixSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	cfg := testConfig(onPort(testPool("worker")))
	cfg.Admin = config.Bind{Network: "unix", Address: filepath.Join(t.TempDir(), "s"), Mode: 0o666}
	m := startMaster(t, cfg)
	m.until("all pools serve", func() bool { return m.desk.started })
	for dir := filepath.Dir(cfg.Admin.Address); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envTestWorker + "=ask:" + cfg.Admin.Address}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "There is no operator's token yet") {
		t.Errorf("nobody: %v %s", err, out)
	}
	if v, err := control.Dial(cfg.Admin.Address).Recycle(testContext(t), control.RecycleRequest{Wait: waiting}); err != nil || !v.OK {
		t.Errorf("root: %+v %v", v, err)
	}
	m.look(func() {
		if m.generation != 1 {
			t.Error("nobody reloaded us")
		}
	})
}

// An open page does not hold up a stop.
func TestStreamsEndWithTheSupervisor(t *testing.T) {
	m := startMaster(t, withToken(testConfig(onPort(testPool("worker")))))
	m.until("all pools serve", func() bool { return m.desk.started })
	r, err := http.NewRequest("GET", "http://"+m.desk.admin.listener.Addr().String()+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || lines.Text() != "event: whole" {
		t.Errorf("%q %v", lines.Text(), lines.Err())
	}
	m.signal(syscall.SIGTERM)
	for lines.Scan() { // until its end
	}
	m.wait()
}
