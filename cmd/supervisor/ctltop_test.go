package main

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"supervisor/pkg/control"
)

// twoLooks are a supervisor at two times, two seconds apart.
func twoLooks() (before, now control.Status) {
	bounds := []float64{0.001, 0.01, 0.1}
	before = control.Status{
		PID: 7, Instance: "a", State: "serving", Ready: true, Generation: 3, Uptime: 100, LatencyBounds: bounds,
		Pools: []control.Pool{
			{Name: "web", Ready: 2, Wanted: 2, Work: control.Work{Requests: 10000, Errors: 10, Latency: []uint64{9000, 1000, 0, 0}}, Workers: []control.Worker{
				{Name: "web.0.1", PID: 11, State: "ready", Generation: 3, Age: 90, Scored: true, Requests: 500, CPU: 1, Latency: []uint64{500, 0, 0, 0}},
				{Name: "web.1.2", PID: 12, State: "ready", Generation: 3, Age: 90, Scored: true, Requests: 400, CPU: 1},
			}},
			{Name: "foreign", Ready: 1, Wanted: 1, Queued: -1, Workers: []control.Worker{{Name: "foreign.0.1", PID: 13, State: "ready", Age: 5}}},
		},
	}
	now = control.Status{
		PID: 7, Instance: "a", State: "serving", Ready: true, Generation: 3, Uptime: 102, LatencyBounds: bounds,
		Degraded: []string{"pool web: web.1 is in a crash loop: \x1b[2Jboom"},
		Pools: []control.Pool{
			{Name: "web", Ready: 1, Wanted: 2, Leaving: 1, Queued: 5, Work: control.Work{Requests: 12000, Errors: 11, Latency: []uint64{9000, 3000, 0, 0}}, Workers: []control.Worker{
				{
					Name: "web.0.1", PID: 11, State: "draining", Generation: 3, Age: 92, Scored: true, Requests: 1500, InFlight: 2, Connections: 7, CPU: 1.2, Memory: 20 << 20, Oldest: 1.5,
					Reason: "reload", Latency: []uint64{500, 1000, 0, 0},
				},
				{Name: "web.1", State: "backoff", Generation: 3, Failures: 4},
				{Name: "web.0.3", PID: 14, State: "ready", Generation: 4, Age: 1, Scored: true, Requests: 7, CPU: 1, Latency: []uint64{0, 0, 0, 7}, Memory: 10 << 20},
			}},
			{Name: "foreign", Ready: 1, Wanted: 1, Queued: -1, Workers: []control.Worker{{Name: "foreign.0.1", PID: 13, State: "ready", Age: 7, CPU: 2, Memory: 1 << 20}}},
		},
	}
	return before, now
}

func TestRatesOfTwoLooks(t *testing.T) {
	before, now := twoLooks()
	c := compare(&before, now)
	web, old, fresh := c.Pools[0], c.Workers[0], c.Workers[2]
	if c.Seconds != 2 || web.Rate != 1000 || web.ErrorRate != 0.5 || web.Running != 2 || web.Connections != 7 || web.Memory != 30<<20 {
		t.Errorf("%+v", web)
	}
	if web.P50 < 0.005 || web.P50 > 0.006 || web.P95 < 0.009 || web.P95 > 0.01 || web.beyond95 {
		t.Errorf("%v and %v: the two seconds had 2000 requests between 1 and 10 ms", web.P50, web.P95)
	}
	if old.Rate != 500 || old.Busy < 0.09 || old.Busy > 0.11 {
		t.Errorf("%+v", old)
	}
	if fresh.Rate != 3.5 || fresh.Busy != 0.5 || fresh.P95 != 0.1 || !fresh.beyond95 {
		t.Errorf("one who came since: %+v", fresh)
	}
	for name, other := range map[string]control.Status{"another life": {Instance: "b"}, "an earlier time": {Instance: "a", Uptime: 200}} {
		if c := compare(&other, now); c.Seconds != 0 || c.Pools[0].Rate != 0 || c.Workers[0].Rate != 0 || len(c.Workers) != 4 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	shrunk := before
	shrunk.Pools = []control.Pool{{Name: "web", Work: control.Work{Requests: 1 << 60, Latency: []uint64{1 << 60}}}}
	if c := compare(&shrunk, now); c.Pools[0].Rate != 0 {
		t.Errorf("a counter that went down: %+v", c.Pools[0])
	}
}

func TestFrameForPeople(t *testing.T) {
	before, now := twoLooks()
	var out strings.Builder
	if err := writeFrame(&out, now, compare(&before, now), "cpu"); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out.String(), "\n")
	want := `degraded: pool web: web.1 is in a crash loop: ?[2Jboom

POOL     READY  LEAVING  DRAINED  REQ/S  ERRORS/S  P50    P95     RUNNING  CONNS  QUEUED  MEMORY  CPU
web      1/2    1        0        1000   0.5       5.5ms  9.55ms  2        7      5       30MiB   60%
foreign  1/1    0        0        0      0         -      -       0        0      -       1.0MiB  100%

WORKER       PID  STATE     GEN  AGE    REQUESTS  REQ/S  RUNNING  CONNS  MEMORY  CPU   P50     P95     OLDEST  NOTE
web.0.1      11   draining  3    1m32s  1500      500    2        7      20MiB   10%   5.5ms   9.55ms  1.5s    reload
web.1        -    backoff   3    -      -         -      -        -      -       -     -       -       -       4 starts failed
web.0.3      14   ready     4    1s     7         3.5    0        0      10MiB   50%   >100ms  >100ms  -       
foreign.0.1  13   ready     0    7s     -         -      -        -      1.0MiB  100%  -       -       -       
`
	if rest != want {
		t.Errorf("got\n%s\nwant\n%s", rest, want)
	}
	if !strings.HasPrefix(out.String(), "supervisor 7: serving, ready, generation 3, up 1m42s; ") {
		t.Errorf("%s", out.String())
	}
}

