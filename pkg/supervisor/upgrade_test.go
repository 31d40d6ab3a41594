package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/machine"
)

// testFlip is tableflip with a test in the part of the successor.
type testFlip struct {
	conn    chan *os.File // the successor's end of the hand-over socket
	outcome chan error    // what Upgrade answers
}

func (f *testFlip) HasParent() bool                     { return false }
func (f *testFlip) File(string) (*os.File, error)       { return nil, errors.New("no parent") }
func (f *testFlip) Ready() error                        { return nil }
func (f *testFlip) WaitForParent(context.Context) error { return nil }
func (f *testFlip) Stop()                               { f.outcome <- errors.New("terminating") }
func (f *testFlip) Upgrade() error                      { return <-f.outcome }
func (f *testFlip) AddFile(_ string, file *os.File) error {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.conn <- pollable(fd, "successor")
	return err
}

func newTestFlip() *testFlip {
	return &testFlip{conn: make(chan *os.File, 1), outcome: make(chan error, 1)}
}

// upgradable starts a master that is ready for a self-upgrade.
func upgradable(t *testing.T) (*master, *testFlip) {
	t.Helper()
	pool := onPort(testPool("worker"))
	pool.Workers = 2
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	flip := newTestFlip()
	m.look(func() { m.flip = flip })
	return m, flip
}

// A successor that was ready and then dies, before it has everything: the old supervisor goes on as if nothing had been, and hears its
// workers.
func TestSuccessorThatDiesDuringTheHandOverChangesNothing(t *testing.T) {
	m, flip := upgradable(t)
	pids := m.pids()
	verdicts := make(chan Verdict, 2)
	m.look(func() { m.beginUpgrade(func(v Verdict) { verdicts <- v }) })
	conn := <-flip.conn
	first, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	first.close()
	flip.outcome <- nil // ready
	rest, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(rest.snapshot.Workers); n != 2 {
		t.Errorf("%d workers were handed over, want 2", n)
	}
	rest.close()
	conn.Close()
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "the new supervisor is gone") {
		t.Errorf("verdict %+v", v)
	}
	mustGet(t, m.addr(), "/")
	if got := m.pids(); len(got) != 2 || got[0] != pids[0] || got[1] != pids[1] {
		t.Errorf("workers %v, before %v", got, pids)
	}
	// It reads what its workers say, and sees them go.
	syscall.Kill(pids[0], syscall.SIGKILL)
	m.await("worker ready", 3)
	m.look(func() { m.beginUpgrade(func(v Verdict) { verdicts <- v }) })
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "refused") {
		t.Errorf("a further upgrade: %+v", v)
	}
}

// The kernel tells the end of a successor that had not read the last part of the hand-over in another way: as a reset.
func TestSuccessorThatDiesWithoutReadingTheHandOverChangesNothing(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	conn, _ := begun(t, m, flip, func(v Verdict) { verdicts <- v })
	flip.outcome <- nil // ready
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(readable); err != nil { // it is there
		t.Fatal(err)
	}
	conn.Close()
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "the new supervisor is gone") {
		t.Errorf("verdict %+v", v)
	}
	mustGet(t, m.addr(), "/")
}

