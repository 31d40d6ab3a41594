//go:build unix

package tasks

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/pgtest"
)

// Chaos: jobs of all kinds on a real Redis, while runners and producers are killed, stand still and are told to stop, Redis is killed
// and stopped, its clients are cut off, queues are paused and jobs cancelled. Which job is what, and the order of what happens, come
// from TASKS_TEST_SEED; the moments do not. Afterwards Verify, and the witness's file, must agree (chaoscheck_test.go).
//
// Redis runs with appendfsync always: then what it acknowledged is in its file, and the books are exact whatever happens to it. With
// everysec they are as exact after a kill -9 (what was written is in the kernel), except while the disk is so slow that Redis
// puts a write off; after a crash of the machine the last second is missing.

type chaos struct {
	*env
	seed      uint64
	dice      *rand.Rand
	jobs      int
	redis     *redisServer
	postgres  *pgtest.Server // nil: without
	told      *told
	runners   []*child
	stopped   map[int]bool // pids that were stopped and had to lose their lease
	producers []*producer
	paused    map[string]int // for how many ticks more
	happened  map[string]int
	cancelled map[string]State // what Cancel answered
	tried     map[string]bool  // to cancel
	extra     []string         // ids that no producer enqueued
}

// producer has a range of the jobs of its own; killed, it begins again a little before where it was.
type producer struct {
	*child
	first, next, last int
}

func TestJobsSurviveChaos(t *testing.T) {
	jobs := 1500
	if os.Getenv("PROVE") == "1" {
		jobs = 100_000
	} else {
		t.Parallel()
	}
	runChaos(t, jobs, nil)
}

// The same with an archive and an outbox, whose Postgres is killed as well.
func TestJobsSurviveChaosWithPostgres(t *testing.T) {
	if os.Getenv("PROVE") != "1" {
		t.Skip("PROVE=1 runs it")
	}
	runChaos(t, 20_000, ownPostgres(t))
}

func runChaos(t *testing.T, jobs int, postgres *pgtest.Server) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TASKS_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("TASKS_TEST_SEED=%d", seed)
	redis := startRedis(t, "--appendfsync", "always")
	c := &chaos{
		env: newEnv(t, redis.url()), seed: seed, dice: rand.New(rand.NewPCG(seed, 1<<63)), jobs: jobs, redis: redis, postgres: postgres,
		told:    newTold(filepath.Join(t.TempDir(), "witness")),
		stopped: map[int]bool{}, paused: map[string]int{}, happened: map[string]int{}, cancelled: map[string]State{}, tried: map[string]bool{},
	}
	if postgres != nil {
		c.client = c.connect(Options{Postgres: openPostgres(t, postgres.URL(), PostgresOptions{})})
	}
	began := time.Now()
	c.limit()
	for range 3 {
		c.runners = append(c.runners, c.startRunner())
	}
	share := jobs / 2
	for i := range 2 {
		p := &producer{first: i * share, next: i * share, last: (i + 1) * share}
		c.producers = append(c.producers, p)
		c.produce(p)
	}
	for c.round() {
	}
	c.standStill()
	c.settle()
	t.Logf("%d jobs in %s; what happened: %v", jobs, time.Since(began).Round(time.Second), c.happened)
	c.check()
}

func (c *chaos) environment() []string {
	env := []string{"TASKS_TEST_SEED=" + strconv.FormatUint(c.seed, 10)}
	if c.postgres != nil {
		env = append(env, "TASKS_TEST_POSTGRES="+c.postgres.URL())
	}
	return env
}

func (c *chaos) startRunner() *child { return c.spawn("chaos runner", c.told.path, c.environment()...) }

func (c *chaos) produce(p *producer) {
	batch := 20
	if c.jobs > 20_000 {
		batch = 100
	}
	p.child = c.spawn("chaos producer", c.told.path, append(c.environment(), "TASKS_TEST_FIRST="+strconv.Itoa(max(p.next-5, p.first)),
		"TASKS_TEST_LAST="+strconv.Itoa(p.last), "TASKS_TEST_BATCH="+strconv.Itoa(batch))...)
}

