//go:build linux

package protocol

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// adoptPair gives both ends of an adopt socket.
func adoptPair(t testing.TB) (tx, rx syscall.RawConn, fds [2]int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []*syscall.RawConn{&tx, &rx} {
		f := os.NewFile(uintptr(fds[i]), "adopt")
		t.Cleanup(func() { f.Close() })
		if *p, err = f.SyscallConn(); err != nil {
			t.Fatal(err)
		}
	}
	return tx, rx, fds
}

// connection gives a client's and a server's end of a TCP connection.
func connection(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func raw(t testing.TB, c syscall.Conn) syscall.RawConn {
	t.Helper()
	r, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMovedConnectionCarriesItsWordsAndUnreadBytes(t *testing.T) {
	tx, rx, _ := adoptPair(t)
	client, server := connection(t)
	io.WriteString(client, "a request nobody read yet\n")
	want := Move{Bind: "web", Served: 1<<40 + 7, Remote: "[2001:db8::1]:4711"}
	given := make(chan error, 1)
	go func() { given <- Give(tx, raw(t, server), want) }()
	conn, got, err := Take(rx)
	if err != nil || got != want {
		t.Fatalf("took %+v, %v; want %+v", got, err, want)
	}
	defer conn.Close()
	if err := <-given; err != nil {
		t.Fatal(err)
	}
	server.Close() // must not end the connection
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || line != "a request nobody read yet\n" {
		t.Errorf("read %q, %v", line, err)
	}
	io.WriteString(conn, "answer\n")
	if line, err := bufio.NewReader(client).ReadString('\n'); line != "answer\n" {
		t.Errorf("client got %q, %v", line, err)
	}
}

// TestExactlyOneSideServes_InThousandsOfRaces lets takers be as late as the giver's patience is long, give or take, so that the byte
// and the giving up meet at every point of the giver's last look.
func TestExactlyOneSideServes_InThousandsOfRaces(t *testing.T) {
	const patience = 200 * time.Microsecond
	races := 6000
	if testing.Short() {
		races = 1000
	}
	tx, rx, _ := adoptPair(t)
	type outcome struct {
		conn net.Conn
		err  error
	}
	taken := make(chan outcome)
	requests := make(chan time.Duration)
	go func() {
		defer close(taken)
		for delay := range requests {
			for from := time.Now(); time.Since(from) < delay; {
			}
			conn, _, err := Take(rx)
			taken <- outcome{conn, err}
		}
	}()
	defer close(requests)
	_, server := connection(t)
	conn := raw(t, server)
	var here, there, both, none int
	for range races {
		requests <- time.Duration(rand.Int64N(int64(2 * patience)))
		err := give(tx, conn, Move{Bind: "web"}, patience)
		o := <-taken
		switch {
		case err == nil && o.err == nil:
			there++
		case err != nil && o.err != nil:
			here++
		case err == nil:
			none++
		default:
			both++
		}
		if o.conn != nil {
			o.conn.Close()
		}
	}
	if both != 0 || none != 0 {
		t.Errorf("served by both %d times, by none %d times", both, none)
	}
	if here == 0 || there == 0 {
		t.Errorf("no race: %d stayed, %d moved", here, there)
	}
	t.Logf("%d stayed, %d moved", here, there)
}

func TestManyGiversAndTakersAtOnce(t *testing.T) {
	tx, rx, _ := adoptPair(t)
	var takers, givers sync.WaitGroup
	var mu sync.Mutex
	took, gave := 0, 0
	for range 3 {
		takers.Add(1)
		go func() {
			defer takers.Done()
			for {
				conn, _, err := Take(rx)
				if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
					return
				}
				if err == nil {
					conn.Close()
					mu.Lock()
					took++
					mu.Unlock()
				}
			}
		}()
	}
	for range 32 {
		_, server := connection(t)
		conn := raw(t, server)
		givers.Add(1)
		go func() {
			defer givers.Done()
			for range 100 {
				if Give(tx, conn, Move{Bind: "web"}) == nil {
					mu.Lock()
					gave++
					mu.Unlock()
				}
			}
		}()
	}
	givers.Wait()
	tx.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // the takers' end
	takers.Wait()
	if took != gave || gave == 0 {
		t.Errorf("gave %d, took %d", gave, took)
	}
}

func TestGiverKeepsTheConnectionWhenTheQueueIsFull(t *testing.T) {
	tx, _, fds := adoptPair(t)
	for unix.Sendto(fds[0], []byte("junk"), unix.MSG_DONTWAIT, nil) == nil {
	}
	_, server := connection(t)
	if err := Give(tx, raw(t, server), Move{Bind: "web"}); !errors.Is(err, ErrNotTaken) || !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Give = %v", err)
	}
}

