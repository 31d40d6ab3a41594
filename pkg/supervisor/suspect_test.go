package supervisor

import (
	"testing"
	"time"
)

// watched gives a world's first pool a queue per slot, without which nobody is suspect.
func (w *world) watched() {
	w.look(func() { w.pools[0].sockets = []*bindSockets{{adoptRx: -1, adoptTx: -1}} })
}

// suspects gives the slots whose workers are suspect.
func (w *world) suspects() map[int]bool {
	slots := map[int]bool{}
	w.look(func() {
		for _, sl := range w.pools[0].slots {
			if sl.current != nil && sl.current.progress.suspect != "" {
				slots[sl.index] = true
			}
		}
	})
	return slots
}

func TestSilentWorkerIsSuspectUntilItBeats(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3)), func(w *world) {
		w.watched()
		p := w.procs[1]
		w.after(time.Second)
		p.silent = true
		w.after(silentAfter - watchInterval)
		if n := len(w.suspects()); n != 0 {
			t.Errorf("%d are suspect too early", n)
		}
		w.after(3 * watchInterval)
		if got := w.suspects(); len(got) != 1 || !got[1] || !p.told("adopt off") {
			t.Errorf("suspect are %v, it was told %v", got, p.said)
		}
		w.look(func() {
			if pool := w.pools[0]; !pool.stranded(1, time.Now()) || pool.stranded(0, time.Now()) {
				t.Error("not its queue, or not only its queue, is rescued at once")
			}
		})
		p.silent = false
		w.after(2 * watchInterval)
		if n := len(w.suspects()); n != 0 || p.said[len(p.said)-1] != "adopt on" {
			t.Errorf("%d are suspect, it was told %v", n, p.said)
		}
		if p.gone.Load() || p.told("drain") {
			t.Error("a suspicion is no sentence")
		}
	})
}

func TestTheLastWorkerIsNotSuspect(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 3)), func(w *world) {
		w.watched()
		for _, p := range w.procs {
			p.silent = true
		}
		w.after(5 * time.Second)
		if n := len(w.suspects()); n != 2 {
			t.Fatalf("%d of 3 silent ones are suspect, want 2", n)
		}
		first := w.suspects()
		for slot := range 3 { // one comes back: now the third one may be
			if first[slot] {
				w.procs[slot].silent = false
				break
			}
		}
		w.after(5 * time.Second)
		if n := len(w.suspects()); n != 2 {
			t.Errorf("%d are suspect, want the two silent ones", n)
		}
	})
}

func TestStarvedIsNotSuspect(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.watched()
		w.procs[0].silent = true
		for range 40 {
			w.after(watchInterval)
			w.procs[0].usage.delay += watchInterval * 9 / 10
		}
		if n := len(w.suspects()); n != 0 {
			t.Error("it waits for the CPU, and is suspect")
		}
		w.after(2 * silentAfter) // it got the CPU and is silent all the same
		if n := len(w.suspects()); n != 1 {
			t.Error("it is never suspect")
		}
	})
}

func TestNobodyIsSuspectBecauseWeStoodStill(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.watched()
		w.after(time.Second)
		p := w.procs[0]
		p.writer.Beat()
		p.silent = true
		w.after(silentAfter - watchInterval)
		w.look(func() { w.watchedAt = w.watchedAt.Add(-time.Hour) }) // as after a SIGSTOP of the supervisor
		w.after(2 * watchInterval)
		if n := len(w.suspects()); n != 0 {
			t.Error("suspect because of a time in which nobody looked")
		}
		w.after(silentAfter)
		if n := len(w.suspects()); n != 1 {
			t.Error("never suspect")
		}
	})
}

// A suspect is replaced like any other worker, and its successor starts without a stain.
func TestSuspectIsReplacedByAReload(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.watched()
		w.procs[0].silent = true
		w.after(2 * silentAfter)
		if n := len(w.suspects()); n != 1 {
			t.Fatalf("%d are suspect", n)
		}
		w.next = testConfig(fakePool("web", 2))
		w.look(func() { w.beginReload() })
		w.after(3 * time.Second)
		if n := len(w.suspects()); n != 0 || !w.procs[0].told("drain move") {
			t.Errorf("%d are suspect, the old one was told %v", n, w.procs[0].said)
		}
		w.wantLiving(2)
	})
}
