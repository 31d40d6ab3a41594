package app

import (
	"context"
	"errors"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

const (
	retryAfterOutage = 2 * time.Second // a Redis that restarts is back by then
	retryAfterFull   = 10 * time.Second
	retryAfterEarly  = time.Second // a job that is not done yet
)

// askingTime bounds what one request asks of Redis, below the pool's timeout: a client shall read why, not 504. It is not the request's
// own context, which fasthttp uses again for the next request while a call may still be on its way.
func askingTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 15*time.Second)
}

// taskStatus is the answer of GET /tasks/{id}. Times that have not come are left out.
type taskStatus struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	Queue       string        `json:"queue"`
	State       tasks.State   `json:"state"`
	Attempt     int           `json:"attempt"` // begun so far, the running one included
	MaxAttempts int           `json:"max_attempts"`
	Progress    *taskProgress `json:"progress,omitempty"`
	Error       *errorBody    `json:"error,omitempty"` // of the last attempt
	Cancelling  bool          `json:"cancelling,omitempty"`
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

// taskRoute gives the id in the path, or why no answer about it is possible.
func (a *app) taskRoute(ctx *fasthttp.RequestCtx) (id string, err error) {
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if a.tasks == nil {
		return "", a.tasksOff()
	}
	id, _ = ctx.UserValue("id").(string)
	return id, nil
}

func (a *app) tasksOff() *problem {
	remedy := "set REDIS_URL (or TASK_BROKER_URL) to a Redis, as in redis://127.0.0.1:6379, and start a runner: app work"
	if a.config.Broker != "" {
		remedy = "set ENABLE_BACKGROUND_TASKS=true"
	}
	return newProblem(fasthttp.StatusServiceUnavailable, "tasks_off", "background tasks are off here: %s", remedy)
}

// getTask tells where a job is.
func (a *app) getTask(ctx *fasthttp.RequestCtx) error {
	id, err := a.taskRoute(ctx)
	if err != nil {
		return err
	}
	limit, cancel := askingTime()
	defer cancel()
	status, err := a.tasks.GetTaskStatus(limit, id)
	if err != nil {
		return taskProblem(id, err)
	}
	answerJSON(ctx, fasthttp.StatusOK, describe(status))
	return nil
}

func describe(s tasks.Status) taskStatus {
	d := taskStatus{
		ID: s.ID, Name: s.Name, Queue: s.Queue, State: s.State, Attempt: s.Attempt, MaxAttempts: s.Max, Cancelling: s.State == tasks.Cancelling,
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

// getTaskResult gives the thumbnail, or says why there is none: 409 not yet or never, 410 not any more, 404 no such job.
func (a *app) getTaskResult(ctx *fasthttp.RequestCtx) error {
	id, err := a.taskRoute(ctx)
	if err != nil {
		return err
	}
	limit, cancel := askingTime()
	defer cancel()
	status, err := a.tasks.GetTaskStatus(limit, id)
	if err != nil {
		return taskProblem(id, err)
	}
	switch status.State {
	case tasks.Done:
	case tasks.Dead:
		return newProblem(fasthttp.StatusConflict, "job_dead", "the job failed for good and has no result: %s", errorOf(status.Error).text())
	case tasks.Cancelled:
		return newProblem(fasthttp.StatusConflict, "job_cancelled", "the job was cancelled and has no result")
	default:
		p := newProblem(fasthttp.StatusConflict, "not_done", "the job is %s, ask again when %s says done", status.State, statusURL(id))
		p.retryAfter = retryAfterEarly
		return p
	}
	made, err := a.tasks.store.result(limit, keyOf(id))
	if errors.Is(err, errNotStored) {
		return newProblem(fasthttp.StatusGone, "result_expired", "the job is done, but its result was kept only for %v: send the image again", resultTTL)
	}
	if err != nil {
		return taskProblem(id, a.tasks.note(err))
	}
	answerThumbnail(ctx, made)
	return nil
}

// deleteTask cancels a job that has not ended.
func (a *app) deleteTask(ctx *fasthttp.RequestCtx) error {
	id, err := a.taskRoute(ctx)
	if err != nil {
		return err
	}
	limit, cancel := askingTime()
	defer cancel()
	state, err := a.tasks.CancelTask(limit, id)
	if err != nil {
		return taskProblem(id, err)
	}
	if state == "" {
		status, err := a.tasks.GetTaskStatus(limit, id)
		if err != nil {
			return taskProblem(id, err)
		}
		return newProblem(fasthttp.StatusConflict, "job_ended", "the job is %s: there is nothing left to cancel", status.State)
	}
	answerJSON(ctx, fasthttp.StatusOK, map[string]any{"id": id, "state": state, "cancelled": state == tasks.Cancelled, "status_url": statusURL(id)})
	return nil
}

// taskProblem says what a client can do about an error of the queue or the store.
func taskProblem(id string, err error) error {
	var p *problem
	switch {
	case errors.Is(err, tasks.ErrBadID):
		return badRequest("%.200q is not the id of a job: it looks like default.0.01JABC…", id)
	case errors.Is(err, tasks.ErrNotFound):
		return newProblem(fasthttp.StatusNotFound, "no_such_job", "there is no job %s, or it ended more than %v ago", id, recordTTL)
	case errors.Is(err, tasks.ErrQueueFull):
		p = newProblem(fasthttp.StatusTooManyRequests, "queue_full", "%d jobs wait already, send it again later", maxPending)
		p.retryAfter = retryAfterFull
	case errors.Is(err, tasks.ErrFull):
		p = newProblem(fasthttp.StatusServiceUnavailable, "broker_full", "Redis has no memory left for this, nothing was stored, send it again later")
		p.retryAfter = retryAfterFull
	case errors.Is(err, tasks.ErrUnavailable):
		p = newProblem(fasthttp.StatusServiceUnavailable, "broker_unavailable", "Redis does not answer, ask again")
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
