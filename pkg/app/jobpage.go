package app

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// One job's page.

// jobPage is GET /admin/jobs/{id}.
func (a *app) jobPage(ctx *fasthttp.RequestCtx, limit context.Context) error {
	id := ctx.UserValue("id").(string)
	detail, err := a.tasks.Inspector().Job(limit, id, shownPayload)
	if err != nil {
		return err
	}
	back := jobsPath + "?" + url.Values{"queue": {detail.Queue}, "state": {string(listOf(detail.State))}}.Encode()
	facts := Facts(detail, func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" })
	for i, f := range facts {
		facts[i].Name = strings.ToUpper(f.Name[:1]) + f.Name[1:]
	}
	return renderAdmin(ctx, fasthttp.StatusOK, "job", map[string]any{
		"Title": id, "Job": DescribeDetail(detail), "Error": detail.Error, "Facts": facts, "Back": back, "Shown": len(detail.Data),
		"Actions": actionsOf(detail.Status, a.config.AdminToken.Form(a.session(ctx)), ownPath(string(ctx.Path()))),
	})
}

// listOf is the list that a job of this state is in.
func listOf(state tasks.State) tasks.State {
	switch state {
	case tasks.Retrying:
		return tasks.Scheduled
	case tasks.Cancelling:
		return tasks.Running
	}
	return state
}
