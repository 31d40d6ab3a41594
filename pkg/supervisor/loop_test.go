package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"supervisor/pkg/config"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// The loop runs here with fake processes in virtual time: a deadline of 31 s takes none.

// fake is a process that obeys, unless the test says otherwise. Its fields are read and written while the loop is idle.
type fake struct {
	launch
	pid    int
	nth    int // process of this world, from 1
	writer *scoreboard.Writer
	reader *scoreboard.Reader
	said   []string // what it was told: commands, signals, "kill"
	gone   atomic.Bool

	deaf    bool          // ignores commands and signals, but not KILL
	undying bool          // ignores KILL too
	drain   time.Duration // how long it takes to leave

	usage  usage
	silent bool // its heart does not beat
}

func (f *fake) Pid() int                    { return f.pid }
func (f *fake) Board() *scoreboard.Reader   { return f.reader }
func (f *fake) Usage() (usage, error)       { return f.usage, nil }
func (f *fake) Catches(syscall.Signal) bool { return true }
func (f *fake) Close()                      {}
func (f *fake) SinceBeat() (time.Duration, bool) {
	if !f.silent {
		f.writer.Beat()
	}
	return f.reader.SinceBeat()
}

func (f *fake) Send(c protocol.Command) bool {
	f.said = append(f.said, c.String())
	if c.Verb == protocol.VerbDrain && !f.deaf {
		f.exitAfter(f.drain, exitStatus{})
	}
	return true
}

func (f *fake) Signal(sig syscall.Signal) {
	f.said = append(f.said, sig.String())
	if !f.deaf {
		f.exitAfter(f.drain, exitStatus{})
	}
}

func (f *fake) Kill() {
	f.said = append(f.said, "kill")
	if !f.undying {
		f.exitAfter(0, exitStatus{signal: syscall.SIGKILL})
	}
}

func (f *fake) exitAfter(d time.Duration, exit exitStatus) {
	time.AfterFunc(d, func() { f.exit(exit) })
}

func (f *fake) exit(exit exitStatus) {
	if f.gone.CompareAndSwap(false, true) {
		f.tell(event{fact: factExited, exit: exit})
	}
}

func (f *fake) ready() {
	f.tell(event{fact: factHello})
	f.tell(event{fact: factReady})
}

// world is a supervisor with fake processes inside of a synctest bubble.
type world struct {
	*Supervisor
	t       *testing.T
	signals chan os.Signal
	logs    *observer.ObservedLogs
	procs   []*fake     // all that ever started
	most    int         // of them that lived at once
	boot    func(*fake) // what a new process does
	next    *config.Config
	nextErr error
	well    func(*fake) error // what a canary says of itself; nil: it is well
	ran     []hook            // hooks that were started
	hook    func(hook) error  // how they end; nil: well
	result  error
	done    bool
}

func inWorld(t *testing.T, cfg *config.Config, f func(*world)) {
	t.Helper()
	inWorldThatBoots(t, cfg, (*fake).ready, f)
}

// inWorldThatBoots says what new processes do, from the first one on.
func inWorldThatBoots(t *testing.T, cfg *config.Config, boot func(*fake), f func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		w := &world{t: t, signals: make(chan os.Signal, 64), logs: logs, next: cfg, boot: boot}
		w.Supervisor = newSupervisor(cfg, zap.New(core), func(l launch) (process, error) {
			p := &fake{launch: l, pid: 1000 + len(w.procs), nth: len(w.procs) + 1}
			p.writer, p.reader = scoreboard.NewMemory(l.settings)
			w.procs = append(w.procs, p)
			w.most = max(w.most, len(w.living()))
			go w.boot(p)
			return p, nil
		})
		w.ask = func(of *worker, done func(error)) {
			go func() {
				var err error
				if w.well != nil {
					err = w.well(of.proc.(*fake))
				}
				w.do(func() { done(err) })
			}()
		}
		w.exec = func(h hook) (*hookProcess, error) {
			w.ran = append(w.ran, h)
			killed := make(chan struct{})
			return &hookProcess{kill: func() { close(killed) }, wait: func() error {
				over := make(chan error, 1)
				go func() {
					var err error
					if w.hook != nil {
						err = w.hook(h)
					}
					over <- err
				}()
				select {
				case err := <-over:
					return err
				case <-killed:
					return errors.New("SIGKILL")
				}
			}}, nil
		}
		w.load = func() (*config.Config, error) { return w.next, w.nextErr }
		for _, pc := range cfg.Pools {
			w.pools = append(w.pools, &pool{cfg: pc, generation: 1})
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		defer func() {
			if t.Failed() {
				for _, e := range logs.All() {
					t.Log(e.Time.Format("04:05.000"), e.Level, e.Message, e.ContextMap())
				}
			}
		}()
		go func() {
			w.result = w.Run(ctx, w.signals)
			w.done = true
		}()
		synctest.Wait()
		f(w)
		if !w.done {
			for _, p := range w.procs {
				p.deaf, p.undying, p.drain = false, false, 0
			}
			w.signals <- syscall.SIGQUIT
			w.after(time.Hour)
		}
		if !w.done {
			t.Error("the loop did not end")
		}
	})
}

