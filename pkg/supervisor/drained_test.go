package supervisor

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// by asks for something as a client that waits would, and gives the first verdict; nil: there is none yet.
func (w *world) by(begin func(control.DrainRequest, asker) (string, error), target string) (verdict func() *Verdict) {
	w.t.Helper()
	var told *Verdict
	w.look(func() {
		_, err := begin(control.DrainRequest{Wait: waiting, Target: target}, asker{context.Background(), true, func(v Verdict) {
			if told == nil {
				told = &v
			}
		}})
		if err != nil {
			w.t.Errorf("%s: %v", target, err)
		}
	})
	return func() (v *Verdict) {
		w.look(func() { v = told })
		return v
	}
}

// serving gives the slots that have a ready worker, as digits.
func (w *world) serving() (slots string) {
	w.look(func() {
		for _, sl := range w.pools[0].slots {
			if sl.isReady() {
				slots += string(rune('0' + sl.index))
			}
		}
	})
	return slots
}

func (w *world) wantServing(slots string) {
	w.t.Helper()
	if got := w.serving(); got != slots {
		w.t.Errorf("slots %q serve, want %q", got, slots)
	}
}

func TestDrainedSlotStaysEmpty_UntilUndrain(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3)), func(w *world) {
		w.procs[1].drain = 5 * time.Second
		verdict := w.by(w.drainTarget, "web.1")
		w.after(rescueAfter / 10)
		var stranded bool
		w.look(func() { stranded = w.pools[0].stranded(1, time.Now()) })
		if !stranded {
			t.Error("what is in its queue waits")
		}
		if !w.procs[1].told("adopt off") || !w.procs[1].told("drain move") || verdict() != nil {
			t.Errorf("told %q, %v", w.procs[1].said, verdict())
		}
		w.after(time.Hour)
		w.wantServing("02")
		if v := verdict(); v == nil || !v.OK || v.Text != "web.1 is drained; 2 of 3 workers of pool web serve; ctl undrain or a reload brings back what is drained" {
			t.Errorf("%+v", v)
		}
		if v := w.by(w.drainTarget, "web.1")(); v == nil {
			w.after(time.Second) // the next event tells
		}
		verdict = w.by(w.undrainTarget, "web.1")
		w.after(time.Second)
		w.wantServing("012")
		if v := verdict(); v == nil || !v.OK || v.Text != "web.1 is back" {
			t.Errorf("%+v", v)
		}
		if len(w.procs) != 4 {
			t.Errorf("%d processes were started, want 4", len(w.procs))
		}
	})
}

// One that does not leave in time is ended, and the verdict says so.
func TestDrainedWorkerThatDoesNotLeave(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.procs[0].deaf = true
		verdict := w.by(w.drainTarget, "web.0")
		w.after(time.Hour)
		if v := verdict(); v == nil || !v.OK || !strings.HasSuffix(v.Text, "; web.0.1 did not leave within graceful_timeout and was ended") {
			t.Errorf("%+v", v)
		}
	})
}

// A slot in a crash loop can be taken out, too: it is not tried again.
func TestDrainedCrashLoopEnds(t *testing.T) {
	inWorldThatBoots(t, testConfig(fakePool("web", 2)), func(p *fake) {
		if p.id.Slot == 1 {
			p.exit(exitStatus{code: 1})
			return
		}
		p.ready()
	}, func(w *world) {
		w.after(time.Minute)
		verdict := w.by(w.drainTarget, "web.1")
		w.after(time.Second)
		before := len(w.procs)
		w.after(time.Hour)
		if len(w.procs) != before {
			t.Errorf("%d processes more", len(w.procs)-before)
		}
		if v := verdict(); v == nil || !v.OK {
			t.Errorf("%+v", v)
		}
		var degraded string
		w.look(func() { degraded = w.pools[0].degraded() })
		if !strings.HasPrefix(degraded, "web.1 is drained by hand since 2000-01-01T00:01:00Z") || strings.Contains(degraded, "crash") {
			t.Error(degraded)
		}
		w.by(w.undrainTarget, "")
		w.after(time.Minute)
		if len(w.procs) < before+firstTries {
			t.Errorf("it was not tried again: %d processes more", len(w.procs)-before)
		}
	})
}