// round lets everything happen once, in an order of its own. It reports whether there is more to do.
func (c *chaos) round() bool {
	events := []func(){
		c.killRunner, c.killRunner, c.killRunner, c.killProducer, c.killProducer, c.endRunner, c.stopRunner, c.killRedis, c.stopRedis,
		c.cutClients, func() { c.pauseQueue(crashQueue) }, func() { c.pauseQueue(limitedQueue) }, c.limit,
	}
	if c.postgres != nil {
		events = append(events, c.killPostgres, c.stopPostgres)
	}
	c.dice.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
	for _, event := range events {
		for range 1 + c.dice.IntN(4) {
			time.Sleep(100 * time.Millisecond)
			c.cancelSome()
			c.watchLimit()
			c.resumeQueues()
		}
		c.watchRunners()
		event()
	}
	c.told.read(c.t)
	return !c.produced()
}

// produced reports whether every job has been offered; a producer that was killed goes on.
func (c *chaos) produced() bool {
	all := true
	for _, p := range c.producers {
		for p.next < p.last && c.told.settled(chaosJobOf(c.seed, p.next).id) {
			p.next++
		}
		all = all && p.next == p.last
	}
	return all
}

func (c *chaos) count(what string) { c.happened[what]++ }

func (c *chaos) someRunner() int { return c.dice.IntN(len(c.runners)) }

func (c *chaos) killRunner() {
	i := c.someRunner()
	c.runners[i].kill()
	c.runners[i] = c.startRunner()
	c.count("runner killed")
}

// endRunner stops one in order, while the others go on. One that has been stopped by SIGSTOP gets it when it goes on.
func (c *chaos) endRunner() {
	i := c.someRunner()
	_ = c.runners[i].cmd.Process.Signal(syscall.SIGTERM)
	c.runners[i] = c.startRunner()
	c.count("runner told to stop")
}

// stopRunner lets one stand still beyond its lease, if it is not killed before.
func (c *chaos) stopRunner() {
	runner := c.runners[c.someRunner()]
	c.stopped[runner.cmd.Process.Pid] = true
	_ = runner.cmd.Process.Signal(syscall.SIGSTOP)
	time.AfterFunc(2*chaosLease, func() { _ = runner.cmd.Process.Signal(syscall.SIGCONT) })
	c.count("runner stood still")
}

func (c *chaos) killProducer() {
	c.told.read(c.t)
	c.produced()
	p := c.producers[c.dice.IntN(len(c.producers))]
	p.kill()
	if p.next < p.last {
		c.produce(p)
		c.count("producer killed")
	}
}

func (c *chaos) killRedis() {
	c.redis.kill()
	c.count("redis killed")
	c.startRedis()
}

func (c *chaos) stopRedis() {
	c.redis.stop()
	c.count("redis stopped")
	c.startRedis()
}

func (c *chaos) startRedis() {
	time.Sleep(time.Duration(c.dice.IntN(200)) * time.Millisecond)
	if !c.redis.start() {
		c.t.Fatal("redis does not start again")
	}
}

func (c *chaos) killPostgres() {
	c.postgres.Crash()
	c.count("postgres killed")
	c.startPostgres()
}

func (c *chaos) stopPostgres() {
	c.postgres.Stop()
	c.count("postgres stopped")
	c.startPostgres()
}