func TestGiverKeepsTheConnectionWhenTheTakerDies(t *testing.T) {
	tx, _, fds := adoptPair(t)
	_, server := connection(t)
	given := make(chan error, 1)
	go func() { given <- give(tx, raw(t, server), Move{Bind: "web"}, time.Minute) }()
	// A taker that receives the message and dies: its descriptors are closed without a byte.
	rights := make([]byte, unix.CmsgSpace(8))
	for {
		_, n, _, _, err := unix.Recvmsg(fds[1], make([]byte, maxMove), rights, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
			continue
		}
		got, _ := parseRights(rights[:n])
		for _, fd := range got {
			unix.Close(fd)
		}
		break
	}
	if err := <-given; !errors.Is(err, ErrNotTaken) {
		t.Errorf("Give = %v", err)
	}
}

func TestTakerAtItsDescriptorLimitLeavesTheConnectionToTheGiver(t *testing.T) {
	tx, rx, _ := adoptPair(t)
	_, server := connection(t)
	// Descriptors 0…n are in use, so a limit of n leaves no room for one that arrives; the giver needs three of its own, and holds
	// the message's before that.
	given := make(chan error, 1)
	go func() { given <- give(tx, raw(t, server), Move{Bind: "web"}, time.Minute) }()
	rx.Read(func(fd uintptr) bool { // until the message is there
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n > 0 || err != unix.EAGAIN
	})
	var before unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &before)
	for room := range uint64(3) { // no descriptor, one, two (then the duplicate fails)
		limit := unix.Rlimit{Cur: lowest(t) + room, Max: before.Max}
		if room > 0 {
			go func() { given <- give(tx, raw(t, server), Move{Bind: "web"}, time.Minute) }()
			rx.Read(func(fd uintptr) bool {
				n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
				return n > 0 || err != unix.EAGAIN
			})
			limit.Cur = lowest(t) + room
		}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err := Take(rx)
		unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil)
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("room for %d: Take = %v", room, err)
		}
		if err := <-given; !errors.Is(err, ErrNotTaken) {
			t.Errorf("room for %d: Give = %v", room, err)
		}
	}
}

// lowest gives the lowest free descriptor.
func lowest(t testing.TB) uint64 {
	t.Helper()
	fd, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return uint64(fd)
}

func TestTakerRefusesWhatIsNoMove(t *testing.T) {
	tx, rx, fds := adoptPair(t)
	good, _ := Move{Bind: "web"}.packet()
	for name, packet := range map[string][]byte{
		"short":         []byte("x"),
		"magic":         append([]byte("JUNK"), good[4:]...),
		"version":       append(append([]byte{}, good[:4]...), append([]byte{9}, good[5:]...)...),
		"lengths":       good[:len(good)-1],
		"no descriptor": good,
	} {
		if err := unix.Sendto(fds[0], packet, 0, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Take(rx); err == nil || errors.Is(err, ErrTruncated) || errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: Take = %v", name, err)
		}
	}
	if _, err := (Move{Bind: strings.Repeat("x", 300)}).packet(); err == nil {
		t.Error("a bind of 300 bytes was packed")
	}
	_ = tx
}

func BenchmarkMove(b *testing.B) {
	tx, rx, _ := adoptPair(b)
	_, server := connection(b)
	conn := raw(b, server)
	go func() {
		for {
			c, _, err := Take(rx)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err == nil {
				c.Close()
			}
		}
	}()
	for b.Loop() {
		if err := Give(tx, conn, Move{Bind: "web", Served: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