func TestFrameFitsTheTerminal(t *testing.T) {
	for _, test := range []struct {
		frame         string
		width, height int
		want          string
	}{
		{"abc\nde\n", 80, 24, "\x1b[Habc\x1b[K\r\nde\x1b[K\x1b[J"},
		{"äbc\nde\nf\ng\n", 2, 3, "\x1b[Häb\x1b[K\r\nde\x1b[K\r\n… \x1b[K\x1b[J"},
		{"a\nb\nc\n", 80, 2, "\x1b[Ha\x1b[K\r\n… 2 more\x1b[K\x1b[J"},
	} {
		if got := string(fit(test.frame, test.width, test.height)); got != test.want {
			t.Errorf("%q: %q, want %q", test.frame, got, test.want)
		}
	}
}

// Without a terminal there are as many frames as were asked for, each of two looks, in the order that was asked for.
func TestTopAndWorkersWithoutATerminal(t *testing.T) {
	t.Parallel()
	before, now := twoLooks()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[bool]control.Status{true: before, false: now}[asked.Add(1)%2 == 1])
	}))
	defer l.Close()
	env := []string{"SUPERVISOR_SOCKET=" + path}
	r := runCommand(env, "ctl", "top", "--sort", "requests")
	if r.code != 0 || strings.Count(r.stdout, "WORKER") != 1 || strings.Contains(r.stdout, "\x1b") || strings.Index(r.stdout, "\nweb.0.3 ") > strings.Index(r.stdout, "\nweb.1 ") {
		t.Errorf("%+v", r)
	}
	r = runCommand(env, "ctl", "top", "-n", "2", "--json")
	var frame comparison
	if lines := strings.Split(strings.TrimSpace(r.stdout), "\n"); len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &frame) != nil || frame.Pools[0].Rate != 1000 ||
		frame.Workers[0].Name != "foreign.0.1" || frame.Workers[0].Busy != 1 {
		t.Errorf("%+v", r)
	}
	r = runCommand(env, "ctl", "workers", "web.0")
	if r.code != 0 || !strings.Contains(r.stdout, "web.0.3") || !strings.Contains(r.stdout, "web.0.1") || strings.Contains(r.stdout, "foreign") || strings.Contains(r.stdout, "backoff") {
		t.Errorf("%+v", r)
	}
	r = runCommand(env, "ctl", "top", "foreign")
	if r.code != 0 || !strings.Contains(r.stdout, "foreign.0.1") || strings.Contains(r.stdout, "\nweb") {
		t.Errorf("%+v", r)
	}
	r = runCommand(env, "ctl", "workers", "web.9")
	if r.code != 64 || !strings.Contains(r.stderr, "there is no worker web.9; there is web.0.1, web.1, web.0.3, foreign.0.1") {
		t.Errorf("%+v", r)
	}
}

func TestArrowsAreNoLetters(t *testing.T) {
	for pressed, want := range map[string]string{"q": "q", "\x1b[Am\x1bOQ\x1b[15~n": "mn", "\x1b": "", "\x1b[1;5": "", "a\x1bb": "ab"} {
		if got := string(letters([]byte(pressed))); got != want {
			t.Errorf("%q: %q", pressed, got)
		}
	}
}
