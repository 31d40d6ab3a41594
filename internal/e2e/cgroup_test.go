package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cgroup makes a cgroup of version 1 and gives its directory, which goes with the test.
func cgroup(t *testing.T, controller string) string {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup", controller, fmt.Sprintf("e2e-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup of version 1 to limit %s here: %v", controller, err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(eventually); syscall.Rmdir(dir) != nil && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // its last process is being reaped
		}
	})
	return dir
}

func set(t *testing.T, dir, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
		t.Skipf("cannot set %s here: %v", file, err)
	}
}

// entering gives a command that enters the cgroup before it becomes what follows.
func entering(dir string, argv ...string) []string {
	return append([]string{"/bin/sh", "-c", "echo $$ >" + filepath.Join(dir, "cgroup.procs") + ` && exec "$0" "$@"`}, argv...)
}

// A worker that eats more than its cgroup has is killed by the kernel, and the log says so.
func TestOutOfMemoryIsToldApart(t *testing.T) {
	dir := cgroup(t, "memory")
	set(t, dir, "memory.limit_in_bytes", "150000000")
	s := launchIn(t, entering(dir), []string{"APP_DEBUG=1"}, "-w", "1", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.awaitAddress()
	s.await("pool serves", 1)
	if h := s.health(); h.WorkerID != "web.0.1" {
		t.Fatal(h)
	}
	conn := dial(t, s.addr)
	fmt.Fprintf(conn, "GET /debug/alloc?mb=400 HTTP/1.1\r\nHost: test\r\n\r\n")
	if line := s.await("worker died", 1); !strings.Contains(line, `"reason": "oom"`) {
		t.Errorf("%s", line)
	}
	s.await("worker ready", 2)
	s.get("/health")
}

// A CPU quota keeps the workers from running for longer than heartbeat_timeout: they are starved, not hung.
func TestThrottledIsNotHung(t *testing.T) {
	dir := cgroup(t, "cpu")
	argv := func(argv ...string) string { return fmt.Sprintf("%q", entering(dir, argv...)) }
	list := func(s string) string { return strings.ReplaceAll(s, `" "`, `", "`) }
	s := start(t, nil, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[pool.web]
command = %s
bind    = ["127.0.0.1:0"]
workers = 2
heartbeat_timeout = 2
[pool.hogs]
command = %s
ready   = "exec"
workers = 6
`, list(argv(app(), "serve")), list(argv("/bin/sh", "-c", "while :; do :; done")))))
	s.await(`pool serves .*"hogs"`, 1)
	set(t, dir, "cpu.cfs_period_us", "1000000")
	set(t, dir, "cpu.cfs_quota_us", "1000") // a thousandth of a core for all of them
	s.await("worker is silent because it gets no CPU", 2)
	set(t, dir, "cpu.cfs_quota_us", "-1")
	if n := s.count("worker is hung|worker died"); n > 0 {
		t.Errorf("%d workers were judged hung", n)
	}
	s.get("/health")
}

// EDGE_CASES 28. The memory has room for one worker more: the reload goes on with one at a time. It has room for none: nothing changes, and the
// log has the arithmetic.
func TestMemoryBoundsAReload(t *testing.T) {
	dir := cgroup(t, "memory")
	s := launchIn(t, entering(dir), nil, "-w", "4", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.awaitAddress()
	s.await("pool serves", 1)
	// room limits the cgroup to what it uses now, and that many times the largest worker more.
	room := func(workers float64) {
		set(t, dir, "memory.limit_in_bytes", "-1")
		set(t, dir, "memory.force_empty", "0") // drops what the page cache may give back
		var largest, used int
		for _, pid := range s.children() {
			var pages, resident int
			fmt.Sscan(string(readFile(t, fmt.Sprintf("/proc/%d/statm", pid))), &pages, &resident)
			largest = max(largest, resident*os.Getpagesize())
		}
		fmt.Sscan(string(readFile(t, filepath.Join(dir, "memory.usage_in_bytes"))), &used)
		set(t, dir, "memory.limit_in_bytes", fmt.Sprint(used+int(workers*float64(largest))))
	}
	room(1.7)
	s.reload()
	starts, alive, most := regexp.MustCompile("worker starts"), 0, 0
	gone := regexp.MustCompile("worker gone")
	s.mu.Lock()
	for _, line := range s.log {
		switch {
		case starts.MatchString(line):
			alive++
			most = max(most, alive)
		case gone.MatchString(line):
			alive--
		}
	}
	s.mu.Unlock()
	if most != 5 {
		t.Errorf("%d workers lived at once, want 5", most)
	}
	s.await("worker gone", 4)
	s.get("/health")

	room(0.5)
	s.signal(syscall.SIGHUP)
	line := s.await("reload failed, nothing changed", 1)
	if !strings.Contains(line, "not enough memory") || !strings.Contains(line, "pool web up to") {
		t.Error(line)
	}
	s.get("/health")
}
