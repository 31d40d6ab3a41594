package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The shape of a status is a promise to programs: testdata/status.json shows every field. Names and kinds may only be added.
func TestStatusShape(t *testing.T) {
	golden, err := os.ReadFile("testdata/status.json")
	if err != nil {
		t.Fatal(err)
	}
	var st Status
	d := json.NewDecoder(bytes.NewReader(golden))
	d.DisallowUnknownFields()
	if err := d.Decode(&st); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", "  ")
	if e.Encode(st); out.String() != string(golden) {
		t.Errorf("testdata/status.json is read and written as\n%s", out.String())
	}
	zeroFields(t, "Status", reflect.ValueOf(st))
}

// zeroFields complains about fields that the golden file does not show.
func zeroFields(t *testing.T, name string, v reflect.Value) {
	switch {
	case v.IsZero():
		t.Errorf("testdata/status.json does not show %s", name)
	case v.Kind() == reflect.Pointer:
		zeroFields(t, name, v.Elem())
	case v.Kind() == reflect.Slice:
		zeroFields(t, name, v.Index(0))
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for i := range v.NumField() {
			zeroFields(t, name+"."+v.Type().Field(i).Name, v.Field(i))
		}
	}
}

func TestFind(t *testing.T) {
	for _, test := range []struct{ configured, env, path, how string }{
		{"", "", "", ""},
		{"/file", "SUPERVISOR_SOCKET=/env XDG_RUNTIME_DIR=/run/user/0", "/file", "x.toml"},
		{"", "SUPERVISOR_SOCKET=/env SUPERVISOR_CONTROL=/control XDG_RUNTIME_DIR=/run/user/0", "/env", "SUPERVISOR_SOCKET"},
		{"", "SUPERVISOR_SOCKET=unix:/env", "/env", "SUPERVISOR_SOCKET"},
		{"", "SUPERVISOR_CONTROL=/control XDG_RUNTIME_DIR=/run/user/0", "/control", "SUPERVISOR_CONTROL"},
		{"", "SUPERVISOR_CONTROL=off XDG_RUNTIME_DIR=/run/user/0", "/run/user/0/supervisor.sock", "the default"},
		{"", "RUNTIME_DIRECTORY=/run/a:/run/b XDG_RUNTIME_DIR=/run/user/0", "/run/a/supervisor.sock", "the default"},
	} {
		path, how := Find(test.configured, "x.toml", func(name string) string {
			for _, pair := range strings.Fields(test.env) {
				if value, ok := strings.CutPrefix(pair, name+"="); ok {
					return value
				}
			}
			return ""
		})
		if path != test.path || how != test.how {
			t.Errorf("%+v: %q from %q", test, path, how)
		}
	}
}

func TestSomethingElseOnTheSocket(t *testing.T) {
	for said, want := range map[string]string{
		"+OK redis\r\n": "malformed HTTP",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":        "is that a supervisor's socket?",
		"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi": "is that a supervisor's socket?",
		"": "EOF",
	} {
		path := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conn.Read(make([]byte, 4096))
				conn.Write([]byte(said))
				conn.Close()
			}
		}()
		if _, err := Dial(path).Status(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", said, err)
		}
		ln.Close()
	}
}

// A supervisor that is stopped accepts, in the kernel, and says nothing.
func TestSilenceEndsWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(path).Reload(ctx, Wait{true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestDialAdminGoesHomeForAnyAddress(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, address := range []string{":" + port, "0.0.0.0:" + port, "localhost:" + port} {
		met := make(chan bool)
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				conn.Close()
			}
			met <- err == nil
		}()
		DialAdmin(address).Health(context.Background(), PathLive)
		if !<-met {
			t.Errorf("%s leads elsewhere", address)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := FindProcess(cmd.Process.Pid)
	if p == nil || p.PID != cmd.Process.Pid || p.Start == 0 {
		t.Fatalf("%+v", p)
	}
	other := Process{p.PID, p.Start + 1} // another one had that pid
	if err := other.AwaitEnd(context.Background()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := p.AwaitEnd(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it lives, but %v", err)
	}
	cmd.Process.Kill()
	if err := p.AwaitEnd(context.Background()); err != nil {
		t.Error(err)
	}
	cmd.Wait()
	if p := FindProcess(cmd.Process.Pid); p != nil {
		t.Errorf("%+v", p)
	}
}