// after lets virtual time pass. First the loop sees what the test has written.
func (w *world) after(d time.Duration) {
	w.look(func() {})
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) send(sig os.Signal) {
	w.signals <- sig
	synctest.Wait()
}

// living gives the processes that are not dead, oldest first.
func (w *world) living() []*fake {
	var living []*fake
	for _, p := range w.procs {
		if !p.gone.Load() {
			living = append(living, p)
		}
	}
	return living
}

func (w *world) count(message string) int { return w.logs.FilterMessageSnippet(message).Len() }

func (w *world) wantLiving(n int) {
	w.t.Helper()
	if got := len(w.living()); got != n {
		w.t.Errorf("%d processes live, want %d", got, n)
	}
}

func (f *fake) told(what string) bool {
	return slices.ContainsFunc(f.said, func(s string) bool { return strings.HasPrefix(s, what) })
}

// fakePool is a pool of obedient fakes.
func fakePool(name string, workers int) *config.Pool {
	return &config.Pool{
		Name: name, Command: []string{"fake"}, Workers: workers, MaxUnavailable: 1, BootTimeout: 30 * time.Second,
		GracefulTimeout: 30 * time.Second, HeartbeatTimeout: 30 * time.Second, Ready: config.ReadyNotify, Replace: config.ReplaceRolling,
	}
}

func TestTableIsComplete(t *testing.T) {
	for state := range numStates {
		for fact := range numFacts {
			if table[state][fact] == nil {
				t.Errorf("state %v has no action for fact %d", state, fact)
			}
		}
	}
}

func TestBootTimeoutQuitsThenKills(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.procs[0].deaf = true
		w.boot = func(*fake) {}
		// The first one was ready at once; its replacement never is.
		w.procs[0].exit(exitStatus{signal: syscall.SIGKILL})
		synctest.Wait()
		second := w.procs[1]
		second.deaf = true
		w.after(30 * time.Second)
		if !second.told("quit") || second.told("kill") {
			t.Errorf("at boot_timeout it was told %v", second.said)
		}
		w.after(quitGrace)
		if !second.gone.Load() {
			t.Errorf("quitGrace later it was told %v", second.said)
		}
	})
}

func TestOverdueWorkersAreReplacedOneByOneAndReplacementFirst(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 4)), func(w *world) {
		for _, p := range w.procs {
			p.drain = 5 * time.Second
		}
		for _, p := range w.procs[:4] {
			p.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		}
		for range 200 {
			w.after(100 * time.Millisecond)
			draining, serving := 0, 0
			for _, p := range w.living() {
				if p.told("drain") {
					draining++
				} else {
					serving++
				}
			}
			if draining > 1 || serving < 4 {
				t.Fatalf("%d drain, %d serve", draining, serving)
			}
		}
		w.after(10 * time.Second)
		if n := len(w.procs); n != 8 {
			t.Errorf("%d processes started, want 8", n)
		}
		w.wantLiving(4)
		for _, p := range w.procs[:4] {
			if !p.told("adopt off") {
				t.Errorf("%s: told %v", p.id, p.said)
			}
		}
	})
}

// A runner does jobs before its READY: what it asks for meanwhile holds.
func TestLimitReachedBeforeReadyCounts(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		boots := 0
		w.boot = func(p *fake) {
			if boots++; boots == 1 {
				p.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
			}
			p.ready()
		}
		w.procs[0].tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		w.after(time.Minute)
		if len(w.procs) != 3 || !w.procs[1].gone.Load() {
			t.Errorf("%d processes, want a third one in the place of the second", len(w.procs))
		}
	})
}