// What fails changes nothing, also not who is drained; what succeeds puts all in force. With little surge new workers take slots before the
// commit, also the empty one.
func TestReloadBringsDrainedSlotsBack_UnlessItFails(t *testing.T) {
	for name, surge := range map[string]config.Surge{"together": {}, "one by one": {Count: 1}} {
		t.Run(name, func(t *testing.T) {
			pool := fakePool("web", 4)
			pool.MaxSurge = surge
			inWorld(t, testConfig(pool), func(w *world) {
				w.by(w.drainTarget, "web.1")
				w.after(time.Minute)
				w.wantServing("023")
				var started atomic.Int32
				w.boot = func(p *fake) {
					if p.generation == 2 && started.Add(1) == 4 {
						p.exit(exitStatus{code: 1})
						return
					}
					p.ready()
				}
				next := *pool
				w.next = testConfig(&next)
				w.send(syscall.SIGHUP)
				w.after(time.Hour)
				w.wantServing("023")
				if w.count("nothing changed") != 1 || w.count("rollback incomplete") != 0 {
					t.Error("no rollback, or an incomplete one")
				}
				w.boot = (*fake).ready
				w.send(syscall.SIGHUP)
				w.after(time.Hour)
				w.wantServing("0123")
				var last string
				w.look(func() { last = w.desk.last.Text })
				if !strings.HasSuffix(last, "is in force, and web.1 is not drained any more") {
					t.Error(last)
				}
			})
		})
	}
}

// The reload that replaces the workers of a supervisor that was killed is nobody's wish: who is drained stays so.
func TestRevivalLeavesDrainedSlotsEmpty(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3), fakePool("jobs", 1)), func(w *world) {
		w.by(w.drainTarget, "web.1")
		w.by(w.drainTarget, "jobs")
		w.after(time.Minute)
		w.look(w.replaceAdopted)
		w.after(time.Minute)
		w.wantServing("02")
		w.wantLiving(2)
		if w.count("reload done") != 1 {
			t.Error("the reload is not done")
		}
		var kept map[int]time.Time
		w.look(func() { kept = w.snapshot().snapshot.Pools[0].Drained })
		p := &pool{cfg: fakePool("web", 3)}
		p.keepDrained(kept, 3)
		if len(kept) != 1 || len(p.drained()) != 1 || p.drained()[0].index != 1 {
			t.Errorf("%v are kept", kept)
		}
		p.keepDrained(map[int]time.Time{0: time.Now(), 1: time.Now(), 2: time.Now()}, 3)
		w.look(func() {
			if !w.firstSet(p) {
				t.Error("the pools after one that is drained wait for it")
			}
		})
		p = &pool{cfg: fakePool("web", 1)} // the slot is not wanted any more
		p.keepDrained(kept, 3)
		p.delta = 2
		if len(p.drained()) != 0 {
			t.Error("a slot that comes later is drained")
		}
	})
}

func TestUpgradeToFewerWorkersLeavesSomebodyServing(t *testing.T) {
	at := time.Now()
	for name, c := range map[string]struct {
		before  map[int]time.Time
		workers int
		drained int
	}{
		"the one that is left was drained": {map[int]time.Time{0: at}, 1, 0},
		"both that are left were":          {map[int]time.Time{0: at, 1: at, 2: at}, 2, 0},
		"one of those that are left":       {map[int]time.Time{0: at}, 2, 1},
		"all of the pool":                  {map[int]time.Time{0: at, 1: at, 2: at, 3: at}, 1, 1},
		"as many workers as before":        {map[int]time.Time{0: at, 1: at, 2: at, 3: at}, 4, 4},
	} {
		s := newSupervisor(testConfig(fakePool("web", c.workers)), zap.NewNop(), nil)
		p := &pool{cfg: s.cfg.Pools[0]}
		s.pools = []*pool{p}
		s.keepByHand(snapshot{Pools: []poolSnapshot{{Name: "web", Config: encodeConfig(fakePool("web", 4)), Drained: c.before}}})
		if n := len(p.drained()); n != c.drained {
			t.Errorf("%s: %d are drained, want %d", name, n, c.drained)
		}
	}
}

