package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
	"supervisor/pkg/scoreboard"
)

// answers makes a worker answer n requests, the first bad of them with a 500.
func (f *fake) answers(n, bad int) {
	c := f.writer.Open()
	c.Add(scoreboard.Started, uint64(n))
	c.Add(scoreboard.Errors, uint64(bad))
	c.Add(scoreboard.Finished, uint64(n)) // in one step: the loop may look at any moment, and judge what it sees
	f.writer.Release(c)
}

// holds makes it have n open connections.
func (f *fake) holds(n int) { f.writer.Open().Add(scoreboard.Accepted, uint64(n)) }

// asked is a reload whose verdict is to come.
type asked struct{ verdict *Verdict }

// reload asks for one as a control command does.
func (w *world) askReload() *asked {
	a := &asked{}
	w.look(func() { w.beginReload(func(v Verdict) { a.verdict = &v }) })
	return a
}

// bakedPool is a pool with everything that a canary has to pass.
func bakedPool(workers int) *config.Pool {
	p := fakePool("web", workers)
	p.Bake, p.Health = 10*time.Second, config.Health{Path: "/health"}
	p.Hooks.BeforeReload = []string{"migrate"}
	return p
}

// generations gives how many living workers each generation has.
func (w *world) generations() map[int]int {
	n := map[int]int{}
	for _, p := range w.living() {
		n[p.generation]++
	}
	return n
}

