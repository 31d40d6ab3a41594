package config

import (
	"strings"
	"testing"
)

func TestBindsAreReadAndWritten(t *testing.T) {
	tests := []struct {
		in   string
		want Bind
		out  string
	}{
		{":8080", Bind{Network: "tcp", Address: ":8080"}, ":8080"},
		{"127.0.0.1:80", Bind{Network: "tcp", Address: "127.0.0.1:80"}, "127.0.0.1:80"},
		{"localhost:080", Bind{Network: "tcp", Address: "localhost:80"}, "localhost:80"},
		{"[::1]:80", Bind{Network: "tcp", Address: "[::1]:80"}, "[::1]:80"},
		{"[0:0::1]:80", Bind{Network: "tcp", Address: "[::1]:80"}, "[::1]:80"},
		{"[::]:80", Bind{Network: "tcp", Address: "[::]:80"}, "[::]:80"},
		{"[fe80::1%eth0]:80", Bind{Network: "tcp", Address: "[fe80::1%eth0]:80"}, "[fe80::1%eth0]:80"},
		{"0.0.0.0:80", Bind{Network: "tcp4", Address: "0.0.0.0:80"}, "tcp4:0.0.0.0:80"},
		{"tcp4::80", Bind{Network: "tcp4", Address: ":80"}, "tcp4::80"},
		{"tcp6:[::1]:80", Bind{Network: "tcp6", Address: "[::1]:80"}, "tcp6:[::1]:80"},
		{"tcp:host:80", Bind{Network: "tcp", Address: "host:80"}, "host:80"},
		{"tcp:80", Bind{Network: "tcp", Address: "tcp:80"}, "tcp:tcp:80"},
		{":0", Bind{Network: "tcp", Address: ":0"}, ":0"},
		{"web_1-a=:80", Bind{Name: "web_1-a", Network: "tcp", Address: ":80"}, "web_1-a=:80"},
		{"unix:/run/a.sock", Bind{Network: "unix", Address: "/run/a.sock", Mode: 0o600}, "unix:/run/a.sock"},
		{"unix:/run//x/../a.sock?", Bind{Network: "unix", Address: "/run/a.sock", Mode: 0o600}, "unix:/run/a.sock"},
		{
			"s=unix:/run/a=b?mode=660&user=www-data&group=adm",
			Bind{Name: "s", Network: "unix", Address: "/run/a=b", Mode: 0o660, User: "www-data", Group: "adm"},
			"s=unix:/run/a=b?group=adm&mode=0660&user=www-data",
		},
		{"systemd:web", Bind{Network: "systemd", Address: "web"}, "systemd:web"},
		{"a=systemd:web.socket", Bind{Name: "a", Network: "systemd", Address: "web.socket"}, "a=systemd:web.socket"},
	}
	for _, test := range tests {
		got, err := parseBind(test.in)
		if err != nil || got != test.want || got.String() != test.out {
			t.Errorf("%s: got %+v %q, %v, want %+v %q", test.in, got, got, err, test.want, test.out)
		}
		if again, err := parseBind(test.out); again != test.want || err != nil {
			t.Errorf("%s: read again gives %+v, %v", test.out, again, err)
		}
	}
}

func TestBadBindsSayWhatIsRight(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `has no port; write ":8080"`},
		{"8080", `write ":8080"`},
		{"localhost", `has no port`},
		{"localhost:http", `the port "http" is not a number from 0 to 65535`},
		{":65536", `the port "65536"`},
		{":-1", `the port "-1"`},
		{":", `the port ""`},
		{"::1:80", `an IPv6 address stands in brackets`},
		{"[::1:80", `is not an address`},
		{"[::g]:80", `"::g" is not an IPv6 address`},
		{"a b:80", `"a b" is not a host`},
		{"http://x:80", `an IPv6 address stands in brackets`},
		{"/run/a.sock", `write "unix:/run/a.sock"`},
		{"tcp6:127.0.0.1:80", `tcp6: wants an IPv6 address`},
		{"tcp4:[::1]:80", `tcp4: wants an IPv4 address`},
		{"a b=:80", `the name "a b" must be of letters, digits, _ and -`},
		{"=:80", `the name "" must be`},
		{"unix:", `unix: wants a path`},
		{"unix:?mode=0600", `unix: wants a path`},
		{"unix:@x", `an abstract socket has no owner and no mode`},
		{"unix:/run/", `wants the path of a socket, not of a directory`},
		{"unix:/x?mode=0999", `mode "0999" is not an octal mode such as 0660`},
		{"unix:/x?mode=4755", `mode "4755" is not an octal mode`},
		{"unix:/x?mod=0600", `unknown option "mod"; did you mean mode?`},
		{"unix:/x?%zz", `the part after ? is not`},
		{"unix:/" + strings.Repeat("x", 107), `the path is 108 bytes long; a unix socket's has room for 107`},
		{"systemd:", `systemd: wants the FileDescriptorName`},
		{"systemd:a:b", `systemd: wants the FileDescriptorName`},
	}
	for _, test := range tests {
		if _, err := parseBind(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.in, err, test.want)
		}
	}
}

func TestOverlappingBinds(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{":80", ":80", true},
		{":80", ":81", false},
		{":0", ":0", false},
		{":80", "127.0.0.1:80", true},
		{":80", "[::1]:80", true},
		{":80", "tcp4::80", true},
		{"tcp4::80", "tcp6::80", false},
		{"0.0.0.0:80", "tcp6:[::]:80", false},
		{"0.0.0.0:80", "[::1]:80", false},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"[::]:80", "0.0.0.0:80", true},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"127.0.0.1:80", "tcp4:127.0.0.1:80", true},
		{"unix:/a", "unix:/a?mode=0666", true},
		{"unix:/a", "unix:/b", false},
		{"unix:/a", "systemd:/a", false},
		{"systemd:a", "systemd:a", true},
		{":80", "unix:/a", false},
	}
	for _, test := range tests {
		a, errA := parseBind(test.a)
		b, errB := parseBind(test.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.overlaps(b) != test.want || b.overlaps(a) != test.want {
			t.Errorf("%s and %s: want %v", a, b, test.want)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, s := range []string{":8080", "a=[::1]:80", "tcp4:x:1", "unix:/a?mode=0660&user=u&group=g", "systemd:x", "tcp:tcp4:1", "unix:/%41?user=%26"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := parseBind(s)
		if err != nil {
			return
		}
		again, err := parseBind(b.String())
		if err != nil || again != b {
			t.Errorf("%q is %+v, written %q, and that is %+v, %v", s, b, b, again, err)
		}
	})
}
