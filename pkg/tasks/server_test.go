package tasks

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"
)

// redisServer is a real redis-server of a test's own.
type redisServer struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
	// Closed when the process has ended.
	ended chan struct{}
}

// startRedis starts one with AOF in a temporary directory.
func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	s := launch(t, t.TempDir(), args...)
	t.Cleanup(s.kill)
	return s
}

func launch(t testing.TB, dir string, args ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is missing: run `make deps`")
	}
	// Someone else may take the port before Redis does; it then ends at once, and the next port is tried.
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		s := &redisServer{t: t, dir: dir, port: port, args: args}
		if s.start() {
			return s
		}
		s.kill()
	}
	t.Fatal("redis-server does not start")
	return nil
}

func (s *redisServer) url() string { return "redis://127.0.0.1:" + s.port }

// start reports whether the server answers.
func (s *redisServer) start() bool {
	args := append([]string{
		"--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--logfile", filepath.Join(s.dir, "log"),
	}, s.args...)
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	c, err := Connect(s.url(), Options{CallTimeout: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if c.Ping(context.Background()) == nil {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

// kill ends it without a chance to say anything.
func (s *redisServer) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// stop ends it in order: everything that it acknowledged is in its file.
func (s *redisServer) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.ended
}

func (s *redisServer) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// sharedRedis is one real server for all tests that do not harm it; each has a namespace of its own.
var sharedRedis = struct {
	once   sync.Once
	server *redisServer
}{}

// backend is a kind of Redis that the suite runs on.
type backend struct {
	name string
	url  func(t testing.TB) string
	// discover: the client takes miniredis for a cluster, and panics if a command touches keys of two slots.
	discover bool
}

var backends = []backend{
	{name: "miniredis", url: miniURL},
	{name: "miniredis as cluster", url: miniURL, discover: true},
	{name: "redis", url: func(t testing.TB) string { return realRedis(t).url() }},
}

func miniURL(t testing.TB) string {
	m := miniredis.RunT(t)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	// Its TTLs stand still by themselves.
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.FastForward(50 * time.Millisecond)
			case <-stop:
				return
			}
		}
	}()
	return "redis://" + m.Addr()
}

func realRedis(t testing.TB) *redisServer {
	sharedRedis.once.Do(func() {
		dir, err := os.MkdirTemp("", "tasks-redis")
		if err != nil {
			t.Fatal(err)
		}
		sharedRedis.server = launch(t, dir)
	})
	if sharedRedis.server == nil {
		t.Fatal("redis-server did not start")
	}
	return sharedRedis.server
}

func TestMain(m *testing.M) {
	if role := os.Getenv("TASKS_TEST_ROLE"); role != "" {
		os.Exit(playRole(role))
	}
	code := m.Run()
	if s := sharedRedis.server; s != nil {
		s.kill()
		_ = os.RemoveAll(s.dir)
	}
	os.Exit(code)
}

// each runs a test on every backend.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, b.url(t))
			e.discover = b.discover
			test(t, e)
		})
	}
}

// env is what a test works with.
type env struct {
	t         testing.TB
	url       string
	namespace string
	discover  bool
	client    *Client // made when first used
}

var namespaces atomic.Int64

func newEnv(t testing.TB, url string) *env {
	return &env{t: t, url: url, namespace: fmt.Sprintf("t%d-%d", os.Getpid(), namespaces.Add(1))}
}

func (e *env) connect(options Options) *Client {
	e.t.Helper()
	options.Namespace, options.Discover = e.namespace, e.discover
	c, err := Connect(e.url, options)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(c.Close)
	return c
}

func (e *env) c() *Client {
	if e.client == nil {
		e.client = e.connect(Options{})
	}
	return e.client
}

// patient makes c wait as long as until does: for tests in which Redis is always there, so that only this machine can be slow.
func (e *env) patient() {
	e.client = e.connect(Options{CallTimeout: 20 * time.Second, Patience: 20 * time.Second})
}

func (e *env) enqueue(name string, options ...Option) string {
	e.t.Helper()
	id, err := e.c().Enqueue(e.t.Context(), name, []byte("payload"), options...)
	if err != nil {
		e.t.Fatal(err)
	}
	return id
}

// running is a runner in this process.
type running struct {
	*Runner
	e    *env
	stop context.CancelFunc
	end  chan error
}

func (e *env) run(mux *Mux, options RunnerOptions) *running {
	e.t.Helper()
	return e.runOn(e.c(), mux, options)
}

func (e *env) runOn(c *Client, mux *Mux, options RunnerOptions) *running {
	e.t.Helper()
	if options.Grace == 0 {
		options.Grace = 5 * time.Second
	}
	if options.Log == nil && testing.Verbose() && os.Getenv("TASKS_TEST_LOG") != "" {
		options.Log, _ = zap.NewDevelopment()
	}
	r, err := NewRunner(c, mux, options)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	x := &running{Runner: r, e: e, stop: stop, end: make(chan error, 1)}
	go func() { x.end <- r.Run(ctx) }()
	e.t.Cleanup(func() { stop(); <-r.gone })
	return x
}

// halt stops the runner and returns what Run returned.
func (x *running) halt() error {
	x.stop()
	return <-x.end
}

// until waits for a condition; the limit is for what never comes.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (e *env) status(id string) Status {
	e.t.Helper()
	s, err := e.c().Status(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func (e *env) await(id string, state State) Status {
	e.t.Helper()
	var s Status
	until(e.t, fmt.Sprintf("%s is %s", id, state), func() bool { s = e.status(id); return s.State == state })
	return s
}

// books verifies the queues.
func (e *env) books(queues ...string) Books {
	e.t.Helper()
	if len(queues) == 0 {
		queues = []string{"default"}
	}
	b, err := Verify(context.Background(), e.c(), queues...)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range b.Problems {
		e.t.Errorf("verify: %s", p)
	}
	return b
}

// rest waits until nothing is under way, then verifies.
func (e *env) rest(queues ...string) Books {
	e.t.Helper()
	if len(queues) == 0 {
		queues = []string{"default"}
	}
	until(e.t, "the queues are at rest", func() bool {
		b, err := Verify(context.Background(), e.c(), queues...)
		return err == nil && b.Rest()
	})
	return e.books(queues...)
}
