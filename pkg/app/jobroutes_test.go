package app

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// dead gives a job that has failed for good, with an error that is not for strangers.
func (d *desk) dead(payload []byte, options ...tasks.Option) string {
	d.t.Helper()
	id, err := d.tasks.client.Enqueue(d.t.Context(), "statement", payload, append(options, tasks.MaxAttempts(1))...)
	if err != nil {
		d.t.Fatal(err)
	}
	mux := tasks.NewMux()
	mux.Handle("statement", func(context.Context, *tasks.Job) ([]byte, error) {
		return nil, errors.New("dial tcp 10.0.0.7:25: connection refused")
	})
	runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{Grace: time.Second})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(d.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	d.await(id, "dead")
	stop()
	if err := <-ended; err != nil {
		d.t.Fatal(err)
	}
	return id
}

func TestOperatorsListRetryAndPause(t *testing.T) {
	d := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	me := bearer(testToken)
	if got := d.get("/queues", me...); got.status != 200 || string(got.body) != "{\"queues\":[]}\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
	d.get("/tasks", me...).fails(404, "no_such_queue", "GET /queues")
	dead := d.dead([]byte("x"))
	page := d.get("/tasks?state=dead", me...).json()
	jobs := page["jobs"].([]any)
	if len(jobs) != 1 || jobs[0].(map[string]any)["id"] != dead || page["next_cursor"] != nil {
		t.Errorf("%v", page)
	}
	d.get("/tasks?state=odd", me...).fails(400, "bad_request", "odd")
	d.get("/tasks?cursor=odd", me...).fails(400, "bad_request", "odd")
	d.get("/tasks?limit=1001", me...).fails(400, "bad_request", "1001")

	if got := d.do("POST", "/queues/default/pause", "", nil, me...); got.status != 200 || got.json()["changed"] != true {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := d.do("POST", "/tasks/"+dead+"/retry", "", nil, me...); got.status != 200 || got.json()["state"] != "pending" {
		t.Errorf("%d %s", got.status, got.body)
	}
	d.do("POST", "/tasks/"+dead+"/retry", "", nil, me...).fails(409, "not_dead", dead)
	d.do("POST", "/tasks/default.0.none/retry", "", nil, me...).fails(404, "no_such_job")
	d.do("POST", "/tasks/none/retry", "", nil, me...).fails(400, "bad_request")
	queue := d.get("/queues", me...).json()["queues"].([]any)[0].(map[string]any)
	if queue["paused"] != true || queue["pending"] != 1.0 || queue["dead"] != 0.0 || queue["counted"].(map[string]any)["revived"] != 1.0 {
		t.Errorf("%v", queue)
	}
	if got := d.do("POST", "/queues/default/resume", "", nil, me...); got.status != 200 || got.json()["paused"] != false {
		t.Errorf("%d %s", got.status, got.body)
	}
	d.do("POST", "/queues/no/pause", "", nil, me...).fails(404, "no_such_queue", "no")
}

func TestWhatIsTheOperatorsNeedsTheToken(t *testing.T) {
	with, without := serveTasks(t, "APP_ADMIN_TOKEN", testToken), serveTasks(t)
	for _, route := range [][2]string{
		{"GET", "/tasks"}, {"GET", "/queues"}, {"POST", "/tasks/default.0.x/retry"}, {"POST", "/queues/default/pause"}, {"POST", "/queues/default/resume"},
	} {
		with.do(route[0], route[1], "", nil).fails(401, "unauthorized", "APP_ADMIN_TOKEN")
		with.do(route[0], route[1], "", nil, bearer(testToken+"x")...).fails(401, "unauthorized")
		without.do(route[0], route[1], "", nil, bearer(testToken)...).fails(403, "admin_off", "set APP_ADMIN_TOKEN")
	}
	off := serve(t, Config{AdminToken: testToken})
	off.get("/tasks", bearer(testToken)...).fails(503, "tasks_off", "REDIS_URL")
}

func TestStrangersDoNotCancelWhatIsTheOperators(t *testing.T) {
	d := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	for _, test := range []struct {
		name, key string
		want      int
	}{
		{reportTask, "cron:report:1800000000", 401}, // everybody knows when
		{mailTask, mailOf + "cron:report:1800000000", 401},
		{exportTask, clientKey + "nightly", 401},
		{mailTask, clientKey + "order-7", 200}, // the client's own
		{thumbnailTask, "01JABCDEFGHJKMNPQRSTVWXYZ0", 200},
	} {
		id, err := d.tasks.client.Enqueue(t.Context(), test.name, []byte("{}"), tasks.Key(test.key), tasks.In(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if got := d.do("DELETE", "/tasks/"+id, "", nil); got.status != test.want {
			t.Errorf("%s: a stranger's cancel is %d %s, want %d", id, got.status, got.body, test.want)
		}
		if test.want == 200 {
			continue
		}
		if got := d.do("DELETE", "/tasks/"+id, "", nil, bearer(testToken)...); got.status != 200 {
			t.Errorf("%s: the operator's cancel is %d %s", id, got.status, got.body)
		}
	}
}

// Whatever the query says, the answer is a page, or tells what is wrong; and a page's cursor leads to another.
func FuzzListQuery(f *testing.F) {
	d := openDesk(f, "redis://"+miniredis.RunT(f).Addr(), "APP_ADMIN_TOKEN", testToken)
	for _, options := range [][]tasks.Option{{}, {tasks.Priority(3)}, {tasks.In(time.Hour)}, {tasks.Key("cancelled")}} {
		if _, err := d.tasks.EnqueueTask(f.Context(), "x", nil, options...); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := d.tasks.CancelTask(f.Context(), "default.0.cancelled"); err != nil {
		f.Fatal(err)
	}
	for _, query := range []string{"", "state=dead&queue=default&limit=1", "state=cancelled&cursor=0.0.1", "state=running&cursor=0.0.7", "queue=nope", "limit=1001", "cursor=9.9.9", "state=%zz&&=;+"} {
		f.Add(query)
	}
	handler := d.app.server().Handler
	ask := func(path, query string) (status int, body []byte) {
		var ctx fasthttp.RequestCtx
		ctx.Init(&fasthttp.Request{}, nil, nil)
		ctx.Request.SetRequestURI(path)
		ctx.Request.Header.Set("Authorization", "Bearer "+testToken)
		ctx.URI().SetQueryString(query)
		handler(&ctx)
		return ctx.Response.StatusCode(), ctx.Response.Body()
	}
	f.Fuzz(func(t *testing.T, query string) {
		d.logs.TakeAll() // it would fill the memory
		if status, body := ask("/queues", query); status != 200 || !json.Valid(body) {
			t.Fatalf("/queues: %d %s", status, body)
		}
		for pages := 0; ; pages++ {
			status, body := ask("/tasks", query)
			var page JobPage
			if !json.Valid(body) || status != 200 && status != 400 && status != 404 {
				t.Fatalf("/tasks: %d %s", status, body)
			}
			if status != 200 || json.Unmarshal(body, &page) != nil || page.Next == "" {
				return
			}
			if pages > 10 {
				t.Fatalf("four jobs on more than %d pages, the last is %s", pages, body)
			}
			var args fasthttp.Args
			args.Parse(query)
			args.Set("cursor", page.Next)
			query = args.String()
		}
	})
}
