//go:build linux

package worker_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/worker/internal/fake"
)

// profileOf reads all that comes on a profile's stream.
func profileOf(stream net.Conn) (string, error) {
	defer stream.Close()
	stream.SetReadDeadline(time.Now().Add(fake.Patience))
	r := bufio.NewReader(stream)
	if err := protocol.ReadBegun(r); err != nil {
		return "", err
	}
	n, err := protocol.ReadProfileSize(r)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(r, n))
	return string(text), err
}

// Also while it drains; it serves on meanwhile.
func TestProfiles(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("fast", fake.Options{}).AwaitReady()
	hung := dial(t, p)
	hung.send(get("/hung"))
	w.Await("the handler", func() bool { return w.Board.Running() == 1 })
	if text, err := profileOf(w.Profile("goroutines", 0)); err != nil || !strings.Contains(text, "worker_test.fastHandler") {
		t.Errorf("%v: %s", err, text)
	}
	for kind, want := range map[string]string{"heap": "\x1f\x8b", "allocs": "\x1f\x8b", "cpu": "\x1f\x8b"} {
		if data, err := profileOf(w.Profile(kind, 20*time.Millisecond)); err != nil || !strings.HasPrefix(data, want) {
			t.Errorf("%s: %v, %d bytes", kind, err, len(data))
		}
	}
	if _, err := profileOf(w.Profile("nonsense", 0)); err == nil || !strings.Contains(err.Error(), `there is no profile "nonsense"`) {
		t.Errorf("%v", err)
	}
	w.Tell(drainClose)
	w.Await("STOPPING=1", func() bool { return strings.Contains(strings.Join(w.Said(), " "), "STOPPING=1") })
	if text, err := profileOf(w.Profile("goroutines", 0)); err != nil || !strings.Contains(text, "worker_test.fastHandler") {
		t.Errorf("%v: %s", err, text)
	}
}

// A CPU profile whose asker is gone ends, so that the next one can begin; a drain does not wait for one.
func TestCPUProfileEndsWithItsAsker(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("http", fake.Options{}).AwaitReady()
	long := w.Profile("cpu", 10*time.Minute)
	if err := protocol.ReadBegun(bufio.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	w.Await("a second one to be refused", func() bool {
		_, err := profileOf(w.Profile("cpu", time.Millisecond))
		return err != nil && strings.Contains(err.Error(), "one at a time")
	})
	long.Close()
	w.Await("its end", func() bool {
		_, err := profileOf(w.Profile("cpu", time.Millisecond))
		return err == nil
	})
	long = w.Profile("cpu", 10*time.Minute)
	if err := protocol.ReadBegun(bufio.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	w.Tell(drainClose)
	w.AwaitExit()
	if _, err := protocol.ReadProfileSize(bufio.NewReader(long)); err != io.ErrUnexpectedEOF {
		t.Errorf("%v", err)
	}
}

// A worker that does not know a verb closes what came along: that is how the one who asks is told.
func TestConnectionOfAnUnknownVerbIsClosed(t *testing.T) {
	p := fake.NewPool(t, off)
	w := p.Start("http", fake.Options{}).AwaitReady()
	stream := w.WithConn(protocol.Command{Verb: "tomorrow"})
	if err := protocol.ReadBegun(bufio.NewReader(stream)); err != io.EOF {
		t.Errorf("%v", err)
	}
}
