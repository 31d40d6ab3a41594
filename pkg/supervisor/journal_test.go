package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
)

// kinds gives the kinds of events, in their order.
func kinds(events []control.Event) string {
	var names []string
	for _, e := range events {
		names = append(names, e.Kind)
	}
	return strings.Join(names, " ")
}

// awaitEvent waits for the n-th event of a kind whose text has these words.
func (m *master) awaitEvent(kind, words string, n int) control.Event {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	defer cancel()
	var found control.Event
	m.FollowHistory(ctx, control.HistoryQuery{Kinds: []string{kind}}, func(h control.History) error {
		for _, e := range h.Events {
			if strings.Contains(e.Text, words) {
				if n--; n == 0 {
					found = e
					cancel()
				}
			}
		}
		return nil
	})
	if found.Seq == 0 {
		m.t.Fatalf("no %s event with %q", kind, words)
	}
	return found
}

func TestDailyRoutineDoesNotWashAwayACrash(t *testing.T) {
	var j journal
	j.add(control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.0.1"})
	for range 10 * journalRoutine {
		j.add(control.Event{Kind: control.EventStart, Level: control.LevelInfo, Worker: "web.0.2"})
	}
	h := j.read(control.HistoryQuery{})
	if len(h.Events) != 1+journalRoutine || h.Events[0].Kind != control.EventCrash || h.Last != 1+10*journalRoutine || h.Lost != 9*journalRoutine {
		t.Errorf("%d events from %+v on, last %d, lost %d", len(h.Events), h.Events[0], h.Last, h.Lost)
	}
	if !slices.IsSortedFunc(h.Events, func(a, b control.Event) int { return int(a.Seq) - int(b.Seq) }) {
		t.Error("not by seq")
	}
	h = j.read(control.HistoryQuery{After: h.Last - 5, Newest: 2})
	if len(h.Events) != 2 || h.Events[1].Seq != h.Last || h.Lost != 0 {
		t.Errorf("%+v", h)
	}
	if h = j.read(control.HistoryQuery{After: 1e9}); len(h.Events) != 1+journalRoutine {
		t.Error("one who read in another life gets nothing")
	}
	for range 2 * journalNotable {
		j.add(control.Event{Kind: control.EventHung, Level: control.LevelError, Worker: "web.0.2"})
	}
	if n := len(j.read(control.HistoryQuery{}).Events); n != journalNotable+journalRoutine {
		t.Errorf("%d events are kept", n)
	}
	var kept []control.Event
	if err := json.Unmarshal(j.encoded(), &kept); err != nil || len(kept) != snapshotNotable+snapshotRoutine {
		t.Errorf("%d events are in the snapshot, %v", len(kept), err)
	}
}

func TestJournalGoesThroughASnapshot(t *testing.T) {
	var before journal
	for i := range 400 {
		before.add(control.Event{Kind: control.EventCrash, Level: control.LevelError, Text: fmt.Sprint(i), Words: []string{"a \"b\" \xff", "<c>"}})
	}
	for range 2 { // the second time from what was encoded before
		text, err := snapshot{Version: snapshotVersion, JournalSeq: before.seq, journal: before.encoded()}.encode()
		if err != nil {
			t.Fatal(err)
		}
		var read snapshot
		if err := json.Unmarshal(text, &read); err != nil || read.Version != snapshotVersion {
			t.Fatalf("%v\n%s", err, text)
		}
		var after journal
		after.add(control.Event{Kind: control.EventStart, Text: "ours"})
		after.goOn(read.Journal, read.JournalSeq)
		h := after.read(control.HistoryQuery{})
		if len(h.Events) != snapshotNotable+1 || h.Events[0].Seq != 201 || h.Last != 401 || h.Events[snapshotNotable].Text != "ours" ||
			h.Events[0].Words[1] != "<c>" {
			t.Errorf("%d events, last %d: %+v", len(h.Events), h.Last, h.Events[0])
		}
		before.add(control.Event{Kind: control.EventReload})
		before.notable, before.seq, before.text = before.notable[:len(before.notable)-1], before.seq-1, nil
	}
}

// The story of a night: who reads it in the morning finds each change of state once, in order, with what it takes to understand it.
func TestHistoryTellsWhyEachWorkerWent(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	m, c := serving(t, pool)
	ctx := testContext(t)
	mustGet(t, m.addr(), "/")
	victim := m.pids()[0]
	unix.Kill(victim, unix.SIGKILL)
	crash := m.awaitEvent(control.EventCrash, "died", 1)
	if crash.PID != victim || crash.Reason != "crash:SIGKILL" || crash.Exit != "SIGKILL" || crash.Pool != "web" || crash.Worker != "web.0.1" ||
		crash.Level != control.LevelError || crash.Lived <= 0 || crash.Generation != 1 || crash.At.IsZero() {
		t.Errorf("%+v", crash)
	}
	m.awaitEvent(control.EventReady, "serves", 4) // the pool, and three workers
	v, err := c.Recycle(ctx, control.RecycleRequest{Wait: waiting, Target: "web.1"})
	good(t, v, err)
	v, err = c.Scale(ctx, control.ScaleRequest{Wait: waiting, Delta: 1})
	good(t, v, err)
	v, err = c.Reload(ctx, waiting)
	good(t, v, err)
	m.reload(nil, errors.New("c.toml:3: nonsense"))
	m.awaitEvent(control.EventReload, "c.toml:3: nonsense", 1)

	h, err := c.History(ctx, control.HistoryQuery{What: "web.1"})
	if err != nil {
		t.Fatal(err)
	}
	// The worker of the second generation is not told to leave; the one before it may still be leaving.
	if got := kinds(h.Events); !strings.HasPrefix(got, "start ready recycle start ready drain gone start ready drain") {
		t.Errorf("web.1: %s", got)
	}
	gone := h.Events[6]
	if gone.Reason != "recycle" || gone.Text != "left as it was told" || gone.Exit != "status 0" || gone.Worker != h.Events[0].Worker {
		t.Errorf("%+v", gone)
	}
	if h, err = c.History(ctx, control.HistoryQuery{Kinds: []string{"signal", "scale", "reload", "start"}, After: crash.Seq}); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range h.Events {
		if e.Kind != control.EventStart {
			all = append(all, e.Kind+": "+e.Text)
		}
	}
	want := `signal: asked on the control socket: recycle
signal: asked on the control socket: scale
scale: from 2 to 3 workers
signal: asked on the control socket: reload
reload: reload to generation 2 begins
reload: reload done in
signal: SIGHUP
reload: reload failed, nothing changed: c.toml:3: nonsense`
	for i, line := range strings.Split(want, "\n") {
		if i >= len(all) || !strings.HasPrefix(all[i], line) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(all, "\n"), want)
		}
	}
}

