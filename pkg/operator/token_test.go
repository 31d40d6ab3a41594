package operator

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const token Token = "0123456789abcdef0123456789abcdef"

func TestASessionHoldsForItsTimeAndItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, end := token.NewSession()
		if !token.IsSession(session) || strings.Contains(session, string(token)) || time.Until(end) != SessionTime {
			t.Fatalf("%q until %v", session, end)
		}
		other, _ := token.NewSession()
		if form := token.Form(session); !token.IsForm(session, form) || token.IsForm(other, form) || token.IsForm(session, form[1:]) || token.IsForm(session, "") {
			t.Error("a form is not its session's alone")
		}
		if token[1:].IsSession(session) || Token("").IsSession(session) || Token("").IsForm(session, Token("").Form(session)) {
			t.Error("another token, or none, knows the session")
		}
		for _, bad := range []string{"", ".", "..", session[1:], session[:len(session)-1], "9" + session, strings.Replace(session, ".", "0.", 1), token.Form(session)} {
			if token.IsSession(bad) {
				t.Errorf("%q is one", bad)
			}
		}
		time.Sleep(SessionTime + 2*time.Second)
		if token.IsSession(session) {
			t.Error("it does not end")
		}
	})
}

func TestTheTokenIsNothingElse(t *testing.T) {
	for given, want := range map[string]bool{
		"Bearer " + string(token): true, "bearer  " + string(token): true, "": false, "Bearer": false, "Bearer ": false,
		"Bearer " + string(token[1:]): false, "Bearer " + string(token) + "0": false, "Basic " + string(token): false, string(token): false,
	} {
		if token.Bearer(given) != want {
			t.Errorf("%q: not %v", given, want)
		}
	}
	if none := Token(""); none.Is("") || none.Bearer("Bearer ") {
		t.Error("no token is one")
	}
	if _, err := ParseToken("hunter2"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %s", token, struct{ T Token }{token}, token); strings.Contains(text, "0123") {
		t.Error(text)
	}
}
