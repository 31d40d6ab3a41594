package app

import (
	"strings"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/operator"
)

// sessionCookie bears the session of the operator's browser: operator.Token.
const sessionCookie = "operator"

// session returns what the request's session is, "" without one that holds.
func (a *app) session(ctx *fasthttp.RequestCtx) string {
	value := string(ctx.Request.Header.Cookie(sessionCookie))
	if !a.config.AdminToken.IsSession(value) {
		return ""
	}
	return value
}

// setSession gives the browser a session; it takes it away if in is false.
func (a *app) setSession(ctx *fasthttp.RequestCtx, in bool) {
	var cookie fasthttp.Cookie
	cookie.SetKey(sessionCookie)
	cookie.SetPath("/admin")
	cookie.SetHTTPOnly(true)
	cookie.SetSameSite(fasthttp.CookieSameSiteStrictMode)
	cookie.SetSecure(strings.HasPrefix(a.config.Proxies.base(ctx), "https:"))
	cookie.SetExpire(fasthttp.CookieExpireDelete)
	if in {
		session, end := a.config.AdminToken.NewSession()
		cookie.SetValue(session)
		cookie.SetExpire(end)
	}
	ctx.Response.Header.SetCookie(&cookie)
}

// sameSite reports whether a POST comes from a page of ours, as far as browsers tell.
func sameSite(ctx *fasthttp.RequestCtx) bool {
	return operator.SameSite(string(ctx.Request.Header.Peek("Sec-Fetch-Site")))
}
