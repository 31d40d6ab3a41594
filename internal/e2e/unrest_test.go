package e2e

import (
	"cmp"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// Everything that replaces workers, in random order and on top of each other. SEED repeats the order of a run.

// unrest is how much of what.
type unrest struct {
	reloads, upgrades, scalings int // a scaling is one worker more or one less
}

// Between so many workers the scalings move. With one, a scale-down leaves all connections to the last worker.
const fewestWorkers, mostWorkers = 1, 4

// newRandom gives the source of a random story, and logs how to repeat it.
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// scaleBy sends TTIN or TTOU, and gives a wait until it was heard.
func (s *server) scaleBy(sig syscall.Signal) func() {
	n := s.count(scaled)
	s.signal(sig)
	return func() { s.await(scaled, n+1) }
}

const scaled = `workers\s.*"from": \d+, "to": \d+`

// wanted is the number of workers that the last scaling asked for.
func (s *server) wanted(otherwise int) int {
	n := s.count(scaled)
	if n == 0 {
		return otherwise
	}
	to, _ := strconv.Atoi(regexp.MustCompile(`"to": (\d+)`).FindStringSubmatch(s.await(scaled, n))[1])
	return to
}

// disturb does all of u to a supervisor that was started with this many workers, one to three things of different kinds at once.
func (s *server) disturb(load *loadtest.Load, rng *rand.Rand, workers int, u unrest) {
	s.t.Helper()
	began, bursts := time.Now(), 0
	for u != (unrest{}) {
		var waits []func()
		reloads, upgrades := s.count("reload done"), s.count("this supervisor is in charge")
		var reloading, upgrading bool
		kinds := rng.Perm(3)[:1+rng.IntN(3)]
		// The self-upgrade comes last: a signal to a supervisor that leaves in this very moment reaches nobody. What was asked for before still
		// runs when it begins.
		slices.SortStableFunc(kinds, func(a, b int) int { return cmp.Compare(a/2, b/2) })
		for _, kind := range kinds {
			switch {
			case kind == 0 && u.reloads > 0:
				u.reloads--
				reloading = true
				s.signal(syscall.SIGHUP)
			case kind == 2 && u.upgrades > 0:
				u.upgrades--
				upgrading = true
				s.signal(syscall.SIGUSR2)
			case kind == 1 && u.scalings > 0:
				u.scalings--
				sig := syscall.SIGTTIN
				if now := s.wanted(workers); now == mostWorkers || now > fewestWorkers && rng.IntN(2) == 0 {
					sig = syscall.SIGTTOU
				}
				waits = append(waits, s.scaleBy(sig))
			}
			if rng.IntN(2) == 0 {
				load.Await(int64(rng.IntN(100)))
			}
		}
		if !reloading && !upgrading && len(waits) == 0 {
			continue
		}
		bursts++
		for _, wait := range waits {
			wait()
		}
		switch {
		case upgrading: // and a reload beside it came before it, or became part of it
			line := s.await("this supervisor leaves", upgrades+1)
			s.await("this supervisor is in charge", upgrades+1)
			s.pid, _ = strconv.Atoi(regexp.MustCompile(`"successor": (\d+)`).FindStringSubmatch(line)[1])
			if reloading && s.count("reload done") == reloads {
				u.reloads++ // once more
			}
		case reloading:
			s.await("reload done", reloads+1)
		}
		load.Await(int64(20 + rng.IntN(200)))
	}
	s.t.Logf("%d bursts in %.1f s: %d reloads done, %d self-upgrades, %d scalings", bursts, time.Since(began).Seconds(),
		s.count("reload done"), s.count("this supervisor is in charge"), s.count(scaled))
}

// mustBeCalm fails the test if a worker died, something was refused, or the number of workers is not what was asked for in the end.
func (s *server) mustBeCalm(workers int) {
	s.t.Helper()
	if n := s.count("worker died|worker is killed|died before|cannot be adopted"); n > 0 {
		s.t.Errorf("%d workers died", n)
	}
	if n := s.count("self-upgrade failed|self-upgrade refused|reload failed"); n > 0 {
		s.t.Errorf("%d reloads and self-upgrades failed", n)
	}
	want := s.wanted(workers)
	for deadline := time.Now().Add(eventually); len(s.children()) != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Errorf("%d workers, want %d", len(s.children()), want)
			return
		}
	}
}

// Reloads, self-upgrades, and workers that come and go, at random and at once, under the client mix: no request fails, no kept-alive
// connection is closed.
func TestUnrestLosesNothing(t *testing.T) {
	rng := newRandom(t)
	s := start(t, []string{"APP_DEBUG=1"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	load := startLoad(t, s, everybody)
	load.Await(1000)
	s.disturb(load, rng, 2, unrest{reloads: pick(25, 100), upgrades: pick(12, 50), scalings: pick(25, 100)})
	load.Await(1000)
	mustBeClean(t, load)
	s.mustBeCalm(2)
}
