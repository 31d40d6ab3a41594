package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"supervisor/internal/loadtest"
)

// kill -9 of a supervisor whose successor has begun, at each stage of that: the successor gives up, since what the holder starts has all of
// the workers. Nothing is lost, no connection is closed, and the next self-upgrade works.
func TestKillNineInTheMiddleOfASelfUpgrade(t *testing.T) {
	for name, stage := range map[string]string{
		"begun": "self-upgrade begins", "it listens": "listening", "its workers start": `worker starts .*"generation": 2`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := launchProgram(t, []string{filepath.Join(bin, "supervisor"), "--holder"}, nil, "-c", write(t, "supervisor.toml", fmt.Sprintf(`
[supervisor]
pidfile = %q
[pool.web]
command = [%q, "serve"]
bind    = ["127.0.0.1:0"]
workers = 2
[pool.web.env]
APP_DEBUG = "1"
`, filepath.Join(dir, "pid"), app())))
			s.awaitAddress()
			s.await("pool serves", 1)
			pid := pidIn(s.await(`holder: supervisor \d+ started`, 1))
			load := startLoad(t, s, loadtest.Mix{KeepAlive: 10, Paused: 30, OneShot: 5})
			load.Await(200)
			const inCharge = "this supervisor is in charge"
			upgrades := 1
			for ; ; upgrades++ {
				seen := s.count(stage)
				s.signal(syscall.SIGUSR2)
				s.await(stage, seen+1)
				syscall.Kill(pid, syscall.SIGKILL)
				s.await("was killed by SIGKILL|"+inCharge, upgrades)
				if s.count(inCharge) < upgrades {
					break
				}
				if upgrades == 5 {
					t.Fatal("each self-upgrade was over before the kill")
				}
				pid = pidIn(s.await(`holder: supervisor \d+ takes over`, upgrades))
			}
			s.await(`holder: supervisor \d+ started`, 2)
			s.await("worker adopted", 2*upgrades) // each of the upgrades before adopted two
			s.await("reload done", 1)             // all are replaced
			load.Await(200)
			s.signal(syscall.SIGUSR2)
			s.await(inCharge, upgrades)
			load.Await(200)
			mustBeClean(t, load)
		})
	}
}

// pidIn gives the number behind "supervisor" in a line of the holder's.
func pidIn(line string) int {
	pid, _ := strconv.Atoi(regexp.MustCompile(`supervisor (\d+) `).FindStringSubmatch(line)[1])
	return pid
}