// A reload of eight workers that fails at each of its steps: everything is as before, and the one who asked knows why.
func TestReloadThatFailsAtAnyStepChangesNothing(t *testing.T) {
	die := func(p *fake) { p.exit(exitStatus{code: 3, tail: []string{"first", "cannot open the database"}}) }
	// only makes the n-th process that starts after the reload began do something else than become ready.
	only := func(n int, what func(*fake)) func(*world) {
		return func(w *world) {
			first := len(w.procs)
			w.boot = func(p *fake) {
				if p.nth == first+n {
					what(p)
					return
				}
				p.ready()
			}
		}
	}
	then := func(what func(*fake)) func(*fake) {
		return func(p *fake) {
			p.ready()
			time.Sleep(5 * time.Second)
			what(p)
		}
	}
	alone := func(w *world, p *config.Pool) { p.Bake, p.Health = 0, config.Health{} }
	one := func(w *world, p *config.Pool) { alone(w, p); p.MaxSurge = config.Surge{Count: 1} }
	three := func(w *world, p *config.Pool) { p.MaxSurge = config.Surge{Percent: 30} }
	tests := []struct {
		name    string
		how     func(*world, *config.Pool)
		fault   func(*world)
		verdict []string
		started int  // processes of the new generation; -1: depends on the cores, and on who is faster
		returns bool // old workers had left by then
	}{
		{"the configuration", nil, func(w *world) { w.nextErr = errors.New("supervisor.toml:7: nonsense") }, []string{"supervisor.toml:7: nonsense"}, 0, false},
		{"no memory", nil, func(w *world) {
			for _, p := range w.procs {
				p.usage.memory = 300 << 20
			}
			w.memory = func() (machine.Memory, bool) { return machine.Memory{Limit: 2 << 30, Used: 1900 << 20}, true }
		}, []string{"not enough memory", "pool web up to 300 MiB", "has 148 MiB left (of 2048 MiB, 1900 MiB are used)"}, 0, false},
		{"before_reload", nil, func(w *world) { w.hook = func(hook) error { return errors.New("status 1: relation exists") } }, []string{"hook before_reload of pool web: status 1: relation exists"}, 0, false},
		{"the canary's start", nil, only(1, die), []string{"web.0.9", "did not become ready: exit:3", "cannot open the database"}, 1, false},
		{"the canary's boot_timeout", nil, only(1, func(*fake) {}), []string{"web.0.9", "never sent READY=1 within boot_timeout (30s)"}, 1, false},
		{"the canary leaves", nil, only(1, func(p *fake) { p.ready(); p.tell(event{fact: factStopping}); p.exit(exitStatus{}) }), []string{"web.0.9", "left"}, 1, false},
		{"the canary is not well", nil, func(w *world) {
			w.well = func(*fake) error { return errors.New("GET /health: status 503: no database") }
		}, []string{"canary web.0.9 is not well: GET /health: status 503: no database"}, 1, false},
		{"the canary dies in the bake", nil, only(1, then(func(p *fake) {
			p.exit(exitStatus{code: 2, crash: "panic", tail: []string{"panic: out of luck", "goroutine 1"}})
		})), []string{"web.0.9", "crash:panic", "panic: out of luck"}, 1, false},
		{"the canary answers 500", nil, only(1, then(func(p *fake) { p.answers(20, 20) })), []string{"canary web.0.9 answered 20 of 20 requests with a status from 500, the old workers 0 of 0"}, 1, false},
		{"the canary hangs in the bake", func(_ *world, p *config.Pool) { p.Bake = 5 * time.Minute }, only(1, func(p *fake) { p.silent = true; p.writer.Beat(); p.ready() }), []string{"web.0.9", "heartbeat"}, 1, false},
		{"the third", alone, only(3, die), []string{"web.2.11", "exit:3", "cannot open the database"}, -1, false},
		{"the third after the canary", nil, only(3, die), []string{"web.2.11", "exit:3"}, -1, false},
		{"the third is never ready", alone, only(3, func(*fake) {}), []string{"web.2.11", "boot_timeout"}, 8, false},
		{"the third, one at a time", one, only(3, die), []string{"web.2.11", "exit:3"}, 3, true},
		{"the last, one at a time", one, only(8, die), []string{"web.7.16", "exit:3"}, 8, true},
		{"the first after it has relieved the old one", one, func(w *world) {
			first := len(w.procs)
			w.boot = func(p *fake) {
				time.Sleep(2 * time.Second)
				p.ready()
				if p.nth == first+1 {
					time.Sleep(3 * time.Second)
					die(p)
				}
			}
		}, []string{"web.0.9", "exit:3"}, 3, true},
		{"the fifth, three at a time, after the canary", three, only(5, die), []string{"web.4.13", "exit:3"}, -1, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig(bakedPool(8))
			inWorld(t, cfg, func(w *world) {
				before := slices.Clone(w.procs)
				next := testConfig(bakedPool(8))
				next.Pools[0].Env = map[string]string{"NEW": "1"}
				if test.how != nil {
					test.how(w, next.Pools[0])
				}
				w.next = next
				test.fault(w)
				a := w.askReload()
				w.after(20 * time.Second)
				w.boot = (*fake).ready // for those who come back
				w.after(10 * time.Minute)

				if a.verdict == nil {
					t.Fatal("no verdict")
				}
				for _, want := range append(test.verdict, "nothing changed") {
					if !strings.Contains(a.verdict.Text, want) {
						t.Errorf("the verdict has no %q: %s", want, a.verdict.Text)
					}
				}
				if a.verdict.OK || a.verdict.Generation != 1 || w.generation != 1 || w.cfg != cfg || w.pools[0].cfg != cfg.Pools[0] || w.reload != nil || w.degraded != "" {
					t.Errorf("verdict %+v; generation %d, reload %v, degraded %q", a.verdict, w.generation, w.reload, w.degraded)
				}
				started := 0
				for _, p := range w.procs[8:] {
					if p.generation == 2 {
						started++
					}
				}
				if started != test.started && test.started >= 0 {
					t.Errorf("%d workers of the new generation were started, want %d", started, test.started)
				}
				if got := w.generations(); len(got) != 1 || got[1] != 8 {
					t.Errorf("living workers by generation: %v", got)
				}
				for _, p := range before {
					if gone := p.gone.Load(); gone && !test.returns {
						t.Errorf("%s is gone: %q", p.id, p.said)
					}
					if last := lastOf(p.said, "adopt"); !p.gone.Load() && last != "adopt on" {
						t.Errorf("%s was told %q", p.id, p.said)
					}
				}
				// And a reload that is all right works.
				w.next, w.nextErr, w.hook, w.well, w.memory = next, nil, nil, nil, noLimit
				b := w.askReload()
				w.after(10 * time.Minute)
				if b.verdict == nil || !b.verdict.OK || w.generations()[2] != 8 || len(w.living()) != 8 {
					t.Errorf("the next reload: %+v, living workers by generation: %v", b.verdict, w.generations())
				}
			})
		})
	}
}

func lastOf(said []string, prefix string) string {
	last := ""
	for _, s := range said {
		if strings.HasPrefix(s, prefix) {
			last = s
		}
	}
	return last
}

