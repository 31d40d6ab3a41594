package supervisor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/profile"
	"supervisor/pkg/protocol"
)

func TestDumpOfWhatCannotBeAsked(t *testing.T) {
	earlier, foreign := testPool("earlier"), testPool("serve")
	earlier.Name, foreign.Name = "earlier", "foreign"
	m, c := serving(t, onPort(testPool("worker")), earlier, foreign)
	ctx := testContext(t)
	m.until("hello", func() bool { return m.pools[1].slots[0].current.speaks })
	pids := m.pids()
	for _, test := range []struct {
		request control.DumpRequest
		status  int
		text    string
	}{
		{control.DumpRequest{Target: "earlier", Kind: profile.Heap}, 409, "worker earlier.0.1 was built with an earlier pkg/worker, which has no profiles"},
		{control.DumpRequest{Target: "earlier", Kind: profile.Goroutines}, 409, "it writes them into its stderr"},
		{control.DumpRequest{Target: "foreign.0", Kind: profile.Goroutines}, 409, "worker foreign.0.1 does not use pkg/worker"},
		{control.DumpRequest{Target: "web.0.9", Kind: profile.Goroutines}, 404, "there is no worker web.0.9; there is web.0.1"},
		{control.DumpRequest{Target: "wbe", Kind: profile.Goroutines}, 404, `there is no pool "wbe"`},
		{control.DumpRequest{Target: "web.x", Kind: profile.Goroutines}, 400, `"web.x" is no worker`},
		{control.DumpRequest{Target: "web", Kind: "block"}, 400, `there is no profile "block"; there are goroutines, heap, allocs and cpu`},
		{control.DumpRequest{Target: "web", Kind: profile.CPU}, 400, "it takes 1ms to 10m0s"},
		{control.DumpRequest{Target: "web", Kind: profile.CPU, Seconds: 1e9}, 400, "it takes 1ms to 10m0s"},
	} {
		_, _, err := c.Dump(ctx, test.request)
		if status, text := refusal(t, err); status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%+v: %d %s", test.request, status, text)
		}
	}
	m.until("the stacks in the log", func() bool {
		text, _ := os.ReadFile(m.cfg.ErrorLog)
		return strings.Contains(string(text), "my goroutines")
	})
	if now := m.pids(); fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("%v became %v", pids, now)
	}
}

// A stopped worker is told of in time, whoever asks how often; nothing of that stays, and what it is to hear still gets through.
func TestDumpOfAStoppedWorker(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	ctx := testContext(t)
	m.until("hello", func() bool { return m.pools[0].slots[0].current.speaks })
	if _, text, err := c.Dump(ctx, control.DumpRequest{Target: "web", Kind: profile.Goroutines}); err != nil || !strings.Contains(string(text), "net/http.(*Server).Serve") {
		t.Fatalf("%v: %s", err, text)
	}
	before := descriptors(t)
	pid := m.pids()[0]
	syscall.Kill(pid, syscall.SIGSTOP)
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	var askers sync.WaitGroup
	for range 60 {
		askers.Go(func() {
			_, _, err := c.Dump(ctx, control.DumpRequest{Target: "web", Kind: profile.CPU, Seconds: 600})
			if status, text := refusal(t, err); status != 504 || !strings.Contains(text, "does not answer: it is stopped (SIGSTOP)") {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	askers.Wait()
	wantDescriptors(t, before)
	m.look(func() {
		for range 50 {
			if !m.pools[0].slots[0].current.proc.Send(protocol.Command{Verb: "some"}) {
				t.Error("its control channel is full")
				break
			}
		}
	})
	syscall.Kill(pid, syscall.SIGCONT)
	for { // none of those runs now
		_, _, err := c.Dump(ctx, control.DumpRequest{Target: "web", Kind: profile.CPU, Seconds: 0.01})
		if err == nil {
			break
		}
		if status, text := refusal(t, err); status != 409 && status != 504 {
			t.Fatalf("%d %s", status, text)
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if m.pids()[0] != pid {
		t.Error("it was replaced")
	}
}

func TestDumpOfAWorkerThatDies(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	m.until("hello", func() bool { return m.pools[0].slots[0].current.speaks })
	before := descriptors(t)
	pid := m.pids()[0]
	c.Begun = func(string) { syscall.Kill(pid, syscall.SIGKILL) }
	_, _, err := c.Dump(testContext(t), control.DumpRequest{Target: "web", Kind: profile.CPU, Seconds: 600})
	if status, text := refusal(t, err); status != 502 || !strings.Contains(text, fmt.Sprintf("worker web.0.1 (pid %d) has ended", pid)) {
		t.Errorf("%d %s", status, text)
	}
	m.until("the next one", func() bool { return m.pools[0].readyCount() == 1 && m.pools[0].slots[0].current.speaks })
	wantDescriptors(t, before)
}

// Without a worker's name it is the supervisor itself, as long as its HTTP server lives.
func TestDumpOfTheSupervisor(t *testing.T) {
	m, c := serving(t, onPort(testPool("worker")))
	hold := make(chan struct{})
	m.do(func() { <-hold }) // its loop hangs
	worker, text, err := c.Dump(testContext(t), control.DumpRequest{Kind: profile.Goroutines})
	close(hold)
	if err != nil || worker != "supervisor" || !strings.Contains(string(text), "supervisor.(*Supervisor).Run") {
		t.Errorf("%s, %v: %s", worker, err, text)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	ended := make(chan error)
	c.Begun = func(string) { cancel() } // the client goes half-way
	go func() {
		_, _, err := c.Dump(ctx, control.DumpRequest{Kind: profile.CPU, Seconds: 600})
		ended <- err
	}()
	if err := <-ended; err == nil {
		t.Error("it came to an end")
	}
	for other := control.Dial(m.cfg.Control); ; time.Sleep(time.Millisecond) {
		_, data, err := other.Dump(testContext(t), control.DumpRequest{Kind: profile.CPU, Seconds: 0.01})
		if err == nil && len(data) > 0 {
			break
		}
		if status, text := refusal(t, err); status != 409 || !strings.Contains(text, "one at a time") {
			t.Fatalf("%d %s", status, text)
		}
	}
}
