package app

import (
	"context"
	"embed"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/operator"
	"supervisor/pkg/tasks"
)

// The jobs page: what `app jobs` says, for a browser. All of it is rendered here; its script only fetches it anew, asks before changes, and draws rates.

//go:embed admin
var adminFiles embed.FS

var adminPages = operator.Parse(adminFiles, "admin/*.html")

const (
	jobsPath     = "/admin/jobs"
	shownPayload = 16 << 10 // bytes
	shownError   = 200      // characters in a list
)

// pages are routes for browsers: no part of the table, for programs have another way to all of it.
func (a *app) pages() []route {
	get, post := fasthttp.MethodGet, fasthttp.MethodPost
	return []route{
		{method: get, path: "/admin", handle: func(ctx *fasthttp.RequestCtx) error { seeOther(ctx, jobsPath); return nil }},
		{method: post, path: "/admin/login", handle: a.login},
		{method: post, path: "/admin/logout", handle: a.logout},
		{method: get, path: "/admin/assets/{name}", handle: assets()},
		{method: get, path: jobsPath, handle: a.operatorPage(a.jobsPage)},
		{method: get, path: jobsPath + "/{id}", handle: a.operatorPage(a.jobPage)},
		{method: post, path: jobsPath + "/{id}/retry", handle: a.operatorPage(a.changing("Retry %s? It begins anew, with all its attempts.", "Retry", "id", a.retryOne))},
		{method: post, path: jobsPath + "/{id}/cancel", handle: a.operatorPage(a.changing("Cancel %s? That is for good.", "Cancel", "id", a.cancelOne))},
		{method: post, path: "/admin/queues/{queue}/pause", handle: a.operatorPage(a.changing("Pause %s? What runs goes on, nothing more begins.", "Pause", "queue", a.turnOne(true)))},
		{method: post, path: "/admin/queues/{queue}/resume", handle: a.operatorPage(a.changing("Resume %s?", "Resume", "queue", a.turnOne(false)))},
	}
}

// assets serves the files that pages load: their own, and those that all of the operator's pages share.
func assets() func(*fasthttp.RequestCtx) error {
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
	type file struct {
		kind    string
		content []byte
	}
	files := map[string]file{}
	for _, name := range []string{"operator.css", "operator.js", "jobs.css", "jobs.js"} {
		content, err := operator.Asset(name)
		if err != nil {
			content, err = adminFiles.ReadFile("admin/" + name)
		}
		if err != nil {
			panic(err) // the files are part of the program
		}
		files[name] = file{kinds[path.Ext(name)], content}
	}
	return func(ctx *fasthttp.RequestCtx) error {
		f, ok := files[ctx.UserValue("name").(string)]
		if !ok {
			return newProblem(fasthttp.StatusNotFound, "not_found", "there is no %s", ctx.Path())
		}
		ctx.SetContentType(f.kind)
		ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-cache")
		ctx.Response.SetBodyRaw(f.content)
		return nil
	}
}

func seeOther(ctx *fasthttp.RequestCtx, path string) {
	ctx.Response.Header.Set(fasthttp.HeaderLocation, path)
	ctx.SetStatusCode(fasthttp.StatusSeeOther)
}

func renderAdmin(ctx *fasthttp.RequestCtx, status int, name string, data map[string]any) error {
	for name, value := range operator.Headers {
		ctx.Response.Header.Set(name, value)
	}
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/html; charset=utf-8")
	if data["Title"] == nil {
		data["Title"] = "Jobs"
	}
	return adminPages.ExecuteTemplate(ctx.Response.BodyWriter(), name, data)
}

type queueRow struct {
	Name, Link, Oldest, PausedFor              string
	Pending, Running, Scheduled, Dead, Runners string
	Here, Paused, AnyDead                      bool
	Done, Accepted, At                         int64
	Action                                     operator.Action
}

type tab struct {
	State tasks.State
	Link  string
	Count string
	Here  bool
}

type jobRow struct {
	ID, Link, Name, Attempt, When, Text string
	State                               tasks.State
	Odd                                 bool // its state is not quite that of the list
	Percent                             int
	Actions                             []operator.Action
}

