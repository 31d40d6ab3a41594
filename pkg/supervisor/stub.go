package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
)

// The exec stub is this same binary, started as `supervisor exec ARGV…` between fork and the worker's own program: it does what
// must be done inside the new process (its own pid in LISTEN_PID, user, limits, signal state) and becomes the program.

const (
	stubVerb = "exec"
	// envStub carries the stubSpec. The stub removes it.
	envStub = "SUPERVISOR_EXEC"

	// Exit codes of a stub that could not become the program, as in a shell.
	exitNotExecutable = 126
	exitNotFound      = 127

	// A binary that is still being written (ETXTBSY) is tried again for so long.
	busyRetry    = 2 * time.Second
	busyInterval = 20 * time.Millisecond
)

var errNotFound = errors.New("not found")

// stubSpec says what the stub sets before it executes the program.
type stubSpec struct {
	FDs      int    `json:"fds"`    // descriptors from 3 that the program gets
	Report   int    `json:"report"` // descriptor to write the reason of a failure to; closes at the exec
	Listen   bool   `json:"listen"` // set LISTEN_PID
	Watchdog bool   `json:"watchdog"`
	Dir      string `json:"dir,omitempty"`
	DirFD    int    `json:"dir_fd,omitempty"`  // the pinned directory; 0: none, Dir says where
	Path     string `json:"path,omitempty"`    // of the program; "": to be looked up
	FileFD   int    `json:"file_fd,omitempty"` // the pinned program, in case that Path names another one by now; 0: none
	Umask    int    `json:"umask"`             // -1: leave
	Nofile   uint64 `json:"nofile,omitempty"`
	SetUser  bool   `json:"set_user"`
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	Groups   []int  `json:"groups"`
}

func (s stubSpec) env() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers and strings only
	}
	return envStub + "=" + string(text)
}

// IsExecStub reports whether this process was started to become a worker. main asks before it does anything else.
func IsExecStub() bool {
	return len(os.Args) > 2 && os.Args[1] == stubVerb && os.Getenv(envStub) != ""
}

// ExecStub makes this process the program in os.Args[2:]. It does not return.
func ExecStub() {
	// Credentials, mask and exec must happen on one thread.
	runtime.LockOSThread()
	var spec stubSpec
	err := json.Unmarshal([]byte(os.Getenv(envStub)), &spec)
	if err != nil {
		os.Exit(exitNotExecutable)
	}
	os.Unsetenv(envStub)
	unix.CloseOnExec(spec.Report)
	err = become(spec, os.Args[2:])
	report := os.NewFile(uintptr(spec.Report), "report")
	fmt.Fprint(report, err)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotFound) {
		os.Exit(exitNotFound)
	}
	os.Exit(exitNotExecutable)
}

func become(spec stubSpec, argv []string) error {
	pid := strconv.Itoa(os.Getpid())
	if spec.Listen {
		os.Setenv(protocol.EnvListenPID, pid)
	}
	if spec.Watchdog {
		os.Setenv(protocol.EnvWatchdogPID, pid)
	}
	if spec.Nofile > 0 {
		limit := syscall.Rlimit{Cur: spec.Nofile, Max: spec.Nofile}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("rlimit_nofile = %d: %w", spec.Nofile, err)
		}
	}
	if spec.Umask >= 0 {
		syscall.Umask(spec.Umask)
	}
	if spec.SetUser {
		if err := setUser(spec); err != nil {
			return err
		}
	}
	if spec.Dir != "" { // as the user: a directory that it cannot enter is an error
		if err := spec.chdir(); err != nil {
			return fmt.Errorf("chdir: %w", err)
		}
	}
	path, err := spec.program(argv[0])
	if err != nil {
		return err
	}
	// Whatever our own caller left open stays with us.
	if err := closeOnExecFrom(protocol.FirstFD + spec.FDs); err != nil {
		return fmt.Errorf("close on exec: %w", err)
	}
	for began := time.Now(); ; time.Sleep(busyInterval) {
		resetSignals()
		err := syscall.Exec(path, argv, os.Environ())
		if err != syscall.ETXTBSY || time.Since(began) > busyRetry {
			return fmt.Errorf("execute %s: %w", path, err)
		}
	}
}

func (s stubSpec) chdir() error {
	if s.DirFD == 0 {
		return os.Chdir(s.Dir)
	}
	if err := unix.Fchdir(s.DirFD); err != nil {
		return &fs.PathError{Op: "chdir", Path: s.Dir, Err: err}
	}
	return nil
}

// program gives what to execute: the pinned program, by its path while that still names it. (Who replaces the file between this look
// and the exec wins.)
func (s stubSpec) program(name string) (string, error) {
	if s.Path == "" {
		return lookPath(name)
	}
	if s.FileFD > 0 {
		var pinned, now unix.Stat_t
		if err := unix.Fstat(s.FileFD, &pinned); err != nil {
			return "", fmt.Errorf("command %s: %w", s.Path, err)
		}
		if err := unix.Stat(s.Path, &now); err != nil || now.Dev != pinned.Dev || now.Ino != pinned.Ino {
			return descriptorPath(s.FileFD), nil
		}
	}
	return lookPath(s.Path)
}

// descriptorPath names the file behind a descriptor of this process, also one that has no other name any more.
func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func setUser(spec stubSpec) error {
	if err := syscall.Setgroups(spec.Groups); err != nil {
		return fmt.Errorf("set groups %v: %w", spec.Groups, err)
	}
	if err := syscall.Setgid(spec.GID); err != nil {
		return fmt.Errorf("set group %d: %w", spec.GID, err)
	}
	if err := syscall.Setuid(spec.UID); err != nil {
		return fmt.Errorf("set user %d: %w", spec.UID, err)
	}
	return nil
}

// lookPath finds a program as execvp does, in the worker's own PATH.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		info, err := os.Stat(name)
		if err != nil {
			return "", fmt.Errorf("command %s: %w", name, errors.Unwrap(err))
		}
		if info.IsDir() {
			return "", fmt.Errorf("command %s is a directory", name)
		}
		if info.Mode()&0o111 == 0 {
			return "", fmt.Errorf("command %s is not executable (mode %v)", name, info.Mode())
		}
		return name, nil
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("command %q: %w (PATH=%s)", name, errNotFound, os.Getenv("PATH"))
}

// closeOnExecFrom marks every descriptor from first on.
func closeOnExecFrom(first int) error {
	err := unix.CloseRange(uint(first), ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil || (err != unix.ENOSYS && err != unix.EINVAL) {
		return err
	}
	entries, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// resetSignals gives every signal its default disposition and empties the mask. What our caller ignored (nohup, trap ”) and the Go
// runtime left alone would be ignored in the worker too.
func resetSignals() {
	var action struct{ handler, flags, restorer, mask uintptr } // kernel's struct sigaction, handler 0 = SIG_DFL
	const numSignals, setSize = 64, 8
	for sig := 1; sig <= numSignals; sig++ {
		// KILL and STOP answer EINVAL.
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, setSize, 0, 0)
	}
	var empty unix.Sigset_t
	unix.PthreadSigmask(unix.SIG_SETMASK, &empty, nil)
}
