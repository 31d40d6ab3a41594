package supervisor

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/sdnotify"
)

// fakeManager makes a socket the NOTIFY_SOCKET of the test.
func fakeManager(t *testing.T) *sdnotify.Listener {
	t.Helper()
	l, err := sdnotify.Listen(fmt.Sprintf("@manager-test/%d/%s", os.Getpid(), t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv(sdnotify.EnvSocket, l.Name())
	return l
}

var figures = regexp.MustCompile(`(MONOTONIC_USEC=)\d+|\d+( req/s)`)

// hear gives the next messages but for beats, descriptors, and mere changes of the rate; with N for what differs from run to run.
func hear(t *testing.T, l *sdnotify.Listener, n int) []string {
	t.Helper()
	var heard []string
	timer := time.AfterFunc(eventually, func() { l.Close() })
	defer timer.Stop()
	for len(heard) < n {
		m, err := l.Read()
		if err != nil {
			t.Fatalf("heard only %q", heard)
		}
		m.Close()
		text := figures.ReplaceAllString(strings.ReplaceAll(m.State, "\n", " "), "${1}N${2}")
		if strings.HasPrefix(text, "FDSTORE") || text == "WATCHDOG=1" || regexp.MustCompile(`^(STATUS=[^;]*N req/s(, reloading)?( EXTEND_TIMEOUT_USEC=\d+)?|EXTEND_TIMEOUT_USEC=\d+)$`).MatchString(text) {
			continue
		}
		heard = append(heard, text)
	}
	return heard
}

func mustHear(t *testing.T, l *sdnotify.Listener, want ...string) {
	t.Helper()
	for i, got := range hear(t, l, len(want)) {
		if ok, _ := regexp.MatchString("^"+want[i]+"$", got); !ok {
			t.Errorf("heard\n%q, want\n%q", got, want[i])
		}
	}
}

func TestManagerHearsOfStartReloadsAndStop(t *testing.T) {
	manager := fakeManager(t)
	first, second := onPort(testPool("worker")), onPort(testPool("worker"))
	first.Workers, second.Name = 2, "second"
	m := startMaster(t, testConfig(first, second))
	const more = " EXTEND_TIMEOUT_USEC=15000000"
	mustHear(t, manager, `STATUS=0/3 workers, generation 1`+more)
	for text := ""; !strings.HasPrefix(text, "READY=1"); { // what it says meanwhile depends on how long it takes
		if text = hear(t, manager, 1)[0]; strings.Contains(text, "READY=1") && text != "READY=1 STATUS=3/3 workers, generation 1" &&
			text != "READY=1 STATUS=3/3 workers, generation 1, N req/s" {
			t.Errorf("heard %q", text)
		}
	}
	if n := m.count("pool serves"); n != 2 {
		t.Errorf("READY=1 when %d of 2 pools served", n)
	}
	m.reload(testConfig(first, second), nil)
	mustHear(t, manager,
		`RELOADING=1 MONOTONIC_USEC=N STATUS=3/3 workers, generation 1(, N req/s)?, reloading`+more,
		`READY=1 STATUS=3/3 workers, generation 2(, N req/s)?`)

	m.reload(nil, errors.New("supervisor.toml:3: unknown key\nREADY=0"))
	mustHear(t, manager,
		`RELOADING=1 MONOTONIC_USEC=N STATUS=3/3 workers, generation 2(, N req/s)?, reloading`+more,
		`READY=1 STATUS=3/3 workers, generation 2(, N req/s)?; reload failed: supervisor.toml:3: unknown key READY=0`)
	broken := *first
	broken.Env = map[string]string{envTestWorker: "exit:3", "GORACE": "atexit_sleep_ms=0"}
	m.reload(testConfig(&broken, second), nil)
	for _, want := range []string{`RELOADING=1 .*`, `READY=1 STATUS=3/3 workers, generation 2(, N req/s)?; reload failed: .*exit:3.*`} {
		for {
			if text := hear(t, manager, 1)[0]; regexp.MustCompile(want).MatchString(text) {
				break
			} else if !strings.HasPrefix(text, "STATUS=") {
				t.Fatalf("heard %q, want %q", text, want)
			}
		}
	}
	m.signal(syscall.SIGTERM)
	for text := ""; !strings.HasPrefix(text, "STOPPING=1 STATUS=stopping, "); text = hear(t, manager, 1)[0] {
		if text != "" && !strings.HasPrefix(text, "STATUS=") && !strings.HasPrefix(text, "FDSTOREREMOVE") {
			t.Errorf("heard %q", text)
		}
	}
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

func TestManagerIsNotToldReadyWhenNoWorkerIs(t *testing.T) {
	manager := fakeManager(t)
	m := startMaster(t, testConfig(onPort(testPool("exit:1"))))
	if err := m.wait(); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	for {
		message, ok := manager.TryRead()
		if !ok {
			return
		}
		if message.Get("READY") != "" {
			t.Errorf("heard %q", message.State)
		}
		message.Close()
	}
}

func TestRequestsAreInTheStatus(t *testing.T) {
	manager := fakeManager(t)
	m := startMaster(t, testConfig(onPort(testPool("worker"))))
	m.await("pool serves", 1)
	stop := make(chan struct{})
	defer close(stop)
	addr := m.addr()
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				get(addr, "/")
			}
		}
	}()
	timer := time.AfterFunc(eventually, func() { manager.Close() })
	defer timer.Stop()
	for {
		message, err := manager.Read()
		if err != nil {
			t.Fatal("no request was ever counted")
		}
		message.Close()
		if regexp.MustCompile(`^1/1 workers, generation 1, [1-9]\d* req/s$`).MatchString(message.Get("STATUS")) {
			return
		}
	}
}

