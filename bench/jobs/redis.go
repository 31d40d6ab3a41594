package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// redisServer is a redis-server of one measurement, and a connection to ask it about itself. Not safe for concurrent use.
type redisServer struct {
	socket string
	dir    string
	cmd    *exec.Cmd
	gone   chan struct{} // closed when the process was waited for
	conn   net.Conn
	answer *bufio.Reader
	asked  int // commands that this connection has sent: not the contestant's
}

// settings of all servers: Debian's defaults but for a socket of its own, and neither snapshots nor rewrites of the AOF, whose fork
// would hit one contestant and not the other.
var redisSettings = []string{"--port", "0", "--appendfsync", "everysec", "--save", "", "--auto-aof-rewrite-percentage", "0"}

// persistence is a server's appendonly.
type persistence string

const (
	aof  persistence = "yes" // everysec
	none persistence = "no"
)

func (p persistence) String() string {
	if p == aof {
		return "AOF everysec"
	}
	return "persistence off"
}

func startRedis(parent string, keeps persistence) (*redisServer, error) {
	dir, err := os.MkdirTemp(parent, "r")
	if err != nil {
		return nil, err
	}
	s := &redisServer{dir: dir, socket: filepath.Join(dir, "sock"), gone: make(chan struct{})}
	log := filepath.Join(dir, "log")
	s.cmd = exec.Command("redis-server", append([]string{"--unixsocket", s.socket, "--dir", dir, "--logfile", log, "--appendonly", string(keeps)}, redisSettings...)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop it
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; run: make deps", err)
	}
	go func() {
		s.cmd.Wait()
		close(s.gone)
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if s.conn, err = net.Dial("unix", s.socket); err == nil {
			s.answer = bufio.NewReader(s.conn)
			if _, err = s.ask("PING"); err == nil {
				return s, nil
			}
			s.conn.Close()
		}
		select {
		case <-s.gone:
			err = errors.New("it ended at once")
		case <-time.After(5 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log)
		s.stop()
		return nil, fmt.Errorf("redis-server: %w\n%s", err, text)
	}
}

// stop ends the server and removes its files.
func (s *redisServer) stop() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(5 * time.Second):
		s.cmd.Process.Kill()
		<-s.gone
	}
	os.RemoveAll(s.dir)
}

// ask sends an inline command and returns a string, number or status; "" for nil.
func (s *redisServer) ask(command string) (string, error) {
	s.conn.SetDeadline(time.Now().Add(10 * time.Second))
	s.asked++
	if _, err := fmt.Fprintf(s.conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := s.answer.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '$':
		size, err := strconv.Atoi(line[1:])
		if err != nil || size < 0 {
			return "", err
		}
		text := make([]byte, size+2)
		_, err = io.ReadFull(s.answer, text)
		return string(text[:size]), err
	}
	return "", fmt.Errorf("redis answers %s with %q", command, line)
}

// integer asks for a number; nothing is 0.
func (s *redisServer) integer(command string) (int, error) {
	text, err := s.ask(command)
	if err != nil || text == "" {
		return 0, err
	}
	return strconv.Atoi(text)
}

// reading is what a server has done since its start.
type reading struct {
	at       time.Time
	commands int           // executed, those inside scripts and the scripts themselves counted; without our own questions
	cpu      time.Duration // user and system of the whole process: the AOF's thread, too
}

func (s *redisServer) read() (r reading, err error) {
	stats, err := s.ask("INFO commandstats")
	if err != nil {
		return r, err
	}
	own := s.asked - 1 // the question was answered before it was counted
	for line := range strings.Lines(stats) {
		name, facts, _ := strings.Cut(line, ":")
		if !strings.HasPrefix(name, "cmdstat_") {
			continue
		}
		var calls int
		if _, err := fmt.Sscanf(facts, "calls=%d,", &calls); err != nil {
			return r, fmt.Errorf("INFO commandstats: %q", line)
		}
		r.commands += calls
	}
	r.commands -= own
	cpu, err := s.ask("INFO cpu")
	if err != nil {
		return r, err
	}
	parts := 0
	for line := range strings.Lines(cpu) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return r, fmt.Errorf("INFO cpu: %q", line)
			}
			r.cpu += time.Duration(seconds * float64(time.Second))
			parts++
		}
	}
	if parts != 2 {
		return r, fmt.Errorf("INFO cpu tells no used_cpu_sys and used_cpu_user: %q", cpu)
	}
	r.at = time.Now()
	return r, nil
}

func (r reading) since(before reading) cost {
	return cost{took: r.at.Sub(before.at), commands: r.commands - before.commands, cpu: r.cpu - before.cpu}
}

// cost is what happened between two readings.
type cost struct {
	took     time.Duration
	commands int
	cpu      time.Duration
}

// measure reads the server before and after; the time is that of do alone.
func (s *redisServer) measure(do func() error) (cost, error) {
	runtime.GC() // not the garbage of whoever came before
	before, err := s.read()
	if err != nil {
		return cost{}, err
	}
	start := time.Now()
	if err := do(); err != nil {
		return cost{}, err
	}
	took := time.Since(start)
	after, err := s.read()
	c := after.since(before)
	c.took = took
	return c, err
}