func TestReplacementThatDoesNotBootLeavesTheOldOneServing(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.boot = func(p *fake) { p.exit(exitStatus{code: 1}) }
		old := w.procs[0]
		old.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		w.after(10 * time.Second)
		if old.gone.Load() || old.told("drain") {
			t.Errorf("the old one was told %v", old.said)
		}
		if n := len(w.procs); n < 4 || n > 12 { // 0, 0.1, 0.2, 0.4, … s
			t.Errorf("%d processes in 10 s: that is no back-off", n)
		}
		if w.count("serves on beyond its limit") == 0 {
			t.Error("nobody said so")
		}
		w.boot = (*fake).ready
		w.after(time.Minute)
		if !old.gone.Load() {
			t.Error("the old one was never replaced")
		}
	})
}

func TestLongRequestDrainsBesideItsSuccessorUntilTheDeadline(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		slow := w.procs[0]
		slow.drain, slow.deaf = time.Hour, true
		slow.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		w.after(20 * time.Second)
		w.wantLiving(3) // it does not count in the pool's size
		w.after(10 * time.Second)
		if !slow.told("quit") {
			t.Errorf("at graceful_timeout it was told %v", slow.said)
		}
		w.after(quitGrace)
		if !slow.gone.Load() {
			t.Errorf("quitGrace later it was told %v", slow.said)
		}
		w.wantLiving(2)
	})
}

func TestLifetimesEndApart(t *testing.T) {
	cfg := fakePool("web", 8)
	cfg.MaxLifetime, cfg.MaxLifetimeJitter = time.Minute, 10*time.Minute
	inWorld(t, testConfig(cfg), func(w *world) {
		w.after(59 * time.Second)
		if len(w.procs) != 8 {
			t.Errorf("%d processes before the limit", len(w.procs))
		}
		w.after(2 * time.Minute)
		if n := len(w.procs); n == 8+8 {
			t.Error("all workers ended together in spite of the jitter")
		}
		w.after(10 * time.Minute)
		for _, p := range w.procs[:8] {
			if !p.gone.Load() {
				t.Errorf("%s outlives its limit and the jitter", p.id)
			}
		}
	})
}

func TestMemorySpikeIsNothingAndTheLargestGoesFirst(t *testing.T) {
	cfg := fakePool("web", 3)
	cfg.MaxMemory = 100
	inWorld(t, testConfig(cfg), func(w *world) {
		w.procs[0].usage.memory = 500
		w.after(tickInterval + time.Millisecond)
		w.procs[0].usage.memory = 50
		w.after(10 * time.Second)
		if len(w.procs) != 3 {
			t.Fatal("a spike of one sample recycled a worker")
		}
		for i, p := range w.procs[:3] {
			p.usage.memory = int64(200 + 100*i)
			p.drain = 20 * time.Second
		}
		w.after(memorySamples*tickInterval + time.Millisecond)
		if !w.procs[2].told("drain") || w.procs[0].told("drain") || w.procs[1].told("drain") {
			t.Errorf("told: %v, %v, %v", w.procs[0].said, w.procs[1].said, w.procs[2].said)
		}
	})
}

func TestStarvedIsNotHung(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		starving, hung := w.procs[0], w.procs[1]
		starving.silent, hung.silent = true, true
		for range 40 {
			w.after(time.Second)
			starving.usage.delay += 900 * time.Millisecond // it wants the CPU and does not get it
		}
		if !hung.told("aborted") || !hung.gone.Load() {
			t.Errorf("the hung one was told %v", hung.said)
		}
		if starving.told("aborted") {
			t.Error("the starving one was judged hung")
		}
		w.after(2 * time.Minute) // it got the CPU and is silent all the same
		if !starving.told("aborted") {
			t.Error("it is never judged")
		}
	})
}

func TestSilenceWhileWeStoodStillDoesNotCount(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		p := w.procs[0]
		p.writer.Beat()
		p.silent = true
		w.do(func() { w.lastTick = w.lastTick.Add(-time.Hour) }) // as after a SIGSTOP of the supervisor
		w.after(29 * time.Second)
		if p.told("aborted") {
			t.Error("judged by the time in which nobody could look")
		}
		w.after(time.Minute)
		if !p.told("aborted") {
			t.Error("never judged")
		}
	})
}

