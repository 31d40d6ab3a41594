package supervisor

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/control"
)

// EDGE_CASES 30: readiness fails at once, everything is served on, and every answer says Connection: close.
func TestDrainDelay(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.Workers, pool.DrainDelay = 2, eventually
	cfg := adminOnPort(testConfig(pool))
	m := startMaster(t, cfg)
	m.until("all pools serve", func() bool { return m.desk.started })
	addr := m.addr()
	kept := dialHTTP(t, addr)
	if kept.get(t).Close {
		t.Error("Connection: close before the stop")
	}

	m.signal(syscall.SIGTERM)
	m.await("stopping after drain_delay", 1)
	if code, h := m.ask(control.PathReady); code != 503 || h.Reason != "stopping: drain_delay has begun" {
		t.Errorf("ready: %d %+v", code, h)
	}
	if code, _ := m.ask(control.PathLive); code != 200 {
		t.Errorf("live: %d", code)
	}
	awaitLame := func() { // all workers have heard of it
		t.Helper()
		deadline := time.Now().Add(eventually)
		for row := 0; row < 20; row++ {
			if !dialHTTP(t, addr).get(t).Close {
				row = 0
			}
			if time.Now().After(deadline) {
				t.Fatal("no Connection: close")
			}
		}
	}
	awaitLame()
	if !kept.get(t).Close {
		t.Error("a kept-alive connection goes on")
	}

	// What dies is replaced, and its successor knows.
	syscall.Kill(m.pids()[0], syscall.SIGKILL)
	m.await("worker ready", 3)
	awaitLame()
	m.signal(syscall.SIGHUP)
	m.signal(syscall.SIGTTIN)
	m.signal(syscall.SIGWINCH)
	m.until("signals were seen", func() bool { return m.desk.last != nil && !m.desk.last.OK })
	m.look(func() {
		if m.pools[0].wanted() != 2 || m.parked || m.stopping != delaying || m.stateName() != control.StateDelaying {
			t.Errorf("wanted %d, parked %v, phase %v", m.pools[0].wanted(), m.parked, m.stopping)
		}
	})

	m.signal(syscall.SIGTERM) // enough
	if err := m.wait(); err != nil {
		t.Error(err)
	}
	if m.count("stopping after drain_delay") != 1 || m.count("worker is killed") > 0 {
		t.Error("no clean end")
	}
}

// byHand is one connection that is asked by hand.
type byHand struct {
	net.Conn
	r *bufio.Reader
}

func dialHTTP(t *testing.T, addr string) byHand {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(eventually))
	return byHand{conn, bufio.NewReader(conn)}
}

func (c byHand) get(t *testing.T) *http.Response {
	t.Helper()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	io.Copy(io.Discard, resp.Body)
	return resp
}

func TestDrainDelayEndsByItself_OrQuickly(t *testing.T) {
	for _, quickly := range []bool{false, true} {
		pool := onPort(testPool("worker"))
		pool.DrainDelay = 300 * time.Millisecond
		if quickly {
			pool.DrainDelay = eventually
		}
		foreign := onPort(testPool("serve")) // knows nothing of it, and is served on as well
		foreign.Name, foreign.Bind[0].Name = "foreign", "foreign"
		m := startMaster(t, testConfig(foreign, pool))
		m.until("all pools serve", func() bool { return m.desk.started })
		addr := m.addr()
		m.signal(syscall.SIGTERM)
		m.await("stopping after drain_delay", 1)
		if quickly { // else the delay may be over by now
			mustGet(t, addr, "/")
			m.signal(syscall.SIGINT)
		}
		if err := m.wait(); err != nil {
			t.Error(err)
		}
		if n := m.count("quick stop"); (n == 1) != quickly {
			t.Errorf("quickly %v: %d quick stops", quickly, n)
		}
	}
}

// Without a pool that serves there is nobody to look away.
func TestDrainDelayIsForThoseWhoServe(t *testing.T) {
	pool := onPort(testPool("hang"))
	pool.DrainDelay = eventually
	m := startMaster(t, testConfig(pool))
	m.await("worker starts", 1)
	m.signal(syscall.SIGTERM)
	if err := m.wait(); err != nil {
		t.Error(err)
	}
	if m.count("after drain_delay") > 0 {
		t.Error("it waits for nobody")
	}
}

// A reload that runs at TERM is taken back before the delay: everybody serves on as he did.
func TestDrainDelayEndsAReload(t *testing.T) {
	pool := onPort(testPool("worker"))
	pool.DrainDelay = eventually
	m, c := serving(t, pool)
	hang := onPort(testPool("hang"))
	hang.Bind = pool.Bind
	m.mu.Lock()
	m.next = testConfig(hang)
	m.mu.Unlock()
	verdicts := make(chan control.Verdict, 2)
	for range 2 { // one runs, one waits
		go func() {
			v, err := c.Reload(testContext(t), waiting)
			if err != nil {
				t.Error(err)
			}
			verdicts <- v
		}()
	}
	m.until("both are there", func() bool { return m.Supervisor.reload != nil && m.again })
	m.signal(syscall.SIGTERM)
	for range 2 {
		if v := <-verdicts; v.OK || !strings.Contains(v.Text, "the supervisor was stopped meanwhile") {
			t.Errorf("%+v", v)
		}
	}
	mustGet(t, m.addr(), "/")
	v, err := c.Stop(testContext(t), control.StopRequest{Wait: waiting}) // the second one: no delay any more
	good(t, v, err)
}
