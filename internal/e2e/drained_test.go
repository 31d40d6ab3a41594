package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Workers are taken out and brought back by hand under load: nothing is lost. Who is out stays out over a self-upgrade and over a kill -9 of the
// supervisor, and is back after a reload.
func TestDrainByHandUnderLoad(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	c := controlled{file: filepath.Join(dir, "c.toml"), socket: filepath.Join(dir, "control")}
	c.rewrite(t, webPool("workers = 3"))
	args := []string{"-c", c.file}
	c.server = launchKept(t, []string{filepath.Join(bin, "supervisor")}, []string{"APP_DEBUG=1", "NOTIFY_SOCKET=" + k.listener.Name()}, args...)
	c.awaitAddress()
	c.await("pool serves", 1)
	load := startLoad(t, c.server, everybody)
	load.Await(300)
	for i := range pick(4, 30) {
		slot := fmt.Sprint("web.", i%3)
		c.ctl("drain", slot).is(t, 0, slot+" is drained; 2 of 3 workers of pool web serve")
		load.Await(100)
		c.ctl("undrain", slot).is(t, 0, slot+" is back")
		load.Await(100)
	}
	drained := func() {
		t.Helper()
		c.ctl("status").is(t, 0, "pool web: 2 of 3 ready, 1 drained")
		c.ctl("status").is(t, 0, "degraded: pool web: web.1 is drained by hand since ")
		tell("healthcheck", "-c", c.file).is(t, 0, `"drained":1`)
	}
	c.ctl("drain", "web.1").is(t, 0, "web.1 is drained")
	drained()
	load.Await(300)
	c.ctl("upgrade").is(t, 0, "has taken over")
	c.pid = pidOf(t, c)
	load.Await(300)
	drained()
	syscall.Kill(c.pid, syscall.SIGKILL)
	load.Await(100)
	k.restart(c.server, args...)
	c.await("the supervisor before us died", 1)
	c.await("reload done", 1)
	drained()
	load.Await(300)
	c.ctl("reload").is(t, 0, "and web.1 is not drained any more")
	c.ctl("status").is(t, 0, "pool web: 3 of 3 ready, ")
	load.Await(300)
	mustBeClean(t, load)
	if n := c.count("worker died|worker is killed|did not leave within"); n > 0 {
		t.Errorf("%d workers died", n)
	}
	c.ctl("drain", "web").is(t, 0, "web.0, web.1, web.2 are drained; 0 of 3 workers")
	tell("healthcheck", "-c", c.file).is(t, 1, "pool web is drained by hand (supervisor ctl undrain web)")
	c.ctl("undrain").is(t, 0, "web.0, web.1, web.2 are back")
	if s := c.ctl("status"); strings.Contains(s.out, "degraded") || !strings.Contains(s.out, "3 of 3 ready") {
		t.Errorf("%s", s.out)
	}
}

// pidOf gives the supervisor that is in charge.
func pidOf(t *testing.T, c controlled) int {
	t.Helper()
	out := c.ctl("status").out
	m := regexp.MustCompile(`^supervisor (\d+):`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	pid, _ := strconv.Atoi(m[1])
	return pid
}
