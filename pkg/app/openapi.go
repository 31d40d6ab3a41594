package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// /openapi.json is made of the route table: paths, methods and sentences are the table's, what goes in and comes out of each stands here.
// A test compares both ways, and holds every request and answer of the other tests against it.

// operation is what a route takes and answers.
type operation struct {
	id     string
	admin  access
	query  map[string]schema // all optional
	header map[string]schema // all optional
	takes  map[string]schema // bodies by their type; nil: none
	gives  map[int]reply
	fails  []int // beside what every route may answer
}

// access is who may.
type access int

const (
	anybody access = iota
	moreForAdmin
	adminsOnly
)

// reply is one answer that is no error.
type reply struct {
	about  string
	bodies map[string]schema // by type; nil: none. A nil schema is not JSON
}

func jsonOf(s schema) map[string]schema { return map[string]schema{"application/json": s} }

func ref(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }

// failures are those of every route: what cannot be read, and our own.
var failures = []int{fasthttp.StatusBadRequest, fasthttp.StatusRequestTimeout, fasthttp.StatusRequestEntityTooLarge, fasthttp.StatusRequestHeaderFieldsTooLarge, fasthttp.StatusInternalServerError}

// operations are what the routes take and answer, by method and path.
func (a *app) operations() map[string]operation {
	jobFails := []int{404, 503}
	health := operation{gives: map[int]reply{200: {"The worker.", jsonOf(ref("Worker"))}}}
	probe := operation{gives: map[int]reply{200: {"It is.", jsonOf(object(map[string]schema{"status": {"const": "healthy"}}, "status"))}}}
	with := func(o operation, id string, fails ...int) operation {
		o.id, o.fails = id, append(o.fails, fails...)
		return o
	}
	turned := operation{
		admin: adminsOnly, fails: []int{401, 403, 404, 503},
		gives: map[int]reply{200: {"It is so.", jsonOf(object(map[string]schema{"queue": {"type": "string"}, "paused": {"type": "boolean"}, "changed": {"type": "boolean"}}, "queue", "paused", "changed"))}},
	}
	pictures := map[string]schema{"image/jpeg": nil, "image/png": nil}
	postImage := operation{
		id: "postImage",
		query: map[string]schema{
			"width":  whole(1, maxSide, "Of the box that the thumbnail fits in, pixels."),
			"height": whole(1, maxSide, "Of the box that the thumbnail fits in, pixels."),
		},
		takes: map[string]schema{
			"multipart/form-data": {"type": "object", "properties": map[string]schema{uploadField: {"type": "string", "contentMediaType": "application/octet-stream"}}, "required": []string{uploadField}},
			"*/*":                 nil,
		},
		gives: map[int]reply{200: {"The thumbnail.", pictures}},
		fails: []int{415, 422, 503},
	}
	if a.tasks != nil {
		postImage.gives = map[int]reply{202: {"The job that makes the thumbnail.", jsonOf(ref("Accepted"))}}
		postImage.fails = []int{415, 422, 429, 503}
	}
	return map[string]operation{
		"GET /":             {id: "index", gives: map[int]reply{200: {"What there is.", map[string]schema{"application/json": ref("Index"), "text/html": nil}}}},
		"GET /openapi.json": {id: "openapi", gives: map[int]reply{200: {"This document.", jsonOf(schema{"type": "object", "required": []string{"openapi", "info", "paths"}})}}},
		"POST /images":      postImage,
		"POST /tasks": {
			id: "postTask", admin: moreForAdmin,
			header: map[string]schema{"Idempotency-Key": text(1, maxClientKey, "The same key is the same job: send it again as often as you like. Letters, digits, '_', ':' and '-'.")},
			takes:  jsonOf(ref("NewJob")),
			gives:  map[int]reply{202: {"It is stored.", jsonOf(ref("Accepted"))}},
			fails:  []int{401, 403, 415, 422, 429, 503},
		},
		"POST /imports": {
			id: "postImport", admin: adminsOnly, takes: map[string]schema{csvType: nil},
			gives: map[int]reply{202: {"It is stored.", jsonOf(ref("Accepted"))}}, fails: []int{401, 403, 415, 422, 429, 503},
		},
		"GET /tasks/{id}": {id: "getTask", gives: map[int]reply{200: {"The job.", jsonOf(ref("Job"))}}, fails: jobFails},
		"GET /tasks/{id}/result": {
			id: "getTaskResult", admin: moreForAdmin,
			gives: map[int]reply{
				200: {"What came of it.", map[string]schema{"image/jpeg": nil, "image/png": nil, "text/csv": nil, "application/json": {}, "application/octet-stream": nil}},
				204: {"It is done, and had nothing to say.", nil},
			},
			fails: []int{401, 403, 404, 409, 410, 503},
		},
		"DELETE /tasks/{id}": {
			id: "cancelTask", admin: moreForAdmin,
			gives: map[int]reply{
				200: {"It never runs.", jsonOf(ref("Cancelled"))},
				202: {"It runs, and is told to end.", jsonOf(ref("Cancelled"))},
			},
			fails: []int{401, 403, 404, 409, 503},
		},
		"GET /tasks": {
			id: "listTasks", admin: adminsOnly,
			query: map[string]schema{
				"state":  {"type": "string", "enum": tasks.Listed, "default": tasks.Pending, "description": "scheduled: also those that are retrying; running: also those that are cancelling. Of done, cancelled and expired the last 1,000."},
				"queue":  text(1, 64, "Its name; default."),
				"cursor": text(1, 100, "next_cursor of the page before."),
				"limit":  whole(0, 1000, "At most so many; 0: 50."),
			},
			gives: map[int]reply{200: {"A page.", jsonOf(object(map[string]schema{"jobs": list(ref("Job"), 0, 10_000), "next_cursor": {"type": "string"}}, "jobs"))}},
			fails: []int{401, 403, 404, 503},
		},
		"POST /tasks/{id}/retry": {id: "retryTask", admin: adminsOnly, gives: map[int]reply{200: {"It waits for a runner.", jsonOf(ref("Cancelled"))}}, fails: []int{401, 403, 404, 409, 503}},
		"GET /queues": {
			id: "listQueues", admin: adminsOnly,
			gives: map[int]reply{200: {"All queues.", jsonOf(object(map[string]schema{"queues": {"type": "array", "items": ref("Queue")}}, "queues"))}},
			fails: []int{401, 403, 503},
		},
		"POST /queues/{queue}/pause":  with(turned, "pauseQueue"),
		"POST /queues/{queue}/resume": with(turned, "resumeQueue"),
		"GET /health":                 with(health, "health"),
		"GET /api/health":             with(health, "apiHealth"),
		"GET /health/worker":          with(health, "healthWorker"),
		"GET /health/live":            with(probe, "live"),
		"GET /health/ready":           with(probe, "ready", 503),
		"GET /health/startup":         with(probe, "startup"),

		"ANY /debug/sleep":  {id: "debugSleep", query: map[string]schema{"ms": whole(0, longestDrill, "")}, takes: map[string]schema{"*/*": nil}, gives: map[int]reply{200: {"It slept.", jsonOf(counts("slept_ms"))}}},
		"POST /debug/job":   {id: "debugJob", query: map[string]schema{"ms": whole(0, longestDrill, "")}, gives: map[int]reply{202: {"It is stored.", jsonOf(ref("Accepted"))}}, fails: []int{429, 503}},
		"ANY /debug/hang":   {id: "debugHang", gives: map[int]reply{200: {"Never.", nil}}},
		"ANY /debug/panic":  {id: "debugPanic", gives: map[int]reply{200: {"Never.", nil}}},
		"ANY /debug/alloc":  {id: "debugAlloc", query: map[string]schema{"mb": whole(0, 4096, "")}, gives: map[int]reply{200: {"It holds them.", jsonOf(counts("took_mb", "holds_mb"))}}},
		"GET /debug/stream": {id: "debugStream", query: map[string]schema{"seconds": whole(0, 86_400, "")}, gives: map[int]reply{200: {"Ticks.", map[string]schema{"text/event-stream": nil}}}},
		"ANY /debug/echo": {
			id: "debugEcho", query: map[string]schema{"body": {"type": "string"}, "nonce": {"type": "string"}}, takes: map[string]schema{"*/*": nil},
			gives: map[int]reply{200: {"What was sent.", map[string]schema{"application/octet-stream": nil, "application/json": object(map[string]schema{
				"method": {"type": "string"}, "length": {"type": "integer"}, "sha256": {"type": "string"}}, "method", "length", "sha256")}}},
		},
	}
}

