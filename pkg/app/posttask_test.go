package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestClientsEnqueueByName(t *testing.T) {
	d := serveTasks(t, "APP_DEBUG", "1")
	got := d.order(`{"name": "drill", "args": {"ms": 20}, "priority": 0, "timeout": "10s", "max_attempts": 2}`)
	job := got.json()
	id, _ := job["id"].(string)
	if got.status != 202 || got.header.Get("Location") != "/tasks/"+id || job["status_url"] != "/tasks/"+id || job["result_url"] != "/tasks/"+id+"/result" {
		t.Fatalf("%d %s %v", got.status, got.body, got.header)
	}
	if status := d.get("/tasks/" + id).json(); status["name"] != "drill" || status["max_attempts"] != 2.0 {
		t.Errorf("%v", status)
	}
	d.work()
	d.await(id, "done")
	if got := d.get("/tasks/" + id + "/result").json(); got["took_ms"] != 20.0 {
		t.Errorf("%v", got)
	}
}

func TestJobsWaitForTheirTime(t *testing.T) {
	d := serveTasks(t, "APP_DEBUG", "1")
	at := time.Now().Add(90 * time.Second).UTC().Truncate(time.Second)
	for _, when := range []string{`"in": 90`, `"in": "1m30s"`, `"at": "` + at.Format(time.RFC3339) + `"`} {
		id := d.ordered(`{"name": "drill", "args": {"ms": 1}, ` + when + `}`)
		status := d.await(id, "scheduled")
		due, err := time.Parse(time.RFC3339, status["due_at"].(string))
		if off := due.Sub(at).Abs(); err != nil || off > 10*time.Second {
			t.Errorf("%s is due %s off", when, off)
		}
	}
}

func TestOnlyOpenKindsAndSensibleWishesAreTaken(t *testing.T) {
	d := serveTasks(t, "APP_DEBUG", "1", "TASK_QUEUES", "default,mail")
	for body, field := range map[string]string{
		`{}`: "name",
		`{"name": "thumbnail", "args": {"width": 1, "height": 1}}`: "name", // it needs an upload
		`{"name": "rm -rf"}`:                                                              "name",
		`{"name": 7}`:                                                                     "name",
		`{"name": "drill"}`:                                                               "args",
		`{"name": "drill", "args": []}`:                                                   "args",
		`{"name": "drill", "args": null}`:                                                 "args",
		`{"name": "drill", "args": {"ms": -1}}`:                                           "args.ms",
		`{"name": "drill", "args": {"ms": "1"}}`:                                          "args.ms",
		`{"name": "drill", "args": {"ms": 1, "us": 1}}`:                                   "args.us",
		`{"name": "drill", "args": {"ms": 1}, "que": "x"}`:                                "que",
		`{"name": "drill", "args": {"ms": 1}, "queue": "other"}`:                          "queue",
		`{"name": "drill", "args": {"ms": 1}, "priority": 4}`:                             "priority",
		`{"name": "drill", "args": {"ms": 1}, "priority": "0"}`:                           "priority",
		`{"name": "drill", "args": {"ms": 1}, "in": "soon"}`:                              "in",
		`{"name": "drill", "args": {"ms": 1}, "in": -1}`:                                  "in",
		`{"name": "drill", "args": {"ms": 1}, "in": 1e300}`:                               "in",
		`{"name": "drill", "args": {"ms": 1}, "in": {}}`:                                  "in",
		`{"name": "drill", "args": {"ms": 1}, "at": "tomorrow"}`:                          "at",
		`{"name": "drill", "args": {"ms": 1}, "at": "2999-01-01T00:00:00Z"}`:              "at",
		`{"name": "drill", "args": {"ms": 1}, "in": 1, "at": "2026-01-01T00:00:00Z"}`:     "at",
		`{"name": "drill", "args": {"ms": 1}, "key": "a b"}`:                              "key",
		`{"name": "drill", "args": {"ms": 1}, "key": "` + strings.Repeat("k", 121) + `"}`: "key",
		`{"name": "drill", "args": {"ms": 1}, "timeout": 0}`:                              "timeout",
		`{"name": "drill", "args": {"ms": 1}, "timeout": "2h"}`:                           "timeout",
		`{"name": "drill", "args": {"ms": 1}, "max_attempts": 0}`:                         "max_attempts",
		`{"name": "drill", "args": {"ms": 1}, "max_attempts": 26}`:                        "max_attempts",
	} {
		d.order(body).refusesField(400, "bad_field", field)
	}
	for _, body := range []string{``, `[]`, `"drill"`, `{"name": "drill"`, `{"name": "drill", "args": {"ms": 1}} {}`, "\xff"} {
		d.order(body).fails(400, "bad_request", "body")
	}
	d.do("POST", "/tasks", "text/plain", []byte(`{"name": "drill", "args": {"ms": 1}}`)).fails(415, "not_json", "application/json")
	d.order(`{"name": "drill", "args": {"ms": 1, "x": "`+strings.Repeat("x", maxTaskBytes)+`"}}`).fails(413, "too_large", "256 KiB")
	if id := d.ordered(`{"name": "drill", "args": {"ms": 1}, "queue": "mail"}`); !strings.HasPrefix(id, "mail.") {
		t.Error(id)
	}
	serveTasks(t).order(`{"name": "drill", "args": {"ms": 1}}`).refusesField(400, "bad_field", "name") // drills are off
	serve(t, Config{}).do("POST", "/tasks", "application/json", []byte(`{}`)).fails(503, "tasks_off")
}

