package app

import (
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

const testToken = "0123456789abcdef0123456789abcdef"

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func TestOnlyTheTokenOpensWhatIsTheOperators(t *testing.T) {
	a := serve(t, Config{AdminToken: testToken}).app
	ask := func(a *app, authorization string) (status int, challenge string) {
		ctx := &fasthttp.RequestCtx{}
		if authorization != "" {
			ctx.Request.Header.Set("Authorization", authorization)
		}
		a.answering(a.adminOnly(a.live))(ctx)
		return ctx.Response.StatusCode(), string(ctx.Response.Header.Peek("WWW-Authenticate"))
	}
	for authorization, want := range map[string]int{
		"Bearer " + testToken: 200, "bearer  " + testToken: 200,
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer " + testToken[1:]: 401, "Bearer " + testToken + "0": 401,
		"Basic " + testToken: 401, testToken: 401,
	} {
		if status, challenge := ask(a, authorization); status != want || (want == 401) != (challenge == `Bearer realm="app"`) {
			t.Errorf("%q: %d, challenge %q, want %d", authorization, status, challenge, want)
		}
	}
	open := serve(t, Config{}).app
	for authorization, want := range map[string]int{"": 403, "Bearer ": 403, "Bearer " + testToken: 403} {
		if status, _ := ask(open, authorization); status != want {
			t.Errorf("without APP_ADMIN_TOKEN %q: %d, want %d", authorization, status, want)
		}
	}
}

func TestAdminTokenHasALength(t *testing.T) {
	if c, err := ConfigFromEnv(env("APP_ADMIN_TOKEN", testToken)); err != nil || c.AdminToken != testToken {
		t.Errorf("%v", err)
	}
	_, err := ConfigFromEnv(env("APP_ADMIN_TOKEN", "hunter2"))
	if err == nil || !strings.Contains(err.Error(), "APP_ADMIN_TOKEN") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}
