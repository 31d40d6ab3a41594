package app

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2/server"

	"supervisor/pkg/tasks"
)

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
	d.get("/tasks/" + id) // now Redis knows the script of the status, which a cancel asks for first
	var calls atomic.Int32
	d.redis.Server().SetPreHook(func(peer *server.Peer, command string, _ ...string) bool {
		if !strings.HasPrefix(command, "EVAL") || calls.Add(1) != 2 {
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
