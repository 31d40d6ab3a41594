package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

func tcp(name, addr string) config.Bind {
	return config.Bind{Name: name, Network: "tcp", Address: addr}
}

func TestBusyAddressIsOneClearErrorAndNothingStaysBound(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	free := freePort(t)
	pool := testPool("serve")
	pool.Bind = []config.Bind{tcp("a", free), tcp("b", busy.Addr().String()), tcp("c", "127.0.0.1:0")}
	_, err = newMaster(t, testConfig(pool))
	if !errors.Is(err, ErrBind) || !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Fatalf("got %v, want an ErrBind that names %s", err, busy.Addr())
	}
	ln, err := net.Listen("tcp", free)
	if err != nil {
		t.Fatalf("the first address stayed bound: %v", err)
	}
	ln.Close()
}

// Two supervisors of the same user, with SO_REUSEPORT on both sides, in the same millisecond: exactly one gets the address.
func TestOnlyOneOfTwoSupervisorsGetsAnAddress(t *testing.T) {
	for range 50 {
		addr := freePort(t)
		var won, lost []*bindSockets
		var mu sync.Mutex
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				s, err := openBind(tcp("web", addr), testPool(""), nil)
				if err == nil {
					if err = s.listen(); err != nil {
						s.Close()
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, s)
				} else if errors.Is(err, unix.EADDRINUSE) {
					lost = append(lost, s)
				}
			})
		}
		both.Wait()
		if len(won) != 1 || len(lost) != 1 {
			t.Fatalf("%d got the address, %d were told that it is in use", len(won), len(lost))
		}
		won[0].Close()
	}
}

func TestUnixSocketHasItsModeAndReplacesAStaleOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	pool := testPool("serve")
	pool.Bind = []config.Bind{{Name: "web", Network: "unix", Address: path, Mode: 0o660, User: "nobody", Group: "nogroup"}}
	pool.Workers = 2
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o660 {
		t.Errorf("mode %v", got)
	}
	if os.Getuid() == 0 && info.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Error("owner is root")
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	m.signal(syscall.SIGTERM)
	m.wait()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket file is left: %v", err)
	}
}

func TestUnixSocketInTheWayIsRefusedAndNotRemoved(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	ln, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, []byte("precious"), 0o600)
	link := filepath.Join(dir, "link")
	os.Symlink(live, link)
	for path, want := range map[string]string{live: "another process listens", file: "regular file", link: "symbolic link"} {
		_, err := openBind(config.Bind{Name: "web", Network: "unix", Address: path, Mode: 0o600}, testPool(""), nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s was removed", path)
		}
	}
}

// A socket file that somebody else put in our place is not ours to remove.
func TestSocketFileOfASuccessorStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	s, err := openBind(config.Bind{Name: "web", Network: "unix", Address: path, Mode: 0o600}, testPool(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	os.WriteFile(path, nil, 0o600)
	s.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("the successor's file was removed")
	}
}

