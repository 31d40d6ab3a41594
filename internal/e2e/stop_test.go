package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// TERM under load, in the middle of reloads: the supervisor ends within its deadline, once, with status 0, and every request that was
// sent on a connection that it had accepted is answered.
func TestTermUnderLoadAndReload(t *testing.T) {
	for range pick(3, 30) {
		s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
		s.await("pool serves", 1)
		load, err := loadtest.Start(context.Background(), loadtest.Plan{
			Target: s.addr, Mix: loadtest.Mix{KeepAlive: 10, Paused: 10, OneShot: 5}, Duration: 10 * time.Minute, Timeout: eventually,
		})
		if err != nil {
			t.Fatal(err)
		}
		load.Await(200)
		s.reload()
		s.signal(syscall.SIGHUP)
		s.signal(syscall.SIGTERM)
		if code := s.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		result := load.Stop()
		// Afterwards nobody listens, and refused is what a client then sees. Whatever else failed had been accepted.
		if n := result.AllFailed() - result.Failed[loadtest.DialRefused]; n > 0 {
			t.Errorf("%d requests failed: %v", n, result)
		}
		if n := s.count("worker is killed|did not leave"); n > 0 {
			t.Errorf("%d workers had to be killed", n)
		}
	}
}
