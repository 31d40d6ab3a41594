package tasks

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestRunnersTellWhoTheyAre(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		release := make(chan struct{})
		mux := NewMux()
		mux.Handle("long", func(context.Context, *Job) ([]byte, error) { <-release; return nil, nil })
		r := e.run(mux, RunnerOptions{Queues: []string{"a", "b"}, Concurrency: 3, Lease: 300 * time.Millisecond})
		e.run(mux, RunnerOptions{Queues: []string{"c"}})
		for _, queue := range []string{"a", "a", "b"} {
			e.await(e.enqueue("long", Queue(queue)), Running)
		}
		find := func() (mine RunnerInfo, all int) {
			runners, err := e.c().Inspector().Runners(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range runners {
				if info.Name == r.Name() {
					mine = info
				}
			}
			return mine, len(runners)
		}
		host, _ := os.Hostname()
		told := func(info RunnerInfo) bool {
			return info.Host == host && info.PID == os.Getpid() && info.Concurrency == 3 && info.Claims == 3 && fmt.Sprint(info.Queues) == "[a b]" &&
				info.Lease > 0 && time.Since(info.Since) < time.Minute
		}
		until(t, "both are registered", func() bool { _, n := find(); return n == 2 })
		until(t, "it tells", func() bool { info, _ := find(); return told(info) }) // on a busy machine its lease may end in between
		// Somebody else made the lease again, as a claim does after an outage: it tells again.
		e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.Set().Key(newLane(e.namespace, "a", 0).lease(r.Name())).Value("1").Keepttl().Build()
		})
		until(t, "it tells again", func() bool { info, _ := find(); return told(info) })
		close(release)
		if err := r.halt(); err != nil {
			t.Error(err)
		}
		if _, n := find(); n != 1 {
			t.Errorf("%d are there after one left", n)
		}
	})
}
