package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"supervisor/pkg/tasks"
)

func TestAgainIsBoundedByTime(t *testing.T) {
	dead := fmt.Errorf("%w: %w", tasks.ErrUnavailable, io.EOF)
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	refused := fmt.Errorf("%w: %w", tasks.ErrUnavailable, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	other := errors.New("not to be repeated")
	for _, test := range []struct {
		name  string
		fails []error // of the first calls
		then  error   // of all later ones
		want  error
		from  time.Duration
		to    time.Duration
	}{
		{name: "at once"},
		{name: "as many broken connections as there can be", fails: []error{dead, reset, dead, reset, dead, dead, reset, dead, dead, dead, dead, dead}, to: brokenPatience},
		{name: "connections break for ever", then: dead, want: dead, from: brokenPatience - longestPause, to: brokenPatience},
		{name: "nobody listens", then: refused, want: refused, from: awayPatience / 2, to: awayPatience},
		{name: "it broke, and now nobody listens", fails: []error{dead, dead}, then: refused, want: refused, to: awayPatience},
		{name: "it comes back soon", fails: []error{refused, dead}, to: awayPatience},
		{name: "another error", then: other, want: other},
		{name: "a call that hung", then: context.DeadlineExceeded, want: context.DeadlineExceeded, to: awayPatience},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, calls := time.Now(), 0
				err := again(t.Context(), func(err error) bool { return err != other }, func() error {
					if calls++; calls <= len(test.fails) {
						return test.fails[calls-1]
					}
					return test.then
				})
				if took := time.Since(start); err != test.want || took < test.from || took > test.to {
					t.Errorf("%v after %s and %d calls", err, took, calls)
				}
			})
		})
	}
}

func TestAgainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := again(ctx, func(error) bool { return true }, func() error { return io.EOF })
		if took := time.Since(start); err != io.EOF || took != 20*time.Millisecond {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// Every connection breaks while nobody uses it. Whichever request comes first, and whichever connections it meets: no client hears of it.
func TestNoRequestPaysForConnectionsThatBroke(t *testing.T) {
	d := serveTasks(t)
	photo := readPicture(t, "video-001.jpeg")
	first := map[string]func(id string) answer{
		"POST":       func(string) answer { return d.post("/images", photo) },
		"GET":        func(id string) answer { return d.get("/tasks/" + id) },
		"GET result": func(id string) answer { return d.get("/tasks/" + id + "/result") },
		"DELETE":     func(id string) answer { return d.do("DELETE", "/tasks/"+id, "", nil) },
	}
	want := map[string]int{"POST": 202, "GET": 200, "GET result": 409, "DELETE": 200}
	for name, ask := range first {
		t.Run(name, func(t *testing.T) {
			id := d.submit(photo)
			var all sync.WaitGroup // so that all connections are there
			for range 32 {
				all.Go(func() { d.post("/images", photo); d.get("/tasks/" + id) })
			}
			all.Wait()
			d.redis.Close()
			if err := d.redis.Restart(); err != nil {
				t.Fatal(err)
			}
			if got := ask(id); got.status != want[name] {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	if n := d.logs.FilterMessageSnippet("does not take requests").Len(); n > 0 {
		t.Errorf("%d lines say that it is away", n)
	}
}

// The cancel was executed, its answer was lost, and the second finds nothing to cancel.
func TestCancelWithoutAnswerIsStillCancelled(t *testing.T) {
	d := serveTasks(t)
	id := d.submit(readPicture(t, "video-001.jpeg"))
	other, err := tasks.Connect("redis://"+d.redis.Addr(), tasks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var lost atomic.Bool
	d.redis.Server().SetPreHook(func(peer *server.Peer, command string, _ ...string) bool {
		if !strings.HasPrefix(command, "EVAL") || lost.Swap(true) {
			return false
		}
		if state, err := other.Cancel(t.Context(), id); state != tasks.Cancelled || err != nil {
			t.Errorf("%q, %v", state, err)
		}
		peer.Close()
		return true
	})
	if got := d.do("DELETE", "/tasks/"+id, "", nil); got.status != 200 || got.json()["state"] != "cancelled" {
		t.Errorf("%d %s", got.status, got.body)
	}
	d.do("DELETE", "/tasks/"+id, "", nil).fails(409, "job_ended", "cancelled")
	if uploads := d.keys("app:upload:"); len(uploads) > 0 {
		t.Errorf("left over: %v", uploads)
	}
}