// jobsPage is GET /admin/jobs?queue=&state=&cursor=, or ?id=.
func (a *app) jobsPage(ctx *fasthttp.RequestCtx, limit context.Context) error {
	if id := strings.TrimSpace(string(ctx.QueryArgs().Peek("id"))); id != "" {
		seeOther(ctx, jobsPath+"/"+url.PathEscape(id))
		return nil
	}
	inspector := a.tasks.Inspector()
	queues, err := inspector.Queues(limit)
	if err != nil {
		return err
	}
	runners, err := inspector.Runners(limit)
	if err != nil {
		return err
	}
	filter, err := filterOf(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(queues, func(q tasks.QueueInfo) bool { return q.Name == filter.Queue })
	if at < 0 && !ctx.QueryArgs().Has("queue") && len(queues) > 0 {
		at, filter.Queue = 0, queues[0].Name
	}
	here := ownPath(string(ctx.RequestURI()))
	csrf := a.config.AdminToken.Form(a.session(ctx))
	link := func(queue string, state tasks.State, cursor string) string {
		values := url.Values{"queue": {queue}, "state": {string(state)}}
		if cursor != "" {
			values.Set("cursor", cursor)
		}
		return jobsPath + "?" + values.Encode()
	}
	data := map[string]any{"CSRF": csrf, "Queue": filter.Queue, "Runners": DescribeRunners(runners), "Title": "Jobs of " + filter.Queue}
	var rows []queueRow
	for i, q := range queues {
		row := queueRow{
			Name: q.Name, Link: link(q.Name, filter.State, ""), Oldest: "–", Pending: operator.Grouped(q.Waiting), Running: operator.Grouped(q.Running), Scheduled: operator.Grouped(q.Scheduled),
			Dead: operator.Grouped(q.Dead), Runners: "", Here: i == at, Paused: !q.Paused.IsZero(), AnyDead: q.Dead > 0, Done: q.Counters.Done, Accepted: q.Counters.Accepted, At: q.Now.UnixMilli(),
		}
		if q.Runners > 0 {
			row.Runners = operator.Grouped(q.Runners)
		}
		if q.Waiting > 0 && !q.Oldest.IsZero() {
			row.Oldest = operator.Ago(q.Now.Sub(q.Oldest))
		}
		row.Action = operator.Action{Action: "/admin/queues/" + q.Name + "/pause", Verb: "Pause", Of: q.Name, Question: "Pause " + q.Name + "? What runs goes on, nothing more begins.", CSRF: csrf, Back: here}
		if row.Paused {
			row.PausedFor = operator.Ago(q.Now.Sub(q.Paused))
			row.Action = operator.Action{Action: "/admin/queues/" + q.Name + "/resume", Verb: "Resume", Of: q.Name, Question: "Resume " + q.Name + "?", CSRF: csrf, Back: here}
		}
		rows = append(rows, row)
	}
	data["Queues"] = rows
	if at < 0 {
		if len(queues) > 0 {
			return newProblem(fasthttp.StatusNotFound, "no_such_queue", "there is no queue %.100q", filter.Queue)
		}
		return renderAdmin(ctx, fasthttp.StatusOK, "jobs", data)
	}
	page, err := inspector.Jobs(limit, filter)
	if err != nil {
		return err
	}
	q := queues[at]
	count := map[tasks.State]int64{tasks.Pending: q.Waiting, tasks.Running: q.Running, tasks.Scheduled: q.Scheduled, tasks.Dead: q.Dead}
	var tabs []tab
	for _, state := range tasks.Listed {
		t := tab{State: state, Link: link(filter.Queue, state, ""), Here: state == filter.State}
		if n, counted := count[state]; counted {
			t.Count = operator.Grouped(n)
		}
		tabs = append(tabs, t)
	}
	var jobs []jobRow
	for _, job := range page.Jobs {
		jobs = append(jobs, describeRow(job, filter.State, csrf, here))
	}
	heads := map[tasks.State][2]string{
		tasks.Pending: {"Waits for", "Last error"}, tasks.Running: {"Runs for", "Progress"}, tasks.Scheduled: {"Due in", "Last error"}, tasks.Dead: {"Died", "Error"},
	}[filter.State]
	if heads[0] == "" {
		heads = [2]string{"Ended", ""}
	}
	data["Tabs"], data["Jobs"], data["When"], data["Last"] = tabs, jobs, heads[0], heads[1]
	data["Empty"] = "No jobs are " + string(filter.State) + "."
	if page.Next != "" {
		data["Next"] = link(filter.Queue, filter.State, page.Next)
	}
	if filter.Cursor != "" {
		data["First"] = link(filter.Queue, filter.State, "")
	}
	return renderAdmin(ctx, fasthttp.StatusOK, "jobs", data)
}

func describeRow(job tasks.Status, state tasks.State, csrf, back string) jobRow {
	row := jobRow{ID: job.ID, Link: jobsPath + "/" + url.PathEscape(job.ID), Name: job.Name, State: job.State, Odd: job.State != state, Attempt: "–", When: "–", Actions: actionsOf(job, csrf, back)}
	if job.Max > 0 {
		row.Attempt = strconv.Itoa(job.Attempt) + " / " + strconv.Itoa(job.Max)
	}
	switch {
	case !job.Finished.IsZero():
		row.When = operator.Ago(time.Since(job.Finished)) + " ago"
	case !job.Due.IsZero():
		row.When = operator.Ago(time.Until(job.Due))
	case job.Runner != "":
		row.When = operator.Ago(time.Since(job.Started))
	case !job.Enqueued.IsZero():
		row.When = operator.Ago(time.Since(job.Enqueued))
	}
	line, _, _ := strings.Cut(job.Error, "\n")
	if job.Runner != "" {
		line, row.Percent = job.Progress.Note, job.Progress.Percent
	}
	if short := []rune(line); len(short) > shownError {
		line = string(short[:shownError-1]) + "…"
	}
	row.Text = line
	return row
}
