package app

import (
	"fmt"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/operator"
)

// The operator's token, APP_ADMIN_TOKEN. A request that bears it may do what strangers may not: Authorization: Bearer TOKEN.

func adminToken(getenv func(string) string) (operator.Token, error) {
	token, err := operator.ParseToken(getenv("APP_ADMIN_TOKEN"))
	if err != nil {
		return "", fmt.Errorf("APP_ADMIN_TOKEN %w", err)
	}
	return token, nil
}

// byAdmin reports whether a request bears the token. A token that is wrong is an error, and not taken for none.
func (a *app) byAdmin(ctx *fasthttp.RequestCtx) (bool, error) {
	header := ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)
	if len(header) == 0 {
		return false, nil
	}
	if !a.config.AdminToken.Bearer(string(header)) {
		return false, unauthorized(ctx, "this is not the token of APP_ADMIN_TOKEN")
	}
	return true, nil
}

// onlyAdmin says why a request does not get what is the operator's, nil if it does.
func (a *app) onlyAdmin(ctx *fasthttp.RequestCtx) error {
	if a.config.AdminToken == "" {
		return newProblem(fasthttp.StatusForbidden, "admin_off", "this is for the operator, and there is no token yet: set APP_ADMIN_TOKEN")
	}
	by, err := a.byAdmin(ctx)
	if err == nil && !by {
		err = unauthorized(ctx, "this is for the operator: send Authorization: Bearer, and the token of APP_ADMIN_TOKEN")
	}
	return err
}

// adminOnly runs a handler for who bears the token.
func (a *app) adminOnly(h func(*fasthttp.RequestCtx) error) func(*fasthttp.RequestCtx) error {
	return func(ctx *fasthttp.RequestCtx) error {
		if err := a.onlyAdmin(ctx); err != nil {
			return err
		}
		return h(ctx)
	}
}

func unauthorized(ctx *fasthttp.RequestCtx, message string) *problem {
	ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="app"`)
	return newProblem(fasthttp.StatusUnauthorized, "unauthorized", "%s", message)
}
