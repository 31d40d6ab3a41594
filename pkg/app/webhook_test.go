package app

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

var (
	newSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a new secret of 32 bytes, or so!"))
	oldSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("an old secret of 32 bytes, or so"))
)

// serveWebhooks is a desk whose webhooks may go to the receivers of tests.
func serveWebhooks(t *testing.T, more ...string) *desk {
	t.Helper()
	return serveTasks(t, append(more, "WEBHOOK_SECRET", newSecret+" "+oldSecret, "WEBHOOK_HOSTS", "127.0.0.1,localhost", "APP_WEBHOOK_ALLOW", "127.0.0.1",
		"APP_ADMIN_TOKEN", testToken)...)
}

// delivery is what a receiver got.
type delivery struct {
	header http.Header
	body   []byte
}

// receiver answers the nth delivery with the nth of these, and goes on with the last.
func receiver(t *testing.T, answers ...http.HandlerFunc) (url string, got chan delivery) {
	t.Helper()
	got = make(chan delivery, 100)
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		i := min(int(n.Add(1)), len(answers)) - 1
		got <- delivery{r.Header, body}
		answers[i](w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

func saying(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
	}
}

func webhookTo(url string) string {
	return fmt.Sprintf(`{"name": "webhook", "args": {"url": %q, "body": {"type": "photo.ready", "data": {"price": 1.10, "text": "<ü>"}}}}`, url)
}

func TestWebhookIsVerifiedByTheLibraryOfTheSpecification(t *testing.T) {
	d := serveWebhooks(t)
	d.work()
	url, got := receiver(t, saying(204))
	id := d.ordered(webhookTo(url + "/hook"))
	sent := <-got
	if string(sent.body) != `{"type":"photo.ready","data":{"price":1.10,"text":"<ü>"}}` || sent.header.Get("Content-Type") != "application/json" || sent.header.Get("webhook-id") != id {
		t.Errorf("%s %v", sent.body, sent.header)
	}
	for _, secret := range []string{newSecret, oldSecret} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifier.Verify(sent.body, sent.header); err != nil {
			t.Errorf("%v", err)
		}
		if verifier.Verify(append(sent.body, ' '), sent.header) == nil {
			t.Error("another body has the same signature")
		}
	}
	d.await(id, "done")
	if result := d.get("/tasks/" + id + "/result").json(); result["status"] != 204.0 {
		t.Errorf("%v", result)
	}
}

func TestWebhookThatFailsIsSentAgainUnderTheSameID(t *testing.T) {
	t.Parallel()
	d := serveWebhooks(t)
	d.work()
	url, got := receiver(t, saying(500), saying(200))
	id := d.ordered(webhookTo(url))
	if first, second := <-got, <-got; first.header.Get("webhook-id") != id || second.header.Get("webhook-id") != id {
		t.Errorf("%v %v", first.header, second.header)
	}
	d.await(id, "done")
}

func TestReceiverSaysWhenToComeBack(t *testing.T) {
	d := serveWebhooks(t)
	d.work()
	for _, c := range []struct {
		status      int
		after       string
		least, most time.Duration
	}{
		{429, "1800", 29 * time.Minute, 40 * time.Minute},
		{503, time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat), 110 * time.Minute, 150 * time.Minute},
		{503, "99999999", 11 * time.Hour, 14 * time.Hour},
		{429, "soon", 0, time.Minute},
		{500, "1800", 0, time.Minute}, // there it means nothing
	} {
		url, _ := receiver(t, saying(c.status, "Retry-After", c.after))
		status := d.await(d.ordered(webhookTo(url)), "retrying")
		due, err := time.Parse(time.RFC3339, status["due_at"].(string))
		if wait := time.Until(due); err != nil || wait < c.least || wait > c.most {
			t.Errorf("%d with Retry-After %s: tried again in %s, want %s to %s", c.status, c.after, wait, c.least, c.most)
		}
	}
}

