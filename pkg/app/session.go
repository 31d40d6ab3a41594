package app

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// The operator's browser bears a session instead of the token: `<end, unix seconds>.<random>.<mac>`. Whoever has the token can make and check
// one, so every worker knows the sessions of all others; another token ends them all.

const (
	sessionCookie = "operator"
	sessionTime   = 12 * time.Hour
)

// seal is a MAC that only the token's owner can make, one kind for each use.
func (a *app) seal(use, text string) string {
	mac := hmac.New(sha256.New, []byte(a.config.AdminToken))
	mac.Write([]byte(use + "\x00" + text))
	return hex.EncodeToString(mac.Sum(nil))
}

func (a *app) sealed(use, text, seal string) bool {
	return hmac.Equal([]byte(a.seal(use, text)), []byte(seal))
}

// session returns what the request's session is, "" without one that holds.
func (a *app) session(ctx *fasthttp.RequestCtx) string {
	value := string(ctx.Request.Header.Cookie(sessionCookie))
	text, seal, _ := cutLast(value, ".")
	end, _, _ := strings.Cut(text, ".")
	until, err := strconv.ParseInt(end, 10, 64)
	if a.config.AdminToken == "" || err != nil || time.Now().Unix() > until || !a.sealed("session", text, seal) {
		return ""
	}
	return value
}

func cutLast(s, separator string) (before, after string, found bool) {
	at := strings.LastIndex(s, separator)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(separator):], true
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
		end := time.Now().Add(sessionTime)
		text := strconv.FormatInt(end.Unix(), 10) + "." + rand.Text()
		cookie.SetValue(text + "." + a.seal("session", text))
		cookie.SetExpire(end)
	}
	ctx.Response.Header.SetCookie(&cookie)
}

// sameSite reports whether a POST comes from a page of ours, as far as browsers tell.
func sameSite(ctx *fasthttp.RequestCtx) bool {
	from := string(ctx.Request.Header.Peek("Sec-Fetch-Site"))
	return from == "" || from == "same-origin" || from == "none"
}
