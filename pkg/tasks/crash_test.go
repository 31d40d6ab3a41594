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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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
	options := Options{Namespace: os.Getenv("TASKS_TEST_NAMESPACE")}
	var pool *pgxpool.Pool
	if url := os.Getenv("TASKS_TEST_POSTGRES"); url != "" {
		pool, err = pgxpool.New(context.Background(), url)
		if err == nil {
			options.Postgres, err = NewPostgres(pool, PostgresOptions{})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	c, err := Connect(os.Getenv("TASKS_TEST_URL"), options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if machine := os.Getenv("TASKS_TEST_MACHINE"); machine != "" {
		here.machine = machine // nobody here can prove its death
	}
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
		concurrency := 10
		if n, err := strconv.Atoi(os.Getenv("TASKS_TEST_CONCURRENCY")); err == nil {
			concurrency = n
		}
		lease, _ := time.ParseDuration(os.Getenv("TASKS_TEST_LEASE"))
		r, err := NewRunner(c, mux, RunnerOptions{
			Queues: []string{crashQueue}, Concurrency: concurrency, Lease: lease, Grace: 5 * time.Second, MaxCrashes: 90,
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
	case "chaos runner":
		err = chaosRunner(c, witness{facts})
	case "chaos producer":
		err = chaosProducer(c, pool, witness{facts})
	default:
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
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

// A runner dies with 100 jobs: those of its machine prove its death, all others wait for its lease.
func TestAKilledRunnersJobsAreClaimableAgainSoon(t *testing.T) {
	prove := os.Getenv("PROVE") == "1"
	for _, c := range []struct {
		name    string
		machine string
		lease   time.Duration
		within  time.Duration // said by doc.go, and measured only where nothing else runs
	}{
		{"the same machine", "", 10 * time.Second, time.Second},
		{"another machine", "another-boot/4026531836", time.Second, 3 * time.Second},
		{"another machine, the usual lease", "another-boot/4026531836", 10 * time.Second, 12 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch {
			case !prove && c.machine != "" && c.lease > time.Second:
				t.Skip("PROVE=1 runs it")
			case !prove:
				t.Parallel()
			}
			const jobs = 100
			e := newEnv(t, realRedis(t).url())
			log := filepath.Join(t.TempDir(), "facts")
			// A sibling whose slot is taken: it takes the jobs from the dead, but runs none.
			block := make(chan struct{})
			mux := NewMux()
			mux.Handle("block", func(context.Context, *Job) ([]byte, error) { <-block; return nil, nil })
			e.run(mux, RunnerOptions{Queues: []string{"other", crashQueue}, Concurrency: 1, Lease: c.lease})
			t.Cleanup(func() { close(block) })
			e.await(e.enqueue("block", Queue("other")), Running)
			began := time.Now()

			first := e.spawn("runner", log, "TASKS_TEST_MACHINE="+c.machine, "TASKS_TEST_LEASE="+c.lease.String(), "TASKS_TEST_CONCURRENCY="+strconv.Itoa(jobs))
			tasks := slices.Repeat([]Task{{Name: "wait", Payload: make([]byte, 60_000)}}, jobs)
			if _, err := e.c().EnqueueBatch(t.Context(), tasks); err != nil {
				t.Fatal(err)
			}
			until(t, "all run", func() bool { return len(facts(t, log)["ran"]) == jobs })
			if c.machine != "" {
				time.Sleep(time.Until(began.Add(c.lease + time.Second))) // whoever has just come does not judge leases yet
			}
			start := time.Now()
			first.kill()
			waiting := func() int64 {
				q, err := e.c().Inspector().Queue(t.Context(), crashQueue)
				if err != nil {
					t.Fatal(err)
				}
				return q.Waiting
			}
			until(t, "all wait again", func() bool { return waiting() == jobs })
			took := time.Since(start)
			t.Logf("%d jobs claimable again %s after kill -9", jobs, took.Round(time.Millisecond))
			if prove && took > c.within {
				t.Errorf("that is more than %s", c.within)
			}
			if c.machine != "" && took < c.lease/2 {
				t.Error("nobody can know so soon on another machine: this test shows nothing")
			}
			if b := e.books(crashQueue); b.Crashed != jobs || b.Pending != jobs {
				t.Errorf("books %+v", b)
			}
		})
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