func TestSameKeyIsTheSameJob(t *testing.T) {
	d := serveTasks(t, "APP_DEBUG", "1")
	job := `{"name": "drill", "args": {"ms": 1}}`
	id := d.ordered(job, "Idempotency-Key", "order:17")
	if id != "default.0.key:order:17" {
		t.Error(id)
	}
	again := d.ordered(`{"args": {"ms":1}, "key": "order:17", "name": "drill"}`)
	if books := d.redis.HGet("{tasks:default:0}:stat", "accepted"); again != id || books != "1" {
		t.Errorf("%s and %s, %s accepted", id, again, books)
	}
	d.order(`{"name": "drill", "args": {"ms": 2}}`, "Idempotency-Key", "order:17").fails(422, "key_reused", "order:17")
	d.order(`{"name": "drill", "args": {"ms": 1}, "key": "other"}`, "Idempotency-Key", "order:17").refusesField(400, "bad_field", "key")
	d.work()
	d.await(id, "done")
	if d.ordered(job, "Idempotency-Key", "order:17") != id {
		t.Error("after its end it is another")
	}
	d.await(id, "done")
}

func TestFullQueueAndAbsentRedisAreSaid(t *testing.T) {
	t.Parallel()
	d := serveTasks(t, "APP_DEBUG", "1")
	for i := range maxPending {
		d.redis.RPush("{tasks:default:0}:p1", fmt.Sprint("default.0.", i))
	}
	job := `{"name": "drill", "args": {"ms": 1}}`
	got := d.order(job)
	if got.fails(429, "queue_full"); got.header.Get("Retry-After") == "" {
		t.Errorf("%v", got.header)
	}
	d.redis.Close()
	d.order(job).fails(503, "broker_unavailable")
	d.order(job, "Idempotency-Key", "k").fails(503, "broker_unavailable")
}

// Whatever a client sends, it is taken or refused with a problem; what is taken says the same when it is read again.
func FuzzTaskRequest(f *testing.F) {
	config, err := ConfigFromEnv(env("REDIS_URL", "redis://127.0.0.1:1", "APP_DEBUG", "1", "WEBHOOK_SECRET", newSecret, "WEBHOOK_HOSTS", "h",
		"SMTP_URL", "smtp://h", "MAIL_FROM", "a@b.org", "MAIL_ALLOW", "example.com"))
	if err != nil {
		f.Fatal(err)
	}
	a := &app{config: config, tasks: &Tasks{mailer: config.Mail, webhooks: config.Webhooks, debug: true}}
	for _, seed := range []string{mailTo("ada@example.com"), webhookTo("http://h/"), `{"name": "drill", "args": {"ms": 1}, "in": "1h", "priority": 3, "key": "k", "timeout": 9}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var request taskRequest
		var p *problem
		if err := decodeStrictly(body, "", &request); err != nil {
			if !errors.As(err, &p) {
				t.Fatalf("%v", err)
			}
			return
		}
		request.Queue = "default"
		kind, args, err := a.tasks.wanted(request, false)
		if err == nil {
			_, err = a.taskOptions(request)
		}
		if err != nil {
			if !errors.As(err, &p) {
				t.Fatalf("%v", err)
			}
			return
		}
		text, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		again, err := kind.read(text)
		if err != nil || again.check(a.tasks, false) != nil {
			t.Fatalf("%s is not taken the second time: %v", text, err)
		}
		if mail, ok := args.(mailArgs); ok && !oneLine(mail.Subject+strings.Join(mail.To, "")+mail.ReplyTo) {
			t.Fatalf("%q", mail)
		}
	})
}
