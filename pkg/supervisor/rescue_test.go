package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/protocol"
)

// burst asks n times at once, each on a connection of its own, and gives a function that waits for all answers and gives how many each
// process gave.
func burst(t *testing.T, addr string, n int) (answers func() map[int]int) {
	t.Helper()
	type result struct {
		pid int
		err error
	}
	results := make(chan result, n)
	dialled := make(chan error, n)
	for range n {
		go func() {
			conn, err := net.Dial("tcp", addr)
			dialled <- err
			if err != nil {
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(eventually))
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			answer, err := io.ReadAll(conn)
			if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
				err = fmt.Errorf("answer %q", answer)
			}
			pid := 0
			if fields := strings.Fields(string(answer)); err == nil {
				pid, err = strconv.Atoi(fields[len(fields)-1])
			}
			results <- result{pid, err}
		}()
	}
	for range n {
		if err := <-dialled; err != nil {
			t.Fatal(err)
		}
	}
	return func() map[int]int {
		t.Helper()
		by := map[int]int{}
		for range n {
			r := <-results
			if r.err != nil {
				t.Error(r.err)
			}
			by[r.pid]++
		}
		return by
	}
}

func (m *master) rescued() (n int) {
	m.look(func() { n = int(m.pools[0].rescued.Load()) })
	return n
}