// One that dies when it has stored everything with the manager, and has not said so: the manager must let go of its workers, who would wait
// for ever for the end of their control channel.
func TestSuccessorThatDiesAfterItStoredItsWorkersLeavesNoneOfThem(t *testing.T) {
	manager := fakeManager(t)
	removed := make(chan string, 1000)
	go func() {
		for {
			m, err := manager.Read()
			if err != nil {
				return
			}
			m.Close()
			if m.Get("FDSTOREREMOVE") != "" {
				removed <- m.Get("FDNAME")
			}
		}
	}()
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	conn, worker := begun(t, m, flip, func(v Verdict) { verdicts <- v })
	at, err := startTime(worker.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	say(t, conn, successorNote{Spawned: &processID{worker.Process.Pid, at}})
	say(t, conn, successorNote{Speaks: worker.Process.Pid})
	flip.outcome <- nil
	rest, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	rest.close()
	conn.Close()
	<-verdicts
	want := []string{"C", "N", "B", "O", "E"}
	for i, what := range want {
		want[i] = workerDescriptor(worker.Process.Pid, what)
	}
	for len(want) > 0 {
		select {
		case name := <-removed:
			want = slices.DeleteFunc(want, func(w string) bool { return w == name })
		case <-time.After(eventually):
			t.Fatalf("the manager still has %v", want)
		}
	}
}

// What is asked for during a self-upgrade: the same upgrade is shared, a reload waits, a stop ends it.
func TestAskedDuringAnUpgrade(t *testing.T) {
	m, flip := upgradable(t)
	upgrades, reloads := make(chan Verdict, 4), make(chan Verdict, 4)
	m.look(func() {
		m.beginUpgrade(func(v Verdict) { upgrades <- v })
		m.beginUpgrade(func(v Verdict) { upgrades <- v })
		m.beginReload(func(v Verdict) { reloads <- v })
	})
	conn := <-flip.conn
	defer conn.Close()
	first, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	first.close()
	text, _ := json.Marshal(successorNote{Failed: "the stars are not right"})
	if err := sendPacket(conn, text, nil); err != nil {
		t.Fatal(err)
	}
	m.until("it has heard that", func() bool { return m.upgrade.words != "" })
	flip.outcome <- errors.New("child exited")
	for range 2 {
		if v := <-upgrades; v.OK || !strings.Contains(v.Text, "the stars are not right") {
			t.Errorf("upgrade: %+v", v)
		}
	}
	if v := <-reloads; !v.OK || v.Generation != 2 {
		t.Errorf("the reload that waited: %+v", v)
	}

	m.look(func() { m.beginUpgrade(func(v Verdict) { upgrades <- v }) })
	m.signal(syscall.SIGTERM)
	if v := <-upgrades; v.OK || !strings.Contains(v.Text, "terminating") {
		t.Errorf("an upgrade that a stop ended: %+v", v)
	}
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

func TestUpgradeThatDoesNotFitIntoTheCgroupIsRefused(t *testing.T) {
	m, _ := upgradable(t)
	verdicts := make(chan Verdict, 1)
	m.look(func() {
		m.memory = func() (machine.Memory, bool) { return machine.Memory{Limit: 64 << 20, Used: 63 << 20}, true }
		m.beginUpgrade(func(v Verdict) { verdicts <- v })
	})
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "second set of 2 workers") || !strings.Contains(v.Text, "1 MiB left (of 64 MiB, 63 MiB are used)") {
		t.Errorf("verdict %+v", v)
	}
	mustGet(t, m.addr(), "/")
}

// begun starts a self-upgrade whose successor is a process that only sleeps; the test speaks for it.
func begun(t *testing.T, m *master, flip *testFlip, asked func(Verdict)) (*os.File, *exec.Cmd) {
	t.Helper()
	m.look(func() { m.beginUpgrade(asked) })
	conn := <-flip.conn
	t.Cleanup(func() { conn.Close() })
	first, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	first.close()
	successor := exec.Command("sleep", "1000")
	successor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some tests take it for one of its workers
	if err := successor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { successor.Process.Kill() })
	say(t, conn, successorNote{PID: successor.Process.Pid})
	m.until("it knows the pid", func() bool { return m.upgrade.pid > 0 })
	return conn, successor
}

func say(t *testing.T, conn *os.File, note successorNote) {
	t.Helper()
	text, _ := json.Marshal(note)
	if err := sendPacket(conn, text, nil); err != nil {
		t.Fatal(err)
	}
}

func endedBy(cmd *exec.Cmd) syscall.Signal {
	cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()
}