// counts is an object of whole numbers.
func counts(names ...string) schema {
	members := map[string]schema{}
	for _, name := range names {
		members[name] = schema{"type": "integer"}
	}
	return object(members, names...)
}

// newJob is the body of POST /tasks: one of the kinds that are open.
func (a *app) newJob() schema {
	t := a.tasks
	if t == nil {
		t = &Tasks{debug: a.config.Debug}
	}
	span := schema{"oneOf": []schema{{"type": "number", "minimum": 0, "description": "Seconds."}, {"type": "string", "description": `As in "90s" or "1h30m".`}}}
	var kinds []schema
	for _, k := range t.kinds() {
		if !k.open() {
			continue
		}
		one := object(map[string]schema{
			"name": {"const": k.name}, "args": k.schema,
			"queue":    {"type": "string", "enum": a.config.Queues(), "default": a.config.Queues()[0]},
			"priority": {"type": "integer", "minimum": 0, "maximum": lastPriority, "default": 1, "description": "0 is first."},
			"in":       span, "at": {"type": "string", "format": "date-time"},
			"key": text(1, maxClientKey, "As the header Idempotency-Key."), "timeout": span,
			"max_attempts": whole(1, maxTaskAttempts, "How often it may fail."),
		}, "name", "args")
		one["title"], one["description"] = k.name, k.about
		kinds = append(kinds, one)
	}
	return schema{"oneOf": kinds}
}

