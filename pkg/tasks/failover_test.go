//go:build unix

package tasks

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/redistest"
)

// What can be promised when the server that has the jobs dies: one that comes back with its append-only file has everything that it
// acknowledged; a replica that takes over has what had reached it. Either way the books balance, and runners and producers go on by themselves.

func TestARedisThatIsKilledAndComesBackHasLostNothing(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	o := ordeal{e: newEnv(t, s.url()), jobs: 300}
	if os.Getenv("PROVE") == "1" {
		o.jobs = 3000
	}
	o.run(func() {
		s.kill()
		if !s.start() {
			t.Error("redis does not come back")
		}
	})
	if len(o.lost) > 0 {
		t.Errorf("%d of %d are lost: %v", len(o.lost), len(o.accepted), o.lost)
	}
}

func TestSentinelsReplaceAPrimaryThatDies(t *testing.T) {
	if os.Getenv("PROVE") != "1" {
		t.Parallel()
	}
	set, err := redistest.NewSet(t.TempDir(), 1, 3, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Kill)
	o := ordeal{e: newEnv(t, set.URL()), jobs: 300, primary: set.Primary, replica: set.Replicas[0]}
	o.run(func() { set.Primary.Kill() })
	o.onlyWhatHadNotArrived()
}

// What a replica did not get is gone, and nothing else: the books of what is left balance, jobs whose end it did not get run again.
func TestAFailoverLosesWhatTheReplicaDidNotGetAndNothingElse(t *testing.T) {
	if os.Getenv("PROVE") != "1" {
		t.Skip("PROVE=1: five more servers")
	}
	set, err := redistest.NewSet(t.TempDir(), 1, 3, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Kill)
	o := ordeal{e: newEnv(t, set.URL()), jobs: 1500, primary: set.Primary, replica: set.Replicas[0]}
	o.run(func() {
		for _, command := range [][]string{{"CONFIG", "SET", "masterauth", "x"}, {"CONFIG", "SET", "masteruser", "nobody"}} {
			if _, err := o.replica.Do(command...); err != nil {
				t.Error(err)
			}
		}
		if _, err := o.primary.Do("CLIENT", "KILL", "TYPE", "replica"); err != nil {
			t.Error(err)
		}
		already := o.count()
		until(t, "more is accepted", func() bool { return o.count() > already+100 })
		o.primary.Kill()
	})
	o.onlyWhatHadNotArrived()
	if len(o.lost) < 100 {
		t.Errorf("%d are lost: the replica had them all the same", len(o.lost))
	}
}

func TestAReplicaInAClusterTakesOver(t *testing.T) {
	if os.Getenv("PROVE") != "1" {
		t.Skip("PROVE=1: six servers")
	}
	for how, stop := range map[string]func(*redistest.Server){
		"killed": (*redistest.Server).Kill,
		// It breaks no connection, and nobody refuses one.
		"stopped": func(s *redistest.Server) { s.Signal(syscall.SIGSTOP) },
	} {
		t.Run(how, func(t *testing.T) {
			c, err := redistest.NewCluster(t.TempDir(), 3, true, 3*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Kill)
			o := ordeal{e: newEnv(t, c.URL()), jobs: 1500, shards: 1}
			o.primary, o.replica, err = c.MasterOf(o.e.lane().act())
			if err != nil {
				t.Fatal(err)
			}
			o.run(func() { stop(o.primary) })
			o.onlyWhatHadNotArrived()
		})
	}
}

// ordeal is work that goes on while Redis dies.
type ordeal struct {
	e                *env
	jobs             int
	shards           int
	primary, replica *redistest.Server // of the jobs; nil: there is no replica

	mu       sync.Mutex
	accepted map[string]bool // to true once the replica has it
	lost     []string        // of them, those that nobody knows any more
	arrived  int             // of lost, those that the replica had: a failover must not lose them
}

