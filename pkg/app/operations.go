package app

import "supervisor/pkg/tasks"

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
