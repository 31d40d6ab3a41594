package app

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"

	"github.com/valyala/fasthttp"
)

// The operator's token, APP_ADMIN_TOKEN. A request that bears it may do what strangers may not: Authorization: Bearer TOKEN.

// leastToken is what no one guesses by trying: 16 random bytes have 32 hexadecimal digits.
const leastToken = 16

func adminToken(getenv func(string) string) (string, error) {
	token := getenv("APP_ADMIN_TOKEN")
	if token != "" && len(token) < leastToken {
		return "", errors.New("APP_ADMIN_TOKEN is too short: want at least 16 characters, as from openssl rand -hex 32")
	}
	return token, nil
}

// byAdmin reports whether a request bears the token. A token that is wrong is an error, and not taken for none.
func (a *app) byAdmin(ctx *fasthttp.RequestCtx) (bool, error) {
	header := ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)
	if len(header) == 0 {
		return false, nil
	}
	kind, token, _ := bytes.Cut(header, []byte(" "))
	if !bytes.EqualFold(kind, []byte("Bearer")) || !a.isToken(bytes.TrimSpace(token)) {
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

// isToken compares the token's sums, which have one length: the time that it takes tells nothing about the token.
func (a *app) isToken(given []byte) bool {
	one, other := sha256.Sum256(given), sha256.Sum256([]byte(a.config.AdminToken))
	return a.config.AdminToken != "" && subtle.ConstantTimeCompare(one[:], other[:]) == 1
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