func TestWatchdogIsFedByTheLoopOnly(t *testing.T) {
	manager := fakeManager(t)
	t.Setenv(sdnotify.EnvWatchdogUsec, "100000")
	t.Setenv(sdnotify.EnvWatchdogPID, fmt.Sprint(os.Getpid()))
	m := startMaster(t, testConfig(onPort(testPool("serve"))))
	beats := make(chan struct{}, 1000)
	go func() {
		for {
			message, err := manager.Read()
			if err != nil {
				return
			}
			message.Close()
			if message.State == "WATCHDOG=1" {
				select {
				case beats <- struct{}{}:
				default:
				}
			}
		}
	}()
	for range 3 {
		<-beats
	}
	goOn := make(chan struct{})
	stands := make(chan struct{})
	m.do(func() { close(stands); <-goOn })
	<-stands
	time.Sleep(20 * time.Millisecond) // the one that is on its way
	for len(beats) > 0 {
		<-beats
	}
	time.Sleep(200 * time.Millisecond) // two whole intervals of the watchdog: nothing to wait for but time itself
	if n := len(beats); n > 0 {
		t.Errorf("%d beats while the loop stood still", n)
	}
	close(goOn)
	<-beats
}

func TestWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	fakeManager(t)
	t.Setenv(sdnotify.EnvWatchdogUsec, "100000")
	for _, c := range []struct {
		pid       string
		successor bool
		want      time.Duration
	}{{fmt.Sprint(os.Getpid()), false, 50 * time.Millisecond}, {"", false, 50 * time.Millisecond}, {"1", false, 0}, {"1", true, 50 * time.Millisecond}} {
		t.Setenv(sdnotify.EnvWatchdogPID, c.pid)
		if m := newManager(nil, c.successor); m.interval != c.want {
			t.Errorf("WATCHDOG_PID=%s, successor %v: %v", c.pid, c.successor, m.interval)
		}
	}
}

// A manager that does not read holds up nothing, however much it has of ours.
func TestStopDoesNotWaitForABusyManager(t *testing.T) {
	manager := fakeManager(t)
	for sdnotify.Send(manager.Name(), "STATUS=full") == nil {
	}
	st := &store{socket: manager.Name(), stored: map[string]bool{}}
	for i := range 100 {
		st.stored[fmt.Sprint(i)] = true
	}
	began := time.Now()
	st.clear()
	if took := time.Since(began); took > 20*sdnotify.Patience {
		t.Errorf("it took %v", took)
	}
}