func TestScalingAndDrainedSlots(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3)), func(w *world) {
		w.by(w.drainTarget, "web.0")
		w.by(w.drainTarget, "web.2")
		w.after(time.Minute)
		w.wantServing("1")
		scale := func(n int) (v Verdict, err error) {
			var told Verdict
			w.look(func() {
				_, err = w.scaleTo(control.ScaleRequest{Wait: waiting, Pool: "web", Workers: n}, asker{context.Background(), true, func(v Verdict) { told = v }})
			})
			w.after(time.Minute)
			w.look(func() { v = told })
			return v, err
		}
		if _, err := scale(1); err == nil || !strings.Contains(err.Error(), "nobody would serve: web.0 is drained by hand") {
			t.Errorf("%v", err)
		}
		if v, err := scale(2); err != nil || !v.OK || v.Text != "pool web: 1 worker ready, web.0 is drained" {
			t.Errorf("%+v, %v", v, err)
		}
		w.wantServing("1")
		w.send(syscall.SIGTTOU)
		w.after(time.Minute)
		w.wantServing("1")
		if v, err := scale(3); err != nil || v.Text != "pool web: 2 workers ready, web.0 is drained" { // web.2 is wanted anew
			t.Errorf("%+v, %v", v, err)
		}
		w.wantServing("12")
	})
}

// With real workers, over the control socket.
func TestControlDrain(t *testing.T) {
	web := onPort(testPool("worker"))
	web.Workers = 3
	m, c := controlled(t, adminOnPort(testConfig(web)))
	m.until("all pools serve", func() bool { return m.desk.started })
	ctx := testContext(t)
	drain := func(target string) (control.Verdict, error) {
		return c.Drain(ctx, control.DrainRequest{Wait: waiting, Target: target})
	}
	undrain := func(target string) (control.Verdict, error) {
		return c.Undrain(ctx, control.DrainRequest{Wait: waiting, Target: target})
	}
	pids := m.pids()
	load := startClients(m.addr(), 8)
	load.more(t, 100)
	v, err := drain("web.1.2")
	if good(t, v, err); v.What != "drain" || v.Generation != 1 {
		t.Errorf("%+v", v)
	}
	st, err := c.Status(ctx)
	if err != nil || !st.Ready || len(st.Degraded) != 1 || !strings.HasPrefix(st.Degraded[0], "pool web: web.1 is drained by hand since ") ||
		st.Pools[0].Drained != 1 || st.Pools[0].Ready != 2 {
		t.Errorf("%+v, %v", st, err)
	}
	if i := slices.IndexFunc(st.Pools[0].Workers, func(w control.Worker) bool { return w.Name == "web.1" && w.State == "drained" }); i < 0 {
		t.Errorf("%+v", st.Pools[0].Workers)
	}
	if code, h := m.ask(control.PathReady); code != 200 || h.Pools[0] != (poolHealth{"web", 3, 2, 1}) {
		t.Errorf("%d %+v", code, h)
	}
	v, err = drain("web.1") // again
	good(t, v, err)
	v, err = drain("web.2")
	good(t, v, err)
	for _, test := range []struct {
		target string
		status int
		text   string
	}{
		{"web.0", 409, "web.0 is the last worker of pool web that serves: its clients would wait; if you mean that, drain web"},
		{"web.9", 404, "there is no slot web.9; pool web has web.0, web.1, web.2"},
		{"web.0.99", 404, "there is no worker web.0.99; there is web.0.1"},
		{"web.-1", 400, `"web.-1" is no worker`},
		{"wbe", 404, `there is no pool "wbe"; there is web`},
		{"", 400, "drain what?"},
	} {
		_, err := drain(test.target)
		if status, text := refusal(t, err); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%s: %d %s", test.target, status, text)
		}
	}
	if now := m.pids(); !slices.Equal(now, pids[:1]) {
		t.Errorf("%v serve, want %v", now, pids[:1])
	}
	load.more(t, 100)
	v, err = undrain("")
	if good(t, v, err); v.Text != "web.1, web.2 are back" {
		t.Errorf("%+v", v)
	}
	v, err = undrain("web")
	if good(t, v, err); v.Text != "nothing of web is drained" {
		t.Errorf("%+v", v)
	}
	load.more(t, 100)
	if failed, first := load.end(); failed > 0 {
		t.Errorf("%d requests failed: %v", failed, first)
	}

	// The whole pool: clients wait, and are answered.
	v, err = drain("web")
	good(t, v, err)
	if code, h := m.ask(control.PathReady); code != 503 || h.Reason != "pool web is drained by hand (supervisor ctl undrain web)" {
		t.Errorf("%d %+v", code, h)
	}
	answers := burst(t, m.addr(), 20)
	v, err = undrain("web.2")
	good(t, v, err)
	if by := answers(); len(by) != 1 {
		t.Errorf("answers by %v", by)
	}
}
