package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/control"
	"supervisor/pkg/profile"
	"supervisor/pkg/protocol"
)

// POST /v1/dump: what a worker does and holds. The loop only finds the worker and sends it the far end of a stream (protocol/profile.go); the
// goroutine of the request reads what comes, and passes it on. Whoever is gone first, the client or the worker, the stream ends, and so does the
// profile: nothing is kept for later. A worker that leaves may be asked as well: why it does not come to its end is worth a look.

const (
	// dumpPatience is how long a worker may take until it has read the command: it does so beside its requests.
	dumpPatience = 5 * time.Second
	// dumpTransfer bounds the rest, beyond a CPU profile's own time.
	dumpTransfer = 30 * time.Second
	// dumpEnd is how long the end of a process may lag behind that of its descriptors.
	dumpEnd = time.Second
	// dumpBacklog is how much a worker may have left unread on its control channel, in bytes as the kernel counts them, some 1000 for each
	// command: one that is stopped must not have its channel filled with dumps, since it is to hear "drain" when it goes on.
	dumpBacklog = 32 << 10
)

// subject is a worker that is asked for a profile.
type subject struct {
	name   string
	pid    int
	stream net.Conn // our end
	pidfd  int      // closed by close
}

func (d *subject) close() {
	d.stream.Close()
	unix.Close(d.pidfd)
}

// answerDump is POST /v1/dump.
func (s *Supervisor) answerDump(w http.ResponseWriter, r *http.Request) {
	var request control.DumpRequest
	if !read(w, r, &request) {
		return
	}
	length := time.Duration(request.Seconds * float64(time.Second))
	switch cpu := request.Kind == profile.CPU; {
	case !request.Kind.Valid():
		fail(w, http.StatusBadRequest, "there is no profile %q; there are %s, %s, %s and %s", request.Kind, profile.Goroutines, profile.Heap, profile.Allocs, profile.CPU)
		return
	case cpu && (length < time.Millisecond || length > profile.MaxTime):
		fail(w, http.StatusBadRequest, "a CPU profile of %v: it takes 1ms to %v", length, profile.MaxTime)
		return
	case !cpu:
		length = 0
	}
	var err error
	if request.Target == "" {
		err = s.dumpSelf(w, r, request.Kind, length)
	} else {
		err = s.dumpWorker(w, r, request, length)
	}
	if errors.Is(err, errLoopEnded) || errors.Is(err, errSuccessor) {
		w.Header().Set("Retry-After", "0")
	}
	if e := new(control.Error); errors.As(err, &e) {
		fail(w, e.Status, "%s", e.Text)
	} else if err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
	}
}

// sayDumping tells the client that it is not forgotten, and for how long it has to wait.
func sayDumping(w http.ResponseWriter, name string, length time.Duration) {
	if length > 0 {
		w.Header().Set(control.HeaderBegun, fmt.Sprintf("CPU profile of %s for %v", name, length))
	}
	w.WriteHeader(http.StatusProcessing)
	w.Header().Del(control.HeaderBegun)
}

// beginProfile begins the answer.
func beginProfile(w http.ResponseWriter, name string, kind profile.Kind, size int64) {
	content := "text/plain; charset=utf-8"
	if kind.Binary() {
		content = "application/octet-stream"
	}
	h := w.Header()
	h.Set(control.HeaderWorker, name)
	h.Set("Content-Type", content)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("Cache-Control", "no-store")
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(dumpTransfer))
}

// dumpSelf answers with our own profile. The loop is not asked: it may be what hangs.
func (s *Supervisor) dumpSelf(w http.ResponseWriter, r *http.Request, kind profile.Kind, length time.Duration) error {
	const name = "supervisor"
	sayDumping(w, name, length)
	data, err := profile.Take(r.Context(), kind, length)
	switch {
	case errors.Is(err, profile.ErrBusy):
		return refuse(http.StatusConflict, "%s: %v", name, err)
	case err != nil:
		return err
	}
	beginProfile(w, name, kind, int64(len(data)))
	w.Write(data)
	return nil
}

// dumpWorker answers with a worker's profile.
func (s *Supervisor) dumpWorker(w http.ResponseWriter, r *http.Request, request control.DumpRequest, length time.Duration) error {
	var from *subject
	var refused error
	err := s.inLoop(r.Context(), func() {
		if s.handing != nil || s.handedOver {
			refused = errSuccessor
			return
		}
		from, refused = s.askForProfile(request, length)
	})
	if err = errors.Join(err, refused); err != nil {
		return err
	}
	defer from.close()
	defer context.AfterFunc(r.Context(), func() { from.stream.Close() })() // the client is gone

	in := bufio.NewReader(from.stream)
	from.stream.SetReadDeadline(time.Now().Add(dumpPatience))
	if err := protocol.ReadBegun(in); err != nil {
		return s.noProfile(from, request, err)
	}
	sayDumping(w, from.name, length)
	from.stream.SetReadDeadline(time.Now().Add(length + dumpTransfer))
	size, err := protocol.ReadProfileSize(in)
	if err == nil && size > profile.MaxSize {
		err = fmt.Errorf("it has %d bytes, more than %d", size, profile.MaxSize)
	}
	if err != nil {
		return s.noProfile(from, request, err)
	}
	beginProfile(w, from.name, request.Kind, size)
	io.CopyN(w, in, size) // one that is too short ends the connection, and the client knows
	return nil
}

