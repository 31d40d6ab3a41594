package config

import (
	"net"
	"strings"
	"testing"
)

func TestControlPath(t *testing.T) {
	for _, test := range []struct{ control, env, want string }{
		{"", "", ""},
		{"", "RUNTIME_DIRECTORY=/run/app XDG_RUNTIME_DIR=/run/user/0", "/run/app/supervisor.sock"},
		{"", "RUNTIME_DIRECTORY=/run/app:/run/other", "/run/app/supervisor.sock"},
		{"", "XDG_RUNTIME_DIR=/run/user/0", "/run/user/0/supervisor.sock"},
		{"", "XDG_RUNTIME_DIR=relative", ""},
		{"off", "XDG_RUNTIME_DIR=/run/user/0", ""},
		{"/x/y", "XDG_RUNTIME_DIR=/run/user/0", "/x/y"},
	} {
		env := Environment(strings.Fields(test.env))
		c := &Config{Control: test.control}
		if got := c.ControlPath(func(name string) string { return env[name] }); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

func TestPrintedConfigTellsTheDefaultControlSocket(t *testing.T) {
	var out strings.Builder
	cfg := mustLoad(t, Sources{Args: []string{"x"}, Env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}})
	cfg.Print(&out)
	if !strings.Contains(out.String(), "# default, /run/user/7/supervisor.sock\n") {
		t.Error(out.String())
	}
}

// A client finds the daemon also through a file that a reload would refuse: it wants to be told so by the daemon.
func TestListenersOfABrokenFile(t *testing.T) {
	file := writeFile(t, "c.toml", "[supervisor]\ncontrol = '/x/y'\nadmin = ':9'\nfoo = 1\n[pool.web]\nworkers = 0")
	cfg, err := Listeners(Sources{File: file})
	if err != nil || cfg.Control != "/x/y" || cfg.Admin.Address != ":9" {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = Listeners(Sources{File: file, Env: map[string]string{"SUPERVISOR_CONTROL": "/z", "SUPERVISOR_LOGLEVEL": "loud"}})
	if err != nil || cfg.Control != "/z" {
		t.Errorf("%+v, %v", cfg, err)
	}
	for text, want := range map[string]string{
		"[supervisor]\ncontrol = 5\n[pool.web]": "c.toml:2: supervisor.control: 5 is not a text",
		"[supervisor":                           "c.toml:1: ",
		"[supervisor]\n":                        "has no pool",
	} {
		if _, err := Listeners(Sources{File: writeFile(t, "c.toml", text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Listeners(Sources{File: "/nowhere.toml"}); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestCheckLooksWhetherAdminCanBeBound(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := mustLoad(t, Sources{Args: []string{"/bin/true"}, Env: map[string]string{"SUPERVISOR_ADMIN": ln.Addr().String()}})
	_, err = cfg.Check()
	if err == nil || !strings.Contains(err.Error(), "supervisor.admin: \""+ln.Addr().String()) || !err.(*Error).Bind() {
		t.Errorf("%v", err)
	}
}
