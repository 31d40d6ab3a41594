package sdnotify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var names atomic.Int64

func listen(t *testing.T) *Listener {
	t.Helper()
	l, err := Listen(fmt.Sprintf("@sdnotify-test/%d/%d", os.Getpid(), names.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func read(t *testing.T, l *Listener) Message {
	t.Helper()
	m, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestMessageArrivesWithItsSender(t *testing.T) {
	path, err := Listen(filepath.Join(t.TempDir(), "notify"))
	if err != nil {
		t.Fatal(err)
	}
	defer path.Close()
	for _, l := range []*Listener{listen(t), path} {
		if err := Send(l.Name(), "READY=1\nSTATUS=up = well\nrubbish\n"); err != nil {
			t.Fatal(err)
		}
		m := read(t, l)
		var lines []string
		for name, value := range m.Lines() {
			lines = append(lines, name+" "+value)
		}
		if got := strings.Join(lines, ", "); got != "READY 1, STATUS up = well" {
			t.Errorf("%s: %q", l.Name(), got)
		}
		if m.PID != os.Getpid() || m.UID != os.Getuid() {
			t.Errorf("%s: from pid %d, uid %d", l.Name(), m.PID, m.UID)
		}
		if m.Get("STATUS") != "up = well" || m.Get("MAINPID") != "" {
			t.Errorf("%s: Get", l.Name())
		}
	}
}

func TestDescriptorsTravel(t *testing.T) {
	l := listen(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Send(l.Name(), "FDSTORE=1\nFDNAME=x", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	m := read(t, l)
	if len(m.FDs) != 1 {
		t.Fatalf("%d descriptors", len(m.FDs))
	}
	if flags, _ := unix.FcntlInt(uintptr(m.FDs[0]), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
		t.Error("would leak into children")
	}
	fmt.Fprint(os.NewFile(uintptr(m.FDs[0]), "w"), "through")
	m.Close()
	if got, _ := io.ReadAll(r); string(got) != "through" {
		t.Errorf("read %q", got)
	}
}

func TestBarrierWaitsUntilAllIsWorkedOff(t *testing.T) {
	l := listen(t)
	if err := Send(l.Name(), "STATUS=before"); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error, 1)
	go func() { passed <- Barrier(l.Name(), time.Minute) }()
	before, barrier := read(t, l), read(t, l)
	if before.State != "STATUS=before" || barrier.State != "BARRIER=1" || len(barrier.FDs) != 1 {
		t.Fatalf("%+v, %+v", before, barrier)
	}
	select {
	case err := <-passed:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	barrier.Close()
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	if err := Barrier(l.Name(), time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("nobody answered: %v", err)
	}
}

func TestSendDoesNotWaitForAManagerThatStandsStill(t *testing.T) {
	l := listen(t)
	for sent := 0; ; sent++ {
		if err := Send(l.Name(), "WATCHDOG=1"); errors.Is(err, ErrTimeout) {
			break
		} else if err != nil || sent > 100_000 {
			t.Fatalf("after %d messages: %v", sent, err)
		}
	}
}

func TestWhatCannotBeSentIsAnError(t *testing.T) {
	if err := Send("", "READY=1"); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	for _, socket := range []string{"vsock:2:1", "relative", "@", "@sdnotify-test/nobody", "/nonexistent/notify", "/" + strings.Repeat("x", 200)} {
		if err := Send(socket, "READY=1"); err == nil || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	if err := Send(listen(t).Name(), "FDSTORE=1", make([]int, maxDescriptors+1)...); err == nil {
		t.Error("too many descriptors went")
	}
	if l, err := Listen("relative"); err == nil {
		l.Close()
		t.Error("listens on a name that nobody can send to")
	}
}

func TestMessageThatDoesNotFitComesEmpty(t *testing.T) {
	l := listen(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Send(l.Name(), "READY=1\nSTATUS="+strings.Repeat("x", maxMessage), int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if m := read(t, l); m.State != "" || m.FDs != nil || m.PID != os.Getpid() {
		t.Errorf("%+v", m)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("its descriptor stayed open: %v", err)
	}
}

func TestAllDescriptorsOfAFullMessageArrive(t *testing.T) {
	l := listen(t)
	fds := make([]int, maxDescriptors)
	for i := range fds {
		fds[i] = 1
	}
	if err := Send(l.Name(), "FDSTORE=1", fds...); err != nil {
		t.Fatal(err)
	}
	if m := read(t, l); len(m.FDs) != maxDescriptors {
		t.Errorf("%d descriptors", len(m.FDs))
	}
}

func TestWaitLeavesTheMessageThere(t *testing.T) {
	l := listen(t)
	if _, ok := l.TryRead(); ok {
		t.Fatal("a message out of nothing")
	}
	waited := make(chan error)
	go func() { waited <- l.Wait() }()
	if err := Send(l.Name(), "READY=1"); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if m, ok := l.TryRead(); !ok || m.State != "READY=1" {
		t.Errorf("%+v, %v", m, ok)
	}
	go func() { waited <- l.Wait() }()
	l.Close()
	if err := <-waited; err == nil {
		t.Error("a closed socket was not told")
	}
}

func TestInheritedSocketIsReadOn(t *testing.T) {
	first := listen(t)
	fd, err := first.Dup()
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := Send(first.Name(), "READY=1"); err != nil {
		t.Fatal(err)
	}
	second, err := Inherit(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if m := read(t, second); m.State != "READY=1" || second.Name() != first.Name() {
		t.Errorf("%s: %+v", second.Name(), m)
	}
}
