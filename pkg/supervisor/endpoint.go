package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// endpoint is a listener of ours that answers HTTP: the control socket, or the admin listener. Its goroutines know nothing of the
// loop's state: they ask by Supervisor.inLoop. Only used by the loop, but for what net/http does inside.
type endpoint struct {
	name     string // for the log
	address  string // as configured: to tell whether a reload changes it
	listener net.Listener
	server   *http.Server // nil until it serves
	file     socketFile   // of a unix socket
	foreign  bool         // the supervisor before us opened it
	shared   int          // a duplicate of the listener for a successor, -1: not made yet
}

// socketFile is a unix socket's file as we made it: no other one is ever removed.
type socketFile struct {
	path     string
	dev, ino uint64
}

// Limits on what a client may cost.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 30 * time.Second
	answerTimeout = 10 * time.Second // to take an answer, once it is there
	maxHeader     = 16 << 10

	// farewell bounds how long the end waits for clients to take their last answer.
	farewell = time.Second
)

// openUnix makes a unix socket for ourselves.
func openUnix(b config.Bind) (net.Listener, error) {
	fd, err := listenUnix(b, unix.SOMAXCONN)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), b.Address)
	defer f.Close()
	return net.FileListener(f) // a duplicate
}

// newEndpoint makes one of a listener that we opened, or that was handed over to us.
func newEndpoint(name, address string, l net.Listener) *endpoint {
	e := &endpoint{name: name, address: address, listener: l, shared: -1}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		path := u.Addr().String()
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			e.file = socketFile{path, uint64(st.Dev), st.Ino}
		}
	}
	return e
}

// inheritEndpoint makes one of a descriptor that the supervisor before us handed over. It takes the descriptor.
func inheritEndpoint(name, address string, fd int) (*endpoint, error) {
	f := pollable(fd, name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e := newEndpoint(name, address, l)
	e.foreign = true
	return e, nil
}

// share gives the listener's descriptor for a successor. It stays ours; nobody may make it blocking, which is a property of what both share.
func (e *endpoint) share() (int, error) {
	if e.shared >= 0 {
		return e.shared, nil
	}
	raw, err := e.listener.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { e.shared, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	return e.shared, errors.Join(err, failed)
}

// passOn says that a successor serves the socket: we accept no more, its file stays. What is being answered goes on.
func (e *endpoint) passOn() {
	e.file = socketFile{}
	e.hangUp()
}

// hangUp accepts no more.
func (e *endpoint) hangUp() {
	e.listener.Close()
	if e.shared >= 0 {
		unix.Close(e.shared)
		e.shared = -1
	}
}

// serve answers with handler until close or passOn.
func (e *endpoint) serve(handler http.Handler) {
	e.server = &http.Server{
		Handler: advancing(handler), ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, placeKey{}, c) },
		ErrorLog:    nothing,
	}
	go e.server.Serve(&places{Listener: e.listener, name: e.name})
}

// close takes the socket away, and gives clients a moment to take their last answer.
func (e *endpoint) close() {
	if f := e.file; f.path != "" {
		var st unix.Stat_t
		if unix.Lstat(f.path, &st) == nil && uint64(st.Dev) == f.dev && st.Ino == f.ino {
			os.Remove(f.path)
		}
	}
	e.hangUp()
	if e.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if e.server.Shutdown(ctx) != nil {
		e.server.Close()
	}
}

// allowed reports whether the peer of a unix socket is root or our own user.
func allowed(r *http.Request) bool {
	u, ok := placeOf(r).Conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	yes := false
	raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		yes = err == nil && (cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()))
	})
	return yes
}

// routes are what an endpoint answers, by path.
type routes map[string]route

type route struct {
	method string // a GET takes HEAD, too
	answer http.HandlerFunc
}

func (t routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, ok := t[r.URL.Path]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "there is no %s here; there is %s", r.URL.Path, strings.Join(slices.Sorted(maps.Keys(t)), ", "))
	case r.Method != route.method && (r.Method != http.MethodHead || route.method != http.MethodGet):
		w.Header().Set("Allow", route.method)
		fail(w, http.StatusMethodNotAllowed, "%s takes %s", r.URL.Path, route.method)
	default:
		route.answer(w, r)
	}
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, v any) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // a client that is gone has no use for it
}

func fail(w http.ResponseWriter, status int, format string, args ...any) {
	reply(w, status, &control.Error{Status: status, Text: fmt.Sprintf(format, args...)})
}

// read takes a request's JSON body; it answers itself when there is none.
func read(w http.ResponseWriter, r *http.Request, request any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, control.MaxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", control.MaxBody)
		return false
	}
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, request)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "the request is not understood: %v", err)
		return false
	}
	// From here on the client may be silent for as long as it waits.
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	return true
}

// loopPatience is how long the loop may take until it looks at a question; it works for milliseconds at a time.
const loopPatience = 3 * time.Second

// Why the loop does not answer a question.
var (
	errLoopStands = errors.New("the supervisor's loop does not answer: it stands still, or has far too much to do")
	errLoopEnded  = errors.New("the supervisor has ended")
	errSuccessor  = errors.New("a self-upgrade hands over: its successor answers in a moment")
)

// inLoop runs f in the loop and waits for it. After an error f has not run, and never will.
func (s *Supervisor) inLoop(ctx context.Context, f func()) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loopPatience, errLoopStands)
	defer cancel()
	done := make(chan struct{})
	var taken atomic.Bool // by the loop, or by us who gave up
	select {
	case s.calls <- func() {
		if taken.CompareAndSwap(false, true) {
			defer close(done)
			f()
		}
	}:
	case <-s.over:
		return errLoopEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-s.over:
		if taken.CompareAndSwap(false, true) {
			return errLoopEnded
		}
	case <-ctx.Done():
		if taken.CompareAndSwap(false, true) {
			return context.Cause(ctx)
		}
	}
	<-done // it runs
	return nil
}