func TestCanaryGoesAloneAndGetsItsShare(t *testing.T) {
	p := fakePool("web", 4)
	p.Bake = 30 * time.Second
	inWorld(t, testConfig(p), func(w *world) {
		old := slices.Clone(w.procs)
		old[0].holds(10)
		old[1].holds(1)
		a := w.askReload()
		w.after(29 * time.Second)
		if len(w.procs) != 5 {
			t.Fatalf("%d processes, want 4 and the canary", len(w.procs))
		}
		if canary := w.procs[4]; lastOf(canary.said, "adopt") != "adopt on" || canary.told("commit") {
			t.Errorf("the canary was told %q", canary.said)
		}
		for i, give := range []string{"give 2", "give 1", "", ""} {
			if o := old[i]; lastOf(o.said, "adopt") != "adopt off" || lastOf(o.said, "give") != give {
				t.Errorf("%s was told %q", o.id, o.said)
			}
		}
		w.procs[4].answers(3, 0)
		w.after(2 * time.Second)
		if a.verdict == nil || !a.verdict.OK || strings.Contains(a.verdict.Text, "unproven") {
			t.Errorf("%+v", a.verdict)
		}
		w.wantLiving(4)
	})
}

func TestBakeEndsWhenEnoughWasSeen(t *testing.T) {
	p := fakePool("web", 4)
	p.Bake = time.Hour
	inWorld(t, testConfig(p), func(w *world) {
		a := w.askReload()
		w.after(time.Second)
		w.procs[4].answers(bakeEnough, 1) // as the others
		for _, o := range w.procs[:4] {
			o.answers(bakeEnough, 1)
		}
		w.after(time.Second)
		if a.verdict == nil || !a.verdict.OK {
			t.Errorf("%+v", a.verdict)
		}
	})
}

func TestCanaryThatWasAskedForNothingPassesUnproven(t *testing.T) {
	p := fakePool("web", 2)
	p.Bake = 5 * time.Second
	inWorld(t, testConfig(p), func(w *world) {
		a := w.askReload()
		w.after(10 * time.Second)
		if a.verdict == nil || !a.verdict.OK || !strings.Contains(a.verdict.Text, "unproven") || w.count("unproven") != 1 {
			t.Errorf("%+v", a.verdict)
		}
		p.Health.Path = "/health"
		a = w.askReload()
		w.after(10 * time.Second)
		if a.verdict == nil || !a.verdict.OK || strings.Contains(a.verdict.Text, "unproven") {
			t.Errorf("%+v", a.verdict)
		}
	})
}

func TestCanaryMayWarmUp(t *testing.T) {
	p := fakePool("web", 2)
	p.Health.Path = "/health"
	inWorld(t, testConfig(p), func(w *world) {
		n := 0
		w.well = func(*fake) error {
			if n++; n < probeTries {
				return errors.New("status 503")
			}
			return nil
		}
		a := w.askReload()
		w.after(10 * time.Second)
		if a.verdict == nil || !a.verdict.OK || n != probeTries {
			t.Errorf("asked %d times: %+v", n, a.verdict)
		}
	})
}

// Nothing to ask and nothing to watch: nobody waits for the first.
func TestWithoutBakeAndHealthAllStartTogether(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 4)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		w.send(syscall.SIGHUP)
		w.after(3*bootPace + time.Millisecond) // none was ready by then
		if len(w.procs) != 8 {
			t.Errorf("%d processes", len(w.procs))
		}
		w.after(time.Second)
		if w.generation != 2 {
			t.Errorf("generation %d", w.generation)
		}
	})
}

func TestNewPoolIsAskedButNotWatched(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		api := fakePool("api", 2)
		api.Bake, api.Health.Path = time.Hour, "/health"
		w.next = testConfig(fakePool("web", 1), api)
		a := w.askReload()
		w.after(time.Second)
		if a.verdict == nil || !a.verdict.OK {
			t.Errorf("%+v", a.verdict)
		}
		w.wantLiving(3)
	})
}

// How many of the canary's answers may be bad, next to the old workers'.
func TestVerdictOfTheBake(t *testing.T) {
	for _, test := range []struct {
		canary, old score
		fails       bool
	}{
		{score{50, 0}, score{200, 0}, false},
		{score{50, 0}, score{200, 100}, false},
		{score{50, 1}, score{200, 0}, false}, // may happen
		{score{50, 2}, score{200, 0}, true},
		{score{50, 50}, score{200, 200}, false}, // the database is down
		{score{50, 50}, score{200, 190}, false}, // … since a moment ago
		{score{50, 50}, score{200, 100}, true},
		{score{50, 10}, score{200, 40}, false},
		{score{50, 20}, score{200, 40}, true},
		{score{1, 1}, score{0, 0}, false}, // one word against none
		{score{1, 1}, score{1000, 0}, true},
		{score{3, 3}, score{0, 0}, true},
		{score{5, 5}, score{5, 5}, false},
		{score{100_000, 100_000}, score{0, 0}, true},
		{score{100_000, 1000}, score{400_000, 4000}, false},
	} {
		if got := test.canary.worseThan(test.old, bakeDoubt); got != test.fails {
			t.Errorf("canary %+v, old %+v: fails %v, chance %.4f", test.canary, test.old, got,
				chance(test.canary.bad, test.canary.all, (float64(test.old.bad)+0.1)/(float64(test.old.all)+2)))
		}
	}
}