func TestYoungDeathsBackOffAndASettledWorkerClearsThem(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) {
			if p.id.Slot == 0 {
				p.exit(exitStatus{code: 1})
				return
			}
			p.ready()
		}
		w.after(settled + time.Second)
		w.procs[0].exit(exitStatus{code: 1})
		w.after(time.Minute)
		tries := len(w.procs) - 2
		if tries < 7 || tries > 12 { // at once, then 0.1, 0.2 … 25.6 s
			t.Errorf("%d tries in a minute", tries)
		}
		w.boot = (*fake).ready
		w.after(backoffMax + settled + time.Second)
		n := len(w.procs)
		last := w.procs[n-1]
		last.exit(exitStatus{code: 1})
		synctest.Wait()
		if len(w.procs) != n+1 {
			t.Error("after a settled worker the respawn did not come at once")
		}
	})
}

func TestTermBeforeReadyLeavesNoOrphan(t *testing.T) {
	cfg := testConfig(fakePool("first", 1), fakePool("second", 1))
	inWorld(t, cfg, func(w *world) {
		w.boot = func(*fake) {}
		w.procs[0].exit(exitStatus{code: 1})
		synctest.Wait()
		w.send(syscall.SIGTERM)
		w.after(time.Second)
		w.wantLiving(0)
		if !w.done || w.result != nil {
			t.Errorf("done %v, %v", w.done, w.result)
		}
	})
}

func TestTermDuringAReloadStopsOnce(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(*fake) {} // the new generation hangs at boot
		w.send(syscall.SIGHUP)
		w.after(bootPace)
		if len(w.procs) != 4 {
			t.Fatalf("%d processes", len(w.procs))
		}
		w.send(syscall.SIGTERM)
		w.send(syscall.SIGTERM)
		w.after(time.Second)
		if !w.done || w.result != nil {
			t.Errorf("done %v, %v", w.done, w.result)
		}
		for _, p := range w.procs {
			if n := len(slices.DeleteFunc(slices.Clone(p.said), func(s string) bool { return !strings.HasPrefix(s, "drain") && s != "terminated" })); n != 1 {
				t.Errorf("%s was told %v", p.id, p.said)
			}
		}
	})
}

func TestReloadsCoalesce(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		for range 5 {
			w.send(syscall.SIGHUP)
		}
		w.after(time.Minute)
		if w.generation != 3 { // one ran, one waited for all the others
			t.Errorf("generation %d, want 3", w.generation)
		}
		w.wantLiving(2)
	})
}

func TestReloadCommitsOnlyWhenAllAreReadyAndTellsInOrder(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Duration(p.id.Slot) * time.Second); p.ready() }
		w.send(syscall.SIGHUP)
		w.after(1900 * time.Millisecond)
		for _, p := range w.procs {
			if p.told("drain") || p.told("commit") && p.generation == 2 {
				t.Errorf("%s was told %v before the last one was ready", p.id, p.said)
			}
		}
		w.after(time.Second)
		for _, p := range w.procs[:3] {
			if !p.gone.Load() || !p.told("adopt off") || !p.told("drain move") {
				t.Errorf("old %s: told %v", p.id, p.said)
			}
		}
		for _, p := range w.procs[3:] {
			if !slices.Contains(p.said, "commit") || !slices.Contains(p.said, "adopt on") {
				t.Errorf("new %s: told %v", p.id, p.said)
			}
		}
	})
}

func TestThirdOfEightFailsAndAllGoBack(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 8)), func(w *world) {
		w.boot = func(p *fake) {
			if p.id.Slot == 2 {
				time.Sleep(time.Second)
				p.exit(exitStatus{code: 1})
				return
			}
			p.ready()
		}
		w.send(syscall.SIGHUP)
		w.after(2 * time.Second)
		w.wantLiving(8)
		for _, p := range w.procs[:8] {
			if p.gone.Load() || p.told("drain") {
				t.Errorf("old %s: told %v", p.id, p.said)
			}
		}
		if w.generation != 1 || w.count("reload failed, nothing changed") != 1 {
			t.Errorf("generation %d", w.generation)
		}
	})
}

func TestPoolsStartInOrderAndStopInReverse(t *testing.T) {
	cfg := testConfig(fakePool("redis", 1), fakePool("web", 2))
	inWorld(t, cfg, func(w *world) {
		if got := fmt.Sprint(w.procs[0].id, w.procs[1].id, w.procs[2].id); got != "redis.0.1 web.0.1 web.1.2" {
			t.Error(got)
		}
		w.procs[1].drain = 5 * time.Second
		w.send(syscall.SIGTERM)
		w.after(time.Second)
		if w.procs[0].told("drain") || !w.procs[2].gone.Load() {
			t.Error("redis stopped before web had")
		}
		w.after(5 * time.Second)
		if !w.done {
			t.Error("not done")
		}
	})
}

