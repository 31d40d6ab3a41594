package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/internal/loadtest"
)

// The oracle of chaos. What a kill -9 may cost is known before: the worker is stopped first, and the connections among its descriptors are
// looked at. What it was doing when it stopped it is doing when it dies; all others go on meanwhile. So a failed request is excused exactly
// if its connection was there, and broke; a refused connection, a late, wrong or second answer never is.

// kill is the end of a worker.
type kill struct {
	at   time.Duration // since the load began: stopped, not dead yet
	held map[int]bool  // connections, by the client's port
}

// excuses reports whether a failure may be the kill's.
func (k kill) excuses(f loadtest.Failure) bool {
	switch f.Class {
	case loadtest.ResetSending, loadtest.ResetWaiting, loadtest.NoAnswer, loadtest.Truncated:
		return k.held[f.Port] && f.Opened < k.at && k.at < f.After // ports are used again
	}
	return false
}

// killNine kills a worker, and gives what that may cost.
func (c *chaos) killNine(pid int) (kill, bool) {
	c.t.Helper()
	if !freeze(pid) {
		return kill{}, false
	}
	k := kill{held: map[int]bool{}}
	for _, conn := range connectionsOf(c.t, pid) {
		k.held[conn.port] = true
		unix.Close(conn.fd)
	}
	k.at = c.round.load.Elapsed()
	syscall.Kill(pid, syscall.SIGKILL)
	return k, true
}

// freeze stops a process, and reports whether it still ran.
func freeze(pid int) bool {
	syscall.Kill(pid, syscall.SIGSTOP)
	for {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		stopped := 0
		for _, thread := range threads {
			stat, _ := os.ReadFile(thread)
			_, state, _ := strings.Cut(string(stat), ") ")
			if strings.HasPrefix(state, "Z") {
				return false
			}
			if strings.HasPrefix(state, "T") {
				stopped++
			}
		}
		if err != nil || len(threads) == 0 {
			return false
		}
		if stopped == len(threads) {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// connection is our duplicate of a descriptor.
type connection struct {
	fd   int
	port int // the client's
}

// connectionsOf gives the TCP connections among a process's descriptors.
func connectionsOf(t *testing.T, pid int) (found []connection) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it is gone
	}
	defer unix.Close(process)
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, e := range entries {
		number, _ := strconv.Atoi(e.Name())
		if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, number)); !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EPERM) {
			t.Fatal("pidfd_getfd is not allowed, so that nobody can tell what a worker held: a container needs CAP_SYS_PTRACE for it")
		}
		if err != nil {
			continue // a running process has closed it
		}
		if peer, _ := unix.Getpeername(fd); peer != nil {
			if peer, ok := peer.(*unix.SockaddrInet4); ok {
				found = append(found, connection{fd, peer.Port})
				continue
			}
		}
		unix.Close(fd)
	}
	return found
}

// accuse gives what nothing excuses.
func (r *round) accuse(result loadtest.Result) (accusations []accusation) {
	for _, f := range result.Failures {
		excused := false
		for _, k := range r.kills {
			excused = excused || k.excuses(f)
		}
		if !excused {
			accusations = append(accusations, accusation{f.Port, fmt.Sprintf("port %d was held by no worker that was killed: %v", f.Port, f)})
		}
	}
	if n := len(result.Failures); int64(n) != result.AllFailed() {
		accusations = append(accusations, accusation{0, fmt.Sprintf("only %d of %d failures are known", n, result.AllFailed())})
	}
	return accusations
}

type accusation struct {
	port int
	text string
}

func (a accusation) String() string { return a.text }

// The oracle can tell: amid kills and all the rest somebody shuts a connection now and then, one in some thousand answers. Such are
// accused, and no others. (An idle one costs no request, and one whose worker is killed before its client looks is excused.)
func TestChaosFindsWhatWasLost(t *testing.T) {
	c := newChaos(t, 1)
	round := c.begin()
	stolen := map[int]bool{}
	for len(stolen) < pick(10, 100) {
		c.happen(round)
		if _, pid := c.victim(); pid > 0 {
			conns := connectionsOf(t, pid)
			for i, conn := range conns {
				if i == len(conns)/2 {
					unix.Shutdown(conn.fd, unix.SHUT_RDWR)
					stolen[conn.port] = true
					round.note("shut port %d of worker %d", conn.port, pid)
				}
				unix.Close(conn.fd)
			}
		}
		c.served(1000)
	}
	result := round.load.Stop()
	found := map[int]bool{}
	for _, a := range round.accuse(result) {
		if found[a.port] = true; !stolen[a.port] {
			t.Error(a)
		}
	}
	t.Logf("%d right answers, %d failed, %d workers killed; %d connections shut, %d of them accused", result.OK, result.AllFailed(),
		len(round.kills), len(stolen), len(found))
	if len(found) == 0 {
		t.Errorf("nothing was found of %d connections shut: %v", len(stolen), result)
	}
}
