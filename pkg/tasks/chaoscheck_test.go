//go:build unix

package tasks

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// told is what the witness's file says, read on as it grows.
type told struct {
	path      string
	at        int64
	ran       map[string][]begun // by id
	accepted  map[string]bool
	order     []string          // accepted, as they came
	duplicate map[string]string // refused ids, and who had their key
	stale     map[int]bool      // pids that lost a lease
	begun     []begun           // and returned, as it happened
	errors    []string
}

// begun is one begin of a handler, or its return.
type begun struct {
	id   string
	pid  int
	left bool // it is the return of one
}

func newTold(path string) *told {
	return &told{path: path, ran: map[string][]begun{}, accepted: map[string]bool{}, duplicate: map[string]string{}, stale: map[int]bool{}}
}

func (w *told) settled(id string) bool { return w.accepted[id] || w.duplicate[id] != "" }

func (w *told) read(t testing.TB) {
	t.Helper()
	f, err := os.Open(w.path)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(w.at, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // the rest of it comes later
		}
		w.at += int64(len(line))
		what, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		id, rest, _ := strings.Cut(id, " ")
		switch what {
		case "accepted":
			if !w.accepted[id] {
				w.accepted[id] = true
				w.order = append(w.order, id)
			}
		case "duplicate":
			w.duplicate[id] = rest
		case "ran":
			pid, _ := strconv.Atoi(rest)
			b := begun{id: id, pid: pid}
			w.begun = append(w.begun, b)
			w.ran[id] = append(w.ran[id], b)
		case "left":
			pid, _ := strconv.Atoi(rest)
			w.begun = append(w.begun, begun{id, pid, true})
		case "stale":
			pid, _ := strconv.Atoi(id)
			w.stale[pid] = true
		case "error":
			w.errors = append(w.errors, id+": "+rest)
		}
	}
}

// tally is what the checker counts, to be compared with the books.
type tally struct {
	ends                      map[State]int64
	duplicates, repeats, late int
	postponed                 int64
}

// check compares what Redis says of every job with what was asked for, and with what the witness saw.
func (c *chaos) check() {
	c.told.read(c.t)
	for _, err := range c.told.errors {
		c.t.Errorf("enqueue: %s", err)
	}
	sum := &tally{ends: map[State]int64{}}
	for i := range c.jobs {
		j := chaosJobOf(c.seed, i)
		if !c.told.accepted[j.id] {
			c.checkRefused(j, sum)
			continue
		}
		state := c.checkJob(j.id, j, sum)
		for _, id := range j.next {
			if state != Done {
				c.checkAbsent(id)
				continue
			}
			state = c.checkJob(id, nil, sum)
		}
	}
	for _, id := range c.extra {
		c.checkJob(id, nil, sum)
	}
	c.checkUnique()
	for _, queue := range chaosQueues {
		c.checkRecent(queue)
	}
	if c.postgres != nil {
		c.checkArchive(sum)
	}

	b := c.books(chaosQueues...)
	var ended int64
	for _, n := range sum.ends {
		ended += n
	}
	for _, x := range []struct {
		what           string
		books, counted int64
	}{
		{"accepted", b.Accepted, ended}, {"done", b.Done, sum.ends[Done]}, {"dead", b.Dead, sum.ends[Dead]},
		{"cancelled", b.Cancelled, sum.ends[Cancelled]}, {"expired", b.Expired, sum.ends[Expired]}, {"lost", b.Lost, 0}, {"revived", b.Revived, 0},
		{"postponed", b.Postponed, sum.postponed},
	} {
		if x.books != x.counted {
			c.t.Errorf("%s: the books say %d, the jobs %d", x.what, x.books, x.counted)
		}
	}
	for what, least := range map[string]int64{
		"done": sum.ends[Done], "dead": sum.ends[Dead], "cancelled": sum.ends[Cancelled], "refused as duplicates": int64(sum.duplicates),
		"crashed": b.Crashed,
	} {
		if least == 0 {
			c.t.Errorf("%s: none, this was no chaos", what)
		}
	}
	c.t.Logf("%d done, %d dead, %d cancelled, %d expired, %d refused as duplicates", sum.ends[Done], sum.ends[Dead], sum.ends[Cancelled],
		sum.ends[Expired], sum.duplicates)
	c.t.Logf("taken from dead runners %d, begun again %d, %d cancels came too late", b.Crashed, sum.repeats, sum.late)
}

