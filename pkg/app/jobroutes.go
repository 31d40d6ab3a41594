package app

import (
	"context"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// What operators ask and do over HTTP, with their token: lists of jobs, retries, queues, pauses.

// adminTasks runs an answer for who bears the token, where background tasks are on.
func (a *app) adminTasks(answer func(*fasthttp.RequestCtx, context.Context) error) func(*fasthttp.RequestCtx) error {
	return a.adminOnly(func(ctx *fasthttp.RequestCtx) error {
		ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
		if a.tasks == nil {
			return a.tasksOff()
		}
		limit, cancel := askingTime(ctx)
		defer cancel()
		id, _ := ctx.UserValue("id").(string)
		return a.taskProblem(id, a.tasks.note(answer(ctx, limit)))
	})
}

// listTasks is GET /tasks?state=&queue=&cursor=&limit=.
func (a *app) listTasks(ctx *fasthttp.RequestCtx, limit context.Context) error {
	filter, err := filterOf(ctx)
	if err != nil {
		return err
	}
	page, err := a.tasks.Inspector().Jobs(limit, filter)
	if err != nil {
		return err
	}
	answerJSON(ctx, fasthttp.StatusOK, DescribePage(page))
	return nil
}

// filterOf reads which jobs are asked for.
func filterOf(ctx *fasthttp.RequestCtx) (tasks.Filter, error) {
	args := ctx.QueryArgs()
	f := tasks.Filter{Queue: string(args.Peek("queue")), State: tasks.State(args.Peek("state")), Cursor: string(args.Peek("cursor"))}
	if f.Queue == "" {
		f.Queue = "default"
	}
	if f.State == "" {
		f.State = tasks.Pending
	}
	var err error
	f.Limit, err = numberOf(ctx, "limit", 0, 1000)
	return f, err
}

// retryTask is POST /tasks/{id}/retry.
func (a *app) retryTask(ctx *fasthttp.RequestCtx, limit context.Context) error {
	id := ctx.UserValue("id").(string)
	if err := a.tasks.RetryTask(limit, id); err != nil {
		return err
	}
	answerJSON(ctx, fasthttp.StatusOK, map[string]any{"id": id, "state": tasks.Pending, "status_url": statusURL(id)})
	return nil
}

// listQueues is GET /queues.
func (a *app) listQueues(ctx *fasthttp.RequestCtx, limit context.Context) error {
	queues, err := a.tasks.Inspector().Queues(limit)
	if err != nil {
		return err
	}
	answerJSON(ctx, fasthttp.StatusOK, map[string]any{"queues": DescribeQueues(queues)})
	return nil
}

// turnQueue is POST /queues/{queue}/pause and /resume.
func (a *app) turnQueue(pause bool) func(*fasthttp.RequestCtx, context.Context) error {
	return func(ctx *fasthttp.RequestCtx, limit context.Context) error {
		queue := ctx.UserValue("queue").(string)
		changed, err := a.turn(limit, queue, pause)
		if err != nil {
			return err
		}
		answerJSON(ctx, fasthttp.StatusOK, map[string]any{"queue": queue, "paused": pause, "changed": changed})
		return nil
	}
}

func (a *app) turn(limit context.Context, queue string, pause bool) (changed bool, err error) {
	if pause {
		return a.tasks.Inspector().Pause(limit, queue)
	}
	return a.tasks.Inspector().Resume(limit, queue)
}
