package tasks

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary re-executes itself as runners and producers, which are killed at random moments.

const crashQueue = "default"

// playRole is the main of such a process. It needs TASKS_TEST_URL, _NAMESPACE and _LOG, a file that takes one line per fact.
func playRole(role string) int {
	facts, err := os.OpenFile(os.Getenv("TASKS_TEST_LOG_FILE"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// One write per line: it is whole or not there, and outlives the process.
	tell := func(what, id string) { _, _ = facts.WriteString(what + " " + id + "\n") }
	c, err := Connect(os.Getenv("TASKS_TEST_URL"), Options{Namespace: os.Getenv("TASKS_TEST_NAMESPACE")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	switch role {
	case "runner":
		mux := NewMux()
		mux.Handle("x", func(ctx context.Context, job *Job) ([]byte, error) {
			tell("ran", job.ID)
			time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
			if job.Attempt == 1 && strings.HasSuffix(job.ID, "7") {
				return nil, fmt.Errorf("fails once")
			}
			return nil, nil
		})
		mux.Handle("wait", func(ctx context.Context, job *Job) ([]byte, error) {
			tell("ran", job.ID)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Duration(len(job.Payload)) * time.Millisecond):
				return nil, nil
			}
		})
		r, err := NewRunner(c, mux, RunnerOptions{
			Queues: []string{crashQueue}, Concurrency: 10, Grace: 5 * time.Second, MaxCrashes: 90,
			Backoff: func(int) time.Duration { return 10 * time.Millisecond },
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		tell("ready", strconv.Itoa(os.Getpid()))
		go func() { <-signals; stop() }()
		if err := r.Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "producer":
		// Ids are its own: a producer that starts again goes on where it was killed, with one that may be stored already.
		first, _ := strconv.Atoi(os.Getenv("TASKS_TEST_FIRST"))
		last, _ := strconv.Atoi(os.Getenv("TASKS_TEST_LAST"))
		for first < last {
			var batch []Task
			for n := 1 + rand.IntN(5); n > 0 && first < last; n-- {
				options := []Option{Key(strconv.Itoa(first)), Priority(first % 4)}
				if first%10 == 3 {
					options = append(options, In(time.Duration(rand.IntN(200))*time.Millisecond))
				}
				batch = append(batch, Task{Name: "x", Payload: []byte("payload"), Options: options})
				first++
			}
			ids, err := c.EnqueueBatch(ctx, batch)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			for _, id := range ids {
				tell("accepted", id)
			}
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
	default:
		return 2
	}
	return 0
}

// child is one of these processes.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (e *env) spawn(role, log string, env ...string) *child {
	e.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "TASKS_TEST_ROLE="+role, "TASKS_TEST_URL="+e.url, "TASKS_TEST_NAMESPACE="+e.namespace,
		"TASKS_TEST_LOG_FILE="+log, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	c := &child{cmd, make(chan struct{})}
	go func() { _ = cmd.Wait(); close(c.done) }()
	e.t.Cleanup(c.kill)
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// facts reads how often each line was told.
func facts(t testing.TB, log string) map[string]map[string]int {
	t.Helper()
	told := map[string]map[string]int{"ran": {}, "accepted": {}, "ready": {}}
	f, err := os.Open(log)
	if os.IsNotExist(err) {
		return told
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		what, id, _ := strings.Cut(lines.Text(), " ")
		told[what][id]++
	}
	return told
}

func TestNoJobIsLostWhenRunnersAndProducersAreKilled(t *testing.T) {
	jobs, runners, producers := 1000, 3, 2
	if os.Getenv("PROVE") == "1" {
		jobs = 10_000
	} else {
		t.Parallel()
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TASKS_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	t.Logf("TASKS_TEST_SEED=%d", seed)
	e := newEnv(t, realRedis(t).url())
	log := filepath.Join(t.TempDir(), "facts")

	workers := make([]*child, runners)
	for i := range workers {
		workers[i] = e.spawn("runner", log)
	}
	// Each producer has a range of its own; killed, it begins again somewhat before where it was.
	share := jobs / producers
	makers := make([]*child, producers)
	begin := func(i, first int) {
		makers[i] = e.spawn("producer", log, "TASKS_TEST_FIRST="+strconv.Itoa(max(first, i*share)), "TASKS_TEST_LAST="+strconv.Itoa((i+1)*share))
	}
	for i := range makers {
		begin(i, 0)
	}
	accepted := func(i int) (n int) {
		for id := range facts(t, log)["accepted"] {
			if key, _ := strconv.Atoi(id[strings.LastIndexByte(id, '.')+1:]); key/share == i {
				n++
			}
		}
		return n
	}
	kills := [2]int{}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to an end")
		}
		time.Sleep(time.Duration(20+dice.IntN(150)) * time.Millisecond)
		making := false
		for i := range makers {
			n := accepted(i)
			if n == share {
				continue
			}
			making = true
			select {
			case <-makers[i].done:
			default:
				if dice.IntN(3) > 0 {
					continue
				}
				makers[i].kill()
				kills[1]++
			}
			begin(i, i*share+n-5)
		}
		b, err := Verify(context.Background(), e.c(), crashQueue)
		if err != nil {
			t.Fatal(err)
		}
		if !making && b.Done == b.Accepted && b.Rest() {
			break
		}
		i := dice.IntN(runners)
		workers[i].kill()
		kills[0]++
		workers[i] = e.spawn("runner", log)
		if !making {
			time.Sleep(300 * time.Millisecond) // the last ones need a runner that lives for a while
		}
	}
	b := e.rest(crashQueue)
	told := facts(t, log)
	twice := 0
	for i := range jobs {
		id := crashQueue + ".0." + strconv.Itoa(i)
		switch ran := told["ran"][id]; {
		case told["accepted"][id] == 0:
			t.Errorf("%s was never accepted", id)
		case ran == 0:
			t.Errorf("%s was accepted and never ran", id)
		case ran > 1 && !strings.HasSuffix(id, "7"), ran > 2:
			twice++
		}
		if s := e.status(id); s.State != Done {
			t.Errorf("%s is %s", id, s.State)
		}
	}
	if b.Accepted != int64(jobs) || b.Done != int64(jobs) || b.Lost != 0 {
		t.Errorf("books %+v", b)
	}
	t.Logf("%d jobs, %d kills of runners, %d of producers: %d jobs taken from the dead, %d ran again", jobs, kills[0], kills[1], b.Crashed, twice)
	if kills[0] == 0 {
		t.Error("nobody was killed")
	}
}

func TestAKilledRunnersJobsAreClaimableAgainSoon(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	log := filepath.Join(t.TempDir(), "facts")
	first := e.spawn("runner", log)
	var ids []string
	for range 10 {
		id, err := e.c().Enqueue(t.Context(), "wait", make([]byte, 60_000))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	until(t, "all run", func() bool { return len(facts(t, log)["ran"]) == 10 })
	// A sibling that has no slot for them: they stay pending, and can be counted.
	sibling := e.run(NewMux(), RunnerOptions{Queues: []string{"other", crashQueue}, Concurrency: 1})
	until(t, "the sibling is there", func() bool { return sibling.Name() != "" })
	start := time.Now()
	first.kill()
	for _, id := range ids {
		until(t, "taken from the dead", func() bool { return e.status(id).Crashes == 1 })
	}
	t.Logf("10 jobs claimable again %s after kill -9", time.Since(start).Round(time.Millisecond))
	for _, id := range ids {
		if s := e.status(id); s.Crashes != 1 {
			t.Errorf("%+v", s)
		}
	}
}

func TestADrainingRunnerRunsNothingTwice(t *testing.T) {
	t.Parallel()
	e := newEnv(t, realRedis(t).url())
	log := filepath.Join(t.TempDir(), "facts")
	const jobs = 300
	runner := e.spawn("runner", log)
	batch := make([]Task, jobs)
	for i := range batch {
		batch[i] = Task{Name: "wait", Payload: make([]byte, 5)} // 5 ms each
	}
	if _, err := e.c().EnqueueBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for turn := range 5 {
		// Before it is ready TERM would just end it.
		until(t, "it works", func() bool {
			told := facts(t, log)
			return told["ready"][strconv.Itoa(runner.cmd.Process.Pid)] == 1 && len(told["ran"]) > turn*20
		})
		next := e.spawn("runner", log)
		_ = runner.cmd.Process.Signal(syscall.SIGTERM)
		<-runner.done
		if code := runner.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("turn %d: exit code %d", turn, code)
		}
		runner = next
	}
	b := e.rest(crashQueue)
	for id, n := range facts(t, log)["ran"] {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	if b.Done != jobs || b.Crashed != 0 {
		t.Errorf("books %+v", b)
	}
}
