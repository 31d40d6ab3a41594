package app

import (
	"regexp"
	"strings"
	"testing"
)

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func TestPageForBrowsers(t *testing.T) {
	s := serve(t, Config{})
	got := s.get("/", "Accept", browser)
	got.isGuarded()
	page := string(got.body)
	if got.status != 200 || got.header.Get("Content-Type") != "text/html; charset=utf-8" || got.header.Get("Vary") != "Accept" {
		t.Fatalf("%d %v", got.status, got.header)
	}
	for _, want := range []string{"web.0.1", "<dd>3</dd>", `action="/images"`, `name="file"`, "curl http://" + s.addr + "/health/worker",
		"curl -o thumbnail.jpg -F file=@photo.jpg &#39;http://" + s.addr + "/images?width=320&amp;height=320&#39;"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "/debug/") {
		t.Error("the page lists drills that are off")
	}
	// Nothing from elsewhere: every address is our own.
	for _, address := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(address[1], "/") && address[1] != "data:," {
			t.Errorf("the page loads or links %q", address[1])
		}
	}
}

func TestPageRunsOnlyItsOwnScript(t *testing.T) {
	s := serve(t, Config{})
	first, second := s.get("/", "Accept", browser), s.get("/", "Accept", browser)
	nonce := regexp.MustCompile(`<script nonce="(\w{20,})">`).FindSubmatch(first.body)
	if nonce == nil {
		t.Fatal("the script has no nonce")
	}
	policy := first.header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'") || !strings.Contains(policy, "script-src 'nonce-"+string(nonce[1])+"'") {
		t.Errorf("the policy is %q", policy)
	}
	if strings.Contains(string(second.body), string(nonce[1])) {
		t.Error("two pages share a nonce")
	}
	evil := s.get("/", "Accept", browser, "X-Forwarded-Proto", "https\"><script>")
	if strings.Contains(string(evil.body), `"><script>`) {
		t.Error("a header got into the page as markup")
	}
}

func TestIndexForPrograms(t *testing.T) {
	proxies, _ := ParseProxies("127.0.0.1")
	s := serve(t, Config{Debug: true, Proxies: proxies})
	got := s.get("/", "Accept", "*/*", "X-Forwarded-Proto", "https").json()
	if got["worker"].(map[string]any)["worker_id"] != "web.0.1" {
		t.Errorf("worker is %v", got["worker"])
	}
	var paths []string
	for _, e := range got["endpoints"].([]any) {
		endpoint := e.(map[string]any)
		paths = append(paths, endpoint["method"].(string)+" "+endpoint["path"].(string))
		if !strings.Contains(endpoint["curl"].(string), "https://"+s.addr+strings.NewReplacer("{id}", "ID", "{queue}", "default").Replace(endpoint["path"].(string))) {
			t.Errorf("%s: %q", endpoint["path"], endpoint["curl"])
		}
	}
	want := "GET /, POST /images, POST /tasks, POST /imports, GET /tasks/{id}, GET /tasks/{id}/result, DELETE /tasks/{id}, GET /tasks, POST /tasks/{id}/retry, GET /queues, POST /queues/{queue}/pause, POST /queues/{queue}/resume, GET /openapi.json, GET /health, GET /api/health, GET /health/worker, GET /health/live, GET /health/ready, GET /health/startup, " +
		"ANY /debug/sleep, POST /debug/job, ANY /debug/hang, ANY /debug/panic, ANY /debug/alloc, GET /debug/stream, ANY /debug/echo"
	if strings.Join(paths, ", ") != want {
		t.Errorf("endpoints are %v", paths)
	}
}
