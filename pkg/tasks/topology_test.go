package tasks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"supervisor/internal/redistest"
)

// topologies are all the ways in which Redis may be there, each with real servers that all tests share. The core of the suite runs on
// them; with PROVE=1 all of it does that runs on every backend.
var topologies = []backend{
	{name: "cluster", url: sharedCluster.url},
	{name: "one node of a cluster", url: func(t testing.TB) string { url, _, _ := strings.Cut(sharedCluster.url(t), "?"); return url }},
	{name: "sentinel", url: sharedSet.url},
	{name: "TLS, ACL user and database", url: sharedTLS.url},
	{name: "unix socket", url: sharedSocket.url},
}

var proved = func() []backend {
	if os.Getenv("PROVE") != "1" {
		return nil
	}
	return topologies
}()

// topology is some servers that start when first needed and end with the tests.
type topology struct {
	start func(dir string) (url string, end func(), err error)

	once    sync.Once
	dir     string
	address string
	end     func()
	err     error
}

func (x *topology) url(t testing.TB) string {
	t.Helper()
	x.once.Do(func() {
		// Short, for a socket's path; it goes with the last test.
		if x.dir, x.err = os.MkdirTemp("", "tasks-redis"); x.err == nil {
			x.address, x.end, x.err = x.start(x.dir)
		}
	})
	if x.err != nil {
		t.Fatal(x.err)
	}
	return x.address
}

func endTopologies() {
	for _, x := range []*topology{sharedCluster, sharedSet, sharedTLS, sharedSocket} {
		if x.end != nil {
			x.end()
		}
		_ = os.RemoveAll(x.dir)
	}
}

var sharedCluster = &topology{start: func(dir string) (string, func(), error) {
	c, err := redistest.NewCluster(dir, 3, false, 15*time.Second)
	if err != nil {
		return "", nil, err
	}
	return c.URL(), c.Kill, nil
}}

var sharedSet = &topology{start: func(dir string) (string, func(), error) {
	s, err := redistest.NewSet(dir, 1, 3, time.Minute)
	if err != nil {
		return "", nil, err
	}
	return s.URL(), s.Kill, nil
}}

var sharedSocket = &topology{start: func(dir string) (string, func(), error) {
	s, err := redistest.New(dir, "--unixsocket", dir+"/s")
	if err != nil {
		return "", nil, err
	}
	return "unix://" + dir + "/s?db=1", s.Kill, nil
}}

// leastRights is what jobs need of an ACL, as docs/jobs.md has it, for the namespaces of tests: they begin with t.
func leastRights() (string, error) {
	text, err := os.ReadFile("../../docs/jobs.md")
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut(string(text), "\nuser jobs on >PASSWORD ")
	rights, _, _ := strings.Cut(rest, "\n")
	if !found {
		return "", errors.New("docs/jobs.md has no user jobs")
	}
	return strings.ReplaceAll(strings.ReplaceAll(rights, "~{tasks:*", "~{t*:*"), "~{tasks}:queues", "~{t*}:queues"), nil
}

var tlsServer *redistest.Server

var sharedTLS = &topology{start: func(dir string) (string, func(), error) {
	if err := certify(dir); err != nil {
		return "", nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	rights, err := leastRights()
	if err != nil {
		return "", nil, err
	}
	acl := file("users.acl")
	if err := os.WriteFile(acl, []byte("user default on nopass ~* &* +@all\nuser jobs on >s3cret "+rights+"\n"), 0o600); err != nil {
		return "", nil, err
	}
	var port string
	s, err := redistest.New(dir, "--tls-port", "%[1]s", "--tls-cert-file", file("server.pem"), "--tls-key-file", file("server.key"),
		"--tls-ca-cert-file", file("ca.pem"), "--tls-auth-clients", "yes", "--aclfile", acl)
	if err != nil {
		return "", nil, err
	}
	tlsServer = s
	answer, err := s.Do("CONFIG", "GET", "tls-port")
	if err == nil {
		var pair map[string]string
		pair, err = answer.AsStrMap()
		port = pair["tls-port"]
	}
	if err != nil {
		s.Kill()
		return "", nil, err
	}
	return fmt.Sprintf("rediss://jobs:s3cret@localhost:%s/2?ca=%s&cert=%s&key=%s", port, file("ca.pem"), file("client.pem"), file("client.key")), s.Kill, nil
}}

// certify makes an authority and certificates of it for localhost and for a client.
func certify(dir string) error {
	var authority *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if i == 0 {
			template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
			authority, signer = template, key
		}
		raw, err := x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, signer)
		if err != nil {
			return err
		}
		secret, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		if err := errors.Join(
			os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600),
			os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
		); err != nil {
			return err
		}
	}
	return nil
}