func (c *chaos) startPostgres() {
	time.Sleep(time.Duration(c.dice.IntN(500)) * time.Millisecond)
	if err := c.postgres.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// insist asks until Redis answers.
func (c *chaos) insist(what string, ask func(ctx context.Context) error) {
	c.t.Helper()
	var err error
	for range 100 {
		if err = ask(context.Background()); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("%s: %v", what, err)
}

func (c *chaos) do(ctx context.Context, command func(rueidis.Builder) rueidis.Completed) rueidis.RedisResult {
	conn, err := c.c().calls.get(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return conn.Do(ctx, command(conn.B()))
}

func (c *chaos) cutClients() {
	c.insist("client kill", func(ctx context.Context) error {
		return c.do(ctx, func(b rueidis.Builder) rueidis.Completed {
			return b.Arbitrary("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Build()
		}).Error()
	})
	c.count("clients cut off")
}

// pauseQueue pauses a queue for a while, in which other things happen.
func (c *chaos) pauseQueue(queue string) {
	c.insist("pause", func(ctx context.Context) error {
		_, err := c.c().Inspector().Pause(ctx, queue)
		return unless(err, ErrUnknownQueue)
	})
	c.paused[queue] = 1 + c.dice.IntN(8)
	c.count("queue paused")
}

// resumeQueues ends the pauses whose time is over.
func (c *chaos) resumeQueues() {
	for _, queue := range chaosQueues {
		if c.paused[queue]--; c.paused[queue] == 0 {
			c.insist("resume", func(ctx context.Context) error {
				_, err := c.c().Inspector().Resume(ctx, queue)
				return unless(err, ErrUnknownQueue)
			})
		}
	}
}

// limit sets another limit to the rate; that of concurrency stays, so that it can be checked at any moment.
func (c *chaos) limit() {
	limit := Limit{Concurrency: limitedAtOnce, PerSecond: []float64{0, 500, 2000}[c.dice.IntN(3)], Burst: 50}
	c.insist("limit", func(ctx context.Context) error { return c.c().Limit(ctx, limitedQueue, limit) })
	c.count("limit changed")
}

// watchRunners checks that none leaves by itself.
func (c *chaos) watchRunners() {
	for i, runner := range c.runners {
		select {
		case <-runner.done:
			c.t.Errorf("a runner ended by itself: %s", runner.cmd.ProcessState)
			c.runners[i] = c.startRunner()
		default:
		}
	}
}

func (c *chaos) watchLimit() {
	act := newLane(c.namespace, limitedQueue, 0).act()
	n, err := c.do(context.Background(), func(b rueidis.Builder) rueidis.Completed { return b.Hlen().Key(act).Build() }).AsInt64()
	if err == nil && n > limitedAtOnce {
		c.t.Errorf("%d jobs run at once in a queue that is limited to %d", n, limitedAtOnce)
	}
}

// cancelSome cancels a few of the jobs that were accepted lately, whatever they are.
func (c *chaos) cancelSome() {
	c.told.read(c.t)
	late := c.told.order[max(0, len(c.told.order)-100):]
	for range min(5, len(late)) {
		id := late[c.dice.IntN(len(late))]
		if c.tried[id] {
			continue
		}
		c.tried[id] = true
		if state, err := c.c().Cancel(context.Background(), id); err == nil {
			c.cancelled[id] = state
		}
	}
}

// standStill lets a runner with jobs lose its lease while all else is well: the others take its jobs, and its own ends come too late.
func (c *chaos) standStill() {
	for range 10 {
		c.resumeQueues()
	}
	var err error
	if c.extra, err = c.c().EnqueueBatch(c.t.Context(), slices.Repeat([]Task{{Name: "slow", Options: []Option{Priority(0)}}}, 600)); err != nil {
		c.t.Fatal(err)
	}
	act := newLane(c.namespace, crashQueue, 0).act()
	pid := 0
	holds := func() (n int) {
		claims, _ := c.do(context.Background(), func(b rueidis.Builder) rueidis.Completed { return b.Hvals().Key(act).Build() }).AsStrSlice()
		for _, claim := range claims {
			if strings.Contains(claim, "/"+strconv.Itoa(pid)+"-") {
				n++
			}
		}
		return n
	}
	// Whoever has some: one that has just been started may come when the others have done them all.
	var process *os.Process
	until(c.t, "a runner has jobs", func() bool {
		return slices.ContainsFunc(c.runners, func(r *child) bool {
			process, pid = r.cmd.Process, r.cmd.Process.Pid
			return holds() > 0
		})
	})
	c.stopped[pid] = true
	_ = process.Signal(syscall.SIGSTOP)
	held := holds()
	until(c.t, "others take its jobs", func() bool { return holds() == 0 })
	_ = process.Signal(syscall.SIGCONT)
	c.happened["jobs taken from one that stood still"] = held
}

// settle waits until nothing is under way.
func (c *chaos) settle() {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		b, err := Verify(context.Background(), c.c(), chaosQueues...)
		if err == nil && b.Rest() && (c.postgres == nil || c.c().options.Postgres.count(c.t, "tasks_outbox", c.namespace) == 0) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("never at rest: %+v, %v", b, err)
		}
	}
}

// unless gives the error if it is another.
func unless(err, known error) error {
	if errors.Is(err, known) {
		return nil
	}
	return err
}
