package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// knock opens one connection after the other, each for one request, until the address refuses for a while. An answer that does not come
// after the connection was accepted is an error.
func knock(addr string, answered *atomic.Int64) error {
	for refused := 0; refused < 3; {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			refused++
			continue
		}
		refused = 0
		conn.SetDeadline(time.Now().Add(eventually))
		io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		text, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			return fmt.Errorf("a connection that was accepted got %q, %v", text, err)
		}
		answered.Add(1)
	}
	return nil
}

// An address that the configuration of a self-upgrade has no more goes as at a reload: what was accepted is answered, then it refuses,
// and the file of a unix socket goes with it. So it is when another self-upgrade comes while the old workers still have requests on it.
func TestUpgradeThatDropsAnAddressDropsNoConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	config := func(binds string) string {
		return fmt.Sprintf("[pool.web]\ncommand = [%q, \"serve\"]\nbind = [%s]\nworkers = 3\n[pool.web.env]\nAPP_DEBUG = \"1\"\n", app(), binds)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second := ln.Addr().String()
	ln.Close()
	file := write(t, "supervisor.toml", config(fmt.Sprintf(`"127.0.0.1:0", "admin=%s", "local=unix:%s"`, second, path)))
	s := start(t, nil, "-c", file)
	s.await("pool serves", 1)

	const clients = 30
	var answered atomic.Int64
	ended := make(chan error, clients+1)
	go func() { // it keeps an old worker, and with it the address, over the second upgrade
		conn := dial(t, second)
		defer conn.Close()
		io.WriteString(conn, "GET /debug/sleep?ms=3000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		text, err := io.ReadAll(conn)
		if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			err = fmt.Errorf("the slow request got %q", text)
		}
		ended <- err
	}()
	s.awaitBusy(1)
	for range clients {
		go func() { ended <- knock(second, &answered) }()
	}
	for deadline := time.Now().Add(eventually); answered.Load() < 300 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	replace(t, file, config(`"127.0.0.1:0"`))
	s.upgrade()
	s.upgrade()
	for range clients + 1 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d requests were answered before the address went", answered.Load())
	s.await(`address closed .*"admin=`+second, 1)
	if conn, err := net.Dial("tcp", second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the address: %v, %v", conn, err)
	}
	s.await(`address closed .*"local=`, 1)
	if _, err := os.Stat(path); err == nil {
		t.Error("the file of the unix socket is left")
	}
	if resp, _ := s.get("/health"); resp.StatusCode != 200 {
		t.Errorf("the address that stays answers %d", resp.StatusCode)
	}
}
