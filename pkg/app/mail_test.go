package app

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// postOffice is a real mail server, a process of its own.
type postOffice struct {
	t     *testing.T
	port  int
	mails chan takenMail
	roots *x509.CertPool
}

type takenMail struct {
	From string   `json:"from"`
	To   []string `json:"to"`
	Data string   `json:"data"`
	TLS  bool     `json:"tls"`
	User string   `json:"user"`
}

// python is the one that Debian's python3-aiosmtpd is for.
const python = "/usr/bin/python3"

func openPostOffice(t *testing.T, secure bool) *postOffice {
	t.Helper()
	if exec.Command(python, "-c", "import aiosmtpd").Run() != nil {
		t.Fatal("aiosmtpd is missing: run `make deps`")
	}
	p := &postOffice{t: t, port: freePorts(t, 1)[0], mails: make(chan takenMail, 100)}
	var cert, key string
	if secure {
		cert, key = p.certificate()
	}
	cmd := exec.Command(python, "testdata/smtpd.py", fmt.Sprint(p.port), cert, key, "app", "s3cret")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	go func() {
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var mail takenMail
			if lines.Text() == "ready" {
				close(ready)
			} else if json.Unmarshal(lines.Bytes(), &mail) == nil {
				p.mails <- mail
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatalf("the mail server does not start: %s", stderr.String())
	}
	return p
}

// certificate makes one for 127.0.0.1 that signs itself, and gives its files.
func (p *postOffice) certificate() (cert, key string) {
	p.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		p.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pemCert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	os.WriteFile(cert, pemCert, 0o600)
	os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
	p.roots = x509.NewCertPool()
	p.roots.AppendCertsFromPEM(pemCert)
	return cert, key
}

func (p *postOffice) next() takenMail {
	p.t.Helper()
	select {
	case mail := <-p.mails:
		return mail
	case <-time.After(20 * time.Second):
		p.t.Fatal("no mail came")
		panic("unreachable")
	}
}

// serveMail is a desk with a mail server behind it.
func serveMail(t *testing.T, p *postOffice, query string, more ...string) *desk {
	t.Helper()
	user := ""
	if p.roots != nil {
		user = "app:s3cret@"
	}
	return serveTasks(t, append([]string{
		"SMTP_URL", fmt.Sprintf("smtp://%s127.0.0.1:%d%s", user, p.port, query), "MAIL_FROM", "Photos <photos@example.org>",
		"MAIL_ALLOW", "example.com, example.net", "APP_ADMIN_TOKEN", testToken,
	}, more...)...)
}

func (d *desk) order(body string, headers ...string) answer {
	d.t.Helper()
	return d.do("POST", "/tasks", "application/json", []byte(body), headers...)
}

// ordered is the id of a job that was accepted.
func (d *desk) ordered(body string, headers ...string) string {
	d.t.Helper()
	got := d.order(body, headers...)
	if got.status != 202 {
		d.t.Fatalf("%d %s", got.status, got.body)
	}
	id, _ := got.json()["id"].(string)
	return id
}

func mailTo(to string) string {
	return `{"name": "mail", "args": {"to": ["` + to + `"], "subject": "Grüße", "text": "Hello,\n.\nworld"}}`
}

func TestMailIsSentOverTLSWithAPassword(t *testing.T) {
	office := openPostOffice(t, true)
	d := serveMail(t, office, "")
	d.tasks.mailer.tls = &tls.Config{RootCAs: office.roots, ServerName: "127.0.0.1"}
	d.work()
	id := d.ordered(`{"name": "mail", "args": {"to": ["Ada Lovelace <ada@example.com>", "bob@example.net"], "subject": "Grüße", "text": "Hello,\n.\nworld",
		"html": "<p>Hello", "reply_to": "help@example.org"}}`)
	mail := office.next()
	if !mail.TLS || mail.User != "app" || mail.From != "photos@example.org" || len(mail.To) != 2 || mail.To[0] != "ada@example.com" {
		t.Errorf("%+v", mail)
	}
	for _, want := range []string{
		"Message-ID: <" + id + "@example.org>\r\n", "Subject: =?UTF-8?q?Gr=C3=BC=C3=9Fe?=\r\n", `From: "Photos" <photos@example.org>` + "\r\n",
		`To: "Ada Lovelace" <ada@example.com>, <bob@example.net>` + "\r\n", "Reply-To: <help@example.org>\r\n", "\r\nHello,\r\n.\r\nworld", "<p>Hello",
	} {
		if !strings.Contains(mail.Data, want) {
			t.Errorf("no %q in:\n%s", want, mail.Data)
		}
	}
	if status := d.await(id, "done"); status["attempt"] != 1.0 {
		t.Errorf("%v", status)
	}
	if got := d.get("/tasks/" + id + "/result"); got.json()["message_id"] != "<"+id+"@example.org>" {
		t.Errorf("%s", got.body)
	}
}

// A password never travels in the clear, and a certificate that nobody signed is not taken: the mail waits, uncounted.
func TestMailWaitsForAServerThatCannotBeTrusted(t *testing.T) {
	office := openPostOffice(t, true)
	d := serveMail(t, office, "")
	d.work()
	id := d.ordered(mailTo("ada@example.com"))
	status := d.await(id, "retrying")
	failure, _ := status["error"].(map[string]any)
	if status["postponed"] != 1.0 || failure["code"] != "smtp_unavailable" {
		t.Errorf("%v", status)
	}
	if len(office.mails) > 0 {
		t.Errorf("it was sent: %+v", <-office.mails)
	}
}

func TestMailThatIsRefusedForEverIsDeadWithTheServersWords(t *testing.T) {
	office := openPostOffice(t, false)
	d := serveMail(t, office, "?starttls=off")
	d.work()
	id := d.ordered(mailTo("nobody@example.com"))
	failure, _ := d.await(id, "dead")["error"].(map[string]any)
	if message, _ := failure["message"].(string); failure["code"] != "mail_refused" || !strings.Contains(message, `550 "5.1.1 nobody of that name here"`) {
		t.Errorf("%v", failure)
	}
}

func TestMailThatIsDeferredIsTriedAgain(t *testing.T) {
	t.Parallel()
	office := openPostOffice(t, false)
	d := serveMail(t, office, "?starttls=off")
	d.work()
	id := d.ordered(mailTo("busy@example.com"))
	status := d.await(id, "retrying")
	failure, _ := status["error"].(map[string]any)
	if message, _ := failure["message"].(string); failure["code"] != "mail_deferred" || !strings.Contains(message, `451 "4.7.1 greylisted`) || status["attempt"] != 1.0 {
		t.Errorf("%v", status)
	}
	office.next() // the second attempt, seconds later
	if status := d.await(id, "done"); status["attempt"] != 2.0 {
		t.Errorf("%v", status)
	}
}

// The server took it, and the connection broke before it could say so: the repeat bears the same Message-ID.
func TestMailThatIsSentTwiceIsKnownByItsID(t *testing.T) {
	t.Parallel()
	office := openPostOffice(t, false)
	d := serveMail(t, office, "?starttls=off")
	d.work()
	id := d.ordered(mailTo("hangup@example.com"))
	first, second := office.next(), office.next()
	line := "Message-ID: <" + id + "@example.org>\r\n"
	if !strings.Contains(first.Data, line) || !strings.Contains(second.Data, line) {
		t.Errorf("want %q in both:\n%s\n%s", line, first.Data, second.Data)
	}
	d.await(id, "done")
}

func TestNobodyRelaysThroughUs(t *testing.T) {
	d := serveMail(t, &postOffice{t: t, port: 25}, "?starttls=off")
	for _, to := range []string{"ada@elsewhere.org", "ada@sub.example.com", "ada@example.com.elsewhere.org", `\"a@example.com\"@elsewhere.org`, "a@[127.0.0.1]"} {
		d.order(mailTo(to)).refusesField(403, "recipient_not_allowed", "args.to[0]")
		d.order(mailTo(to), bearer("wrong"+testToken)...).fails(401, "unauthorized")
	}
	d.ordered(mailTo("ada@EXAMPLE.com"))
	d.ordered(mailTo("ada@elsewhere.org"), bearer(testToken)...)
}

func TestMailCannotHoldHeadersOfItsClient(t *testing.T) {
	d := serveMail(t, &postOffice{t: t, port: 25}, "?starttls=off")
	for field, args := range map[string]string{
		"args.subject":  `{"to": ["a@example.com"], "subject": "x\r\nBcc: all@example.org", "text": "t"}`,
		"args.to[0]":    `{"to": ["a@example.com\r\nBcc: <all@example.org>"], "subject": "x", "text": "t"}`,
		"args.to[1]":    `{"to": ["a@example.com", "a@example.com, b@example.com"], "subject": "x", "text": "t"}`,
		"args.to[2]":    `{"to": ["a@example.com", "b@example.net", "a@example.com."], "subject": "x", "text": "t"}`,
		"args.reply_to": `{"to": ["a@example.com"], "subject": "x", "text": "t", "reply_to": "\"x\\r\\n\" <a@example.com>\nBcc: b@example.com"}`,
		"args.to":       `{"to": [], "subject": "x", "text": "t"}`,
		"args.text":     `{"to": ["a@example.com"], "subject": "x"}`,
		"args.bcc":      `{"to": ["a@example.com"], "subject": "x", "text": "t", "bcc": ["b@example.com"]}`,
	} {
		d.order(`{"name": "mail", "args": `+args+`}`).refusesField(400, "bad_field", field)
	}
}

func TestMailIsOffWithoutAServer(t *testing.T) {
	serveTasks(t).order(mailTo("ada@example.com")).fails(503, "mail_off", "SMTP_URL")
}

func TestMailSettingsAreChecked(t *testing.T) {
	for _, c := range []struct{ url, from, want string }{
		{"http://s3cret@h", "a@b.org", "SMTP_URL is not the URL of a mail server"},
		{"smtp://u:s3cret@h:99999", "a@b.org", "port"},
		{"smtp://u:s3cret@h?starttls=off", "a@b.org", "in the clear"},
		{"smtps://u:s3cret@h?starttls=off", "a@b.org", "means nothing"},
		{"smtp://u:s3cret@h?tls=1", "a@b.org", "means nothing"},
		{"smtp://h", "", "MAIL_FROM"},
	} {
		_, err := ConfigFromEnv(env("SMTP_URL", c.url, "MAIL_FROM", c.from))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", c.url, err)
		}
	}
	for url, port := range map[string]int{"smtp://h": 587, "smtps://u:p@h": 465, "smtp://h:25?starttls=off": 25, "smtp://h?starttls=required": 587} {
		if c, err := ConfigFromEnv(env("SMTP_URL", url, "MAIL_FROM", "A <a@b.org>")); err != nil || c.Mail.port != port {
			t.Errorf("%s: %v", url, err)
		}
	}
}
