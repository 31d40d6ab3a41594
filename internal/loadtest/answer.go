package loadtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
)

// fault is why a request failed.
type fault struct {
	class Class
	err   error
}

// answer is one HTTP/1.1 answer. Its memory is used again for the next one.
type answer struct {
	status  int
	close   bool // "Connection: close", or HTTP/1.0 without keep-alive
	nonce   []byte
	worker  []byte
	body    []byte
	length  int64 // Content-Length; -1 if there was none
	chunked bool
}

// errMalformed is what read wraps when the bytes are no HTTP.
var errMalformed = errors.New("malformed")

// read reads one answer. It wants exactly one: bytes behind it stay in r.
func (a *answer) read(r *bufio.Reader, plan *Plan) *fault {
	if _, err := r.Peek(1); err != nil {
		return &fault{waitClass(err, NoAnswer, ResetWaiting), err}
	}
	err := a.readHead(r, plan)
	for err == nil && a.status >= 100 && a.status < 200 {
		err = a.readHead(r, plan)
	}
	if err == nil {
		err = a.readBody(r)
	}
	switch {
	case errors.Is(err, errMalformed):
		return &fault{Malformed, err}
	case err != nil:
		return &fault{waitClass(err, Truncated, Truncated), err}
	}
	return nil
}

// waitClass names a failed Read: the class for an orderly end, or the one for a reset.
func waitClass(err error, end, reset Class) Class {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return TimedOut
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return reset
	}
	return end
}

func (a *answer) readHead(r *bufio.Reader, plan *Plan) error {
	a.nonce, a.worker, a.body = a.nonce[:0], a.worker[:0], a.body[:0]
	a.length, a.chunked = -1, false
	line, err := readLine(r)
	if err != nil {
		return err
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return fmt.Errorf("%w: status line %.60q", errMalformed, line)
	}
	a.close = line[7] == '0'
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return fmt.Errorf("%w: status line %.60q", errMalformed, line)
	}
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			return fmt.Errorf("%w: header line %.60q", errMalformed, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case is(name, "Content-Length"):
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || a.length < 0 {
				return fmt.Errorf("%w: Content-Length %.60q", errMalformed, value)
			}
		case is(name, "Connection"):
			a.close = is(value, "close") || a.close && !is(value, "keep-alive")
		case is(name, "Transfer-Encoding"):
			a.chunked = is(value, "chunked")
		case is(name, plan.NonceHeader):
			a.nonce = append(a.nonce, value...)
		case is(name, plan.WorkerHeader):
			a.worker = append(a.worker, value...)
		}
	}
}

func is(name []byte, want string) bool {
	return len(name) == len(want) && bytes.EqualFold(name, []byte(want))
}

// maxAnswer bounds what a broken server can make us hold.
const maxAnswer = 16 << 20

func (a *answer) readBody(r *bufio.Reader) error {
	switch {
	case a.status == 204 || a.status == 304:
		return nil
	case a.chunked:
		for {
			line, err := readLine(r)
			if err != nil {
				return err
			}
			size, err := strconv.ParseInt(string(line), 16, 64)
			if err != nil || size < 0 || size+int64(len(a.body)) > maxAnswer {
				return fmt.Errorf("%w: chunk size %.60q", errMalformed, line)
			}
			if err := a.grow(r, int(size)); err != nil {
				return err
			}
			if line, err = readLine(r); err != nil {
				return err
			} else if len(line) != 0 {
				return fmt.Errorf("%w: after a chunk: %.60q", errMalformed, line)
			}
			if size == 0 {
				return nil
			}
		}
	case a.length > maxAnswer:
		return fmt.Errorf("%w: body of %d bytes", errMalformed, a.length)
	case a.length >= 0:
		return a.grow(r, int(a.length))
	case a.close:
		rest, err := io.ReadAll(io.LimitReader(r, maxAnswer))
		a.body = append(a.body, rest...)
		return err
	}
	return fmt.Errorf("%w: neither a length nor an end", errMalformed)
}

// grow appends n bytes of r to the body.
func (a *answer) grow(r *bufio.Reader, n int) error {
	from := len(a.body)
	if cap(a.body)-from < n {
		a.body = append(make([]byte, 0, from+n), a.body...)
	}
	a.body = a.body[:from+n]
	_, err := io.ReadFull(r, a.body[from:])
	return err
}

// readLine returns a line without its end. It is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", errMalformed, r.Size())
	}
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}