func TestJobsOnEveryTopology(t *testing.T) {
	t.Parallel()
	for _, b := range topologies {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			url := b.url(t)
			t.Run("core", func(t *testing.T) { t.Parallel(); core(t, newEnv(t, url)) })
			t.Run("crash", func(t *testing.T) { t.Parallel(); crash(t, newEnv(t, url)) })
			t.Run("limit", func(t *testing.T) { t.Parallel(); limited(t, newEnv(t, url)) })
		})
	}
	t.Cleanup(func() {
		if tlsServer == nil {
			return
		}
		denied, err := tlsServer.Do("ACL", "LOG")
		entries, _ := denied.ToArray()
		for _, e := range entries {
			facts, _ := e.AsMap()
			object, reason := facts["object"], facts["reason"]
			what, _ := object.ToString()
			if why, _ := reason.ToString(); why != "auth" { // that is a test of its own
				t.Errorf("the ACL denied %s: %s", what, why)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// core is the life of jobs in two queues over three shards.
func core(t *testing.T, e *env) {
	patience := Options{Shards: 3, CallTimeout: 20 * time.Second, Patience: 20 * time.Second}
	e.client = e.connect(patience)
	queues := []string{"default", "other"}
	warnings, err := e.c().Check(t.Context())
	if err != nil || len(warnings) > 0 {
		t.Errorf("check: %q, %v", warnings, err)
	}
	var ran, ticks atomic.Int32
	mux := NewMux()
	mux.Handle("echo", func(_ context.Context, job *Job) ([]byte, error) {
		ran.Add(1)
		job.Progress(50, "half")
		return append([]byte("of "), job.Payload...), nil
	})
	mux.Handle("follow", func(_ context.Context, job *Job) ([]byte, error) { return job.Input, nil })
	mux.Handle("tick", func(context.Context, *Job) ([]byte, error) { ticks.Add(1); return nil, nil })
	mux.Handle("once more", func(_ context.Context, job *Job) ([]byte, error) {
		if job.Attempt == 1 {
			return nil, RetryAfter(errors.New("later"), 10*time.Millisecond)
		}
		return nil, nil
	})
	mux.Handle("dead", func(context.Context, *Job) ([]byte, error) { return nil, ErrSkipRetry })
	mux.Handle("wait", func(ctx context.Context, _ *Job) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })

	// Before anybody runs them: a batch over all lanes, room, uniqueness, a pause, pages.
	const jobs = 150
	batch := make([]Task, jobs)
	for i := range batch {
		options := []Option{Key(fmt.Sprint(i)), Priority(i % 4), Queue(queues[i%2])}
		if i%10 == 3 {
			options = append(options, In(20*time.Millisecond))
		}
		batch[i] = Task{Name: "echo", Payload: fmt.Append(nil, i), Options: options}
	}
	ids, err := e.c().EnqueueBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.c().EnqueueBatch(t.Context(), batch)
	if err != nil || !slices.Equal(ids, again) {
		t.Errorf("sent twice: %v", err)
	}
	only := Unique("report", UntilDone)
	held := e.enqueue("echo", only)
	if holder := e.duplicateOf("echo", only); holder != held {
		t.Errorf("%s is in the way, not %s", holder, held)
	}
	if _, err := e.connect(Options{Shards: 3, MaxPending: 1}).Room(t.Context(), Key("room")); !errors.Is(err, ErrQueueFull) {
		t.Errorf("room: %v", err)
	}
	if s := e.cancel(e.enqueue("echo")); s != Cancelled {
		t.Errorf("cancel of a pending job: %s", s)
	}
	e.pause("other")
	inspector := e.c().Inspector()
	infos, err := inspector.Queues(t.Context())
	if err != nil || len(infos) != 2 || infos[0].Waiting+infos[0].Scheduled != jobs/2+1 || infos[1].Paused.IsZero() {
		t.Errorf("%+v, %v", infos, err)
	}
	seen := 0
	for f := (Filter{Queue: "other", State: Pending, Limit: 20}); ; {
		page, err := inspector.Jobs(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Jobs)
		if f.Cursor = page.Next; f.Cursor == "" {
			break
		}
	}
	if int64(seen) != infos[1].Waiting {
		t.Errorf("%d of %d on pages", seen, infos[1].Waiting)
	}

	options := RunnerOptions{
		Queues: queues, Weights: Weights{4, 3, 2, 1},
		Schedule: []Periodic{{Name: "tick", Spec: "@every 1s", Task: Task{Name: "tick"}}},
	}
	a, b := e.run(mux, options), e.run(mux, options)
	e.await(ids[0], Done)
	e.resume("other")
	for _, id := range ids {
		e.await(id, Done)
	}
	if result, err := e.c().Result(t.Context(), ids[7]); err != nil || string(result) != "of 7" {
		t.Errorf("%q, %v", result, err)
	}
	e.await(held, Done)

	// While they are there: chains between queues, retry, death and revival, cancel of what runs.
	id, err := e.c().Enqueue(t.Context(), "echo", []byte("first"), Key("chain"), Then(Task{Name: "follow", Options: []Option{Queue("other")}}))
	if err != nil {
		t.Fatal(err)
	}
	followed := fmt.Sprintf("other.%d.chain:next", shardOf("chain:next", 3))
	e.await(id, Done)
	until(t, "what follows is done", func() bool { s, err := e.c().Status(t.Context(), followed); return err == nil && s.State == Done })
	if result, err := e.c().Result(t.Context(), followed); err != nil || string(result) != "of first" {
		t.Errorf("%q, %v", result, err)
	}
	e.await(e.enqueue("once more"), Done)
	dead := e.enqueue("dead")
	e.await(dead, Dead)
	if err := inspector.Retry(t.Context(), dead); err != nil {
		t.Error(err)
	}
	until(t, "it is dead again", func() bool { b, err := Verify(t.Context(), e.c(), queues...); return err == nil && b.Dead == 2 })
	waits := e.enqueue("wait")
	e.await(waits, Running)
	e.cancel(waits)
	e.await(waits, Cancelled)
	later := e.enqueue("echo", In(time.Hour))
	if n, err := inspector.Purge(t.Context(), "default", Scheduled, nil); err != nil || n != 1 {
		t.Errorf("purge: %d, %v", n, err)
	}
	e.await(later, Cancelled)
	if n, err := inspector.Purge(t.Context(), "default", Dead, nil); err != nil || n != 1 {
		t.Errorf("purge: %d, %v", n, err)
	}
	if runners, err := inspector.Runners(t.Context()); err != nil || len(runners) != 2 || len(runners[0].Queues) != 2 {
		t.Errorf("%+v, %v", runners, err)
	}
	until(t, "the clock has struck", func() bool { return ticks.Load() > 0 })
	for _, x := range []*running{a, b} {
		if err := x.halt(); err != nil {
			t.Error(err)
		}
	}
	books := e.rest(queues...)
	if books.Accepted != books.Done+books.Dead-books.Revived+books.Cancelled || books.Crashed != 0 || ran.Load() != jobs+2 {
		t.Errorf("books %+v, ran %d", books, ran.Load())
	}
}

// duplicateOf is duplicate with a name.
func (e *env) duplicateOf(name string, options ...Option) string {
	e.t.Helper()
	_, err := e.c().Enqueue(e.t.Context(), name, nil, options...)
	var other *DuplicateError
	if !errors.As(err, &other) {
		e.t.Fatalf("enqueued twice: %v", err)
	}
	return other.Holder
}

// crash kills a runner's process.
func crash(t *testing.T, e *env) {
	e.patient()
	log := filepath.Join(t.TempDir(), "facts")
	first := e.spawn("runner", log)
	id, err := e.c().Enqueue(t.Context(), "wait", make([]byte, 60_000))
	if err != nil {
		t.Fatal(err)
	}
	e.await(id, Running)
	mux := NewMux()
	mux.Handle("wait", func(context.Context, *Job) ([]byte, error) { return nil, nil })
	e.run(mux, RunnerOptions{})
	first.kill()
	if s := e.await(id, Done); s.Crashes != 1 {
		t.Errorf("%+v", s)
	}
	e.rest()
}

// limited is a queue of one shard with a limit.
func limited(t *testing.T, e *env) {
	e.patient()
	if err := e.c().Limit(t.Context(), "default", Limit{Concurrency: 2, PerSecond: 1000, Burst: 100}); err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) {
		defer now.Add(-1)
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		return nil, nil
	})
	for range 20 {
		e.enqueue("x")
	}
	e.run(mux, RunnerOptions{})
	e.run(mux, RunnerOptions{})
	if books := e.rest(); books.Done != 20 || most.Load() != 2 {
		t.Errorf("books %+v, %d at once", books, most.Load())
	}
}

func TestWhatIsWrongWithAnAddressIsSaidWithWhatToSet(t *testing.T) {
	t.Parallel()
	one := realRedis(t).url()
	cluster, _, _ := strings.Cut(sharedCluster.url(t), "?")
	set := sharedSet.url(t)
	sentinel, _, _ := strings.Cut(set, "?")
	secure := sharedTLS.url(t)
	address, _, _ := strings.Cut(secure, "?")
	for name, test := range map[string]struct{ url, says string }{
		"a database of a cluster":       {cluster + "/1", "only database 0"},
		"several that are no cluster":   {one + "?addr=" + strings.TrimPrefix(one, "redis://"), "it is no cluster, name one address"},
		"a Sentinel without its set":    {sentinel, "master_set=NAME"},
		"a set that nobody knows":       {strings.Replace(set, "master_set=jobs", "master_set=x", 1), "set the right master_set"},
		"a replica":                     {"redis://" + replicaOf(t), "it is a replica"},
		"an authority that is unknown":  {address, "x509"},
		"no certificate of ours":        {strings.Split(secure, "&cert=")[0], ""},
		"protected mode":                {greeter(t, "-DENIED Redis is running in protected mode because …\r\n"), "set a password"},
		"a password where none is read": {strings.Replace(secure, "s3cret", "wrong", 1), "set them right in its URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Connect(test.url, Options{CallTimeout: 20 * time.Second, Patience: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Check(t.Context())
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v, want %q", err, test.says)
			}
			if _, err := c.Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrUnavailable) {
				t.Errorf("enqueue: %v", err)
			}
		})
	}
	for _, bad := range []string{
		one + "?ca=/etc/hostname", "rediss://h?ca=/nowhere", "rediss://h?ca=/etc/hostname", "rediss://h?cert=/etc/hostname", "rediss://h?cert=/a&key=/b",
	} {
		if _, err := Connect(bad, Options{}); err == nil || !strings.Contains(err.Error(), "ca") && !strings.Contains(err.Error(), "cert") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// replicaOf gives the address of the replica of the shared set.
func replicaOf(t *testing.T) string {
	t.Helper()
	c, err := Connect(sharedSet.url(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := c.calls.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := conn.Do(t.Context(), conn.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "slave0:ip=127.0.0.1,port=")
	port, _, _ := strings.Cut(rest, ",")
	return "127.0.0.1:" + port
}

// greeter is a server that says something before it is asked, and hangs up.
func greeter(t *testing.T, says string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(says))
			_ = conn.(*net.TCPConn).CloseWrite()
			go func() {
				defer conn.Close()
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				_, _ = conn.Read(make([]byte, 1<<10))
			}()
		}
	}()
	return "redis://" + l.Addr().String()
}