// halt stops a process and waits until all of its threads stand still: from then on it accepts nothing.
func halt(t *testing.T, pid int) {
	t.Helper()
	syscall.Kill(pid, syscall.SIGSTOP)
	for deadline := time.Now().Add(eventually); ; time.Sleep(time.Millisecond) {
		threads, err := procfs.AllThreads(pid)
		stopped := err == nil
		for _, thread := range threads {
			stat, err := thread.Stat()
			stopped = stopped && err == nil && stat.State == "T"
		}
		if stopped {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

// rescuers counts the slots whose queue the master has. Only in the loop.
func (m *master) rescuers() int {
	n := 0
	for _, b := range m.pools[0].sockets {
		for _, r := range b.rescuers {
			if r != nil {
				n++
			}
		}
	}
	return n
}

func fds() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// readyWorkers starts a pool of n whose workers stay, and gives their pids by slot.
func readyWorkers(t *testing.T, pool *config.Pool, n int) (*master, []int) {
	t.Helper()
	pool.Workers = n
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	m.until("all adopt", func() bool { return m.pools[0].takers(m.pools[0].sockets[0]) == n })
	return m, m.pids()
}

// What waits in the queue of a stopped worker is served by the others, while it is stopped; so is who comes later. When it goes on it gets
// its share again, and the rescue leaves nothing behind.
func TestQueueOfAStoppedWorkerIsServedByTheOthers(t *testing.T) {
	m, pids := readyWorkers(t, onPort(testPool("worker")), 4)
	addr := m.addr()
	baseFDs, baseGoroutines := fds(), runtime.NumGoroutine()
	stopped := pids[2]
	for round := range 2 {
		before := m.rescued()
		halt(t, stopped)
		// It accepts nothing any more, so each of these must be answered by another one, though a quarter is in its queue.
		if by := burst(t, addr, 64)(); by[stopped] > 0 {
			t.Errorf("the stopped one answered: %v", by)
		}
		m.await("worker makes no progress", round+1)
		n := m.rescued() - before
		if n == 0 {
			t.Error("nobody was rescued")
		}
		t.Logf("%d of 64 were rescued", n)
		if by := burst(t, addr, 64)(); by[stopped] > 0 {
			t.Errorf("the stopped one answered: %v", by)
		}
		if late := m.rescued() - before - n; late > 0 {
			t.Errorf("%d connections were still sent to the suspect", late)
		}
		syscall.Kill(stopped, syscall.SIGCONT)
		m.await("worker gets connections again", round+1)
		for deadline := time.Now().Add(eventually); burst(t, addr, 16)()[stopped] == 0; {
			if time.Now().After(deadline) {
				t.Fatal("it never got a connection again")
			}
		}
	}
	if now := m.pids(); !slices.Equal(now, pids) {
		t.Errorf("workers %v became %v", pids, now)
	}
	m.until("all rescuers end", func() bool { return m.rescuers() == 0 })
	for deadline := time.Now().Add(eventually); fds() > baseFDs || runtime.NumGoroutine() > baseGoroutines; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d goroutines; before it were %d and %d", fds(), runtime.NumGoroutine(), baseFDs, baseGoroutines)
		}
	}
}

// A worker is killed with connections in its queue, and its slot falls into a crash loop: nobody waits for the next worker.
func TestQueueOfACrashLoopingSlotIsServedByTheOthers(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	m, pids := readyWorkers(t, onPort(testPool("brittle:"+broken)), 2)
	addr := m.addr()
	for range 3 {
		if err := os.WriteFile(broken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		before := m.rescued()
		victim := m.pids()[1]
		halt(t, victim) // so that it accepts none of these
		answers := burst(t, addr, 32)
		syscall.Kill(victim, syscall.SIGKILL)
		if by := answers(); by[pids[0]] != 32 {
			t.Errorf("answers by %v, want all by %d", by, pids[0])
		}
		if m.rescued() == before {
			t.Error("nobody was rescued")
		}
		m.until("the slot waits between its tries", func() bool { return m.pools[0].slots[1].waiting })
		if by := burst(t, addr, 32)(); by[pids[0]] != 32 {
			t.Errorf("answers by %v, want all by %d", by, pids[0])
		}
		os.Remove(broken)
		m.until("the slot serves again", func() bool { return m.pools[0].slots[1].serves() && m.rescuers() == 0 })
		m.do(func() { m.pools[0].slots[1].failures = 0 })
	}
}

// Eight workers become two and eight again, under clients with a connection per request: none fails, none hangs in a parked queue.
func TestScalingDownAndUpStrandsNobody(t *testing.T) {
	m, _ := readyWorkers(t, onPort(testPool("worker")), 8)
	addr := m.addr()
	stop := make(chan struct{})
	var served atomic.Int64
	failed := make(chan error, 8)
	for range cap(failed) {
		go func() {
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				if _, err := get(addr, "/"); err != nil {
					failed <- err
					return
				}
				served.Add(1)
			}
		}()
	}
	rounds := 2
	if os.Getenv("PROVE") != "" {
		rounds = 50
	}
	for range rounds {
		for range 6 {
			m.signal(syscall.SIGTTOU)
		}
		m.until("two are left", func() bool { return len(m.pools[0].workers()) == 2 && m.rescuers() == 6 })
		for n := served.Load() + 100; served.Load() < n && len(failed) == 0; {
			time.Sleep(time.Millisecond)
		}
		for range 6 {
			m.signal(syscall.SIGTTIN)
		}
		m.until("eight are ready", func() bool { return m.pools[0].readyCount() == 8 && m.rescuers() == 0 })
	}
	close(stop)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d served, %d of them rescued", served.Load(), m.rescued())
}

// Nobody has room for what a stopped worker's queue holds: it waits, and is served when somebody has.
func TestConnectionsThatNobodyTakesWaitForSomebody(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.WorkerConnections = 1
	m, pids := readyWorkers(t, pool, 2)
	addr := m.addr()
	busy, full := keepAlive(t, addr, "/")
	other := pids[0] + pids[1] - full
	halt(t, other)
	defer syscall.Kill(other, syscall.SIGCONT)
	answers := burst(t, addr, 16)
	m.until("the queue is taken over", func() bool { return m.rescuers() == 1 })
	time.Sleep(2 * protocol.ReceiptTimeout) // some offers that nobody takes
	if n := m.rescued(); n > 1 {            // it may have been waiting for one more when its place was taken
		t.Errorf("%d were taken by a worker without room", n)
	}
	busy.Close()
	if by := answers(); by[full] != 16 {
		t.Errorf("answers by %v, want all by %d", by, full)
	}
	if m.rescued() == 0 {
		t.Error("nobody was rescued")
	}
}

// keepAlive opens a connection that stays, and gives it and the process behind it.
func keepAlive(t *testing.T, addr, path string) (net.Conn, int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, ask(t, conn, path)
}

// ask sends one request and gives the pid of the process that answered.
func ask(t *testing.T, conn net.Conn, path string) int {
	t.Helper()
	conn.SetDeadline(time.Now().Add(eventually))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	pid, err := strconv.Atoi(strings.Fields(string(body))[1])
	if err != nil {
		t.Fatalf("answer %q", body)
	}
	return pid
}

// A worker that beats, but is out of descriptors and cannot accept, is steered away from; once it has some it gets its share again.
func TestWorkerOutOfDescriptorsGetsNoConnections(t *testing.T) {
	pool := onPort(testPool("hoarder"))
	pool.RlimitNofile = 40
	pool.KeepAlive = eventually
	m, _ := readyWorkers(t, pool, 2)
	addr := m.addr()
	conn, poor := keepAlive(t, addr, "/hoard")
	answers := burst(t, addr, 32)
	if by := answers(); by[poor] > 1 { // its Accept may have been faster than its hoarding
		t.Errorf("answers by %v: %d has no descriptors", by, poor)
	}
	e := m.await("worker makes no progress", 1)
	if got := e.ContextMap()["because"]; got != string(stuck) {
		t.Errorf("suspect because of %v", got)
	}
	if m.rescued() == 0 {
		t.Error("nobody was rescued")
	}
	ask(t, conn, "/release")
	m.until("it is tried again, for good", func() bool { return m.pools[0].takers(m.pools[0].sockets[0]) == 2 })
	for deadline := time.Now().Add(eventually); burst(t, addr, 16)()[poor] == 0; {
		if time.Now().After(deadline) {
			t.Fatal("it never got a connection again")
		}
	}
}

// A stop comes while the queue of a hung worker is full: what is in it is answered before the others leave.
func TestStopServesTheQueueOfAHungWorker(t *testing.T) {
	m, pids := readyWorkers(t, onPort(testPool("worker")), 2)
	addr := m.addr()
	var answers func() map[int]int
	m.look(func() { // the loop stands still meanwhile
		halt(t, pids[1])
		answers = burst(t, addr, 32)
		m.suspect(m.pools[0].slots[1].current, silent)
		m.stop(graceful)
	})
	if by := answers(); by[pids[0]] != 32 {
		t.Errorf("answers by %v, want all by %d", by, pids[0])
	}
	syscall.Kill(pids[1], syscall.SIGKILL)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

// Programs that do not use pkg/worker cannot take over anything: that is said once, and nothing is accepted for them.
func TestQueueOfAForeignWorkerWaitsForItsSlot(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	pool := onPort(testPool("brittle-foreign:" + broken))
	pool.Workers = 2
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	os.WriteFile(broken, nil, 0o600)
	victim := m.pids()[1]
	halt(t, victim)
	answers := burst(t, m.addr(), 32)
	syscall.Kill(victim, syscall.SIGKILL)
	m.await("the program cannot take them over", 1)
	m.until("tries go on", func() bool { return m.pools[0].slots[1].failures > 3 })
	os.Remove(broken)
	answers()
	if n := m.count("the program cannot take them over"); n != 1 || m.rescued() > 0 {
		t.Errorf("said %d times, %d rescued", n, m.rescued())
	}
}

// Two on one queue: the kernel gives each connection to one of them, so that a worker may come back while its queue is still rescued.
func TestRescuerEndsWithWhatItHolds(t *testing.T) {
	b := rescueBind(t)
	s := newSupervisor(&config.Config{}, zap.NewNop(), nil)
	p := &pool{cfg: testPool("")}
	s.startRescuer(p, b, 0)
	r := b.rescuer(0)
	client, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for deadline := time.Now().Add(eventually); !readable(uintptr(b.adoptRx)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never offered")
		}
	}
	r.tell(resting) // it has one in hand, which is offered until somebody takes it
	late, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	rx := os.NewFile(uintptr(dup(t, b.adoptRx)), "rx")
	defer rx.Close()
	raw, _ := rx.SyscallConn()
	var conn net.Conn
	for conn == nil { // the first messages may be offers that it has given up
		if conn, _, err = protocol.Take(raw); errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	if got, want := conn.RemoteAddr().String(), client.LocalAddr().String(); got != want {
		t.Errorf("took %s, want %s", got, want)
	}
	<-r.ended
	if n := r.passed.Load(); n != 1 || !readable(uintptr(b.slots[0])) {
		t.Errorf("%d passed on; the second connection must still be in the queue", n)
	}
	close(s.over)
	b.Close()
}

// A rescuer whose sockets close lets go of all that it has.
func TestRescuerGivesUpWithItsSockets(t *testing.T) {
	b := rescueBind(t)
	s := newSupervisor(&config.Config{}, zap.NewNop(), nil)
	p := &pool{cfg: testPool("")}
	s.startRescuer(p, b, 0)
	client, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for deadline := time.Now().Add(eventually); !readable(uintptr(b.adoptRx)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never offered")
		}
	}
	close(s.over)
	b.Close()
	client.SetDeadline(time.Now().Add(eventually))
	if n, err := client.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open: %d, %v", n, err)
	}
}

func rescueBind(t testing.TB) *bindSockets {
	t.Helper()
	pool := onPort(testPool(""))
	b, err := openBind(pool.Bind[0], pool, nil)
	if err == nil {
		err = b.listen()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func dup(t testing.TB, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// One connection through the master: accept, give, take.
func BenchmarkRescue(b *testing.B) {
	sockets := rescueBind(b)
	s := newSupervisor(&config.Config{}, zap.NewNop(), nil)
	s.startRescuer(&pool{cfg: testPool("")}, sockets, 0)
	rx := os.NewFile(uintptr(dup(b, sockets.adoptRx)), "rx")
	defer rx.Close()
	raw, _ := rx.SyscallConn()
	for b.Loop() {
		client, err := net.Dial("tcp", sockets.address())
		if err != nil {
			b.Fatal(err)
		}
		conn, _, err := protocol.Take(raw)
		if err != nil {
			b.Fatal(err)
		}
		conn.Close()
		client.Close()
	}
	close(s.over)
}