func TestMaxSurgeBoundsTheProcesses(t *testing.T) {
	for _, test := range []struct {
		from, to int
		surge    config.Surge
		most     int
	}{
		{8, 8, config.Surge{Count: 1}, 9},
		{8, 8, config.Surge{Count: 3}, 11},
		{8, 8, config.Surge{Percent: 25}, 10},
		{8, 8, config.Surge{Percent: 100}, 16},
		{4, 2, config.Surge{Count: 1}, 5},
		{2, 8, config.Surge{Count: 1}, 9},
		{2, 8, config.Surge{Percent: 100}, 10},
	} {
		t.Run(fmt.Sprintf("%d to %d with %v", test.from, test.to, test.surge), func(t *testing.T) {
			inWorld(t, testConfig(fakePool("web", test.from)), func(w *world) {
				w.boot = func(p *fake) { time.Sleep(time.Second); p.drain = 3 * time.Second; p.ready() }
				for _, p := range w.procs {
					p.drain = 3 * time.Second
				}
				p := fakePool("web", test.to)
				p.MaxSurge = test.surge
				w.next = testConfig(p)
				a := w.askReload()
				w.after(5 * time.Minute)
				if a.verdict == nil || !a.verdict.OK {
					t.Fatalf("%+v", a.verdict)
				}
				if got := w.generations(); len(got) != 1 || got[2] != test.to {
					t.Errorf("living workers by generation: %v", got)
				}
				if w.most != test.most {
					t.Errorf("%d processes lived at once, want %d", w.most, test.most)
				}
				for _, p := range w.living() {
					if !p.told("commit") || lastOf(p.said, "adopt") != "adopt on" {
						t.Errorf("%s was told %q", p.id, p.said)
					}
				}
			})
		})
	}
}

// EDGE_CASES 28.
func TestMemoryBoundsTheSurge(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 4)), func(w *world) {
		w.boot = func(p *fake) { p.usage.memory = 200 << 20; p.drain = time.Second; p.ready() }
		for i, p := range w.procs {
			p.usage.memory, p.drain = int64(100+20*i)<<20, time.Second // the largest: 160 MiB
		}
		w.memory = func() (machine.Memory, bool) { return machine.Memory{Limit: 1000 << 20, Used: 700 << 20}, true }
		a := w.askReload()
		w.after(time.Minute)
		if a.verdict == nil || !a.verdict.OK || w.most != 5 {
			t.Errorf("%d processes lived at once, want 5; %+v", w.most, a.verdict)
		}
		w.memory = func() (machine.Memory, bool) { return machine.Memory{Limit: 1000 << 20, Used: 810 << 20}, true }
		a = w.askReload()
		w.after(time.Minute)
		if a.verdict == nil || a.verdict.OK || w.generation != 2 {
			t.Errorf("without room for one: %+v", a.verdict)
		}
	})
}

// The way back fails, too: what serves is kept, and said; and when the old program works again it is used.
func TestRollbackThatFailsKeepsWhatServes(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 4)), func(w *world) {
		p := fakePool("web", 4)
		p.MaxSurge = config.Surge{Count: 1}
		w.next = testConfig(p)
		bad := func(p *fake) { // the third new one, and all old ones that come back
			if p.generation == 1 || p.id.Slot == 2 {
				p.exit(exitStatus{code: 1, tail: []string{"the old library is gone"}})
				return
			}
			p.ready()
		}
		w.boot = bad
		a := w.askReload()
		w.after(5 * time.Minute)
		if a.verdict == nil || a.verdict.OK || !strings.Contains(a.verdict.Text, "rollback incomplete") ||
			!strings.Contains(a.verdict.Text, "the old library is gone") || w.degraded == "" {
			t.Errorf("%+v, degraded %q", a.verdict, w.degraded)
		}
		if got := w.generations(); got[1] != 2 || got[2] != 2 {
			t.Errorf("living workers by generation: %v", got)
		}
		for _, p := range w.living() {
			if !p.told("commit") || lastOf(p.said, "adopt") != "adopt on" {
				t.Errorf("%s was told %q", p.id, p.said)
			}
		}
		w.boot = (*fake).ready
		w.after(2 * time.Minute)
		if got := w.generations(); got[1] != 4 || len(got) != 1 || w.degraded != "" {
			t.Errorf("living workers by generation: %v, degraded %q", got, w.degraded)
		}
		w.boot = bad
		a = w.askReload()
		w.after(5 * time.Minute)
		w.boot = (*fake).ready
		b := w.askReload()
		w.after(time.Minute)
		if got := w.generations(); !b.verdict.OK || w.degraded != "" || len(got) != 1 || got[b.verdict.Generation] != 4 {
			t.Errorf("%+v, %+v, living workers by generation: %v", a.verdict, b.verdict, got)
		}
	})
}

