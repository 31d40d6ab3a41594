package app

import "supervisor/pkg/tasks"

// The shapes of /openapi.json that routes share, by name.

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
