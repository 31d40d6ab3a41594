package app

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

// request makes the context of a request from a peer; header lines stand in the order in which they came.
func requestFrom(t *testing.T, peer net.Addr, lines ...string) *fasthttp.RequestCtx {
	t.Helper()
	var req fasthttp.Request
	text := "GET / HTTP/1.1\r\nHost: own.example\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
	if err := req.Read(bufio.NewReader(strings.NewReader(text))); err != nil {
		t.Fatal(err)
	}
	var ctx fasthttp.RequestCtx
	ctx.Init(&req, peer, nil)
	return &ctx
}

func tcp(addr string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	return a
}

func TestRemoteBehindProxies(t *testing.T) {
	socket := &net.UnixAddr{Name: "@", Net: "unix"}
	for _, test := range []struct {
		name, trusted string
		peer          net.Addr
		headers       string // lines, joined by |
		want          string
	}{
		{"off by default", "", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1", "10.0.0.1:5"},
		{"a proxy", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		{"not a proxy", "10.0.0.0/8", tcp("11.0.0.1:5"), "X-Forwarded-For: 192.0.2.1", "11.0.0.1:5"},
		{"a proxy that says nothing", "10.0.0.0/8", tcp("10.0.0.1:5"), "", "10.0.0.1"},
		{"a chain of proxies", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1, 10.0.0.3,10.0.0.2", "192.0.2.1"},
		{"a spoofed address left of the client's", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 127.0.0.1, 10.9.9.9, 192.0.2.1, 10.0.0.2", "192.0.2.1"},
		{"only proxies", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"two lines are one list", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 1.1.1.1, 192.0.2.1|X-Forwarded-For: 10.0.0.2", "192.0.2.1"},
		{"a spoofed line before the proxy's", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		{"lower case", "10.0.0.0/8", tcp("10.0.0.1:5"), "x-forwarded-for: 192.0.2.1", "192.0.2.1"},

		{"IPv6", "2001:db8::/32, 10.0.0.0/8", tcp("[2001:db8::1]:5"), "X-Forwarded-For: 2001:db9::7, 10.0.0.2, 2001:db8::2", "2001:db9::7"},
		{"IPv6 written differently", "2001:db8::/32", tcp("[2001:db8::1]:5"), "X-Forwarded-For: 2001:0DB9:0:0::7", "2001:db9::7"},
		{"IPv6 with a port", "2001:db8::/32", tcp("[2001:db8::1]:5"), "X-Forwarded-For: [2001:db9::7]:443", "2001:db9::7"},
		{"IPv6 in brackets", "2001:db8::/32", tcp("[2001:db8::1]:5"), "X-Forwarded-For: [2001:db9::7]", "2001:db9::7"},
		{"IPv4 with a port", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1:1234", "192.0.2.1"},
		{"an IPv4 peer on an IPv6 socket", "10.0.0.0/8", tcp("[::ffff:10.0.0.1]:5"), "X-Forwarded-For: ::ffff:192.0.2.1", "192.0.2.1"},
		{"a mapped proxy", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1"},
		{"a peer with a zone", "fe80::/10", tcp("[fe80::1%lo]:5"), "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},

		{"unix, not trusted", "10.0.0.0/8", socket, "X-Forwarded-For: 192.0.2.1", "@"},
		{"unix, trusted", "unix", socket, "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		{"unix, trusted, says nothing", "unix", socket, "", "@"},
		{"unix before another proxy", "unix 10.0.0.0/8", socket, "X-Forwarded-For: 9.9.9.9, 192.0.2.1, 10.0.0.2", "192.0.2.1"},
		{"unix as a word in the header", "unix", socket, "X-Forwarded-For: 192.0.2.1, unix", "@"},

		{"empty", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For:", "10.0.0.1"},
		{"only commas", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: ,,,", "10.0.0.1"},
		{"unknown", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1, unknown", "10.0.0.1"},
		{"garbage left of a proxy", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1, <script>, 10.0.0.2", "10.0.0.2"},
		{"garbage left of the client", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: <script>, 192.0.2.1", "192.0.2.1"},
		{"a name", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: localhost", "10.0.0.1"},
		{"a number", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 3221225985", "10.0.0.1"},
		{"leading zeros", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.02.1", "10.0.0.1"},
		{"a zone", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: fe80::1%eth0", "10.0.0.1"},
		{"a long one", "10.0.0.0/8", tcp("10.0.0.1:5"), "X-Forwarded-For: 192.0.2.1" + strings.Repeat(", 10.0.0.2", 300), "192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParseProxies(test.trusted)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			if test.headers != "" {
				lines = strings.Split(test.headers, "|")
			}
			if got := p.remote(requestFrom(t, test.peer, lines...)); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestBaseBehindProxies(t *testing.T) {
	proxies, err := ParseProxies("10.0.0.0/8,unix")
	if err != nil {
		t.Fatal(err)
	}
	proxy, stranger := tcp("10.0.0.1:5"), tcp("11.0.0.1:5")
	for _, test := range []struct {
		proxies *Proxies
		peer    net.Addr
		headers string
		want    string
	}{
		{nil, proxy, "X-Forwarded-Proto: https|X-Forwarded-Host: evil.example", "http://own.example"},
		{proxies, stranger, "X-Forwarded-Proto: https|X-Forwarded-Host: evil.example", "http://own.example"},
		{proxies, proxy, "X-Forwarded-Proto: https|X-Forwarded-Host: outside.example:8443", "https://outside.example:8443"},
		{proxies, &net.UnixAddr{Name: "@", Net: "unix"}, "X-Forwarded-Proto: HTTPS", "https://own.example"},
		{proxies, proxy, "X-Forwarded-Host: [2001:db8::1]:80", "http://[2001:db8::1]:80"},
		{proxies, proxy, "X-Forwarded-Proto: https, http|X-Forwarded-Host: evil.example, outside.example", "http://outside.example"},
		{proxies, proxy, "X-Forwarded-Host: evil.example|X-Forwarded-Host: outside.example", "http://outside.example"},
		{proxies, proxy, "X-Forwarded-Proto: javascript|X-Forwarded-Host: a/b?c#d", "http://own.example"},
		{proxies, proxy, "X-Forwarded-Proto:|X-Forwarded-Host:", "http://own.example"},
		{proxies, proxy, "X-Forwarded-Host: user@evil.example", "http://own.example"},
		{proxies, proxy, "X-Forwarded-Host: " + strings.Repeat("x", 256), "http://own.example"},
	} {
		if got := test.proxies.base(requestFrom(t, test.peer, strings.Split(test.headers, "|")...)); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

func TestListsOfProxies(t *testing.T) {
	for list, want := range map[string]string{
		"10.0.0.1/8":        "has bits beyond its mask; write 10.0.0.0/8",
		"10.0.0.0/33":       `"10.0.0.0/33" is not a network`,
		"proxy.example":     `"proxy.example" is not a network, an address or "unix"`,
		"10.0.0.0/8;::1":    "is not a network",
		"::ffff:10.0.0.0/8": "write it as an IPv4 network",
		"*":                 "write 0.0.0.0/0,::/0",
	} {
		if _, err := ParseProxies(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", list, err)
		}
	}
	for _, list := range []string{"", " , ", "127.0.0.1", "::1,fe80::/10,unix", "0.0.0.0/0,::/0"} {
		if p, err := ParseProxies(list); err != nil || (p == nil) != (strings.Trim(list, " ,") == "") {
			t.Errorf("%q: %v, %v", list, p, err)
		}
	}
}

// The whole way, over a unix socket: from the variable to what the app shows.
func TestAppBehindAProxy(t *testing.T) {
	config, err := ConfigFromEnv(env("APP_TRUSTED_PROXIES", "unix"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := newApp(config, Standalone(), nil, zap.NewNop()).server()
	go server.Serve(ln)
	t.Cleanup(func() { server.Shutdown() })
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outside.example\r\n\r\n"))
	var resp fasthttp.Response
	if err := resp.Read(bufio.NewReader(conn)); err != nil {
		t.Fatal(err)
	}
	if body := string(resp.Body()); !strings.Contains(body, `"client":"192.0.2.1"`) || !strings.Contains(body, "https://outside.example/images") {
		t.Errorf("%s", body)
	}
}
