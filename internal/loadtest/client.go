package loadtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// nonceSize is the length of a nonce: 16 hexadecimal digits.
const nonceSize = 16

// client is one client. Only its own goroutine uses it, until the run has ended.
type client struct {
	// Set once.
	load     *Load
	plan     *Plan
	kind     Kind
	number   int
	standard *http.Client // only of a Standard client

	ok, failed atomic.Int64 // written by this client, read by Load while it runs

	rng      *rand.Rand
	counts   Counts
	latency  *hdrhistogram.Histogram
	workers  map[string]*int64
	failures []Failure

	conn   net.Conn // nil: dial before the next request
	in     *bufio.Reader
	answer answer
	out    []byte          // what was sent last
	sent   [Depth]exchange // and how it is divided into requests
	served int             // right answers on this connection
	opened time.Duration   // when its dial began, since the start of the run
	port   int             // our end's
	worker string          // who gave the last one
}

// exchange is one request that waits for its answer. Its parts point into client.out.
type exchange struct {
	nonce [nonceSize]byte
	post  bool
	from  int // body in client.out
	to    int
}

func newClient(l *Load, kind Kind, number int, seed uint64, transport *http.Transport) *client {
	c := &client{
		load:    l,
		plan:    &l.plan,
		kind:    kind,
		number:  number,
		rng:     rand.New(rand.NewPCG(seed, uint64(number)+1)),
		latency: newHistogram(),
		workers: map[string]*int64{},
	}
	if kind == Standard {
		c.standard = &http.Client{Transport: transport, Timeout: l.plan.Timeout}
	} else {
		c.in = bufio.NewReaderSize(nil, 16<<10)
	}
	return c
}

func (c *client) run() {
	if c.kind == Paused {
		// Else all of them send at the same moment.
		time.Sleep(time.Duration(c.rng.Int64N(int64(c.plan.MaxPause)/10 + 1)))
	}
	want := 1
	if c.kind == Pipelined {
		want = Depth
	}
	for n := c.load.take(want); n > 0; n = c.load.take(want) {
		if c.standard != nil {
			c.askStandard()
			continue
		}
		if c.conn == nil && !c.dial(n) {
			continue
		}
		c.ask(n)
		if c.conn == nil {
			continue
		}
		switch c.kind {
		case Paused:
			c.pause()
		case Pipelined:
			if c.chance(8) {
				c.pause()
			}
		case OneShot:
			c.part()
		}
	}
	c.hangUp()
}

// chance is true once in n times.
func (c *client) chance(n int) bool { return c.rng.IntN(n) == 0 }

// dial opens the connection, or fails the n requests that were to be sent over it.
func (c *client) dial(n int) bool {
	c.opened, c.port = time.Since(c.load.started), 0
	conn, err := net.DialTimeout(c.load.to.network, c.load.to.address, c.plan.Timeout)
	c.served, c.worker = 0, ""
	if err != nil {
		c.fail(n, dialClass(err), err)
		yield()
		return false
	}
	c.counts.Opened++
	c.conn = conn
	if tcp, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		c.port = tcp.Port
	}
	c.in.Reset(conn)
	return true
}

func dialClass(err error) Class {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return DialRefused
	case errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	}
	return DialFailed
}

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// ask sends n requests in one go and reads n answers.
func (c *client) ask(n int) {
	c.out = c.out[:0]
	for i := range n {
		c.compose(&c.sent[i])
	}
	start := time.Now()
	c.conn.SetDeadline(start.Add(c.plan.Timeout))
	if err := c.write(); err != nil {
		c.broken(n, &fault{sendClass(err), err})
		return
	}
	for i := range n {
		if f := c.answer.read(c.in, c.plan); f != nil {
			c.broken(n-i, f)
			return
		}
		if f := c.judge(&c.sent[i]); f != nil {
			c.fail(1, f.class, f.err)
			if f.class == WrongNonce {
				// Whose answers follow is anybody's guess.
				c.fail(n-i-1, WrongNonce, errors.New("behind an answer of another request"))
				c.hangUp()
				return
			}
		} else {
			c.right(time.Since(start))
		}
		if c.answer.close {
			if c.kind != OneShot {
				c.counts.Announced++
			}
			if rest := n - i - 1; rest > 0 {
				c.fail(rest, Unanswered, nil)
			}
			if c.kind != OneShot {
				c.hangUp()
			}
			return
		}
	}
	if c.in.Buffered() > 0 {
		c.stray()
	}
}