// A successor that is ready in the moment of a stop must not take the end of its channel for our death, and serve on.
func TestStopEndsASuccessorThatIsReady(t *testing.T) {
	m, flip := upgradable(t)
	_, successor := begun(t, m, flip, func(Verdict) {})
	m.look(func() {
		u := m.upgrade
		m.stop(graceful)
		m.upgradeReturned(u, nil)
	})
	if sig := endedBy(successor); sig != syscall.SIGKILL {
		t.Errorf("the successor ended by %v", sig)
	}
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

// A successor that dies while our readers are being stopped: they come back once, after that.
func TestSuccessorThatDiesWhileReadersStop(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	begun(t, m, flip, func(v Verdict) { verdicts <- v })
	m.look(func() {
		u := m.upgrade
		m.upgradeReturned(u, nil)
		m.takeBack(u, "it is gone")
		if m.handing == nil {
			t.Error("taken back before the readers have stopped")
		}
	})
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "it is gone") {
		t.Errorf("verdict %+v", v)
	}
	m.signal(syscall.SIGHUP) // the new workers' READY=1 is heard, and the old ones' end
	m.await("reload done", 1)
	m.await("worker gone", 2)
}

// A reload that waits for a self-upgrade is the successor's: it may have read the configuration earlier.
func TestReloadThatWaitsGoesToTheSuccessor(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	conn, successor := begun(t, m, flip, func(Verdict) {})
	for _, pid := range m.pids() { // they are nobody's after the hand-over
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	}
	m.look(func() { m.beginReload(func(v Verdict) { verdicts <- v }) })
	flip.outcome <- nil
	rest, err := receiveBundle(conn)
	if err != nil {
		t.Fatal(err)
	}
	rest.close()
	say(t, conn, successorNote{Taken: true})
	if v := <-verdicts; !v.OK || !strings.Contains(v.Text, "goes on with it") {
		t.Errorf("verdict %+v", v)
	}
	if sig := endedBy(successor); sig != syscall.SIGHUP {
		t.Errorf("the successor got %v", sig)
	}
}

// A self-upgrade waits for a reload, another reload waits as well, and cannot be loaded: the upgrade comes nevertheless.
func TestUpgradeThatWaitsOutlivesAFailedReload(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	m.look(func() {
		m.beginReload()
		m.beginUpgrade(func(v Verdict) { verdicts <- v })
		m.beginReload()
		m.mu.Lock()
		m.err = errors.New("does not parse")
		m.mu.Unlock()
	})
	(<-flip.conn).Close()
	flip.outcome <- errors.New("child exited")
	if v := <-verdicts; v.OK {
		t.Errorf("verdict %+v", v)
	}
}

// Workers of a successor that failed may hold slot sockets: until they are gone no other one is opened, by growing, reloading or upgrading.
func TestNobodyOpensSlotsBeforeAFailedSuccessorsWorkersAreGone(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 3)
	tell := func(v Verdict) { verdicts <- v }
	conn, successor := begun(t, m, flip, tell)
	at, err := startTime(successor.Process.Pid) // it is also the worker
	if err != nil {
		t.Fatal(err)
	}
	say(t, conn, successorNote{Spawned: &processID{successor.Process.Pid, at}})
	say(t, conn, successorNote{Speaks: successor.Process.Pid})
	m.until("it has heard of the worker", func() bool { return len(m.upgrade.joined) == 1 && len(m.upgrade.spawned) == 0 })
	flip.outcome <- errors.New("child exited")
	if v := <-verdicts; v.OK {
		t.Errorf("verdict %+v", v)
	}
	want := fmt.Sprintf("have not left yet (pid %d)", successor.Process.Pid)
	m.signal(syscall.SIGTTIN)
	m.await("workers", 1)
	m.look(func() {
		for what, text := range map[string]string{"reload": m.beginReload(tell), "upgrade": m.beginUpgrade(tell)} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q, want %q", what, text, want)
			}
		}
		if m.Supervisor.reload != nil || m.upgrade != nil || len(m.pools[0].slots) != 2 || len(m.pools[0].sockets[0].slots) != 2 {
			t.Error("something has begun")
		}
	})
	successor.Process.Kill()
	successor.Wait()
	if v := <-verdicts; !v.OK || v.Generation != 2 {
		t.Errorf("the reload: %+v", v)
	}
	m.until("it has grown", func() bool { return len(m.pools[0].sockets[0].slots) == 3 })
	(<-flip.conn).Close()
	flip.outcome <- errors.New("child exited")
	if v := <-verdicts; v.OK || !strings.Contains(v.Text, "child exited") {
		t.Errorf("the upgrade: %+v", v)
	}
}

