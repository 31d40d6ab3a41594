package app

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"
)

// The way into the operator's pages.

// operatorPage runs a page for who has a session; the others may log in.
func (a *app) operatorPage(page func(*fasthttp.RequestCtx, context.Context) error) func(*fasthttp.RequestCtx) error {
	return func(ctx *fasthttp.RequestCtx) error {
		if a.session(ctx) == "" {
			return a.loginPage(ctx, fasthttp.StatusUnauthorized, "")
		}
		if a.tasks == nil {
			return renderAdmin(ctx, fasthttp.StatusServiceUnavailable, "login", map[string]any{"Problem": a.tasksOff().message})
		}
		limit, cancel := askingTime(ctx)
		defer cancel()
		id, _ := ctx.UserValue("id").(string)
		err := a.taskProblem(id, a.tasks.note(page(ctx, limit)))
		var p *problem
		if errors.As(err, &p) {
			ctx.Response.ResetBody()
			return renderAdmin(ctx, p.status, "job", map[string]any{"Problem": p.message, "Back": jobsPath})
		}
		return err
	}
}

func (a *app) loginPage(ctx *fasthttp.RequestCtx, status int, problem string) error {
	if a.config.AdminToken == "" {
		status, problem = fasthttp.StatusForbidden, "There is no operator's token yet: set APP_ADMIN_TOKEN on the server, at least 16 characters, as from openssl rand -hex 32."
	}
	back := jobsPath
	if ctx.IsGet() {
		back = ownPath(string(ctx.RequestURI()))
	}
	return renderAdmin(ctx, status, "login", map[string]any{"Title": "Jobs · log in", "Problem": problem, "Open": a.config.AdminToken != "", "Back": back, "Login": "/admin/login"})
}

// ownPath keeps a way back within these pages.
func ownPath(path string) string {
	if u, err := url.Parse(path); err == nil && u.Host == "" && u.Scheme == "" && (u.Path == jobsPath || strings.HasPrefix(u.Path, jobsPath+"/")) {
		return u.RequestURI()
	}
	return jobsPath
}

func (a *app) login(ctx *fasthttp.RequestCtx) error {
	if !sameSite(ctx) || !a.config.AdminToken.Is(string(ctx.PostArgs().Peek("token"))) {
		return a.loginPage(ctx, fasthttp.StatusUnauthorized, "This is not the token.")
	}
	a.setSession(ctx, true)
	seeOther(ctx, ownPath(string(ctx.PostArgs().Peek("back"))))
	return nil
}

func (a *app) logout(ctx *fasthttp.RequestCtx) error {
	if session := a.session(ctx); session != "" && a.config.AdminToken.IsForm(session, string(ctx.PostArgs().Peek("csrf"))) {
		a.setSession(ctx, false)
	}
	seeOther(ctx, jobsPath)
	return nil
}
