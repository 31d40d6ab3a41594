package app

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

const (
	retryAfterOutage = 2 * time.Second // a Redis that restarts is back by then
	retryAfterFull   = 10 * time.Second
	retryAfterEarly  = time.Second // a job that is not done yet
)

// taskStatus is the answer of GET /tasks/{id}. Times that have not come are left out.
type taskStatus struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	Queue       string        `json:"queue"`
	State       tasks.State   `json:"state"`
	Attempt     int           `json:"attempt"` // begun so far, the running one included
	MaxAttempts int           `json:"max_attempts"`
	Postponed   int           `json:"postponed,omitempty"` // runs that did not count: Redis was away or full
	Progress    *taskProgress `json:"progress,omitempty"`
	Error       *errorBody    `json:"error,omitempty"` // of the last attempt
	EnqueuedAt  time.Time     `json:"enqueued_at,omitzero"`
	DueAt       time.Time     `json:"due_at,omitzero"`
	StartedAt   time.Time     `json:"started_at,omitzero"`
	FinishedAt  time.Time     `json:"finished_at,omitzero"`
	StatusURL   string        `json:"status_url"`
	ResultURL   string        `json:"result_url"`
}

type taskProgress struct {
	Percent int    `json:"percent"`
	Note    string `json:"note,omitempty"`
}

func statusURL(id string) string { return "/tasks/" + id }
func resultURL(id string) string { return "/tasks/" + id + "/result" }

// accepted answers for a job that is stored: 202, and where to ask.
func accepted(ctx *fasthttp.RequestCtx, id string) {
	ctx.Response.Header.Set(fasthttp.HeaderLocation, statusURL(id))
	answerJSON(ctx, fasthttp.StatusAccepted, map[string]string{"id": id, "status_url": statusURL(id), "result_url": resultURL(id)})
}

func (a *app) tasksOff() *problem {
	remedy := "set REDIS_URL (or TASK_BROKER_URL) to a Redis, as in redis://127.0.0.1:6379, and start a runner: app work"
	if a.config.Broker != "" {
		remedy = "set ENABLE_BACKGROUND_TASKS=true"
	}
	return newProblem(fasthttp.StatusServiceUnavailable, "tasks_off", "background tasks are off here: %s", remedy)
}

// taskRoute runs an answer about the job that the path names, or says why none is possible.
func (a *app) taskRoute(answer func(*fasthttp.RequestCtx, context.Context, string) error) func(*fasthttp.RequestCtx) error {
	return func(ctx *fasthttp.RequestCtx) error {
		ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
		if a.tasks == nil {
			return a.tasksOff()
		}
		id, _ := ctx.UserValue("id").(string)
		limit, cancel := askingTime(ctx)
		defer cancel()
		return a.taskProblem(id, answer(ctx, limit, id))
	}
}

// getTask tells where a job is.
func (a *app) getTask(ctx *fasthttp.RequestCtx, limit context.Context, id string) error {
	status, err := a.tasks.GetTaskStatus(limit, id)
	if err != nil {
		return err
	}
	answerJSON(ctx, fasthttp.StatusOK, describe(status))
	return nil
}

func describe(s tasks.Status) taskStatus {
	d := taskStatus{
		ID: s.ID, Name: s.Name, Queue: s.Queue, State: s.State, Attempt: s.Attempt, MaxAttempts: s.Max, Postponed: s.Postponed,
		Error: errorOf(s.Error), StatusURL: statusURL(s.ID), ResultURL: resultURL(s.ID),
		EnqueuedAt: s.Enqueued.UTC(), DueAt: s.Due.UTC(), StartedAt: s.Started.UTC(), FinishedAt: s.Finished.UTC(),
	}
	switch {
	case s.State == tasks.Done:
		d.Progress = &taskProgress{Percent: 100}
	case s.Progress != tasks.Progress{}:
		d.Progress = &taskProgress{s.Progress.Percent, s.Progress.Note}
	}
	return d
}

// getTaskResult gives what came of a job, or says why there is nothing: 409 not yet or never, 410 not any more, 404 no such job.
func (a *app) getTaskResult(ctx *fasthttp.RequestCtx, limit context.Context, id string) error {
	status, err := a.tasks.GetTaskStatus(limit, id)
	if err != nil {
		return err
	}
	kind := a.tasks.kindOf(status.Name)
	if kind.operator {
		if err := a.onlyAdmin(ctx); err != nil {
			return err
		}
	}
	switch status.State {
	case tasks.Done:
	case tasks.Dead:
		return newProblem(fasthttp.StatusConflict, "job_dead", "the job failed for good and has no result: %s", errorOf(status.Error).text())
	case tasks.Cancelled:
		return newProblem(fasthttp.StatusConflict, "job_cancelled", "the job was cancelled and has no result")
	case tasks.Expired:
		return newProblem(fasthttp.StatusConflict, "job_expired", "the job waited too long to begin, and has no result")
	default:
		p := newProblem(fasthttp.StatusConflict, "not_done", "the job is %s, ask again when %s says done", status.State, statusURL(id))
		p.retryAfter = retryAfterEarly
		return p
	}
	if kind.stored {
		return a.answerStored(ctx, limit, id)
	}
	// The others return what they have to say.
	result, err := a.tasks.GetTaskResult(limit, id)
	switch {
	case errors.Is(err, tasks.ErrNotFound):
		return newProblem(fasthttp.StatusGone, "result_expired", "the job is done, but its result is not kept any more")
	case err != nil:
		return err
	case len(result) == 0:
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return nil
	}
	ctx.SetContentType("application/json")
	if !json.Valid(result) {
		ctx.SetContentType("application/octet-stream")
	}
	ctx.Response.SetBodyRaw(result)
	return nil
}