func TestSecondPoolWaitsForTheFirst(t *testing.T) {
	cfg := testConfig(fakePool("redis", 1), fakePool("web", 1))
	inWorldThatBoots(t, cfg, func(p *fake) { time.Sleep(5 * time.Second); p.ready() }, func(w *world) {
		w.after(4 * time.Second)
		if len(w.procs) != 1 {
			t.Errorf("%d processes before the first was ready", len(w.procs))
		}
		w.after(2 * time.Second)
		if len(w.procs) != 2 {
			t.Errorf("%d processes after", len(w.procs))
		}
	})
}

func TestNeverPoolOutlivesReloadsUntilItsOwnSectionChanges(t *testing.T) {
	redis := fakePool("redis", 1)
	redis.Replace = config.ReplaceNever
	inWorld(t, testConfig(redis, fakePool("web", 1)), func(w *world) {
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		first := w.procs[0]
		if first.gone.Load() || w.generation != 2 {
			t.Fatalf("dead %v, generation %d", first.gone.Load(), w.generation)
		}
		changed := *redis
		changed.Command = []string{"fake", "--other"}
		first.drain = 3 * time.Second
		w.next = testConfig(&changed, fakePool("web", 1))
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		for _, p := range w.living() {
			if p.id.Pool == "redis" && p != first {
				t.Error("the new one started before the old one had stopped")
			}
		}
		w.after(5 * time.Second)
		if !first.gone.Load() || !slices.ContainsFunc(w.living(), func(p *fake) bool { return p.id.Pool == "redis" && len(p.pool.Command) == 2 }) {
			t.Error("the changed section is not in force")
		}
	})
}

func TestScaleSurvivesReloadUnlessWorkersChanged(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.send(syscall.SIGTTIN)
		w.wantLiving(3)
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		w.wantLiving(3)
		w.next = testConfig(fakePool("web", 5))
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		w.wantLiving(5)
		w.next = testConfig(fakePool("web", 1))
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		w.wantLiving(1)
	})
}

func TestBootsAreThrottled(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		for range 60 {
			w.send(syscall.SIGTTIN)
		}
		most := 0
		for range 200 {
			w.after(100 * time.Millisecond)
			n := 0
			w.look(func() { n = w.booting() })
			most = max(most, n)
		}
		if most != bootsAtOnce() {
			t.Errorf("%d booted at once, want %d", most, bootsAtOnce())
		}
		w.wantLiving(61)
	})
}

func (w *world) look(f func()) {
	done := make(chan struct{})
	w.do(func() { f(); close(done) })
	select {
	case <-done:
	case <-w.over:
	}
}

func TestStopDoesNotWaitForAProcessThatSitsInTheKernel(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.procs[0].deaf, w.procs[0].undying = true, true
		w.send(syscall.SIGTERM)
		w.after(30*time.Second + quitGrace + killGrace + time.Second)
		if !w.done || w.count("outlives SIGKILL") == 0 {
			t.Errorf("done %v", w.done)
		}
	})
}

func TestWindowResizeWithoutTerminalParksAndHupBringsBack(t *testing.T) {
	if hasTerminal() {
		t.Skip("this test run has a terminal")
	}
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.send(syscall.SIGWINCH)
		w.after(time.Minute)
		w.wantLiving(0)
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		w.wantLiving(2)
	})
}

func TestOverdueStormHasAPace(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		// Each worker reaches its limit the moment that it serves: max_requests = 1 under full load.
		w.boot = func(p *fake) {
			p.ready()
			p.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		}
		for _, p := range w.procs[:2] {
			p.tell(event{fact: factRecycle, reason: protocol.RecycleMaxRequests})
		}
		w.after(10 * time.Second)
		most := int(10*time.Second/recycleInterval) + 3
		if n := len(w.procs); n < most/2 || n > most {
			t.Errorf("%d processes in 10 s, want at most %d", n, most)
		}
	})
}

func TestLoadErrorChangesNothing(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.nextErr = errors.New("supervisor.toml:7: unknown key")
		w.send(syscall.SIGHUP)
		w.after(time.Second)
		if len(w.procs) != 2 || w.generation != 1 || w.count("reload failed, nothing changed") != 1 {
			t.Errorf("%d processes, generation %d", len(w.procs), w.generation)
		}
	})
}