func TestCrashHasItsLastWords(t *testing.T) {
	pool := testPool("panic")
	pool.Ready = "notify"
	m := startMaster(t, testConfig(pool))
	crash := m.awaitEvent(control.EventCrash, "died", 1)
	if crash.Reason != "crash:panic" || len(crash.Words) == 0 || crash.Words[0] != "panic: out of luck" {
		t.Errorf("%+v", crash)
	}
	loop := m.awaitEvent(control.EventDegraded, "in a crash loop after 3 failures", 1)
	if loop.Worker != "web.0" || loop.Pool != "web" {
		t.Errorf("%+v", loop)
	}
}

// A hung worker, one that does not leave, and one that a limit ends: each step is told.
func TestHistoryOfAHungWorker(t *testing.T) {
	pool := testPool("")
	pool.HeartbeatTimeout = 2 * time.Second
	inWorld(t, testConfig(pool), func(w *world) {
		w.after(time.Second / 2) // between two ticks
		w.procs[0].silent, w.procs[0].deaf = true, true
		w.after(30 * time.Second)
		h, err := w.History(context.Background(), control.HistoryQuery{What: "web.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, e := range h.Events {
			told = append(told, fmt.Sprintf("%s/%s: %s", e.Kind, e.Reason, e.Text))
		}
		want := []string{"start/: starts", "ready/: serves", "hung/heartbeat: no sign of life for", "hung/heartbeat: gets KILL", "gone/heartbeat: was ended"}
		if len(told) != len(want) {
			t.Fatalf("%q", told)
		}
		for i, text := range want {
			if !strings.HasPrefix(told[i], text) {
				t.Errorf("%q, want %q", told[i], text)
			}
		}
	})
}

func TestFollowersGetEveryEventOnce(t *testing.T) {
	pool := onPort(testPool("worker"))
	m, c := serving(t, pool)
	const readers = 20
	result := make(chan []control.Event, readers)
	for range readers {
		go func() {
			var got []control.Event
			c := control.Dial(m.cfg.Control)
			c.FollowHistory(testContext(t), control.HistoryQuery{}, func(e control.Event) error {
				got = append(got, e)
				return nil
			})
			result <- got
		}()
	}
	m.until("all follow", func() bool { return m.streams.Load() == readers })
	for range 5 {
		v, err := c.Reload(testContext(t), waiting)
		good(t, v, err)
	}
	v, err := c.Stop(testContext(t), control.StopRequest{Wait: waiting})
	good(t, v, err)
	for range readers {
		got := <-result
		for i, e := range got {
			if e.Seq != uint64(i+1) {
				t.Fatalf("event %d has seq %d", i+1, e.Seq)
			}
		}
		if last := got[len(got)-1]; last.Kind != control.EventStop || last.Text != "stopped" {
			t.Errorf("the last event is %+v", last)
		}
	}
}

// A reader that takes nothing, and one that is killed, cost nobody anything; there is a bound on how many follow.
func TestFollowersThatHangOrDie(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	ask := func() net.Conn {
		conn, err := net.Dial("unix", m.cfg.Control)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /v1/history?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
		return conn
	}
	var deaf []net.Conn
	for range maxStreams {
		deaf = append(deaf, ask())
	}
	m.until("all follow", func() bool { return m.streams.Load() == maxStreams })
	_, err := c.History(testContext(t), control.HistoryQuery{})
	if err != nil {
		t.Error(err)
	}
	err = c.FollowHistory(testContext(t), control.HistoryQuery{}, func(control.Event) error { return nil })
	if status, text := refusal(t, err); status != 503 || !strings.Contains(text, "64 clients follow already") {
		t.Errorf("%d %s", status, text)
	}
	long := strings.Repeat("x", 100<<10) // what the deaf ones do not read fills their sockets
	for range 50 {
		m.look(func() { m.record(control.EventSignal, control.LevelInfo, "%s", long) })
	}
	v, err := c.Reload(testContext(t), waiting)
	good(t, v, err)
	for _, conn := range deaf {
		conn.Close()
	}
	m.until("all are gone", func() bool { return m.streams.Load() == 0 })
}

// A follower that is slower than the journal is told how much it has missed.
func TestSlowFollowerIsToldWhatItMissed(t *testing.T) {
	m := startMaster(t, testConfig(onPort(testPool("worker"))))
	m.await("pool serves", 1)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var lost, seen, last uint64
	busy := false
	m.FollowHistory(ctx, control.HistoryQuery{}, func(h control.History) error {
		if !busy { // while we are busy with the first ones
			busy = true
			m.look(func() {
				for range 3000 {
					m.record(control.EventSignal, control.LevelInfo, "one of many")
				}
			})
		}
		lost, seen, last = lost+h.Lost, seen+uint64(len(h.Events)), h.Last
		if h.Lost > 0 {
			cancel()
		}
		return nil
	})
	if lost == 0 || lost+seen != last {
		t.Errorf("%d lost and %d seen of %d", lost, seen, last)
	}
}

func TestHistoryOfNonsense(t *testing.T) {
	m, _ := serving(t, onPort(testPool("worker")))
	conn, err := net.Dial("unix", m.cfg.Control)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/history?after=yesterday HTTP/1.1\r\nHost: x\r\n\r\n")
	answer := make([]byte, 4096)
	n, _ := conn.Read(answer)
	if text := string(answer[:n]); !strings.HasPrefix(text, "HTTP/1.1 400 ") || !strings.Contains(text, `after=\"yesterday\" is no event's seq`) {
		t.Errorf("%s", text)
	}
}

// What happened before a self-upgrade is not forgotten, and the numbers go on.
func TestSuccessorGoesOnWithTheJournal(t *testing.T) {
	m, flip := upgradable(t)
	conn, _ := begun(t, m, flip, func(Verdict) {})
	flip.outcome <- nil // ready
	rest, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	m.look(func() { last = m.journal.seq })
	if got := kinds(rest.snapshot.Journal); got != "start start start ready ready ready upgrade" || rest.snapshot.JournalSeq != last {
		t.Errorf("%s, seq %d, %d in the supervisor", got, rest.snapshot.JournalSeq, last)
	}
	rest.close()
	conn.Close()
	m.awaitEvent(control.EventUpgrade, "the new supervisor is gone", 1)
}

// After a kill -9 the store has it.
func TestJournalLiesInTheStore(t *testing.T) {
	manager := fakeManager(t)
	go func() {
		for {
			message, err := manager.Read()
			if err != nil {
				return
			}
			message.Close()
		}
	}()
	m := startMaster(t, testConfig(onPort(testPool("worker"))))
	m.await("pool serves", 1)
	m.signal(syscall.SIGUSR1)
	seen := m.awaitEvent(control.EventSignal, "SIGUSR1", 1)
	m.until("it is stored", func() bool {
		var s snapshot
		if err := (&snapshotMemory{fd: m.store.memory.fd}).read(&s); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(s.Journal, func(e control.Event) bool { return e.Seq == seen.Seq && e.Text == "SIGUSR1" })
	})
}
