package config

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAdminToken(t *testing.T) {
	const token, other = "0123456789abcdef", "fedcba9876543210"
	file := func(text string) string { return writeFile(t, "token", text) }
	good := file("\n " + token + "\n")
	for _, test := range []struct{ file, variable, want, fails string }{
		{"", "", "", ""},
		{good, "", token, ""},
		{"", token, token, ""},
		{good, other, other, ""}, // the environment wins over the file
		{file("hunter2"), "", "", "token: the token is too short: want at least 16"},
		{"", "hunter2", "", "environment SUPERVISOR_ADMIN_TOKEN: the token is too short"},
		{file(" \n"), "", "", "token: is empty: write a token"},
		{file(token + "\n" + other), "", "", "holds more than one line"},
		{"/nowhere/token", "", "", "supervisor.admin_token_file: /nowhere/token: no such file"},
		{t.TempDir(), "", "", "a directory; it must be a regular file"},
	} {
		text := "[pool.web]\ncommand = ['x']\n[supervisor]\nadmin_token_file = '" + test.file + "'"
		cfg, err := Load(Sources{File: writeFile(t, "c.toml", text), Env: map[string]string{"SUPERVISOR_ADMIN_TOKEN": test.variable}})
		switch {
		case test.fails != "":
			if err == nil || !strings.Contains(err.Error(), test.fails) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), token) {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		case err != nil || string(cfg.AdminToken) != test.want:
			t.Errorf("%+v: %q, %v", test, string(cfg.AdminToken), err)
			continue
		}
		out := printed(t, cfg)
		if kept, err := json.Marshal(cfg); err != nil || strings.Contains(string(kept), "AdminToken\"") {
			t.Errorf("%s, %v", kept, err)
		}
		if test.want != "" && strings.Contains(out, test.want) || test.variable != "" && !strings.Contains(out, ", the token is in SUPERVISOR_ADMIN_TOKEN\n") {
			t.Errorf("%+v:\n%s", test, out)
		}
	}
	_, err := Load(Sources{Args: []string{"x"}, Env: map[string]string{"SUPERVISOR_ADMIN_TOKEN": token, "SUPERVISOR_ADMIN_TOKEN_FILE": good}})
	if err == nil || !strings.Contains(err.Error(), "SUPERVISOR_ADMIN_TOKEN_FILE is set as well") {
		t.Error(err)
	}
}
