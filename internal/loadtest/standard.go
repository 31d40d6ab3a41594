package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// newTransport is net/http's connection pool, with as many connections as there are clients, so that a request seldom has to
// wait for one and each is used again and again.
//
// net/http repeats a request in secret when its kept-alive connection turns out to be dead. A body without GetBody prevents it
// for POST; for GET the trace counts the connections that one request got.
func newTransport(l *Load) *http.Transport {
	n := max(l.plan.Mix.Standard, 1)
	return &http.Transport{
		MaxConnsPerHost:     n,
		MaxIdleConnsPerHost: n,
		DisableCompression:  true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: l.plan.Timeout}
			conn, err := dialer.DialContext(ctx, l.to.network, l.to.address)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: conn, load: l}, nil
		},
	}
}

// watchedConn counts the end of a connection that the server brought about. The transport itself closes one whose answer
// said "Connection: close", and reads from it no more.
type watchedConn struct {
	net.Conn
	load *Load
	over atomic.Bool // closed by us, or counted
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil && w.over.CompareAndSwap(false, true) {
		switch {
		case errors.Is(err, io.EOF):
			w.load.closed.Add(1)
		case errors.Is(err, syscall.ECONNRESET):
			w.load.reset.Add(1)
		}
	}
	return n, err
}

func (w *watchedConn) Close() error {
	w.over.Store(true)
	return w.Conn.Close()
}

// once hides everything but Read, so that net/http cannot rewind the body.
type once struct{ io.Reader }

// askStandard makes one request through net/http.
func (c *client) askStandard() {
	start := time.Now()
	x := &c.sent[0]
	c.out = c.out[:0]
	c.compose(x) // the request line and headers are net/http's own; the nonce and the body are ours
	path := strings.Fields(string(c.out[:x.from]))[1]
	body := c.out[x.from:x.to]

	connections := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			connections++
			if !info.Reused {
				c.counts.Opened++
			}
		},
	})
	method, reader := http.MethodGet, io.Reader(nil)
	if x.post {
		// The body is not ours while net/http may still send it, and it may after the answer came.
		method, reader = http.MethodPost, once{bytes.NewReader(bytes.Clone(body))}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://loadtest"+path, reader)
	if err != nil {
		c.fail(1, Malformed, err)
		return
	}
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
	}
	c.served, c.worker = 0, "" // which connection it will be, nobody knows
	resp, err := c.standard.Do(req)
	if err != nil {
		c.fail(1, standardClass(err), err)
		yield()
		return
	}
	defer resp.Body.Close()
	a := &c.answer
	a.status, a.close = resp.StatusCode, resp.Close
	a.nonce = append(a.nonce[:0], resp.Header.Get(c.plan.NonceHeader)...)
	a.worker = append(a.worker[:0], resp.Header.Get(c.plan.WorkerHeader)...)
	got := bytes.NewBuffer(a.body[:0])
	_, err = got.ReadFrom(io.LimitReader(resp.Body, maxAnswer))
	a.body = got.Bytes()
	if a.close {
		c.counts.Announced++
	}
	if err != nil {
		c.fail(1, waitClass(err, Truncated, Truncated), err)
		return
	}
	if f := c.judge(x); f != nil {
		c.fail(1, f.class, f.err)
		return
	}
	if connections != 1 {
		c.fail(1, Retried, fmt.Errorf("%s over %d connections", method, connections))
		return
	}
	c.right(time.Since(start))
}

func standardClass(err error) Class {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return dialClass(err)
	}
	if errors.As(err, &op) && op.Op == "write" {
		return sendClass(err)
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Truncated
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return waitClass(err, NoAnswer, ResetWaiting)
	case strings.Contains(err.Error(), "malformed"):
		return Malformed
	}
	return waitClass(err, NoAnswer, ResetWaiting)
}
