// Package pgtest is real PostgreSQL for tests: on a unix socket, in a directory of its own, without fsync. A test has a database of its own
// on a server that it shares (shared.go), or a server of its own, which it may stop and kill.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is one PostgreSQL.
type Server struct {
	dir   string
	args  []string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// bootTime is for a machine that does ten other things.
const bootTime = 60 * time.Second

// New makes a server and starts it. Settings are written as for postgres -c: "max_connections=20". Remove ends it, and deletes what it holds.
func New(settings ...string) (*Server, error) {
	made, err := template()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest") // not t.TempDir: its parents are closed to the user that the server runs as
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, args: settings}
	err = run(dir, "cp", "-R", made, s.data())
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

// template gives the directory of an empty server, which End deletes. Making one costs a second of a core, copying it a tenth of that.
var template = sync.OnceValues(func() (string, error) {
	initdb, err := find("initdb")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return "", err
	}
	ends = append(ends, func() { _ = os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	return data, run(dir, initdb, "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "-D", data)
})

// run runs a command as the user of the servers, to whom it gives dir.
func run(dir, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	if err := unprivileged(cmd, dir); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, out)
	}
	return nil
}

// RunT is New for one test.
func RunT(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := New(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Remove)
	return s
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// URL is the server's address, with these runtime parameters ("search_path=x").
func (s *Server) URL(parameters ...string) string { return s.url("postgres", parameters...) }

func (s *Server) url(database string, parameters ...string) string {
	values := url.Values{"host": {s.dir}, "user": {"postgres"}}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		values.Set(name, value)
	}
	return "postgres:///" + database + "?" + values.Encode()
}

// Start starts the server again after Stop, Kill or Crash, and waits until it answers.
func (s *Server) Start() error {
	for deadline := time.Now().Add(bootTime); ; time.Sleep(20 * time.Millisecond) {
		err := s.start()
		// What a crash of the postmaster left behind goes a moment after it.
		if err == nil || !strings.Contains(err.Error(), "is still in use") || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *Server) start() error {
	postgres, err := find("postgres")
	if err != nil {
		return err
	}
	settings := append([]string{"listen_addresses=", "unix_socket_directories=" + s.dir, "fsync=off", "full_page_writes=off", "max_connections=100"}, s.args...)
	args := []string{"-D", s.data()}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	began, _ := log.Seek(0, io.SeekEnd)
	s.cmd = exec.Command(postgres, args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := unprivileged(s.cmd, s.dir); err != nil {
		return err
	}
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
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, s.URL())
		if err == nil {
			_ = conn.Close(ctx)
			cancel()
			return nil
		}
		cancel()
		select {
		case <-ended:
			out, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("postgres ended:\n%s", out[min(int(began), len(out)):])
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// Stop ends the server at once and in order: it breaks all connections, what was committed is in its files.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Crash is kill -9 of the postmaster; its children notice by themselves, and Start waits for them.
func (s *Server) Crash() { s.end(syscall.SIGKILL) }

// Kill ends it like a crash of the server. (Its children notice by themselves.)
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	<-s.ended
}

// Remove stops the server and deletes what it held.
func (s *Server) Remove() {
	s.end(syscall.SIGQUIT)
	_ = os.RemoveAll(s.dir)
}

// find looks for a program of the server; Debian keeps them out of PATH, one directory per version.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if len(found) == 0 {
		return "", errors.New(program + " is missing: run `make deps`")
	}
	return slices.Max(found), nil
}