// answerStored answers with a result from the store.
func (a *app) answerStored(ctx *fasthttp.RequestCtx, limit context.Context, id string) error {
	made, err := a.tasks.store.result(limit, id)
	if errors.Is(err, errNotStored) {
		return newProblem(fasthttp.StatusGone, "result_expired", "the job is done, but its result was kept only for %s: ask for it again", hours(resultTTL))
	}
	if err != nil {
		return a.tasks.note(err)
	}
	answerProduct(ctx, made)
	return nil
}

// deleteTask cancels a job that has not ended: 200 it never runs, 202 it runs and its runner is told, 409 it has ended. Who knows an id may:
// it is random, or its client's own word. The operator's jobs, and those whose ids can be told beforehand, are his to cancel.
func (a *app) deleteTask(ctx *fasthttp.RequestCtx, limit context.Context, id string) error {
	status, err := a.tasks.GetTaskStatus(limit, id)
	if err != nil {
		return err
	}
	if a.tasks.kindOf(status.Name).operator || foretold(id) {
		if err := a.onlyAdmin(ctx); err != nil {
			return err
		}
	}
	state, err := a.tasks.CancelTask(limit, id)
	if err != nil {
		return err
	}
	answer := fasthttp.StatusOK
	switch state {
	case tasks.Cancelling:
		answer = fasthttp.StatusAccepted
	case "":
		if status, err = a.tasks.GetTaskStatus(limit, id); err != nil {
			return err
		}
		return newProblem(fasthttp.StatusConflict, "job_ended", "the job is %s: there is nothing left to cancel", status.State)
	}
	answerJSON(ctx, answer, map[string]any{"id": id, "state": state, "status_url": statusURL(id)})
	return nil
}

// foretold reports whether the application made the id of what everybody knows, such as a schedule's time.
func foretold(id string) bool {
	_, key, _ := strings.Cut(id, ".")
	_, key, _ = strings.Cut(key, ".")
	return strings.HasPrefix(key, "cron:") || strings.HasPrefix(key, mailOf)
}

// taskProblem says what a client can do about an error of the queue or the store. It leaves alone what is none.
func (a *app) taskProblem(id string, err error) error {
	var p *problem
	var database *databaseError
	switch {
	case errors.As(err, &database):
		p = newProblem(fasthttp.StatusServiceUnavailable, "store_unavailable", "PostgreSQL does not answer, ask again")
		if database.advice != "" {
			p.message = database.advice + "; then ask again"
		}
		p.retryAfter = retryAfterOutage
	case errors.Is(err, tasks.ErrBadID):
		return badRequest("%.200q is not the id of a job: it looks like default.0.01JABC…", id)
	case errors.Is(err, tasks.ErrNotFound):
		return newProblem(fasthttp.StatusNotFound, "no_such_job", "there is no job %s, or it ended more than %s ago", id, hours(recordTTL))
	case errors.Is(err, tasks.ErrNotDead):
		return newProblem(fasthttp.StatusConflict, "not_dead", "job %s is not dead: only dead jobs can be retried", id)
	case errors.Is(err, tasks.ErrUnknownQueue):
		return newProblem(fasthttp.StatusNotFound, "no_such_queue", "%s: GET /queues lists those that there are", err)
	case errors.Is(err, tasks.ErrBadCursor), errors.Is(err, tasks.ErrInvalid):
		return badRequest("%s", err)
	case errors.Is(err, tasks.ErrQueueFull):
		p = newProblem(fasthttp.StatusTooManyRequests, "queue_full", "%d jobs wait already, send it again later", maxPending)
		p.retryAfter = retryAfterFull
	case errors.Is(err, errUploadsFull):
		p = newProblem(fasthttp.StatusTooManyRequests, "uploads_full",
			"the images that wait already have as many bytes as they may together (APP_MAX_WAITING, %d MiB here), send it again later", a.config.MaxWaiting>>20)
		p.retryAfter = retryAfterFull
	case errors.Is(err, tasks.ErrFull):
		p = newProblem(fasthttp.StatusServiceUnavailable, "broker_full", "Redis has no memory left for this, nothing was stored, send it again later")
		p.retryAfter = retryAfterFull
	case errors.Is(err, tasks.ErrUnavailable):
		p = newProblem(fasthttp.StatusServiceUnavailable, "broker_unavailable", "Redis does not answer, ask again")
		if why := tasks.Refusal(err); why != "" {
			p.message = "Redis refuses this: " + why + "; then ask again"
		}
		p.retryAfter = retryAfterOutage
	default:
		return err
	}
	return p
}

// text is an error's message, for another message.
func (e *errorBody) text() string {
	if e == nil {
		return "its runners died with it"
	}
	return e.Message
}
