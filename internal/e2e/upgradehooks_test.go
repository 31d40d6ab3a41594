package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A self-upgrade says that it has no canary where a reload has one, and runs the hooks of a reload.
func TestUpgradeSaysThatItHasNoCanaryAndRunsHooks(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "ctl.sock")
	s := start(t, nil, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[supervisor]
control = %q
[pool.web]
command = [%q, "serve"]
bind = ["127.0.0.1:0"]
health = "/health"
[pool.web.hooks]
before_reload = ["sh", "-c", "echo before $SUPERVISOR_GENERATION >> %[3]s/ran"]
after_reload = ["sh", "-c", "echo after $SUPERVISOR_GENERATION >> %[3]s/ran"]
`, socket, app(), dir)))
	s.await("pool serves", 1)
	out, err := exec.Command(filepath.Join(bin, "supervisor"), "ctl", "-s", socket, "upgrade").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "without the health and bake of pool web") || !strings.Contains(string(out), "has taken over") {
		t.Errorf("%v: %s", err, out)
	}
	s.pid, _ = strconv.Atoi(regexp.MustCompile(`"successor": (\d+)`).FindStringSubmatch(s.await("this supervisor leaves", 1))[1])
	s.await("this supervisor is in charge", 1)
	s.await("self-upgrade has no canary", 1)
	s.await("worker gone", 1)
	awaitText(t, filepath.Join(dir, "ran"), "before 2\nafter 2\n")
}

// awaitText waits until a file has this text.
func awaitText(t *testing.T, path, want string) {
	t.Helper()
	text := ""
	for deadline := time.Now().Add(eventually); text != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s has %q, want %q", path, text, want)
		}
		b, _ := os.ReadFile(path)
		text = string(b)
	}
}