// compose appends one request to c.out.
func (c *client) compose(x *exchange) {
	const digits = "0123456789abcdef"
	r := c.rng.Uint64()
	for i := range x.nonce {
		x.nonce[i] = digits[r>>(4*i)&15]
	}
	x.post = !c.plan.GetOnly && r>>63 == 0
	b := c.out
	if x.post {
		b = append(b, "POST "...)
	} else {
		b = append(b, "GET "...)
	}
	b = append(b, c.plan.Path...)
	if bytes.IndexByte([]byte(c.plan.Path), '?') < 0 {
		b = append(b, '?')
	} else {
		b = append(b, '&')
	}
	if x.post {
		b = append(b, "body=1&"...)
	}
	b = append(b, "nonce="...)
	b = append(b, x.nonce[:]...)
	b = append(b, " HTTP/1.1\r\nHost: loadtest\r\n"...)
	if c.kind == OneShot && !c.chance(4) {
		b = append(b, "Connection: close\r\n"...)
	}
	size := 0
	if x.post {
		size = c.bodySize()
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(size), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	x.from = len(b)
	b = c.body(b, x.nonce[:], size)
	x.to = len(b)
	c.out = b
}

// body appends size bytes of noise that begin with the nonce.
func (c *client) body(b, nonce []byte, size int) []byte {
	from := len(b)
	at := c.rng.IntN(len(c.load.noise) - size + 1)
	b = append(b, c.load.noise[at:at+size]...)
	copy(b[from:], nonce)
	return b
}

// bodySize favours small bodies: each power of two is as likely as the next. Pipelined ones stay so small that a whole batch
// of answers fits into the socket buffers: this client sends all before it reads, and a server may answer before it read all.
func (c *client) bodySize() int {
	limit := c.plan.MaxBody
	switch {
	case c.kind == Pipelined:
		limit /= Depth
	case c.plan.LargeBody > 0 && c.chance(256):
		return c.plan.LargeBody
	}
	if c.chance(8) || limit < 1 {
		return 0
	}
	scale := 1
	for scale < limit && !c.chance(17) {
		scale *= 2
	}
	return 1 + c.rng.IntN(min(scale, limit))
}

// write sends c.out, now and then in two pieces that meet the server apart.
func (c *client) write() error {
	b := c.out
	if c.kind != OneShot && c.chance(32) {
		at := 1 + c.rng.IntN(len(b)-1)
		if _, err := c.conn.Write(b[:at]); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		b = b[at:]
	}
	_, err := c.conn.Write(b)
	return err
}

func sendClass(err error) Class {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return TimedOut
	}
	return ResetSending
}

// judge compares the answer with the request.
func (c *client) judge(x *exchange) *fault {
	a := &c.answer
	body := c.out[x.from:x.to]
	if a.status != http.StatusOK {
		return &fault{WrongStatus, fmt.Errorf("status %d: %.200q", a.status, a.body)}
	}
	if c.plan.Check == CheckStatus {
		return nil
	}
	if !bytes.Equal(a.nonce, x.nonce[:]) && (len(a.nonce) > 0 || !bytes.Contains(a.body, x.nonce[:])) {
		// Whose answer it is comes first: WrongBody is said of an answer to the right request only.
		return &fault{WrongNonce, fmt.Errorf("want nonce %s; header says %q, body begins %.40q", x.nonce, a.nonce, a.body)}
	}
	if x.post && !bytes.Equal(a.body, body) {
		return &fault{WrongBody, fmt.Errorf("sent %d bytes, got %d, the first difference at %d", len(body), len(a.body), differ(body, a.body))}
	}
	return nil
}

// differ is the index of the first difference.
func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (c *client) right(took time.Duration) {
	c.counts.OK++
	c.ok.Add(1)
	c.latency.RecordValue(max(took.Microseconds(), 1))
	c.served++
	if name := c.answer.worker; len(name) > 0 {
		n := c.workers[string(name)]
		if n == nil {
			n = new(int64)
			c.workers[string(name)] = n
		}
		*n++
		if c.worker != string(name) {
			c.worker = string(name)
		}
	}
}

func (c *client) fail(n int, class Class, err error) {
	c.counts.Failed[class] += int64(n)
	c.failed.Add(int64(n))
	for range n {
		if len(c.failures) < maxFailures {
			c.failures = append(c.failures, Failure{After: time.Since(c.load.started), Opened: c.opened, Port: c.port, Client: c.number,
				Kind: c.kind, Class: class, Served: c.served, Worker: c.worker, Err: err})
		}
	}
}

// broken fails n requests that went down with their connection.
func (c *client) broken(n int, f *fault) {
	c.fail(n, f.class, f.err)
	if c.kind != OneShot {
		c.closedBy(f.err)
	}
	c.hangUp()
	yield()
}

// closedBy counts the close of a connection by the server.
func (c *client) closedBy(err error) {
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		c.counts.Reset++
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.counts.Silent++
	}
}

func (c *client) stray() {
	waiting, _ := c.in.Peek(min(c.in.Buffered(), 60))
	c.fail(1, Stray, fmt.Errorf("%q", waiting))
	c.hangUp()
}

// pause waits for a random while, and looks at the connection meanwhile: a client that sees its idle connection closed opens
// another one, and no request has failed.
func (c *client) pause() {
	limit := int64(c.plan.MaxPause)
	if !c.chance(8) {
		limit /= 10
	}
	c.conn.SetReadDeadline(time.Now().Add(time.Duration(c.rng.Int64N(limit + 1))))
	_, err := c.in.Peek(1)
	if err == nil {
		c.stray()
		return
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return
	}
	c.closedBy(err)
	c.hangUp()
}

// part ends the connection of a one-shot client: the server was asked to close it and has to, or the client does it.
func (c *client) part() {
	if c.answer.close {
		if _, err := c.in.Peek(1); err == nil {
			c.stray()
		} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			c.fail(1, TimedOut, errors.New("the server said close and did not"))
		}
	}
	c.hangUp()
}