func TestAStopOrAParkEndsAReloadAtAnyStep(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGWINCH} {
		if sig == syscall.SIGWINCH && hasTerminal() {
			continue
		}
		for at := range 14 {
			t.Run(fmt.Sprintf("%v after %d s", sig, at), func(t *testing.T) {
				inWorld(t, testConfig(bakedPool(4)), func(w *world) {
					p := bakedPool(4)
					p.Bake, p.MaxSurge = 2*time.Second, config.Surge{Count: 1}
					w.next = testConfig(p)
					w.hook = func(hook) error { time.Sleep(1500 * time.Millisecond); return nil }
					first := len(w.procs)
					w.boot = func(p *fake) {
						time.Sleep(time.Second)
						if p.nth == first+4 {
							p.exit(exitStatus{code: 1}) // the last one: then they come back
							return
						}
						p.ready()
					}
					a := w.askReload()
					time.Sleep(time.Duration(at) * time.Second)
					w.send(sig)
					w.after(time.Minute)
					if a.verdict == nil || a.verdict.OK {
						t.Errorf("%+v", a.verdict)
					}
					if sig != syscall.SIGWINCH {
						if !w.done || w.result != nil {
							t.Errorf("done %v: %v", w.done, w.result)
						}
						return
					}
					w.wantLiving(0)
					w.boot = (*fake).ready
					w.send(syscall.SIGTTIN)
					w.after(time.Minute)
					if got := w.generations(); got[1] != 5 {
						t.Errorf("living workers by generation: %v", got)
					}
				})
			})
		}
	}
}

// Each who asks gets the verdict of the reload that read the configuration after the question.
func TestEachAskerGetsTheVerdictOfItsOwnReload(t *testing.T) {
	p := fakePool("web", 2)
	p.Bake = 10 * time.Second
	inWorld(t, testConfig(p), func(w *world) {
		a := w.askReload()
		w.after(time.Second)
		w.nextErr = errors.New("supervisor.toml:1: nonsense")
		b := w.askReload()
		w.after(time.Second)
		w.nextErr = nil
		c := w.askReload() // the newest configuration is what counts
		w.after(time.Second)
		if a.verdict != nil || b.verdict != nil {
			t.Error("a waiting reload ended the running one")
		}
		w.after(time.Minute)
		if !a.verdict.OK || !b.verdict.OK || !c.verdict.OK || a.verdict.Generation != 2 || b.verdict.Generation != 3 || c.verdict.Generation != 3 {
			t.Errorf("%+v, %+v, %+v", a.verdict, b.verdict, c.verdict)
		}
	})
}

func TestGenerationsThatDrainAreBounded(t *testing.T) {
	p := fakePool("web", 2)
	p.GracefulTimeout = time.Hour
	inWorld(t, testConfig(p), func(w *world) {
		w.boot = func(p *fake) { p.drain = 50 * time.Minute; p.ready() }
		for _, p := range w.procs {
			p.drain = 50 * time.Minute
		}
		var verdicts []*asked
		for range 5 {
			verdicts = append(verdicts, w.askReload())
			w.after(time.Minute)
		}
		if w.generation != 1+maxDraining || len(w.living()) != 2*(1+maxDraining) || w.count("generations still drain") != 2 {
			t.Errorf("generation %d, %d processes", w.generation, len(w.living()))
		}
		w.after(time.Hour)
		for i, a := range verdicts {
			if a.verdict == nil || !a.verdict.OK || a.verdict.Generation != min(2+i, 5) {
				t.Errorf("reload %d: %+v", i, a.verdict)
			}
		}
	})
}

// After the commit a death is an ordinary crash.
func TestDeathAfterTheCommitIsACrash(t *testing.T) {
	p := fakePool("web", 2)
	p.Bake = time.Second
	inWorld(t, testConfig(p), func(w *world) {
		a := w.askReload()
		w.after(2 * time.Second)
		w.living()[0].exit(exitStatus{code: 1})
		w.after(time.Minute)
		if !a.verdict.OK || w.generation != 2 || w.generations()[2] != 2 || w.count("reload failed") != 0 {
			t.Errorf("%+v, generation %d, %v", a.verdict, w.generation, w.generations())
		}
	})
}
