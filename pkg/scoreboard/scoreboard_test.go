package scoreboard

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReaderSeesWhatTheWriterCounts(t *testing.T) {
	w, r := NewMemory(Settings{Timeout: time.Second, MaxConns: 7})
	if !r.Joined() || w.Settings().Timeout != time.Second || w.Settings().MaxConns != 7 {
		t.Fatalf("joined %v, settings %+v", r.Joined(), w.Settings())
	}
	var conns []*Conn
	for range 20 {
		c := w.Open()
		c.Add(Accepted, 1)
		conns = append(conns, c)
	}
	start := w.Now()
	conns[3].Begin(start - int64(2*time.Second))
	conns[4].Begin(start)
	if r.Running() != 2 || r.Connections() != 20 {
		t.Errorf("running %d, connections %d", r.Running(), r.Connections())
	}
	if d := r.Oldest(); d < 2*time.Second || d > 3*time.Second {
		t.Errorf("oldest %v", d)
	}
	conns[3].SetStarted(0)
	if d := r.Oldest(); d > time.Second {
		t.Errorf("oldest %v after the first byte", d)
	}
	conns[3].End(3 * time.Millisecond)
	conns[4].End(time.Hour)
	totals := r.Totals()
	if totals.Get(Finished) != 2 || totals.Latency[4] != 1 || totals.Latency[Buckets-1] != 1 {
		t.Errorf("%+v", totals)
	}
	if r.Oldest() != 0 || r.Running() != 0 {
		t.Errorf("oldest %v, running %d", r.Oldest(), r.Running())
	}
	var sum Totals
	sum.Add(totals)
	sum.Add(totals)
	if sum.Get(Accepted) != 40 || sum.Latency[4] != 2 {
		t.Errorf("%+v", sum)
	}
}

func TestBucketsCoverEveryDuration(t *testing.T) {
	for i := range Buckets - 1 {
		if got := bucket(BucketBound(i)); got != i {
			t.Errorf("bucket(%v) = %d, want %d", BucketBound(i), got, i)
		}
		if got := bucket(BucketBound(i) + 1); got != i+1 {
			t.Errorf("bucket(%v) = %d, want %d", BucketBound(i)+1, got, i+1)
		}
	}
	for _, d := range []time.Duration{-time.Hour, 0, 1} {
		if got := bucket(d); got != 0 {
			t.Errorf("bucket(%v) = %d", d, got)
		}
	}
}

func TestReleasedRecordsAreUsedAgain_AndThereIsALifeBeyondTheLast(t *testing.T) {
	w, r := NewMemory(Settings{})
	var conns []*Conn
	for range MaxConns + 10 {
		conns = append(conns, w.Open())
	}
	last := conns[len(conns)-1]
	last.Begin(w.Now() - int64(time.Minute)) // served and counted, not stamped
	if r.Running() != 1 || r.Oldest() != 0 {
		t.Errorf("running %d, oldest %v", r.Running(), r.Oldest())
	}
	last.End(time.Minute)
	conns[5].Begin(w.Now() - int64(time.Minute))
	w.Release(conns[5])
	if r.Oldest() != 0 {
		t.Error("a released record still has a stamp")
	}
	w.Release(last)
	if again := w.Open(); again.index != 5 {
		t.Errorf("index %d, want the released 5", again.index)
	}
}

func TestLabelsAreInternedAndBounded(t *testing.T) {
	w, r := NewMemory(Settings{})
	a, b := w.Label("requests{route=\"/\"}"), w.Label("requests{route=\"/\"}")
	a.Add(2)
	b.Add(3)
	w.Label("gauge").Set(-7)
	long := strings.Repeat("x", 200)
	w.Label(long).Add(1)
	if got := r.Labels(); got["requests{route=\"/\"}"] != 5 || got["gauge"] != -7 || got[long[:labelText]] != 1 {
		t.Errorf("%v", got)
	}
	for i := range 2 * MaxLabels {
		w.Label(fmt.Sprint("name ", i)).Add(1)
	}
	got := r.Labels()
	if len(got) != MaxLabels || got["other"] < MaxLabels {
		t.Errorf("%d labels, other %d", len(got), got["other"])
	}
}

func TestReaderDoesNotTrustTheWriter(t *testing.T) {
	w, r := NewMemory(Settings{})
	for i := offJoined; i < len(w.mem); i++ {
		w.mem[i] = 0xff
	}
	r.Totals()
	r.Labels()
	r.Running()
	r.Connections()
	r.SinceBeat()
	if d := r.Oldest(); d < 0 {
		t.Errorf("oldest %v", d)
	}
}

func TestCountersAddUpUnderConcurrency(t *testing.T) {
	w, r := NewMemory(Settings{})
	var wait sync.WaitGroup
	for range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			c := w.Open()
			defer w.Release(c)
			for range 1000 {
				c.Begin(w.Now())
				c.End(0)
				r.Totals()
				r.Oldest()
			}
		}()
	}
	wait.Wait()
	if n := r.Total(Finished); n != 16000 {
		t.Errorf("finished %d", n)
	}
}

func BenchmarkBeginEnd(b *testing.B) {
	w := Local(Settings{})
	c := w.Open()
	now := w.Now()
	b.ReportAllocs()
	for b.Loop() {
		c.Begin(now)
		c.Add(BytesIn, 100)
		c.Add(BytesOut, 100)
		c.End(time.Millisecond)
	}
}

func BenchmarkBeginEndParallel(b *testing.B) {
	w := Local(Settings{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := w.Open()
		now := w.Now()
		for pb.Next() {
			c.Begin(now)
			c.Add(BytesIn, 100)
			c.Add(BytesOut, 100)
			c.End(time.Millisecond)
		}
	})
}

func BenchmarkOldest(b *testing.B) {
	w, r := NewMemory(Settings{})
	for range 4096 {
		w.Open().Begin(w.Now())
	}
	for b.Loop() {
		r.Oldest()
	}
}

// A worker of before there were these counters: good answers and the time that all took are derived.
func TestTotalsOfAnOlderWorker(t *testing.T) {
	w, r := NewMemory(Settings{})
	c := w.Open()
	for range 8 {
		c.Begin(w.Now())
		c.End(800 * time.Microsecond) // in the bucket from 0.5 to 1 ms
	}
	c.Add(Errors, 2)
	c.Add(Succeeded, 6)
	now := r.Totals()
	if now.Get(Took) != uint64(8*800*time.Microsecond) || now.Get(Succeeded) != 6 {
		t.Errorf("%+v", now)
	}
	for s := range Shards {
		for _, counter := range []Counter{Succeeded, Took} {
			*w.mem.counter(s, counter) = 0
		}
	}
	w.mem.store(offCounts, 0)
	old := r.Totals()
	if old.Get(Took) != uint64(8*750*time.Microsecond) || old.Get(Succeeded) != 6 {
		t.Errorf("derived: %+v", old)
	}
}

// The worker's words are numbers only: sizes beyond the table lead nowhere.
func TestLabelsOfAHostileWorker(t *testing.T) {
	w, r := NewMemory(Settings{})
	w.Label("first_total").Add(1)
	w.mem.store(offLabels+8, 1<<60) // the name's length
	w.mem.store(offLabelled, 1<<60) // how many there are
	n := 0
	r.EachLabel(func(name []byte, value int64) {
		if n == 0 && (len(name) != labelText || !strings.HasPrefix(string(name), "first_total\x00") || value != 1) {
			t.Errorf("%q is %d", name, value)
		}
		n++
	})
	if n != MaxLabels {
		t.Errorf("%d labels", n)
	}
}