func TestWebhookEndsWhereItIsNotWanted(t *testing.T) {
	d := serveWebhooks(t)
	d.work()
	url, got := receiver(t, saying(410))
	failure, _ := d.await(d.ordered(webhookTo(url)), "dead")["error"].(map[string]any)
	if failure["code"] != "receiver_gone" || len(got) != 1 {
		t.Errorf("%v after %d deliveries", failure, len(got))
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	d := serveWebhooks(t)
	d.work()
	elsewhere, strayed := receiver(t, saying(200))
	for _, status := range []int{301, 302, 307, 308} {
		url, _ := receiver(t, saying(status, "Location", elsewhere))
		failure, _ := d.await(d.ordered(webhookTo(url)), "retrying")["error"].(map[string]any)
		if message, _ := failure["message"].(string); failure["code"] != "receiver_failed" || !strings.Contains(message, fmt.Sprint(status)) {
			t.Errorf("%v", failure)
		}
	}
	if len(strayed) > 0 {
		t.Error("a redirect was followed")
	}
}

// The name is allowed, but what it stands for is not a public address: nothing is dialled.
func TestNothingInsideIsReachedByAWebhook(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			t.Errorf("%v was dialled", conn.RemoteAddr())
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	d := serveWebhooks(t, "APP_WEBHOOK_ALLOW", "10.1.0.0/16")
	d.work()
	var ids []string
	for _, host := range []string{
		"localhost", "127.0.0.1", "127.8.8.8", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254",
		"100.64.0.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255",
	} {
		ids = append(ids, d.ordered(webhookTo(fmt.Sprintf("http://%s:%d/", host, port)), bearer(testToken)...))
	}
	for _, id := range ids {
		status := d.await(id, "dead", "retrying")
		failure, _ := status["error"].(map[string]any)
		if status["state"] == "retrying" && failure["code"] == "receiver_unreachable" {
			continue // no such name, no IPv6 here: not even dialled
		}
		if failure["code"] != "address_refused" {
			t.Errorf("%v", status)
		}
	}
}

func TestSlowReceiverEndsAtTheDeadline(t *testing.T) {
	d := serveWebhooks(t)
	d.tasks.webhooks.http.Timeout = 300 * time.Millisecond
	d.work()
	release := make(chan struct{})
	url, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-release
	})
	silent, _ := receiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	// Its status says that it has it: what it goes on to say, nobody reads.
	if status := d.await(d.ordered(webhookTo(url)), "done"); status["attempt"] != 1.0 {
		t.Errorf("%v", status)
	}
	failure, _ := d.await(d.ordered(webhookTo(silent)), "retrying")["error"].(map[string]any)
	if failure["code"] != "receiver_timeout" {
		t.Errorf("%v", failure)
	}
}

func TestStrangersChooseFromTheListedHosts(t *testing.T) {
	d := serveWebhooks(t)
	for _, url := range []string{"https://example.org/", "http://127.0.0.1.example.org", "http://127.0.0.2/"} {
		d.order(webhookTo(url)).refusesField(403, "host_not_allowed", "args.url")
		d.ordered(webhookTo(url), bearer(testToken)...)
	}
	for _, url := range []string{"", "/hook", "ftp://127.0.0.1/", "http://user:pass@127.0.0.1/", "http:///x", "http://127.0.0.1/" + strings.Repeat("x", maxWebhookURL)} {
		d.order(webhookTo(url)).refusesField(400, "bad_field", "args.url")
	}
	d.order(`{"name": "webhook", "args": {"url": "http://127.0.0.1/"}}`).refusesField(400, "bad_field", "args.body")
	serveTasks(t).order(webhookTo("http://127.0.0.1")).fails(503, "webhooks_off", "WEBHOOK_SECRET")
}

func TestWebhookSettingsAreChecked(t *testing.T) {
	for _, c := range []struct{ secret, allow, want string }{
		{"s3cret", "", "WEBHOOK_SECRET"},
		{"whsec_czNjcmV0", "", "24 to 64 bytes"},
		{newSecret + ",s3cret", "", "WEBHOOK_SECRET"},
		{newSecret, "10.0.0.0/33", "APP_WEBHOOK_ALLOW"},
		{newSecret, "localhost", "APP_WEBHOOK_ALLOW"},
	} {
		_, err := ConfigFromEnv(env("WEBHOOK_SECRET", c.secret, "APP_WEBHOOK_ALLOW", c.allow))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", c, err)
		}
	}
}
