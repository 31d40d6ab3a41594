package app

import (
	"context"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/operator"
	"supervisor/pkg/tasks"
)

// What the jobs page changes: after a question, and only from a form that this session was given.

// changing asks first, then changes something and goes back. Only a form that this session was given may.
func (a *app) changing(question, verb, what string, change func(context.Context, string) error) func(*fasthttp.RequestCtx, context.Context) error {
	return func(ctx *fasthttp.RequestCtx, limit context.Context) error {
		form := ctx.PostArgs()
		if !sameSite(ctx) || !a.config.AdminToken.IsForm(a.session(ctx), string(form.Peek("csrf"))) {
			return newProblem(fasthttp.StatusForbidden, "not_our_form", "this did not come from a form of this page: go back, reload, and try again")
		}
		of, back := ctx.UserValue(what).(string), ownPath(string(form.Peek("back")))
		if string(form.Peek("confirmed")) != "yes" {
			return renderAdmin(ctx, fasthttp.StatusOK, "confirm", map[string]any{
				"Question": operator.Question(strings.ReplaceAll(question, "%s", of)), "Verb": verb, "Action": string(ctx.Path()), "CSRF": string(form.Peek("csrf")), "Back": back,
			})
		}
		if err := change(limit, of); err != nil {
			return err
		}
		seeOther(ctx, back)
		return nil
	}
}

func (a *app) retryOne(limit context.Context, id string) error {
	return a.tasks.RetryTask(limit, id)
}

func (a *app) cancelOne(limit context.Context, id string) error {
	state, err := a.tasks.CancelTask(limit, id)
	if err == nil && state == "" {
		return newProblem(fasthttp.StatusConflict, "job_ended", "%s has ended meanwhile: there is nothing left to cancel", id)
	}
	return err
}

func (a *app) turnOne(pause bool) func(context.Context, string) error {
	return func(limit context.Context, queue string) error {
		_, err := a.turn(limit, queue, pause)
		return err
	}
}

// actionsOf are what can be done with a job.
func actionsOf(s tasks.Status, csrf, back string) []operator.Action {
	path := jobsPath + "/" + url.PathEscape(s.ID)
	switch {
	case s.State == tasks.Dead:
		return []operator.Action{{Action: path + "/retry", Verb: "Retry", Of: s.ID, Question: "Retry " + s.ID + "? It begins anew, with all its attempts.", CSRF: csrf, Back: back}}
	case !s.State.Terminal() && s.State != tasks.Cancelling:
		return []operator.Action{{Action: path + "/cancel", Verb: "Cancel", Of: s.ID, Question: "Cancel " + s.ID + "? That is for good.", CSRF: csrf, Back: back, Danger: true}}
	}
	return nil
}
