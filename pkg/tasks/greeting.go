package tasks

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"

	"github.com/redis/rueidis"
)

// A server without a free connection, or in protected mode, says so before it is asked, and hangs up. The library reports only that it hung
// up, so the first bytes of each connection are looked at here.

// dialAndHear makes connections as settings say.
func dialAndHear(settings rueidis.ClientOption) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	own := settings.DialCtxFn // the parser's, for unix sockets
	return func(ctx context.Context, address string, dialer *net.Dialer, secret *tls.Config) (conn net.Conn, err error) {
		switch {
		case own != nil:
			conn, err = own(ctx, address, dialer, secret)
		case secret != nil:
			conn, err = (&tls.Dialer{NetDialer: dialer, Config: secret}).DialContext(ctx, "tcp", address)
		default:
			conn, err = dialer.DialContext(ctx, "tcp", address)
		}
		if err != nil {
			return nil, err
		}
		return &greeted{Conn: conn}, nil
	}
}

type greeted struct {
	net.Conn
	heard bool // only used by the one that reads
}

var greetings = []string{"ERR max number of clients reached", "DENIED Redis is running in protected mode"}

func (g *greeted) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if !g.heard && n > 0 {
		g.heard = true
		for _, said := range greetings {
			if bytes.HasPrefix(b[:n], []byte("-"+said)) {
				return 0, turnedAway(said)
			}
		}
	}
	return n, err
}

// turnedAway is what a server said before it was asked.
type turnedAway string

func (said turnedAway) Error() string { return refusal(string(said)) + ": " + string(said) }
