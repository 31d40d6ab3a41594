package e2e

import (
	"slices"
	"syscall"
	"testing"

	"supervisor/internal/loadtest"
)

// One of four workers is stopped under load and goes on later, again and again: nobody fails. Who asks anew is served by the others
// meanwhile, else the load would come to a stand: only the connections that the stopped one held wait for it.
func TestStoppedWorkerCostsNobodyARequest(t *testing.T) {
	t.Parallel()
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "4", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, loadtest.Mix{KeepAlive: 10, Paused: 10, OneShot: 20})
	load.Await(500)
	workers := s.children()
	for round := range pick(3, 40) {
		pid := workers[round%len(workers)]
		syscall.Kill(pid, syscall.SIGSTOP)
		s.await("worker makes no progress", round+1)
		load.Await(500)
		syscall.Kill(pid, syscall.SIGCONT)
		s.await("worker gets connections again", round+1)
		load.Await(200)
	}
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	after := s.children()
	slices.Sort(workers)
	slices.Sort(after)
	if !slices.Equal(workers, after) {
		t.Errorf("workers %v became %v", workers, after)
	}
}