func (a *app) schemas() map[string]schema {
	word, moment, count := schema{"type": "string"}, schema{"type": "string", "format": "date-time"}, schema{"type": "integer", "minimum": 0}
	state := schema{"type": "string", "enum": []tasks.State{tasks.Pending, tasks.Scheduled, tasks.Running, tasks.Retrying, tasks.Cancelling, tasks.Done, tasks.Dead, tasks.Cancelled, tasks.Expired}}
	failure := object(map[string]schema{
		"code":    {"type": "string", "pattern": "^[a-z_]+$", "description": "For programs; it does not change."},
		"message": {"type": "string", "description": "For people."},
		"field":   {"type": "string", "description": "The field of a JSON body that is wrong, as in args.to[0]."},
	}, "code", "message")
	return map[string]schema{
		"Error":     object(map[string]schema{"error": failure}, "error"),
		"Accepted":  object(map[string]schema{"id": word, "status_url": word, "result_url": word}, "id", "status_url", "result_url"),
		"Cancelled": object(map[string]schema{"id": word, "state": state, "status_url": word}, "id", "state", "status_url"),
		"NewJob":    a.newJob(),
		"Job": object(map[string]schema{
			"id": word, "name": word, "queue": word, "state": state, "attempt": count, "max_attempts": count, "postponed": count, "error": failure,
			"progress":    object(map[string]schema{"percent": {"type": "integer"}, "note": word}, "percent"),
			"enqueued_at": moment, "due_at": moment, "started_at": moment, "finished_at": moment, "expires_at": moment, "deadline_at": moment,
			"status_url": word, "result_url": word,
		}, "id", "name", "queue", "state", "attempt", "max_attempts", "status_url", "result_url"),
		"Queue": object(map[string]schema{
			"name": word, "paused": {"type": "boolean"}, "paused_at": moment, "pending": count, "pending_by_priority": list(count, 4, 4), "oldest_seconds": {"type": "number"},
			"scheduled": count, "running": count, "dead": count, "runners": count, "at": moment,
			"counted": {"type": "object", "additionalProperties": count},
		}, "name", "paused", "pending", "pending_by_priority", "oldest_seconds", "scheduled", "running", "dead", "runners", "counted", "at"),
		"Worker": object(map[string]schema{
			"status": {"enum": []string{"healthy", "draining"}}, "worker_id": word, "pid": count, "uptime": {"type": "number"}, "active_connections": count, "generation": count,
		}, "status", "worker_id", "pid", "uptime", "active_connections", "generation"),
		"Index": object(map[string]schema{
			"about": word, "worker": ref("Worker"), "client": word,
			"endpoints": {"type": "array", "items": object(map[string]schema{"method": word, "path": word, "about": word, "curl": word}, "method", "path", "about", "curl")},
		}, "about", "worker", "endpoints"),
	}
}

