package app

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"

	"supervisor/internal/redistest"
)

// realRedis starts a redis-server for what miniredis does not have: a limit on memory, Sentinels.
func realRedis(t testing.TB, port int, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server is missing: run `make deps`")
	}
	cmd := exec.Command("redis-server", append(args, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "")...)
	cmd.Dir = t.TempDir()
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", addrOf(port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("redis-server ended: %s", out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not listen")
		}
	}
}

func addrOf(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// freePorts gives ports that were free a moment ago.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// openDesk is a site with background tasks on the Redis of that URL.
func openDesk(t testing.TB, url string, more ...string) *desk {
	t.Helper()
	config, err := ConfigFromEnv(env(append([]string{"REDIS_URL", url}, more...)...))
	if err != nil {
		t.Fatal(err)
	}
	background, err := OpenTasks(config, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(background.Close)
	s := serve(t, config, func(a *app) {
		a.tasks = background
		background.log = a.log
	})
	return &desk{site: s, tasks: background}
}

// Redis above maxmemory refuses a plain SET. The jobs that wait there are done nevertheless: each frees more than it takes.
func TestJobsThatWaitInAFullRedisAreDone(t *testing.T) {
	port := freePorts(t, 1)[0]
	realRedis(t, port, "--maxmemory-policy", "noeviction")
	d := openDesk(t, "redis://"+addrOf(port))
	photo := encodeJPEG(t, landscape(900, 600))
	var ids []string
	for range 5 {
		ids = append(ids, d.submit(photo))
	}
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addrOf(port)}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	// Less than an empty one needs: it stays full, whatever is freed.
	if err := redis.Do(t.Context(), redis.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1000").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	refused := d.post("/images", photo)
	refused.fails(503, "broker_full", "nothing was stored")
	if refused.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After is %q", refused.header.Get("Retry-After"))
	}
	d.work()
	for _, id := range ids {
		if v := d.await(id, "done"); v["attempt"] != 1.0 || v["postponed"] != nil {
			t.Errorf("%v", v)
		}
		d.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 67)
	}
	left, err := redis.Do(t.Context(), redis.B().Keys().Pattern("app:*upload*").Build()).AsStrSlice()
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// Whatever kind of Redis the URL names: one that is away at the start is an outage, not a bad configuration.
func TestSentinelsThatComeLater(t *testing.T) {
	ports := freePorts(t, 2)
	redis, sentinel := ports[0], ports[1]
	d := openDesk(t, fmt.Sprintf("redis://%s?master_set=jobs", addrOf(sentinel)))
	photo := readPicture(t, "video-001.jpeg")
	d.post("/images", photo).fails(503, "broker_unavailable", "again")
	d.get("/tasks/default.0.x").fails(503, "broker_unavailable")

	realRedis(t, redis)
	config := filepath.Join(t.TempDir(), "sentinel.conf") // Sentinels write into their file
	text := fmt.Sprintf("sentinel monitor jobs 127.0.0.1 %d 1\n", redis)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	realRedis(t, sentinel, config, "--sentinel")
	d.work()
	for deadline := time.Now().Add(20 * time.Second); d.post("/images", photo).status != 202; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(string(d.post("/images", photo).body))
		}
	}
	id := d.submit(photo)
	d.await(id, "done")
	d.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 69)
}

func TestAClusterThatIsAwayIsAnOutage(t *testing.T) {
	ports := freePorts(t, 2)
	d := openDesk(t, fmt.Sprintf("redis://%s?addr=%s", addrOf(ports[0]), addrOf(ports[1])))
	d.post("/images", readPicture(t, "video-001.jpeg")).fails(503, "broker_unavailable", "again")
}

// Everything that the app says to Redis, to a cluster that it was given one node of, as a user with no more rights than docs/jobs.md lists.
func TestImagesOnAClusterWithTheLeastRights(t *testing.T) {
	t.Parallel()
	cluster, err := redistest.NewCluster(t.TempDir(), 3, false, 15*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Kill)
	text, err := os.ReadFile("../../docs/jobs.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nuser jobs on >PASSWORD ")
	rights, _, found := strings.Cut(rest, "\n")
	if !found {
		t.Fatal("docs/jobs.md has no user jobs")
	}
	for _, node := range cluster.Masters {
		if _, err := node.Do(append([]string{"ACL", "SETUSER", "jobs", "on", ">s3cret"}, strings.Fields(rights)...)...); err != nil {
			t.Fatal(err)
		}
	}
	url := strings.Replace(cluster.Masters[1].URL(), "redis://", "redis://jobs:s3cret@", 1)
	d := openDesk(t, url)
	if err := d.tasks.Check(t.Context()); err != nil {
		t.Error(err)
	}
	d.work()
	photo := encodeJPEG(t, landscape(900, 600))
	for range 5 { // their ids lie on several nodes
		id := d.submit(photo)
		d.await(id, "done")
		d.get("/tasks/"+id+"/result").shows("image/jpeg", 100, 67)
	}
	damaged := d.submit(photo[:len(photo)/2])
	d.await(damaged, "dead")
	if err := openDesk(t, url+"/1").tasks.Check(t.Context()); !IsRefusal(err) || !strings.Contains(err.Error(), "only database 0") {
		t.Errorf("a database of a cluster: %v", err)
	}
	for _, node := range cluster.Masters {
		denied, err := node.Do("ACL", "LOG")
		if err != nil {
			t.Fatal(err)
		}
		entries, _ := denied.ToArray()
		for _, e := range entries {
			facts, _ := e.AsMap()
			object := facts["object"]
			what, _ := object.ToString()
			t.Errorf("the ACL denied %s", what)
		}
	}
}