// askForProfile finds the worker and sends it the command.
func (s *Supervisor) askForProfile(request control.DumpRequest, length time.Duration) (*subject, error) {
	worker, err := s.workerToDump(request.Target)
	if err != nil {
		return nil, err
	}
	proc, isChild := worker.proc.(*child)
	switch {
	case worker.state == gone:
		return nil, refuse(http.StatusNotFound, "worker %s is gone", worker.id)
	case isChild && worker.speaks:
	case worker.state == starting:
		return nil, refuse(http.StatusConflict, "worker %s is starting and has not said yet that it uses pkg/worker: it cannot be asked", worker.id)
	default:
		return nil, refuse(http.StatusConflict, "worker %s does not use pkg/worker and cannot be asked for a profile; if it is a Go program, kill -QUIT %d "+
			"makes it write its goroutines into its log and end", worker.id, worker.proc.Pid())
	}
	if unread, err := unix.IoctlGetInt(proc.sendFD, unix.SIOCOUTQ); err == nil && unread > dumpBacklog {
		return nil, refuse(http.StatusGatewayTimeout, "worker %s %s", worker.id, howItStands(proc.pid))
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "no socket for a profile: %v", err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "profile")
	defer f.Close()
	stream, err := net.FileConn(f) // a duplicate
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "no socket for a profile: %v", err)
	}
	pidfd, err := unix.PidfdOpen(proc.pid, 0) // it is not reaped yet, so the number is its own
	if err == nil {
		if err = protocol.SendProfile(proc.sendFD, string(request.Kind), length, fds[1]); err != nil {
			unix.Close(pidfd)
		}
	}
	if err != nil {
		stream.Close()
		return nil, refuse(http.StatusBadGateway, "worker %s cannot be asked: %v", worker.id, err)
	}
	s.log.Info("control", zap.String("command", "dump"), zap.Stringer("worker", worker.id), zap.String("profile", string(request.Kind)))
	return &subject{worker.id.String(), proc.pid, stream, pidfd}, nil
}

// workerToDump finds one worker by its name, its slot's, or its pool's if it is the only one.
func (s *Supervisor) workerToDump(target string) (*worker, error) {
	name, numbers, _ := strings.Cut(target, ".")
	p, err := s.named(name)
	if err != nil {
		return nil, err
	}
	if numbers != "" {
		return p.workerNamed(numbers)
	}
	workers := p.workers()
	switch len(workers) {
	case 0:
		return nil, refuse(http.StatusConflict, "pool %s has no worker now", name)
	case 1:
		return workers[0], nil
	}
	var names []string
	for _, w := range workers {
		names = append(names, w.id.String())
	}
	return nil, refuse(http.StatusBadRequest, "which worker of pool %s? There is %s", name, strings.Join(names, ", "))
}

// noProfile says why a worker gave none.
func (s *Supervisor) noProfile(from *subject, request control.DumpRequest, err error) error {
	said := protocol.ProfileError("")
	if errors.As(err, &said) {
		return refuse(http.StatusConflict, "worker %s: %s", from.name, printable(string(said)))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(http.StatusGatewayTimeout, "worker %s %s", from.name, howItStands(from.pid))
	}
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
	switch {
	case ended && from.isGone():
		return refuse(http.StatusBadGateway, "worker %s (pid %d) has ended before its profile was complete", from.name, from.pid)
	case errors.Is(err, io.EOF) && request.Kind == profile.Goroutines && s.dumpIntoLog(from.name):
		return refuse(http.StatusConflict, "worker %s was built with an earlier pkg/worker, which cannot send its goroutines: it writes them into its stderr; see errorlog",
			from.name)
	case errors.Is(err, io.EOF):
		return refuse(http.StatusConflict, "worker %s was built with an earlier pkg/worker, which has no profiles", from.name)
	}
	return refuse(http.StatusBadGateway, "worker %s: %v", from.name, err)
}

// isGone reports whether the process has ended, or is about to.
func (d *subject) isGone() bool {
	poll := []unix.PollFd{{Fd: int32(d.pidfd), Events: unix.POLLIN}}
	n, _ := unix.Poll(poll, int(dumpEnd.Milliseconds()))
	return n > 0
}

// dumpIntoLog is what an earlier pkg/worker can do. It reports whether the worker was told.
func (s *Supervisor) dumpIntoLog(name string) (told bool) {
	s.inLoop(context.Background(), func() {
		if w, err := s.workerToDump(name); err == nil && w.state != gone {
			told = w.proc.Send(protocol.Command{Verb: protocol.VerbDump})
		}
	})
	return told
}

// howItStands says what the kernel knows of a process that does not answer.
func howItStands(pid int) string {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, state, _ := strings.Cut(string(text), ") ")
	switch state[:min(1, len(state))] {
	case "T":
		return fmt.Sprintf("(pid %d) does not answer: it is stopped (SIGSTOP); kill -CONT %d lets it go on", pid, pid)
	case "t":
		return fmt.Sprintf("(pid %d) does not answer: a debugger holds it", pid)
	case "D":
		return fmt.Sprintf("(pid %d) does not answer: it sits in the kernel, see /proc/%d/stack", pid, pid)
	case "":
		return fmt.Sprintf("(pid %d) has ended", pid)
	}
	return fmt.Sprintf("(pid %d) does not answer within %v: it hangs, or does not get the CPU; kill -ABRT %d makes it write its goroutines into its log and end",
		pid, dumpPatience, pid)
}

// printable takes out of a worker's words what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
