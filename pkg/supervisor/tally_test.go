package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// worked makes a scoreboard on which a process has answered n requests and counted them under a name of its own.
func worked(t *testing.T, n int) (fd int) {
	t.Helper()
	board, fd, err := scoreboard.Create(scoreboard.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	defer board.Close()
	theirs, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	w, err := scoreboard.Attach(theirs)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{writer: w}
	f.serve(n)
	return fd
}

// tallied gives how many requests the tally of a pool has, by the scoreboard and by the workers' own count.
func (s *Supervisor) tallied(pool string) (requests, named uint64) {
	t := s.tallies[pool]
	if t == nil {
		return 0, 0
	}
	return t.Plain.Get(scoreboard.Succeeded) + t.Plain.Get(scoreboard.Errors), t.Series[`mails_sent_total{to="a"}`]
}

// A self-upgrade fails whose successor's workers have answered requests: they are counted when these processes are gone, once.
func TestFailedSuccessorsWorkersAreCounted(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	conn, worker := begun(t, m, flip, func(v Verdict) { verdicts <- v })
	at, err := startTime(worker.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	fd := worked(t, 30)
	text, _ := json.Marshal(successorNote{Spawned: &processID{worker.Process.Pid, at}, Pool: "web"})
	if err := sendPacket(conn, text, []int{fd}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	say(t, conn, successorNote{Speaks: worker.Process.Pid})
	m.until("it has heard of the worker", func() bool { return len(m.upgrade.joined) == 1 && len(m.upgrade.spawned) == 0 })
	flip.outcome <- errors.New("child exited")
	<-verdicts
	want := func(n uint64) {
		t.Helper()
		m.look(func() {
			if requests, named := m.tallied("web"); requests != n || named != n {
				t.Errorf("%d requests and %d by name, want %d", requests, named, n)
			}
		})
	}
	want(0) // it lives
	worker.Process.Kill()
	worker.Wait()
	m.until("it is gone", func() bool { return len(m.ending) == 0 })
	want(30)
}

// A worker that died while no supervisor was there is counted by the next one, from what lay in the store; so is one that cannot be adopted.
func TestWorkerThatCannotBeAdoptedIsCounted(t *testing.T) {
	m, _ := upgradable(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	m.look(func() {
		for i, ws := range []workerSnapshot{
			{PID: dead.Process.Pid, Pool: "web", Serial: 100, Reason: reasonMaxRequests},
			{PID: dead.Process.Pid, Pool: "web", Serial: 101},
			{PID: m.workers()[0].proc.Pid(), Pool: "web", Serial: 102}, // the start time is another one
		} {
			b := bundle{fds: map[string]int{workerDescriptor(ws.PID, shareBoard): worked(t, 10)}, snapshot: snapshot{Workers: []workerSnapshot{ws}}}
			m.adoptAll(&b)
			if requests, named := m.tallied("web"); requests != uint64(10*(i+1)) || named != requests {
				t.Errorf("worker %d: %d requests and %d by name", i, requests, named)
			}
			if len(b.fds) != 0 {
				t.Errorf("worker %d: descriptors %v are left", i, b.fds)
			}
		}
		if gone := m.tallies["web"].Gone; gone["max_requests"] != 1 || gone["exit"] != 2 {
			t.Errorf("they went because of %v", gone)
		}
	})
}

// What a supervisor hands over is what its successor has, and what that one has counted already stays.
func TestTalliesSurviveASnapshot(t *testing.T) {
	inWorld(t, shopConfig(fakePool("web", 1)), func(w *world) {
		w.procs[0].serve(40)
		w.procs[0].exit(exitStatus{})
		w.after(time.Minute)
		w.look(func() {
			w.ledger.reloaded(verdictFailed, time.Second)
			w.ledger.upgraded(verdictOK)
			b := w.snapshot()
			text, err := b.snapshot.encode()
			if err != nil {
				t.Fatal(err)
			}
			before := *w.tallies["web"]
			count(&w.tallyOf("web").Gone, "crash", 1) // it goes on: not in what is handed over
			var read snapshot
			if err := json.Unmarshal(text, &read); err != nil {
				t.Fatal(err)
			}
			next := newSupervisor(w.cfg, w.log, nil)
			next.tallyOf("web").countGone("crash:panic")
			next.keepTallies(read)
			got := next.tallyOf("web")
			if got.Work != before.Work || got.Plain != before.Plain || !reflect.DeepEqual(got.Series, before.Series) || !reflect.DeepEqual(got.Boot, before.Boot) {
				t.Errorf("handed over: %+v\narrived: %+v", before, *got)
			}
			if got.Gone["crash"] != 1 || got.Gone["exit"] != 1 {
				t.Errorf("%v", got.Gone)
			}
			if l := next.ledger; l.Reloads[verdictFailed] != 1 || l.Upgrades[verdictOK] != 1 || !l.ReloadFails || l.ReloadTook.Sum != time.Second {
				t.Errorf("%+v", l)
			}
		})
	})
}

// A program that makes up names, and pools that come and go, cost a bounded amount of memory.
func TestTalliesAreBounded(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.look(func() {
			kept := w.tallyOf("web")
			for i := range 3 * maxSeries / scoreboard.MaxLabels {
				writer, reader := scoreboard.NewMemory(scoreboard.Settings{})
				for j := range scoreboard.MaxLabels - 1 {
					writer.Label(fmt.Sprintf("x_total{i=\"%d\",j=\"%d\"}", i, j)).Add(1)
				}
				kept.fold(reader)
			}
			if len(kept.Series) != maxSeries || kept.Lost == 0 {
				t.Errorf("%d series, %d lost", len(kept.Series), kept.Lost)
			}
			for i := range 10 * maxTallies {
				w.tallyOf(fmt.Sprint("gone", i))
			}
			if n := len(w.tallies); n > maxTallies+1 || w.tallies["web"] == nil {
				t.Errorf("%d tallies", n)
			}
		})
	})
}

func TestReasonsAreCountedUnderFewNames(t *testing.T) {
	for why, want := range map[reason]string{
		"crash:SIGSEGV": "crash", "crash:panic": "crash", "exit:3": "exit", "exit:unknown": "exit", reasonOOM: "oom", reasonRollback: "rollback",
		reasonScaleDown: "scale_down", reasonStop: "", reasonQuit: "", reasonPark: "other", reasonBoot: "boot_timeout", reasonLeft: "left",
		reasonTimeout: "timeout", reasonHeartbeat: "heartbeat", reasonUpgrade: "upgrade", reasonRecycle: "recycle", "something new": "other",
	} {
		if got := why.counted(); got != want || got != "" && !slices.Contains(goneReasons, got) {
			t.Errorf("%s is counted under %q, want %q", why, got, want)
		}
	}
}

func TestDurationsAreInTheirBuckets(t *testing.T) {
	var d durations
	for _, took := range []time.Duration{0, 50 * time.Millisecond, 51 * time.Millisecond, 10 * time.Minute, time.Hour, -time.Second} {
		d.observe(took)
	}
	if n := len(d.Buckets); d.Buckets[0] != 3 || d.Buckets[1] != 1 || d.Buckets[n-2] != 1 || d.Buckets[n-1] != 1 {
		t.Errorf("%v", d.Buckets)
	}
	sum := d.clone()
	sum.add(durations{Buckets: append(slices.Repeat([]uint64{0}, 20), 7)}) // of a supervisor with more bounds
	if n := len(sum.Buckets); sum.Buckets[n-1] != 8 || d.Buckets[n-1] != 1 {
		t.Errorf("%v and %v", sum.Buckets, d.Buckets)
	}
}

// What is noted in the loop may be read while the worker is buried.
func TestBoardsAreHeldForAView(t *testing.T) {
	pool := onPort(testPool("worker"))
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	for range 5 {
		mustGet(t, m.addr(), "/")
	}
	v, err := m.takeView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.look(func() { m.workers()[0].proc.Send(protocol.Drain(protocol.DrainClose, time.Second)) })
	m.await("worker gone", 1)
	m.until("another one serves", func() bool { return len(m.pools[0].inService()) == 1 })
	totals := v.pools[0].totals()
	if n := totals.Get(scoreboard.Succeeded); n != 5 {
		t.Errorf("%d of 5 requests", n)
	}
	v.release()
	v, err = m.takeView(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	totals = v.pools[0].totals()
	if n := totals.Get(scoreboard.Succeeded); n != 5 {
		t.Errorf("%d of 5 requests after its end", n)
	}
	v.release()
}