// openAPI makes the document.
func (a *app) openAPI() map[string]any {
	operations := a.operations()
	paths := map[string]map[string]any{}
	for _, r := range a.routes {
		method := r.method
		if method == anyMethod {
			method = "ANY"
		}
		o, ok := operations[method+" "+r.path]
		if !ok {
			continue // a test says so
		}
		if paths[r.path] == nil {
			paths[r.path] = map[string]any{}
		}
		if method != "ANY" {
			paths[r.path][strings.ToLower(method)] = o.describe(r)
			continue
		}
		for _, method := range []string{"get", "post"} { // of all that it takes
			d := o.describe(r)
			d["operationId"] = o.id + strings.ToUpper(method[:1]) + method[1:]
			paths[r.path][method] = d
		}
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "app", "version": "1", "description": "The application that ships with the supervisor: thumbnails and other jobs."},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         a.schemas(),
			"securitySchemes": map[string]any{"admin": map[string]any{"type": "http", "scheme": "bearer", "description": "APP_ADMIN_TOKEN"}},
		},
	}
}

func (o operation) describe(r route) map[string]any {
	var parameters []map[string]any
	for _, in := range []string{"path", "query", "header"} {
		of := map[string]map[string]schema{"path": pathParameters(r.path), "query": o.query, "header": o.header}[in]
		for _, name := range slices.Sorted(maps.Keys(of)) {
			parameters = append(parameters, map[string]any{"name": name, "in": in, "required": in == "path", "schema": of[name]})
		}
	}
	responses := map[string]any{}
	for status, reply := range o.gives {
		responses[strconv.Itoa(status)] = map[string]any{"description": reply.about, "content": content(reply.bodies)}
	}
	for _, status := range append(o.fails, failures...) {
		responses[strconv.Itoa(status)] = map[string]any{"description": http.StatusText(status), "content": content(jsonOf(ref("Error")))}
	}
	d := map[string]any{"operationId": o.id, "summary": strings.TrimSuffix(r.about, "."), "responses": responses}
	if len(parameters) > 0 {
		d["parameters"] = parameters
	}
	if o.takes != nil {
		d["requestBody"] = map[string]any{"required": r.method != anyMethod, "content": content(o.takes)}
	}
	switch o.admin {
	case moreForAdmin:
		d["security"] = []map[string][]string{{}, {"admin": {}}}
	case adminsOnly:
		d["security"] = []map[string][]string{{"admin": {}}}
	}
	return d
}

func content(bodies map[string]schema) map[string]any {
	c := map[string]any{}
	for kind, body := range bodies {
		if c[kind] = map[string]any{}; body != nil {
			c[kind] = map[string]any{"schema": body}
		}
	}
	return c
}

func pathParameters(path string) map[string]schema {
	found := map[string]schema{}
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			found[strings.TrimSuffix(name, "}")] = schema{"type": "string"}
		}
	}
	return found
}

// getOpenAPI answers with the document.
func (a *app) getOpenAPI(ctx *fasthttp.RequestCtx) error {
	text, err := json.MarshalIndent(a.openAPI(), "", "  ")
	if err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(append(text, '\n'))
	return nil
}
