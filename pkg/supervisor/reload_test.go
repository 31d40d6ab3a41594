package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

func TestReloadAddsAndRemovesAPool(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.next = testConfig(fakePool("web", 2), fakePool("jobs", 3))
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		if w.generation != 2 || len(w.procs) != 2+5 {
			t.Fatalf("generation %d, %d processes", w.generation, len(w.procs))
		}
		w.wantLiving(5)
		w.next = testConfig(fakePool("web", 2))
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		w.wantLiving(2)
		w.next = testConfig(fakePool("web", 2), fakePool("jobs", 1)) // serials go on: the names of the old ones may still be in use
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		for _, p := range w.living() {
			if p.id.Pool == "jobs" && p.id.Serial != 4 {
				t.Errorf("serial %d", p.id.Serial)
			}
		}
	})
}

func TestReloadStartsPoolsInOrder(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 1)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		w.next = testConfig(fakePool("redis", 1), fakePool("web", 1))
		w.send(syscall.SIGHUP)
		w.after(500 * time.Millisecond)
		if last := w.procs[len(w.procs)-1]; len(w.procs) != 2 || last.id.Pool != "redis" {
			t.Errorf("%d processes, the last one is %s", len(w.procs), last.id)
		}
		w.after(5 * time.Second)
		if w.generation != 2 {
			t.Errorf("generation %d", w.generation)
		}
	})
}

func TestReloadFailsWhenANewWorkerHangs(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) {
			if p.id.Slot == 0 {
				p.silent = true
				p.writer.Beat()
				p.ready()
			} // slot 1 never is
		}
		w.next = testConfig(fakePool("web", 2))
		w.next.Pools[0].BootTimeout = time.Hour
		w.send(syscall.SIGHUP)
		w.after(5 * time.Minute)
		if w.reload != nil || w.generation != 1 || w.count("reload failed, nothing changed") != 1 {
			t.Errorf("reload %v, generation %d", w.reload, w.generation)
		}
		w.wantLiving(2)
	})
}

// A program that says READY=1, finds out that it cannot work, and shuts down in good order.
func TestWorkersThatLeaveAtOnceFailTheReloadAndBackOff(t *testing.T) {
	leave := func(p *fake) {
		if p.id.Slot == 1 {
			time.Sleep(time.Second)
			p.ready()
			return
		}
		p.ready()
		p.tell(event{fact: factStopping})
		p.exit(exitStatus{})
	}
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = leave
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		if w.generation != 1 || w.count("reload failed") != 1 || len(w.procs) != 4 {
			t.Errorf("generation %d, %d processes", w.generation, len(w.procs))
		}
		w.procs[0].exit(exitStatus{code: 1})
		w.after(time.Minute)
		if n := len(w.procs) - 4; n < 5 || n > 14 {
			t.Errorf("%d tries in a minute: that is no back-off", n)
		}
	})
}

func TestScaleDuringAReloadIsKept(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		w.send(syscall.SIGHUP)
		w.send(syscall.SIGTTIN)
		w.after(time.Minute)
		w.wantLiving(3)
		if w.generation != 2 {
			t.Errorf("generation %d", w.generation)
		}
	})
}

func TestParkEndsAReload(t *testing.T) {
	if hasTerminal() {
		t.Skip("this test run has a terminal")
	}
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) { time.Sleep(time.Second); p.ready() }
		w.send(syscall.SIGHUP)
		w.send(syscall.SIGWINCH)
		w.after(time.Minute)
		w.wantLiving(0)
		w.nextErr = errors.New("supervisor.toml:1: nonsense")
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		w.wantLiving(0) // a failed reload changes nothing
		w.nextErr = nil
		w.send(syscall.SIGHUP)
		w.after(time.Minute)
		w.wantLiving(2)
		for _, p := range w.living() {
			if p.generation != 2 {
				t.Errorf("%s is of generation %d", p.id, p.generation)
			}
		}
	})
}

func TestScaleDownBeforeTheFirstSetDoesNotBlockTheNextPool(t *testing.T) {
	inWorldThatBoots(t, testConfig(fakePool("web", 2), fakePool("jobs", 1)), func(p *fake) { time.Sleep(time.Second); p.ready() },
		func(w *world) {
			w.send(syscall.SIGTTOU)
			w.after(10 * time.Second)
			w.wantLiving(2)
			if w.count("pool serves") != 2 {
				t.Error("the second pool never started")
			}
		})
}

func TestCommitEndsTheBackOffOfABrokenGeneration(t *testing.T) {
	inWorld(t, testConfig(fakePool("web", 2)), func(w *world) {
		w.boot = func(p *fake) { p.exit(exitStatus{code: 1}) }
		w.procs[0].exit(exitStatus{code: 1})
		w.after(time.Minute) // slot 0 waits for its next try
		w.boot = (*fake).ready
		w.send(syscall.SIGHUP)
		w.after(15 * time.Second)
		n := len(w.procs)
		for _, p := range w.living() {
			if p.id.Slot == 0 {
				p.exit(exitStatus{code: 1})
			}
		}
		w.after(time.Millisecond)
		if len(w.procs) != n+1 {
			t.Error("the slot was not refilled at once")
		}
	})
}

