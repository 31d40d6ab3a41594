package loadtest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Kind is a sort of client.
type Kind int

const (
	KeepAlive Kind = iota // one connection, the next request right after the answer
	Paused                // one connection, a random pause after each answer
	OneShot               // one connection per request
	Pipelined             // one connection, Depth requests at a time, then a pause now and then
	Standard              // net/http's client, where a hidden retry is found out
	kinds
)

func (k Kind) String() string {
	return [kinds]string{"keep-alive", "paused", "one-shot", "pipelined", "net/http"}[k]
}

// Depth is how many requests a pipelining client sends before it reads the first answer.
const Depth = 4

// Mix says how many clients of each kind run at the same time.
type Mix struct {
	KeepAlive, Paused, OneShot, Pipelined, Standard int
}

func (m Mix) counts() [kinds]int {
	return [kinds]int{m.KeepAlive, m.Paused, m.OneShot, m.Pipelined, m.Standard}
}

// Check is how much of an answer is compared.
type Check int

const (
	CheckEcho   Check = iota // status, nonce, and the body of a POST, byte by byte
	CheckStatus              // status 200 and a well-formed answer: for servers that do not speak the echo contract
)

// Limits on every run: a typo must not become an attack on one's own machine.
const (
	maxClients  = 10_000
	maxDuration = time.Hour
)

// Plan is what a run does. The zero value of a field means its default; Target, Mix, and one of Requests and Duration are needed.
type Plan struct {
	// Target is host:port on this machine, unix:/path, or a URL of such a host, whose path is then Path.
	Target string
	Path   string // default /debug/echo
	Mix    Mix

	Requests int64         // stop after so many requests were sent, right or wrong; 0: Duration alone decides
	Duration time.Duration // stop after this long; default with Requests: 10 minutes

	Timeout  time.Duration // for one request, connect included; default 10 s
	MaxPause time.Duration // of a paused client; most pauses are below a tenth of it; default 200 ms

	Check     Check
	GetOnly   bool // send no POST
	MaxBody   int  // default 64 KiB; pipelined requests stay below a quarter of it, see client.bodySize
	LargeBody int  // one POST in 256 is this large; default 300,000; negative: none

	WorkerHeader string // answer header that names the worker; default X-Worker
	NonceHeader  string // answer header that repeats the nonce; default X-Nonce
	Seed         uint64 // of sizes and pauses; 0: another one each time
}

// endpoint is a parsed Target.
type endpoint struct {
	network, address, path string
}

// parseTarget refuses whatever is not on this machine.
func parseTarget(target string) (endpoint, error) {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		if path == "" {
			return endpoint{}, errors.New("target unix: without a path")
		}
		return endpoint{network: "unix", address: path}, nil
	}
	var path string
	if strings.Contains(target, "://") {
		u, err := url.Parse(target)
		if err != nil {
			return endpoint{}, fmt.Errorf("target: %w", err)
		}
		if u.Scheme != "http" {
			return endpoint{}, fmt.Errorf("target %q: only http", target)
		}
		target, path = u.Host, u.RequestURI()
		if u.Path == "" {
			path = ""
		}
		if u.Port() == "" {
			target = net.JoinHostPort(u.Hostname(), "80")
		}
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return endpoint{}, fmt.Errorf("target %q: %w", target, err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return endpoint{}, fmt.Errorf("target %q: only 127.0.0.1, [::1], localhost and unix:/path are targets", target)
	}
	return endpoint{network: "tcp", address: net.JoinHostPort(ip.String(), port), path: path}, nil
}

// complete returns the plan with its defaults, and where it leads.
func (p Plan) complete() (Plan, endpoint, error) {
	to, err := parseTarget(p.Target)
	if err != nil {
		return p, to, err
	}
	clients := 0
	for kind, n := range p.Mix.counts() {
		if n < 0 {
			return p, to, fmt.Errorf("mix: %d %s clients", n, Kind(kind))
		}
		clients += n
	}
	switch {
	case clients == 0:
		return p, to, errors.New("mix: no client")
	case clients > maxClients:
		return p, to, fmt.Errorf("mix: %d clients, at most %d", clients, maxClients)
	case p.Requests <= 0 && p.Duration <= 0:
		return p, to, errors.New("a run needs an end: requests or a duration")
	case p.Duration > maxDuration:
		return p, to, fmt.Errorf("duration %v, at most %v", p.Duration, maxDuration)
	}
	fallback(&p.Path, to.path)
	fallback(&p.Path, "/debug/echo")
	fallback(&p.Duration, 10*time.Minute)
	fallback(&p.Timeout, 10*time.Second)
	fallback(&p.MaxPause, 200*time.Millisecond)
	fallback(&p.MaxBody, 64<<10)
	fallback(&p.LargeBody, 300_000)
	fallback(&p.WorkerHeader, "X-Worker")
	fallback(&p.NonceHeader, "X-Nonce")
	return p, to, nil
}

// fallback sets *value to other if it is zero.
func fallback[T comparable](value *T, other T) {
	var zero T
	if *value == zero {
		*value = other
	}
}
