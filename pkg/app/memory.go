package app

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// clockStep is how often the TTLs of a MemoryRedis move. Leases last seconds; a step costs a look at every key.
const clockStep = 50 * time.Millisecond

// MemoryRedis is a Redis inside this process, for development: what it holds ends with it, and is bounded (memorylimit.go). It speaks to
// any Redis client.
type MemoryRedis struct {
	server   *miniredis.Miniredis
	listener net.Listener
	socket   string // the file to remove at the end, "" for TCP
	stop     chan struct{}
	helpers  sync.WaitGroup
}

// StartMemoryRedis listens on "unix:/path" (mode 0600, the directory is made if need be) or "HOST:PORT". A socket that a killed
// process left behind is replaced; one that answers is not.
func StartMemoryRedis(addr string) (*MemoryRedis, error) {
	return startMemoryRedis(addr, newLimit())
}

func startMemoryRedis(addr string, limit *limit) (*MemoryRedis, error) {
	m := &MemoryRedis{server: miniredis.NewMiniRedis(), stop: make(chan struct{})}
	var err error
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		m.socket, m.listener, err = listenUnix(path)
	} else {
		m.listener, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	// Dial starts the server without a listener of its own: it knows only TCP, and gives a socket no mode.
	first, err := m.server.Dial()
	if err != nil {
		m.listener.Close()
		return nil, err
	}
	first.Close()
	redis := m.server.Server()
	redis.SetPreHook(func(c *server.Peer, command string, args ...string) bool {
		return limit.answerInfo(c, command) || limit.refuses(redis, c, command, args)
	})
	m.helpers.Go(m.accept)
	m.helpers.Go(m.tick)
	return m, nil
}

// answerInfo says of INFO what clients look for at their start, which miniredis does not: they would warn that they do not know.
func (l *limit) answerInfo(c *server.Peer, command string) bool {
	if command == "INFO" {
		c.WriteBulk(fmt.Sprintf("# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nin_memory_stand_in:yes\r\n"+
			"# Memory\r\nmaxmemory:%d\r\nmaxmemory_policy:noeviction\r\n", l.bytes))
	}
	return command == "INFO"
}

// listenUnix binds under another name, and renames when the mode is right: nobody ever finds the socket open to all, or half made.
func listenUnix(path string) (string, net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return "", nil, &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: errors.New("a server answers there already")}
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return "", nil, fmt.Errorf("listen unix %s: there is something that is not a socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", nil, err
	}
	// Short: the kernel takes 107 bytes for the whole path.
	name := fmt.Sprintf("%s.%d", path, os.Getpid())
	listener, err := net.Listen("unix", name)
	if err != nil {
		return "", nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(name, 0o600); err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		listener.Close()
		os.Remove(name)
		return "", nil, err
	}
	return path, listener, nil
}

// URL is the address for clients in this process and others.
func (m *MemoryRedis) URL() string {
	if m.socket != "" {
		return (&url.URL{Scheme: "unix", Path: m.socket}).String()
	}
	return "redis://" + m.listener.Addr().String()
}

func (m *MemoryRedis) accept() {
	for {
		conn, err := m.listener.Accept()
		if err == nil {
			m.server.Server().ServeConn(conn)
			continue
		}
		select {
		case <-m.stop:
			return
		case <-time.After(clockStep): // no descriptors left, for instance: somebody may give one back
		}
	}
}

// tick moves the TTLs, which stand still by themselves, by the time that has really passed.
func (m *MemoryRedis) tick() {
	ticker := time.NewTicker(clockStep)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			m.server.FastForward(now.Sub(last))
			last = now
		case <-m.stop:
			return
		}
	}
}

// Close ends the server and everything in it.
func (m *MemoryRedis) Close() {
	close(m.stop)
	m.listener.Close()
	if m.socket != "" {
		os.Remove(m.socket)
	}
	m.helpers.Wait()
	m.server.Close()
}