// failed lets a self-upgrade fail whose successor had one worker, with a slot of its own, which does not leave yet: the process and its socket.
func failed(t *testing.T, m *master, flip *testFlip) (worker *exec.Cmd, socket int) {
	t.Helper()
	verdicts := make(chan Verdict, 1)
	conn, worker := begun(t, m, flip, func(v Verdict) { verdicts <- v })
	at, err := startTime(worker.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	m.look(func() { socket, err = m.pools[0].sockets[0].join(512) })
	if err != nil {
		t.Fatal(err)
	}
	say(t, conn, successorNote{Spawned: &processID{worker.Process.Pid, at}})
	say(t, conn, successorNote{Speaks: worker.Process.Pid})
	m.until("it has heard of the worker", func() bool { return len(m.upgrade.joined) == 1 && len(m.upgrade.spawned) == 0 })
	flip.outcome <- errors.New("child exited")
	if v := <-verdicts; v.OK {
		t.Errorf("verdict %+v", v)
	}
	return worker, socket
}

// A stop that comes while a failed successor's workers have slot sockets serves on until they are gone: before that, the socket that turns new
// connections away would not be the one that the kernel is told of.
func TestStopWaitsForAFailedSuccessorsWorkers(t *testing.T) {
	m, flip := upgradable(t)
	worker, socket := failed(t, m, flip)
	addr := m.addr()
	m.signal(syscall.SIGTERM)
	m.await("stopping", 1)
	for range 20 {
		mustGet(t, addr, "/")
	}
	unix.Close(socket)
	worker.Process.Kill()
	worker.Wait()
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

// One of them that hangs is ended, else nobody could ever reload again.
func TestFailedSuccessorsWorkerThatHangsIsEnded(t *testing.T) {
	m, flip := upgradable(t)
	m.look(func() { m.cfg.Pools[0].GracefulTimeout = 10 * time.Millisecond })
	worker, socket := failed(t, m, flip)
	defer unix.Close(socket)
	if sig := endedBy(worker); sig != syscall.SIGTERM {
		t.Errorf("it ended by %v", sig)
	}
	m.signal(syscall.SIGHUP)
	m.await("reload done", 1)
}

// A pool that is still growing when a self-upgrade begins opens no more slots: the successor opens them, too.
func TestPoolDoesNotGrowDuringAnUpgrade(t *testing.T) {
	m, flip := upgradable(t)
	verdicts := make(chan Verdict, 1)
	m.look(func() {
		m.setWorkers(m.pools[0], 4)
		m.pools[0].grow(4) // as if so many were starting that these must wait
		m.beginUpgrade(func(v Verdict) { verdicts <- v })
	})
	(<-flip.conn).Close()
	m.look(func() {
		if n := len(m.pools[0].sockets[0].slots); n != 2 {
			t.Errorf("%d slots are open, want 2", n)
		}
	})
	flip.outcome <- errors.New("child exited")
	<-verdicts
	m.until("it has grown", func() bool { return len(m.pools[0].sockets[0].slots) == 4 })
}

// Signals wait until a successor has the workers of the one before it: a stop must find them all.
func TestSignalsWaitUntilASuccessorHasAllWorkers(t *testing.T) {
	m, _ := upgradable(t)
	m.look(func() { m.succeeding = true })
	m.signal(syscall.SIGTERM)
	for range 3 {
		m.look(func() {
			if m.stopping != running {
				t.Error("it stops too early")
			}
		})
	}
	m.look(func() { m.succeeding = false })
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}
