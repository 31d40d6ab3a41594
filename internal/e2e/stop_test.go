package e2e

import (
	"syscall"
	"testing"

	"supervisor/internal/loadtest"
)

// TERM under load, in the middle of reloads: the supervisor ends within its deadline, once, with status 0, and every request that was
// sent on a connection that it had accepted is answered.
func TestTermUnderLoadAndReload(t *testing.T) {
	for range pick(3, 30) {
		s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
		s.await("pool serves", 1)
		load := startLoad(t, s, loadtest.Mix{KeepAlive: 10, Paused: 10, OneShot: 5})
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
