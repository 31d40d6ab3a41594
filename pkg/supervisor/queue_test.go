package supervisor

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

// Connections that nobody accepts are counted, over all slots of an address, and on unix sockets.
func TestQueuesAreMeasured(t *testing.T) {
	cfg := testPool("")
	path := filepath.Join(t.TempDir(), "s")
	cfg.Bind = []config.Bind{{Name: "tcp", Network: "tcp", Address: "127.0.0.1:0"}, {Name: "unix", Network: "unix", Address: path, Mode: 0o600}}
	cfg.Backlog = 16
	var v poolView
	var opened []*bindSockets
	for _, b := range cfg.Bind {
		s, err := openBind(b, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if err := s.listen(); err != nil {
			t.Fatal(err)
		}
		opened = append(opened, s)
	}
	if _, err := opened[0].forSlot(1); err != nil {
		t.Fatal(err)
	}
	for network, address := range map[string]string{"tcp": opened[0].address(), "unix": path} {
		for range 3 {
			conn, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		}
	}
	v.addListeners(&pool{sockets: opened})
	for i, want := range []struct{ length, limit int }{{3, 32}, {3, 16}} {
		length, limit, ok := v.listeners[i].queue()
		if !ok || length != want.length || limit != want.limit {
			t.Errorf("%s: %d of %d wait (%v), want %+v", v.listeners[i].name, length, limit, ok, want)
		}
	}
	if _, _, err := unixQueue(1); err == nil {
		t.Error("inode 1 has a queue")
	}
	var st unix.Stat_t
	unix.Fstat(opened[0].slots[0], &st)
	if _, _, err := unixQueue(uint32(st.Ino)); err == nil {
		t.Error("a TCP socket is a unix socket")
	}
}