func TestNewConnectionsGoToReadySlotsEvenly(t *testing.T) {
	cfg := testPool("")
	s, err := openBind(tcp("web", "[::1]:0"), cfg, nil)
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	defer s.Close()
	if err := s.listen(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.forSlot(3); err != nil {
		t.Fatal(err)
	}
	count := func(slots []int, n int) []int {
		if err := s.steer(slots); err != nil {
			t.Fatal(err)
		}
		for range n {
			conn, err := net.Dial("tcp", s.address())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		got := make([]int, 4)
		for i, fd := range s.slots {
			unix.SetNonblock(fd, true)
			for {
				conn, _, err := unix.Accept(fd)
				if err != nil {
					break
				}
				unix.Close(conn)
				got[i]++
			}
		}
		return got
	}
	got := count([]int{1, 3}, 400)
	if got[0]+got[2] > 0 || got[1]+got[3] != 400 || got[1] < 140 || got[3] < 140 {
		t.Errorf("400 connections to slots 1 and 3 came to %v", got)
	}
	got = count([]int{0, 1, 2, 3}, 800)
	for _, n := range got {
		if n < 140 {
			t.Errorf("800 connections came to %v", got)
			break
		}
	}
}

func TestInheritedSocketFromSystemd(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pool := testPool("serve")
	pool.Bind = []config.Bind{{Name: "web", Network: "systemd", Address: "http"}}
	if _, err := openBind(pool.Bind[0], pool, map[string][]int{"admin": {3}}); err == nil || !strings.Contains(err.Error(), "admin") {
		t.Errorf("unknown name: %v, want an error that lists what was passed", err)
	}
	m, err := newMasterWith(t, testConfig(pool), map[string][]int{"http": {int(f.Fd())}})
	if err != nil {
		t.Fatal(err)
	}
	m.run()
	m.await("pool serves", 1)
	mustGet(t, ln.Addr().String(), "/")
	m.signal(syscall.SIGTERM)
	m.wait()
	// It is systemd's socket: the next start finds the connections that come meanwhile.
	conn, err := net.DialTimeout("tcp", ln.Addr().String(), eventually)
	if err != nil {
		t.Errorf("after the stop: %v", err)
	} else {
		conn.Close()
	}
}

// 200 connections in the queue of a busy worker, then TERM: every one that was accepted by the kernel is answered.
func TestStopAnswersWhatIsQueued(t *testing.T) {
	m := startMaster(t, testConfig(onPort(testPool("slow-accept"))))
	m.await("pool serves", 1)
	addr := m.addr()
	const clients = 200
	errs := make(chan error, clients)
	for range clients {
		go func() {
			_, err := get(addr, "/")
			errs <- err
		}()
	}
	m.until("the connections are queued", func() bool { return established(t, addr) >= clients })
	m.signal(syscall.SIGTERM)
	for range clients {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if err := m.wait(); err != nil {
		t.Error(err)
	}
}

func TestPIDFileIsALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "supervisor.pid")
	os.WriteFile(path, []byte("1\n"), 0o644) // stale, and pid 1 is alive: it means nothing
	p, err := LockPIDFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if pid, ok := PIDFileOwner(path); !ok || pid != os.Getpid() {
		t.Errorf("owner %d %v", pid, ok)
	}
	if _, err := LockPIDFile(path); err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second lock: %v, want an error that names the pid", err)
	}
	p.Remove()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("file is left")
	}
	if _, ok := PIDFileOwner(path); ok {
		t.Error("a missing file has an owner")
	}
}

func TestBackOff(t *testing.T) {
	want := []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}
	for failures, d := range want {
		if got := backoff(failures); got != d {
			t.Errorf("after %d failures %v, want %v", failures, got, d)
		}
	}
	if got := backoff(1000); got != backoffMax {
		t.Errorf("after 1000 failures %v", got)
	}
}

// After refuse what is queued can be accepted, and nobody slips into an emptied queue; after the close new ones are refused.
func TestRefusedAddressLetsNobodySlipIn(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			s, err := openBind(tcp("web", addr), testPool(""), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.listen(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.forSlot(1); err != nil {
				t.Fatal(err)
			}
			if err := s.steer([]int{0, 1}); err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(s.address())
			target := s.address()
			if addr == ":0" {
				target = net.JoinHostPort("127.0.0.1", port)
			}
			for range 20 {
				conn, err := net.Dial("tcp", target)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			s.refuse()
			if len(s.stopper) != 2 {
				t.Fatalf("fell back to listen(fd, 0): %v", s.turnAway())
			}
			accept := func() (n int) {
				for _, fd := range s.slots {
					unix.SetNonblock(fd, true)
					for {
						conn, _, err := unix.Accept(fd)
						if err != nil {
							break
						}
						defer unix.Close(conn)
						n++
					}
				}
				return n
			}
			if n := accept(); n != 20 {
				t.Errorf("%d of 20 queued connections could be accepted", n)
			}
			if conn, err := net.DialTimeout("tcp", target, 100*time.Millisecond); err == nil {
				conn.Close()
				t.Error("a connection slipped in")
			}
			if n := accept(); n != 0 {
				t.Errorf("%d connections slipped into the queues", n)
			}
		})
	}
}
