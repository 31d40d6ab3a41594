// Package redistest is real redis-server processes of a test's own: one server, nodes that are a cluster, a primary with replicas and
// Sentinels, each in a directory of its own and on 127.0.0.1 only.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

// Server is one redis-server.
type Server struct {
	Port string
	dir  string
	args []string
	cmd  *exec.Cmd
	// Closed when the process has ended.
	ended chan struct{}
}

// bootTime is for a machine that does ten other things.
const bootTime = 30 * time.Second

// New starts one with AOF in dir. A second port, where its args want one, stands in them as %[1]s.
func New(dir string, args ...string) (*Server, error) {
	return launch(dir, func(port, second string) []string {
		own := []string{
			"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
			"--repl-diskless-sync-delay", "0", "--logfile", filepath.Join(dir, "log"),
		}
		for _, a := range args {
			own = append(own, strings.ReplaceAll(a, "%[1]s", second))
		}
		return own
	})
}

// launch tries ports: somebody else may take one before Redis does, which then ends at once.
func launch(dir string, args func(port, second string) []string) (*Server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, errors.New("redis-server is missing: run `make deps`")
	}
	var last error
	for range 5 {
		ports, err := freePorts(2)
		if err != nil {
			return nil, err
		}
		s := &Server{Port: ports[0], dir: dir, args: args(ports[0], ports[1])}
		if last = s.Start(); last == nil {
			return s, nil
		}
		s.Kill()
	}
	return nil, last
}

func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return "127.0.0.1:" + s.Port }

// URL is the same for clients.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Start starts it, also after Kill or Stop, and waits until it answers.
func (s *Server) Start() error {
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Dir = s.dir
	if err := s.cmd.Start(); err != nil {
		return err
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	for deadline := time.Now().Add(bootTime); ; {
		_, err := s.Do("PING")
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("redis-server ended: %s", log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("redis-server does not answer: %w", err)
		}
	}
}

// Kill ends it without a chance to say anything.
func (s *Server) Kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// Stop ends it in order: everything that it acknowledged is in its file.
func (s *Server) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.ended
}

// Signal sends it a signal.
func (s *Server) Signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// Do sends one command, on a connection of its own.
func (s *Server) Do(command ...string) (rueidis.RedisMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr()}, ForceSingleClient: true, DisableCache: true, DisableRetry: true,
		Dialer: net.Dialer{Timeout: 5 * time.Second},
	})
	if c != nil {
		defer c.Close()
	}
	if err != nil {
		return rueidis.RedisMessage{}, err
	}
	return c.Do(ctx, c.B().Arbitrary(command...).Build()).ToMessage()
}

// Info reads one section of INFO.
func (s *Server) Info(section string) (map[string]string, error) {
	answer, err := s.Do("INFO", section)
	if err != nil {
		return nil, err
	}
	return fields(answer)
}

// fields reads lines of "name:value".
func fields(answer rueidis.RedisMessage) (map[string]string, error) {
	text, err := answer.ToString()
	text = strings.TrimPrefix(text, "txt:") // how some answers say what they are
	facts := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			facts[name] = value
		}
	}
	return facts, err
}

// await asks until is says yes.
func await(what string, is func() bool) error {
	for deadline := time.Now().Add(bootTime); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("never: %s", what)
		}
	}
	return nil
}