// run enqueues and runs jobs, lets Redis die in the middle of it, and waits until all that is left is done.
func (o *ordeal) run(die func()) {
	t := o.e.t
	o.accepted = make(map[string]bool)
	c := o.e.connect(Options{CallTimeout: 2 * time.Second})
	var ran atomic.Int64
	mux := NewMux()
	mux.Handle("x", func(context.Context, *Job) ([]byte, error) { ran.Add(1); time.Sleep(time.Millisecond); return nil, nil })
	runners := []*running{o.e.runOn(c, mux, RunnerOptions{Concurrency: 5}), o.e.runOn(o.e.connect(Options{CallTimeout: 2 * time.Second}), mux, RunnerOptions{Concurrency: 5})}

	// Each producer keeps on until its jobs are taken, as one would with ids of one's own.
	const producers = 4
	var producing sync.WaitGroup
	var refused atomic.Int64
	for p := range producers {
		producing.Go(func() {
			for n := p; n < o.jobs; n += producers {
				for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					time.Sleep(3 * time.Millisecond) // so that it goes on for a while
					id, err := c.Enqueue(context.Background(), "x", nil, Key(strconv.Itoa(n)))
					if err == nil {
						o.mu.Lock()
						o.accepted[id] = false
						o.mu.Unlock()
						break
					}
					refused.Add(1)
					if !errors.Is(err, ErrUnavailable) || time.Now().After(deadline) {
						t.Errorf("enqueue %d: %v", n, err)
						return
					}
				}
			}
		})
	}
	for o.count() <= o.jobs/2 {
		o.watch()
		time.Sleep(time.Millisecond)
	}
	die()
	start := time.Now()
	dead := ran.Load()
	until(t, "runners go on", func() bool { return ran.Load() > dead+10 })
	t.Logf("jobs run again %s after the death", time.Since(start).Round(time.Millisecond))
	producing.Wait()
	o.e.client = c
	for id, arrived := range o.accepted {
		_, err := c.Status(t.Context(), id)
		if errors.Is(err, ErrNotFound) {
			o.lost = append(o.lost, id)
			if arrived {
				o.arrived++
			}
		} else {
			o.e.await(id, Done)
		}
	}
	books := o.e.rest()
	if books.Accepted != int64(o.jobs-len(o.lost)) || books.Done != books.Accepted || books.Lost != 0 {
		t.Errorf("books %+v, %d lost", books, len(o.lost))
	}
	for _, r := range runners {
		if err := r.halt(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d accepted, %d enqueues refused meanwhile, %d lost, %d jobs ran %d times", len(o.accepted), refused.Load(), len(o.lost), books.Done, ran.Load())
}

func (o *ordeal) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.accepted)
}

// watch notes what has arrived at the replica.
func (o *ordeal) watch() {
	if o.replica == nil {
		return
	}
	o.mu.Lock()
	known := make([]string, 0, len(o.accepted))
	for id := range o.accepted {
		known = append(known, id)
	}
	o.mu.Unlock()
	from, err := o.primary.Info("replication")
	if err != nil {
		o.e.t.Fatal(err)
	}
	to, err := o.replica.Info("replication")
	if err != nil {
		o.e.t.Fatal(err)
	}
	sent, _ := strconv.ParseInt(from["master_repl_offset"], 10, 64)
	got, _ := strconv.ParseInt(to["slave_repl_offset"], 10, 64)
	if got < sent {
		return
	}
	o.mu.Lock()
	for _, id := range known {
		o.accepted[id] = true
	}
	o.mu.Unlock()
}

func (o *ordeal) onlyWhatHadNotArrived() {
	sure := 0
	for _, arrived := range o.accepted {
		if arrived {
			sure++
		}
	}
	if o.arrived > 0 || sure == 0 {
		o.e.t.Errorf("%d of %d that had arrived at the replica are lost", o.arrived, sure)
	}
	o.e.t.Logf("%d of %d had surely arrived at the replica before the death; of the others %d are lost", sure, len(o.accepted), len(o.lost)-o.arrived)
}