// checkJob checks one that was accepted: it has ended, in a way that it may end in, and its handler began if it had to.
func (c *chaos) checkJob(id string, j *chaosJob, sum *tally) State {
	s, err := c.c().Status(context.Background(), id)
	if err != nil {
		c.t.Errorf("%s was accepted: %v", id, err)
		return ""
	}
	sum.ends[s.State]++
	sum.postponed += int64(s.Postponed)
	ran := len(c.told.ran[id])
	sum.repeats += max(0, ran-s.Attempt-s.Postponed)
	ends := []State{Done}
	if j != nil {
		ends = chaosKinds[j.kind].ends
	}
	asked, tried := c.cancelled[id]
	switch {
	case s.State == Cancelled && c.tried[id]:
		return s.State
	case !slices.Contains(ends, s.State):
		c.t.Errorf("%s is %s, may be %v: %+v", id, s.State, ends, s)
	case tried && asked == Cancelled:
		c.t.Errorf("%s was cancelled before it began, and is %s", id, s.State)
	case tried && asked == Cancelling:
		sum.late++
	}
	switch {
	case s.State == Expired:
		if ran > 0 {
			c.t.Errorf("%s is expired, and began %d times", id, ran)
		}
	case ran == 0 && !(s.State == Dead && j.name() == "deadline"):
		c.t.Errorf("%s is %s, and never began", id, s.State)
	}
	if s.State == Done {
		result, err := c.c().Result(context.Background(), id)
		if err != nil || string(result) != "result of "+id {
			c.t.Errorf("result of %s: %q, %v", id, result, err)
		}
	}
	return s.State
}

func (c *chaos) checkRefused(j *chaosJob, sum *tally) {
	holder := c.told.duplicate[j.id]
	if holder == "" {
		c.t.Errorf("%s was neither accepted nor refused", j.id)
		return
	}
	sum.duplicates++
	if j.scope == 0 {
		c.t.Errorf("%s was refused for %s, and has no unique key", j.id, holder)
	}
	c.checkAbsent(j.id)
	if len(c.told.ran[j.id]) > 0 {
		c.t.Errorf("%s was refused, and ran", j.id)
	}
}

func (c *chaos) checkAbsent(id string) {
	if s, err := c.c().Status(context.Background(), id); !errors.Is(err, ErrNotFound) {
		c.t.Errorf("%s must not be there: %+v, %v", id, s, err)
	}
}

// checkUnique checks that of the jobs with one key for UntilDone none began before the one before it had returned. One that a runner without
// its lease still runs does not count, nor one that was cancelled or never came to its end.
func (c *chaos) checkUnique() {
	keys := map[string]string{}
	for i := range c.jobs {
		if j := chaosJobOf(c.seed, i); j.scope == UntilDone {
			keys[j.id] = j.unique
		}
	}
	runs, checked := map[string]begun{}, 0 // by key: who runs
	for _, b := range c.told.begun {
		key := keys[b.id]
		other, busy := runs[key]
		switch {
		case key == "":
		case c.stopped[b.pid] || c.told.stale[b.pid]:
			if !b.left && other.id == b.id { // it was taken from who had it, who may never say that it returned
				delete(runs, key)
			}
		case b.left:
			if other == (begun{id: b.id, pid: b.pid}) {
				delete(runs, key)
			}
		default:
			checked++
			if busy && other.id != b.id && c.status(other.id).State == Done {
				c.t.Errorf("%s began before %s had returned, which has the same unique key", b.id, other.id)
			}
			runs[key] = b
		}
	}
	if checked == 0 {
		c.t.Error("no job with a unique key ran")
	}
}

// checkRecent checks that the lists of what ended lately tell of nothing else.
func (c *chaos) checkRecent(queue string) {
	for _, state := range []State{Done, Cancelled, Expired} {
		page, err := c.c().Inspector().Jobs(context.Background(), Filter{Queue: queue, State: state, Limit: 1000})
		if err != nil {
			c.t.Errorf("the last %s of %s: %v", state, queue, err)
		}
		seen := map[string]bool{}
		for _, s := range page.Jobs {
			if s.State != state || seen[s.ID] {
				c.t.Errorf("among the last %s of %s: %s, %s, twice: %v", state, queue, s.ID, s.State, seen[s.ID])
			}
			seen[s.ID] = true
		}
	}
}

// checkArchive checks that the archive has every end. Those that no runner told come a few seconds later.
func (c *chaos) checkArchive(sum *tally) {
	p := c.c().options.Postgres
	archived := func() map[State]int64 {
		rows, err := p.pool.Query(context.Background(), `select state, count(*) from tasks_archive where namespace = $1 group by state`, c.namespace)
		if err != nil {
			c.t.Fatal(err)
		}
		defer rows.Close()
		found := map[State]int64{}
		for rows.Next() {
			var state State
			var n int64
			if err := rows.Scan(&state, &n); err != nil {
				c.t.Fatal(err)
			}
			found[state] = n
		}
		return found
	}
	same := func(found map[State]int64) bool {
		for _, state := range []State{Done, Dead, Cancelled, Expired} {
			if found[state] != sum.ends[state] {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(time.Minute); !same(archived()); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			c.t.Errorf("the archive has %v, Redis %v", archived(), sum.ends)
			return
		}
	}
}
