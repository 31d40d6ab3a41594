package supervisor

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
)

func hookedPool(name string, workers int) *config.Pool {
	p := fakePool(name, workers)
	p.Hooks = config.Hooks{BeforeStart: []string{"start"}, BeforeReload: []string{"reload"}, AfterReload: []string{"after"}, OnWorkerExit: []string{"exit"}}
	return p
}

func (w *world) hooksRan() (names []string) {
	for _, h := range w.ran {
		names = append(names, h.cfg.Name+" "+h.name)
	}
	return names
}

func TestHooksRunAtTheirMoments(t *testing.T) {
	inWorld(t, testConfig(hookedPool("web", 1)), func(w *world) {
		want := []string{"web before_start"}
		expect := func(more ...string) {
			t.Helper()
			w.after(time.Minute)
			if want = append(want, more...); !slices.Equal(w.hooksRan(), want) {
				t.Errorf("ran %q, want %q", w.hooksRan(), want)
			}
		}
		expect()
		w.next = testConfig(hookedPool("web", 1), hookedPool("jobs", 1))
		w.send(syscall.SIGHUP)
		expect("web before_reload", "jobs before_start", "web after_reload", "web on_worker_exit")
		exit := w.ran[len(w.ran)-1]
		if text := strings.Join(exit.env, " "); text != "SUPERVISOR_WORKER=web.0.1 SUPERVISOR_WORKER_PID=1000 SUPERVISOR_REASON=reload SUPERVISOR_EXIT=status 0" {
			t.Errorf("on_worker_exit has %s", text)
		}
		w.living()[0].exit(exitStatus{signal: syscall.SIGSEGV})
		expect("web on_worker_exit")
		if text := strings.Join(w.ran[len(w.ran)-1].env, " "); !strings.Contains(text, "SUPERVISOR_REASON=crash:SIGSEGV SUPERVISOR_EXIT=SIGSEGV") {
			t.Errorf("on_worker_exit has %s", text)
		}
		w.send(syscall.SIGTERM)
		w.after(time.Minute)
		want = append(want, "jobs on_worker_exit", "web on_worker_exit")
		if !w.done || !slices.Equal(w.hooksRan(), want) {
			t.Errorf("done %v, ran %q, want %q", w.done, w.hooksRan(), want)
		}
	})
}

func TestNeverPoolHasReloadHooksWhenItsSectionChanges(t *testing.T) {
	redis := func(workers int) *config.Pool {
		p := hookedPool("redis", workers)
		p.Replace = config.ReplaceNever
		return p
	}
	inWorld(t, testConfig(redis(1)), func(w *world) {
		w.next = testConfig(redis(1))
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		if got := w.hooksRan(); len(got) != 1 {
			t.Errorf("ran %q", got)
		}
		w.next = testConfig(redis(2))
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		if got := w.hooksRan(); !slices.Equal(got[1:], []string{"redis before_reload", "redis after_reload", "redis on_worker_exit"}) {
			t.Errorf("ran %q", got)
		}
	})
}

func TestBeforeStartThatFailsEndsTheStart(t *testing.T) {
	boot := func(p *fake) { time.Sleep(time.Second); p.ready() }
	inWorldThatBoots(t, testConfig(fakePool("redis", 1), hookedPool("web", 1)), boot, func(w *world) {
		w.hook = func(hook) error { return errors.New("status 1: no such table") }
		w.after(time.Minute)
		if !w.done || !errors.Is(w.result, ErrNotReady) || !strings.Contains(w.result.Error(), "hook before_start of pool web: status 1: no such table") {
			t.Errorf("done %v: %v", w.done, w.result)
		}
		for _, p := range w.procs {
			if p.id.Pool == "web" {
				t.Errorf("%s was started", p.id)
			}
		}
	})
}

// The first worker comes after the hook, and the loop goes on meanwhile.
func TestBeforeStartIsAwaited(t *testing.T) {
	slow := func(h hook) error { time.Sleep(10 * time.Second); return nil }
	redis, web := hookedPool("redis", 1), fakePool("web", 1)
	inWorld(t, testConfig(redis, web), func(w *world) {
		w.hook = slow
		w.next = testConfig(redis, web, hookedPool("jobs", 1))
		w.send(syscall.SIGHUP)
		w.after(9 * time.Second)
		w.living()[0].exit(exitStatus{code: 1})
		w.after(500 * time.Millisecond)
		if len(w.procs) != 3 {
			t.Errorf("%d processes: the slot was not refilled during a hook, or somebody started before it", len(w.procs))
		}
		w.after(time.Minute)
		w.wantLiving(3)
	})
}

// All workers die: the loop is not blocked, and the hooks come a few at a time.
func TestExitHooksAreBounded(t *testing.T) {
	inWorld(t, testConfig(hookedPool("web", 20)), func(w *world) {
		most, running := 0, 0
		w.hook = func(h hook) error {
			w.do(func() { running++; most = max(most, running) })
			time.Sleep(time.Second)
			w.do(func() { running-- })
			return errors.New("status 1")
		}
		for _, p := range w.living() {
			p.exit(exitStatus{signal: syscall.SIGKILL})
		}
		w.after(10 * time.Millisecond)
		if n := len(w.procs); n < 20+bootsAtOnce() {
			t.Errorf("%d processes: the refill waits for hooks", n)
		}
		w.after(time.Minute)
		if len(w.ran) != 1+20 || most != exitHooksAtOnce || w.count("hook failed") != 20 {
			t.Errorf("%d hooks ran, %d at once, %d failed", len(w.ran), most, w.count("hook failed"))
		}
		w.wantLiving(20)
	})
}

func TestAStopWaitsForHooks_AQuickOneDoesNot(t *testing.T) {
	for sig, wait := range map[syscall.Signal]time.Duration{syscall.SIGTERM: 20 * time.Second, syscall.SIGINT: 0} {
		inWorld(t, testConfig(hookedPool("web", 2)), func(w *world) {
			w.hook = func(h hook) error { time.Sleep(20 * time.Second); return nil }
			w.living()[0].exit(exitStatus{code: 1})
			w.send(sig)
			w.after(time.Second)
			if w.done != (wait == 0) {
				t.Errorf("%v: done after a second: %v", sig, w.done)
			}
			w.after(time.Minute)
			if !w.done {
				t.Errorf("%v: never done", sig)
			}
		})
	}
}