func TestPoolsThatAreStillNeededAreKeptAliveDuringAStop(t *testing.T) {
	inWorld(t, testConfig(fakePool("redis", 1), fakePool("jobs", 1)), func(w *world) {
		w.procs[1].drain = 10 * time.Second
		w.send(syscall.SIGTERM)
		w.procs[0].exit(exitStatus{signal: syscall.SIGKILL})
		w.after(time.Second)
		w.wantLiving(2)
		w.after(30 * time.Second)
		if !w.done {
			t.Error("not done")
		}
	})
}

// The bind is renamed, and moves to another pool: the address is served all the while.
func TestReloadRenamesABindAndItsPool(t *testing.T) {
	addr := freePort(t)
	pool := testPool("worker")
	pool.Workers = 2
	pool.Bind = []config.Bind{tcp("web", addr)}
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := get(addr, "/"); err != nil {
				failed <- err
				return
			}
		}
	}()
	renamed := *pool
	renamed.Name, renamed.Bind = "site", []config.Bind{tcp("http", addr)}
	m.reload(testConfig(&renamed), nil)
	m.await("reload done", 1)
	m.await("address closed", 1)
	if got := mustGet(t, addr, "/"); !strings.HasPrefix(got, "site.") {
		t.Errorf("%q answered", got)
	}
	m.reload(testConfig(pool), nil)
	m.await("reload done", 2)
	m.await("address closed", 2)
	close(stop)
	if err := <-failed; err != nil {
		t.Error(err)
	}
	m.signal(syscall.SIGTERM)
	m.wait()
}

func TestReloadMovesTheLogs(t *testing.T) {
	cfg := testConfig(sleeping(testPool("")))
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	moved := *cfg
	moved.ErrorLog = cfg.ErrorLog + ".new"
	m.reload(&moved, nil)
	m.await("logs reopened", 1)
	m.signal(syscall.SIGTTIN)
	m.await("worker ready", 3)
	m.until("the new file has it", func() bool { // the sink writes when it can
		text, _ := os.ReadFile(moved.ErrorLog)
		return strings.Contains(string(text), "worker ready")
	})
}

// A log that nobody reads (a terminal under ^S, a paused pager) must not stop supervision: deaths are seen, slots refilled, signals obeyed.
func TestOutputThatNobodyReadsStopsNothing(t *testing.T) {
	pool := onPort(testPool("chatter"))
	pool.Workers = 2
	cfg := testConfig(pool)
	fifo := t.TempDir() + "/log"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // keeps it open, reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cfg.ErrorLog, cfg.AccessLog = fifo, fifo
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	m.until("the output is blocked", func() bool { return len(m.sink.pieces) == sinkQueue })
	syscall.Kill(m.pids()[0], syscall.SIGKILL)
	m.await("worker ready", 3)
	m.signal(syscall.SIGUSR1)
	m.signal(syscall.SIGTERM)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

// Two workers that write as fast as they can do not take the operator's lines away.
func TestOurOwnLinesComeThroughAFlood(t *testing.T) {
	pool := onPort(testPool("chatter"))
	pool.Workers = 2
	cfg := testConfig(pool)
	cfg.AccessLog = os.DevNull
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	for i := range 3 {
		m.reload(cfg, nil)
		m.await("reload done", i+1)
	}
	m.signal(syscall.SIGTERM)
	m.wait()
	text, err := os.ReadFile(cfg.ErrorLog)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"reload begins", "reload done", "worker gone", "stopping", "stopped"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("the log has no %q", line)
		}
	}
}

// Our own lines change their form with a reload, those of loggers that were made before it, too.
func TestReloadChangesTheFormatOfTheLog(t *testing.T) {
	cfg := testConfig(sleeping(testPool("")))
	cfg.LogFormat = config.LogJSON
	m := startMaster(t, cfg)
	m.await("pool serves", 1)
	before := m.log.Named("part").With(zap.String("fact", "x"))
	before.Info("of json", zap.Duration("for", 1500*time.Millisecond))
	people := *cfg
	people.LogFormat = config.LogConsole
	m.reload(&people, nil)
	m.await("reload done", 1)
	before.Info("of console", zap.Duration("for", 1500*time.Millisecond))
	m.signal(syscall.SIGTERM)
	m.wait()
	text, err := os.ReadFile(cfg.ErrorLog)
	if err != nil {
		t.Fatal(err)
	}
	objects, others := map[string]map[string]any{}, ""
	for line := range strings.Lines(string(text)) {
		var object map[string]any
		if json.Unmarshal([]byte(line), &object) != nil {
			others += line
			continue
		}
		if others != "" {
			t.Errorf("an object after the reload: %s", line)
		}
		if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(object["ts"])); err != nil || time.Since(at) > time.Hour || object["level"] == nil || object["logger"] == nil {
			t.Errorf("%s", line)
		}
		objects[fmt.Sprint(object["msg"])] = object
	}
	if got := objects["of json"]; got["logger"] != "supervisor.part" || got["fact"] != "x" || got["for"] != 1.5 {
		t.Errorf("%v", got)
	}
	if objects["pool serves"] == nil || !strings.Contains(others, "reload done") || !strings.Contains(others, `of console {"fact": "x", "for": "1.5s"}`) {
		t.Errorf("objects %v\nand then\n%s", objects, others)
	}
}
