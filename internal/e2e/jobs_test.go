package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/image/draw"

	"supervisor/pkg/tasks"
)

// jobs is a supervisor with etc/dev.toml in a directory of its own, and a look into its Redis from outside.
type jobs struct {
	*server
	broker *tasks.Client
}

// drills makes the application take jobs that only take their time.
var drills = []string{"APP_DEBUG=1"}

var devFile = filepath.Join("..", "..", "etc", "dev.toml")

// startDev does what `make run` does.
func startDev(t *testing.T, env []string, args ...string) *jobs {
	t.Helper()
	config, err := filepath.Abs(devFile)
	if err != nil {
		t.Fatal(err)
	}
	checkout(t)
	s := start(t, env, append([]string{"-c", config, "-b", "127.0.0.1:0", "-w", "2"}, args...)...)
	s.await("pool serves .*web", 1) // the last one
	return &jobs{s, connect(t, "tmp/redis.sock")}
}

// checkout makes the working directory one in which bin/app is the built program. It is short: a socket's path must fit in 107 bytes.
func checkout(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Symlink(bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return dir
}

func connect(t *testing.T, socket string) *tasks.Client {
	t.Helper()
	path, err := filepath.Abs(socket)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tasks.Connect("unix://"+path, tasks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// photographs gives a small one, and a large one that keeps a core busy for a while.
func photographs(t *testing.T) (small, large []byte) {
	t.Helper()
	small = readFile(t, filepath.Join("..", "..", "pkg", "app", "testdata", "video-001.jpeg"))
	source, err := jpeg.Decode(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	canvas := image.NewRGBA(image.Rect(0, 0, 3600, 2480))
	draw.ApproxBiLinear.Scale(canvas, canvas.Rect, source, source.Bounds(), draw.Src, nil)
	var b bytes.Buffer
	if err := jpeg.Encode(&b, canvas, nil); err != nil {
		t.Fatal(err)
	}
	return small, b.Bytes()
}

// submit sends a photograph and gives the job's id. It may be called from any goroutine.
func (s *server) submit(photo []byte) (id string, err error) {
	resp, err := http.Post("http://"+s.addr+"/images?width=64", "image/jpeg", bytes.NewReader(photo))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var job struct {
		ID        string `json:"id"`
		StatusURL string `json:"status_url"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&job); err != nil || resp.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("%s: %+v, %w", resp.Status, job, err)
	}
	if location := resp.Header.Get("Location"); location != job.StatusURL || job.ID == "" {
		return "", fmt.Errorf("location %q, body %+v", location, job)
	}
	return job.ID, nil
}

// drill enqueues a job that runs for so long that whoever asks sees it running; the application must have its drills on.
func (s *server) drill() (id string) {
	s.t.Helper()
	resp, body := s.do("POST", "/debug/job?ms=4000", nil)
	var job struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &job); err != nil || resp.StatusCode != http.StatusAccepted {
		s.t.Fatalf("drill: %s %s", resp.Status, body)
	}
	return job.ID
}

func (s *server) mustSubmit(photo []byte) string {
	s.t.Helper()
	id, err := s.submit(photo)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// state asks for a job's status.
func (s *server) state(id string) tasks.State {
	s.t.Helper()
	resp, body := s.do("GET", "/tasks/"+id, nil)
	var status struct {
		State tasks.State `json:"state"`
	}
	if err := json.Unmarshal(body, &status); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("status of %s: %s %s", id, resp.Status, body)
	}
	return status.State
}

// awaitState asks until the job is in that state.
func (s *server) awaitState(id string, want tasks.State) {
	s.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		got := s.state(id)
		if got == want {
			return
		}
		if got.Terminal() || time.Now().After(deadline) {
			s.t.Fatalf("job %s is %s, want %s", id, got, want)
		}
	}
}

// hasThumbnail fetches a job's result.
func (s *server) hasThumbnail(id string) {
	s.t.Helper()
	resp, body := s.do("GET", "/tasks/"+id+"/result", nil)
	thumbnail, err := jpeg.Decode(bytes.NewReader(body))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/jpeg" || err != nil {
		s.t.Fatalf("result of %s: %s %.200q, %v", id, resp.Status, body, err)
	}
	if width := thumbnail.Bounds().Dx(); width != 64 {
		s.t.Errorf("the thumbnail of %s is %d pixels wide", id, width)
	}
}

// refuses checks an error answer.
func (s *server) refuses(method, path string, body []byte, status int, code string) *http.Response {
	s.t.Helper()
	resp, answer := s.do(method, path, body)
	if resp.StatusCode != status || !strings.Contains(string(answer), `"`+code+`"`) {
		s.t.Errorf("%s %s: %s %s, want %d %s", method, path, resp.Status, answer, status, code)
	}
	return resp
}

// books waits until nothing is under way, and checks what Redis holds.
func books(t *testing.T, c *tasks.Client) tasks.Books {
	t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(20 * time.Millisecond) {
		b, err := tasks.Verify(context.Background(), c, "default")
		if err != nil {
			t.Fatal(err)
		}
		if b.Rest() {
			for _, problem := range b.Problems {
				t.Errorf("verify: %s", problem)
			}
			return b
		}
		if time.Now().After(deadline) {
			t.Fatalf("never at rest: %+v", b)
		}
	}
}

// killRunner waits until the job runs, and kills its runner in the middle of it.
func (j *jobs) killRunner(id string) {
	j.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(time.Millisecond) {
		status, err := j.broker.Status(context.Background(), id)
		if err != nil {
			j.t.Fatal(err)
		}
		if status.State.Terminal() || time.Now().After(deadline) {
			j.t.Fatalf("job %s is %s, and was never seen running", id, status.State)
		}
		// A runner's name ends in /<pid>-<start time>/<n>.
		if m := regexp.MustCompile(`/(\d+)-\d+/\d+$`).FindStringSubmatch(status.Runner); m != nil {
			var pid int
			fmt.Sscan(m[1], &pid)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				j.t.Fatalf("kill %d: %v", pid, err)
			}
			awaitEnd(j.t, pid)
			return
		}
	}
}

func TestDevFileIsGood(t *testing.T) {
	config, err := filepath.Abs(devFile)
	if err != nil {
		t.Fatal(err)
	}
	checkout(t)
	s := launch(t, nil, "-c", config, "-b", "127.0.0.1:0", "--check-config")
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// `make run`, a real photograph in, its thumbnail out. At TERM the web goes first, then the runners, which finish what they have, then
// Redis.
func TestPhotographBecomesAJobAndAThumbnail(t *testing.T) {
	small, _ := photographs(t)
	s := startDev(t, drills)
	id := s.mustSubmit(small)
	s.awaitState(id, tasks.Done)
	s.hasThumbnail(id)
	s.refuses("DELETE", "/tasks/"+id, nil, http.StatusConflict, "job_ended")

	s.awaitState(s.drill(), tasks.Running)
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	var order []string
	s.mu.Lock()
	for _, line := range s.log {
		if m := regexp.MustCompile(`worker (drains|gone) .*"worker": "(\w+)`).FindStringSubmatch(line); m != nil {
			if step := m[2] + " " + m[1]; len(order) == 0 || order[len(order)-1] != step {
				order = append(order, step)
			}
		}
	}
	s.mu.Unlock()
	if got, want := strings.Join(order, ", "), "web drains, web gone, jobs drains, jobs gone, redis drains, redis gone"; got != want {
		t.Errorf("the order of the stop was %s\nwant %s", got, want)
	}
	if n := s.count(`"requeued":[1-9]|killed|left behind`); n > 0 {
		t.Errorf("the stop left something undone: %d lines say so", n)
	}
	if n := s.count(`runner stopped.*"done":[1-9]`); n == 0 {
		t.Error("the running job was not finished")
	}
}

// Five reloads and two kill -9 of a runner in the middle of a job, while photographs come in: every one is accepted, done, and once in
// the books. No reload touches Redis.
func TestPhotographsSurviveReloadsAndKilledRunners(t *testing.T) {
	small, large := photographs(t)
	s := startDev(t, drills)
	var (
		mu     sync.Mutex
		ids    []string
		killed []string // jobs of the runners that were killed
	)
	send := func(photo []byte) string {
		id, err := s.submit(photo)
		if err != nil {
			t.Error(err)
			return ""
		}
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
		return id
	}
	n := pick(60, 200)
	photos := make(chan []byte)
	var clients sync.WaitGroup
	for range 6 {
		clients.Go(func() {
			for photo := range photos {
				send(photo)
			}
		})
	}
	for i := range n - 2 {
		if i%5 == 0 {
			photos <- large
		} else {
			photos <- small
		}
		if i%(n/10) == 0 {
			switch i / (n / 10) {
			case 1, 3, 5, 7, 9:
				s.reload()
			case 4, 8:
				id := s.drill()
				killed = append(killed, id)
				s.killRunner(id)
			}
		}
	}
	close(photos)
	clients.Wait()
	for _, id := range ids {
		s.awaitState(id, tasks.Done)
		s.hasThumbnail(id)
	}
	for _, id := range killed {
		s.awaitState(id, tasks.Done)
	}
	b := books(t, s.broker)
	if b.Accepted != int64(n) || b.Done != int64(n) || b.Dead+b.Cancelled+b.Lost+b.Retried != 0 {
		t.Errorf("%d photographs, and the books say %+v", n, b)
	}
	t.Logf("%d jobs, %d begun again after their runner was killed", b.Done, b.Crashed)
	if got := s.count(`worker starts .*"redis`); got != 1 {
		t.Errorf("redis was started %d times", got)
	}
	if got := s.count(`worker died .*"jobs`); got != 2 {
		t.Errorf("%d runners died, two were killed", got)
	}
}

// max_requests counts a runner's jobs: it leaves after so many, and another one takes its place.
func TestRunnersLeaveAfterMaxRequests(t *testing.T) {
	small, _ := photographs(t)
	s := startDev(t, []string{"SUPERVISOR_POOL_JOBS_MAX_REQUESTS=5", "SUPERVISOR_POOL_JOBS_WORKERS=1"})
	var ids []string
	const n = 40 // a runner does at most 5, and what it had begun or claimed by then
	for range n {
		ids = append(ids, s.mustSubmit(small))
	}
	for _, id := range ids {
		s.awaitState(id, tasks.Done)
	}
	s.await(`worker gone .*"jobs`, 2)
	s.await(`worker drains .*"worker": "jobs.*"reason": "max_requests"`, 2)
	if b := books(t, s.broker); b.Done != n || b.Crashed != 0 {
		t.Errorf("the books say %+v", b)
	}
	if n := s.count("worker died"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// redisProcess is `app redis` started by hand.
func redisProcess(t *testing.T, socket string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(app(), "redis", "--addr", "unix:"+socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// The broker is away at the start, then comes, dies, and comes back: 503 with Retry-After meanwhile, workers that are well all the time,
// and runners that go on by themselves.
func TestBrokerMayComeAndGo(t *testing.T) {
	small, _ := photographs(t)
	checkout(t)
	s := start(t, nil, "-c", write(t, "supervisor.toml", `
[pool.web]
command = ["bin/app", "serve"]
bind    = ["127.0.0.1:0"]
env     = { REDIS_URL = "unix:redis.sock" }

[pool.jobs]
command = ["bin/app", "work"]
ready   = "notify"
env     = { REDIS_URL = "unix:redis.sock" }
`))
	isAway := func() {
		t.Helper()
		resp := s.refuses("POST", "/images", small, http.StatusServiceUnavailable, "broker_unavailable")
		if resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		s.refuses("GET", "/tasks/default.0.x", nil, http.StatusServiceUnavailable, "broker_unavailable")
		for _, path := range []string{"/health/live", "/health/ready"} {
			if resp, body := s.get(path); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s %s", path, resp.Status, body)
			}
		}
	}
	isBack := func() {
		t.Helper()
		var id string
		for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
			var err error
			if id, err = s.submit(small); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		s.awaitState(id, tasks.Done)
		s.hasThumbnail(id)
	}
	s.await("pool serves .*web", 1)
	isAway()
	s.await("this runner is ready, and works as soon as it does", 1)
	s.await("pool serves .*jobs", 1)
	redis := redisProcess(t, "redis.sock")
	isBack()
	redis.Process.Kill()
	redis.Wait()
	isAway()
	s.reload() // also a reload is possible without it
	isAway()
	redisProcess(t, "redis.sock") // in place of the socket that the killed one left
	isBack()
	if n := s.count("worker died"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

// A cancelled job never runs, and says so for ever.
func TestCancelledJobNeverRuns(t *testing.T) {
	small, _ := photographs(t)
	s := startDev(t, nil, "--pool", "redis", "--pool", "web")
	cancelled := s.mustSubmit(small)
	if resp, body := s.do("DELETE", "/tasks/"+cancelled, nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("cancel: %s %s", resp.Status, body)
	}
	s.refuses("DELETE", "/tasks/"+cancelled, nil, http.StatusConflict, "job_ended")
	s.refuses("GET", "/tasks/"+cancelled+"/result", nil, http.StatusConflict, "job_cancelled")
	other := s.mustSubmit(small)
	s.refuses("GET", "/tasks/"+other+"/result", nil, http.StatusConflict, "not_done")

	// Only now a runner comes.
	cmd := exec.Command(app(), "work")
	cmd.Env = append(os.Environ(), "REDIS_URL=unix:tmp/redis.sock")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.awaitState(other, tasks.Done)
	s.hasThumbnail(other)
	s.awaitState(cancelled, tasks.Cancelled)
	if b := books(t, s.broker); b.Accepted != 2 || b.Done != 1 || b.Cancelled != 1 {
		t.Errorf("the books say %+v", b)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the runner after TERM: %v", err)
	}
}

// The pool's graceful_timeout is all that a runner's stop takes, whatever holds it up: here a Redis that hangs in the middle of a job.
func TestStopOfARunnerFitsInGracefulTimeout(t *testing.T) {
	checkout(t)
	s := start(t, drills, "-c", write(t, "supervisor.toml", `
[pool.jobs]
command = ["bin/app", "work"]
ready   = "notify"
graceful_timeout = 10
env     = { REDIS_URL = "unix:redis.sock" }

[pool.web]
command = ["bin/app", "serve"]
bind    = ["127.0.0.1:0"]
env     = { REDIS_URL = "unix:redis.sock" }
`))
	redis := redisProcess(t, "redis.sock")
	s.await("pool serves .*web", 1)
	s.await("runner registered", 1)
	s.awaitState(s.drill(), tasks.Running)
	if err := redis.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s.await(`runner stopped.*jobs were left behind`, 1)
	if n := s.count("did not leave within graceful_timeout|worker is killed"); n > 0 {
		t.Errorf("the runner had to be told twice")
	}
}

// A runner whose claims fail although Redis answers is never ready: it must not replace one that works.
func TestARunnerThatCannotClaimFailsItsStart(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "redis")
	redisProcess(t, socket)
	var redis net.Conn
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if redis, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer redis.Close()
	// Where claims look for what is due lies something else.
	if _, err := redis.Write([]byte("*3\r\n$3\r\nSET\r\n$23\r\n{tasks:default:0}:sched\r\n$1\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(redis, answer); err != nil || string(answer) != "+OK\r\n" {
		t.Fatalf("%q, %v", answer, err)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	cmd := exec.Command(app(), "work")
	cmd.Env = append(os.Environ(), "REDIS_URL=unix:"+socket, "NOTIFY_SOCKET="+notify.LocalAddr().String())
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "not one claim") {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
	notify.SetReadDeadline(time.Now())
	for b := make([]byte, 4096); ; {
		n, err := notify.Read(b)
		if err != nil {
			break
		}
		if strings.Contains(string(b[:n]), "READY=1") {
			t.Errorf("it said %q", b[:n])
		}
	}
}
