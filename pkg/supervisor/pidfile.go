package supervisor

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PIDFile is the file that names the running supervisor. The lock on it is the identity, the number in it is information: a stale
// number, or a pid that the kernel gave to somebody else, means nothing.
type PIDFile struct {
	path string
	file *os.File
}

// LockPIDFile takes the file for this process. While another supervisor has it, the error names its pid.
func LockPIDFile(path string) (*PIDFile, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPIDFile, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			pid, _ := PIDFileOwner(path)
			f.Close()
			return nil, fmt.Errorf("%w %s: %w with it (pid %d)", ErrPIDFile, path, ErrRunning, pid)
		}
		if !samePath(f, path) {
			f.Close() // its owner removed it between our open and our lock
			continue
		}
		p := &PIDFile{path, f}
		return p, p.write(os.Getpid())
	}
}

// releasePatience bounds how long a supervisor that goes on after a dead one waits for the pidfile: the dead one's successor may still have it.
const releasePatience = 10 * time.Second

// awaitPIDFile is LockPIDFile with patience.
func awaitPIDFile(path string) (*PIDFile, error) {
	for deadline := time.Now().Add(releasePatience); ; time.Sleep(5 * time.Millisecond) {
		p, err := LockPIDFile(path)
		if err == nil || time.Now().After(deadline) {
			return p, err
		}
	}
}

func samePath(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(ours, there)
}

// write puts a pid into the file, in place.
func (p *PIDFile) write(pid int) error {
	text := strconv.Itoa(pid) + "\n"
	if _, err := p.file.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("pidfile: %w", err)
	}
	return p.file.Truncate(int64(len(text)))
}

// Remove removes the file, if it is still ours, and gives up the lock.
func (p *PIDFile) Remove() {
	if samePath(p.file, p.path) {
		os.Remove(p.path)
	}
	p.file.Close()
}

// PIDFileOwner gives the pid of the running supervisor that holds the file; ok is false when nobody does.
func PIDFileOwner(path string) (pid int, ok bool) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, false // nobody locks it; ours goes with the descriptor
	}
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, err == nil && pid > 0
}
