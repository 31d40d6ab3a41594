package tasks

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"supervisor/internal/pgtest"
	"supervisor/internal/redistest"
)

// redisServer is a real redis-server of a test's own.
type redisServer struct {
	*redistest.Server
	t   testing.TB
	dir string
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
	s, err := redistest.New(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return &redisServer{s, t, dir}
}

func (s *redisServer) url() string { return s.URL() }

// start reports whether the server answers again.
func (s *redisServer) start() bool {
	err := s.Start()
	if err != nil {
		s.t.Log(err)
	}
	return err == nil
}

func (s *redisServer) kill()                     { s.Kill() }
func (s *redisServer) stop()                     { s.Stop() }
func (s *redisServer) signal(sig syscall.Signal) { s.Signal(sig) }

// sharedRedis is one real server for all tests that do not harm it; each has a namespace of its own.
var sharedRedis = struct {
	once   sync.Once
	server *redisServer
}{}

// backend is a kind of Redis that the suite runs on.
type backend struct {
	name string
	url  func(t testing.TB) string
}

var backends = []backend{
	{name: "miniredis", url: miniURL},
	// Two addresses: the client takes it for a cluster, and panics if a command touches keys of two slots.
	{name: "miniredis as cluster", url: func(t testing.TB) string {
		url := miniURL(t)
		return url + "?addr=" + strings.TrimPrefix(url, "redis://")
	}},
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
	// Most tests wait for something nearly all the time.
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		_ = flag.Set(p.Name, strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	code := m.Run()
	if s := sharedRedis.server; s != nil {
		s.kill()
		_ = os.RemoveAll(s.dir)
	}
	endTopologies()
	pgtest.End()
	os.Exit(code)
}

// each runs a test on every backend.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	for _, b := range append(backends, proved...) {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			test(t, newEnv(t, b.url(t)))
		})
	}
}

// env is what a test works with.
type env struct {
	t         testing.TB
	url       string
	namespace string
	client    *Client // made when first used
}

var namespaces atomic.Int64

func newEnv(t testing.TB, url string) *env {
	return &env{t: t, url: url, namespace: fmt.Sprintf("t%d-%d", os.Getpid(), namespaces.Add(1))}
}

func (e *env) connect(options Options) *Client {
	e.t.Helper()
	options.Namespace = e.namespace
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
