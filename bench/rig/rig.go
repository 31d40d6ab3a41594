// Package rig starts and ends the servers of a benchmark, and reads from /proc what they cost.
package rig

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bench is a place for one benchmark: binaries, configs and logs in a directory of its own, and the processes that it started.
type Bench struct {
	Dir     string
	servers []*Server
}

// New makes a Bench. Close ends what it started.
func New() (*Bench, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	// nginx's workers are not root and look into it.
	return &Bench{Dir: dir}, os.Chmod(dir, 0o755)
}

// Close ends all servers, the last first, and removes the directory.
func (b *Bench) Close() {
	for i := len(b.servers) - 1; i >= 0; i-- {
		b.servers[i].stop()
	}
	os.RemoveAll(b.Dir)
}

// Build compiles a package of this module and returns the program.
func (b *Bench) Build(pkg string) (string, error) {
	program := filepath.Join(b.Dir, filepath.Base(pkg))
	if out, err := exec.Command("go", "build", "-o", program, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return program, nil
}

// FreeAddr returns an address on which nobody listens.
func FreeAddr() (string, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// Server is a running server with all its processes.
type Server struct {
	Addr string
	cmd  *exec.Cmd
	log  *os.File
	gone chan struct{} // closed when the first process was waited for
}

// PID is the first process: the master, where there is one.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Start starts a server as leader of its own process group and waits until it answers at addr.
func (b *Bench) Start(addr string, command ...string) (*Server, error) {
	log, err := os.Create(filepath.Join(b.Dir, fmt.Sprintf("log-%d", len(b.servers))))
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, cmd: exec.Command(command[0], command[1:]...), log: log, gone: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	go func() {
		s.cmd.Wait()
		close(s.gone)
	}()
	b.servers = append(b.servers, s)
	for deadline := time.Now().Add(30 * time.Second); ; {
		resp, err := http.Get("http://" + addr + "/")
		if err == nil {
			resp.Body.Close()
			return s, nil
		}
		select {
		case <-s.gone:
			return nil, fmt.Errorf("%s ended at once:\n%s", strings.Join(command, " "), s.Log())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s does not answer at %s: %w\n%s", strings.Join(command, " "), addr, err, s.Log())
		}
	}
}

// Log is the end of what the server printed.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.log.Name())
	return string(text[max(0, len(text)-4096):])
}

// stop asks the first process to end, and kills its group if it does not. A supervisor's workers lead groups of their own;
// they are the supervisor's to end.
func (s *Server) stop() {
	syscall.Kill(s.PID(), syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(40 * time.Second):
	}
	syscall.Kill(-s.PID(), syscall.SIGKILL)
	<-s.gone
	s.log.Close()
}

// Stop is Close for one server.
func (b *Bench) Stop(s *Server) {
	s.stop()
	for i := range b.servers {
		if b.servers[i] == s {
			b.servers = append(b.servers[:i], b.servers[i+1:]...)
			return
		}
	}
}

// Machine is one line about where and of what the figures are.
func Machine() string {
	var uts syscall.Utsname
	syscall.Uname(&uts)
	var release []byte
	for _, c := range uts.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	commit := first("git", "describe", "--always", "--dirty", "--abbrev=10")
	return fmt.Sprintf("%d cores (%s), Linux %s, %s, fasthttp %s, commit %s, %s", runtime.NumCPU(), cpuModel(), release, runtime.Version(),
		first("go", "list", "-m", "-f", "{{.Version}}", "github.com/valyala/fasthttp"), commit, time.Now().UTC().Format("2006-01-02 15:04 MST"))
}

// LoadAverage of the last 1, 5 and 15 minutes: who else was there.
func LoadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// first is the first line of what a program prints, "unknown" if it fails.
func first(command ...string) string {
	out, err := exec.Command(command[0], command[1:]...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// Usage is what a process has cost. See proc(5): stat, smaps_rollup, fd, task.
type Usage struct {
	CPU      time.Duration // user and system, since its start; in steps of 10 ms
	RSS, PSS int64         // bytes
	FDs      int
	Threads  int
}

// Read reads the usage of a process.
func Read(pid int) (u Usage, err error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	rollup, err := os.ReadFile(proc + "smaps_rollup")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(rollup)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Rss:":
			u.RSS = kb << 10
		case "Pss:":
			u.PSS = kb << 10
		}
	}
	tasks, err := os.ReadDir(proc + "task")
	if err != nil {
		return u, err
	}
	u.Threads = len(tasks)
	if u.CPU, err = cpu(proc); err != nil {
		return u, err
	}
	fds, err := os.ReadDir(proc + "fd")
	u.FDs = len(fds)
	return u, err
}

// cpu reads utime and stime, fields 14 and 15 of stat, in ticks of 10 ms.
func cpu(proc string) (time.Duration, error) {
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; state, field 3, follows it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%sstat has %d fields", proc, len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// Children lists the direct children of a process.
func Children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
