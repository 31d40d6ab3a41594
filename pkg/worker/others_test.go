//go:build linux

package worker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
	"supervisor/pkg/worker/internal/fake"
)

// What cannot move: TLS inside the worker, HTTP/2.

func secure(c *client) *client {
	conn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	return &client{c.t, conn, bufio.NewReader(conn)}
}

func TestTLSConnectionIsServedToItsEnd(t *testing.T) {
	for _, role := range []string{"http tls", "fast tls"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			p := fake.NewPool(t, short)
			old := p.Start(role, fake.Options{}).AwaitReady()
			fresh, used, idle, stuck := dial(t, p), secure(dial(t, p)), secure(dial(t, p)), secure(dial(t, p))
			used.get("/pid")
			idle.get("/pid")
			stuck.send(get("/hung"))
			if _, err := readAnswer(stuck.r); err == nil { // no 504 in plain text
				t.Error("an overdue request over TLS was answered")
			}
			old.Await("connections", func() bool { return old.Board.Connections() >= 3 })
			next := p.Start(role, fake.Options{}).AwaitReady().Adopt("on")
			old.Tell(drainMove)
			old.AwaitSaid("STOPPING=1")
			if a := used.get("/pid"); a.status != 200 || !a.close {
				t.Errorf("%+v", a)
			}
			next.Await("the fresh connection", func() bool { return next.Board.Total(scoreboard.Adopted) == 1 })
			if a := secure(fresh).get("/pid"); a.status != 200 || a.close {
				t.Errorf("moved before its first byte: %+v", a)
			}
			old.Tell(drainClose)
			if _, err := io.ReadAll(idle.r); err != nil {
				t.Errorf("idle: %v", err)
			}
		})
	}
}

func TestHTTP2IsServedAndCounted(t *testing.T) {
	p := fake.NewPool(t, short)
	w := p.Start("http h2c", fake.Options{}).AwaitReady()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: fake.Patience}
	done := make(chan error)
	for range 8 {
		go func() {
			for range 5 {
				resp, err := c.Get("http://" + p.Addr + "/sleep?50")
				if err != nil {
					done <- err
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			done <- nil
		}()
	}
	time.Sleep(100 * time.Millisecond)
	w.Tell(drainMove)
	time.Sleep(50 * time.Millisecond)
	w.Tell(undrain)
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := w.Board.Total(scoreboard.Finished); n < 40 {
		t.Errorf("counted %d", n)
	}
}

// Without a supervisor.

func startByHand(t *testing.T, role, addr string, env ...string) (*exec.Cmd, func() net.Conn) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), fake.EnvRole+"="+role, "TEST_ADDR="+addr, "GORACE=atexit_sleep_ms=0"), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, func() net.Conn {
		t.Helper()
		for end := time.Now().Add(fake.Patience); ; time.Sleep(5 * time.Millisecond) {
			conn, err := net.Dial("unix", strings.TrimPrefix(addr, "unix:"))
			if err == nil {
				return conn
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
}

func TestProgramStartedByHandIsAPlainServer(t *testing.T) {
	for _, role := range []string{"by hand", "fast hand"} {
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			t.Run(role+" "+s.String(), func(t *testing.T) {
				t.Parallel()
				cmd, dial := startByHand(t, role, "unix:"+filepath.Join(t.TempDir(), "s"))
				idle := dial()
				busy := &client{t, dial(), nil}
				busy.r = bufio.NewReader(busy.Conn)
				if a := busy.get("/pid"); a.status != 200 {
					t.Errorf("%+v", a)
				}
				busy.send(get("/sleep?200"))
				time.Sleep(50 * time.Millisecond)
				cmd.Process.Signal(s)
				if a := busy.answer(); a.body != "slept" {
					t.Errorf("%+v", a)
				}
				io.ReadAll(idle)
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	cmd, dial := startByHand(t, "by hand", "unix:"+filepath.Join(t.TempDir(), "s"))
	conn := dial()
	io.WriteString(conn, get("/hung"))
	time.Sleep(50 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	time.Sleep(50 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestAddressInUseIsAnError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(context.Background(), fake.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), fake.EnvRole+"=by hand", "TEST_ADDR="+ln.Addr().String())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDumpWritesAllStacks(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("fast", fake.Options{}).AwaitReady()
	dial(t, p).send(get("/hung"))
	w.Await("the handler", func() bool { return w.Board.Running() == 1 })
	w.Tell(protocol.Command{Verb: protocol.VerbDump})
	w.AwaitSaid("fastHandler")
}
