package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

func rawChunk(writer, lines string) chunk {
	return chunk{writer: writer, mode: config.OutputRaw, lines: []byte(lines)}
}

// linesOf gives what somebody would read.
func (r *recent) linesOf(q control.LogQuery) []control.LogLine {
	var lines []control.LogLine
	for _, c := range r.find(q) {
		lines = append(lines, c.decode()...)
	}
	return lines
}

func TestOneWhoWritesALotWashesAwayOnlyHisOwn(t *testing.T) {
	var r recent
	r.keep(rawChunk("web.0.1", "the last words of the one before\n"))
	long := strings.Repeat("x", 1000) + "\n"
	for i := range 5000 {
		r.keep(rawChunk("web.1.2", fmt.Sprint(i, " ", long)))
		if i%10 == 0 {
			r.keep(rawChunk(fmt.Sprintf("jobs.%d.%d", i%70, i), "a line now and then\n"))
		}
	}
	size := 0
	for _, tail := range r.tails {
		sum := 0
		for _, c := range tail.chunks {
			sum += c.cost()
		}
		if sum != tail.size {
			t.Errorf("%d bytes are counted as %d", sum, tail.size)
		}
		size += sum
	}
	if size != r.size || size > recentSize || size < recentSize-5000 {
		t.Errorf("%d bytes, counted as %d", size, r.size)
	}
	if got := r.linesOf(control.LogQuery{What: "web.0"}); len(got) != 1 || got[0].Worker != "web.0.1" || got[0].Text != "the last words of the one before" {
		t.Errorf("%+v", got)
	}
	if got := r.linesOf(control.LogQuery{What: "jobs"}); len(got) != 500 {
		t.Errorf("%d lines of the jobs", len(got))
	}
	loud := r.linesOf(control.LogQuery{What: "web.1.2"})
	if len(loud) == 0 || !strings.HasPrefix(loud[len(loud)-1].Text, "4999 ") {
		t.Errorf("%d lines of the loud one", len(loud))
	}
	if !slices.IsSortedFunc(r.linesOf(control.LogQuery{}), func(a, b control.LogLine) int { return a.At.Compare(b.At) }) {
		t.Error("not in their order")
	}
}

func TestSourcesThatAreGoneDoNotPileUp(t *testing.T) {
	var r recent
	for i := range 2 * recentSources {
		r.keep(rawChunk(fmt.Sprintf("pool%d.0.1", i), "x\n"))
	}
	if len(r.tails) != recentSources || r.tails["pool0.0"] != nil || r.tails[fmt.Sprintf("pool%d.0", 2*recentSources-1)] == nil {
		t.Errorf("%d sources", len(r.tails))
	}
}

// What is told is what the worker wrote, whatever the output mode made of it.
func TestRecentOutputIsWhatWasWritten(t *testing.T) {
	for _, mode := range []config.OutputMode{config.OutputPrefix, config.OutputRaw, config.OutputJSON} {
		pipe := &outputPipe{name: "web.0.1", mode: mode, stream: streamErr}
		c := chunk{writer: pipe.name, stream: streamErr, mode: mode, lines: pipe.format(nil, []byte("[web.0.1] one\r\n\n\ttwo \"<é>\"\n"), time.Now())}
		var texts []string
		for _, l := range c.decode() {
			if l.Worker != "web.0.1" || l.Stream != "stderr" {
				t.Errorf("%+v", l)
			}
			texts = append(texts, l.Text)
		}
		if got := strings.Join(texts, "|"); got != "[web.0.1] one||\ttwo \"<é>\"" {
			t.Errorf("%s: %s", mode, got)
		}
	}
}

func TestLogQueries(t *testing.T) {
	var r recent
	r.keep(rawChunk("web.0.1", "a\n"))
	r.keep(chunk{writer: "web.1.2", stream: streamErr, mode: config.OutputRaw, lines: []byte("b\nc\n")})
	r.keep(rawChunk("web before_start", "d\n"))
	r.keep(rawChunk("website.0.1", "e\n"))
	all := r.linesOf(control.LogQuery{})
	r.last = time.Now().Add(time.Hour) // a clock that was set back
	r.keep(rawChunk("later.0.1", "f\n"))
	r.keep(rawChunk("later.0.1", "g\n"))
	if later := r.linesOf(control.LogQuery{What: "later"}); !later[0].At.After(all[4].At) || !later[1].At.After(later[0].At) {
		t.Errorf("%+v", later)
	}
	delete(r.tails, "later.0")
	for want, q := range map[string]control.LogQuery{
		"a b c d e": {}, "a b c d": {What: "web"}, "a": {What: "web.0"}, "b c": {Stderr: true}, "d e": {After: all[1].At}, "": {What: "web.0.2"},
	} {
		var texts []string
		for _, l := range r.linesOf(q) {
			texts = append(texts, l.Text)
		}
		if got := strings.Join(texts, " "); got != want {
			t.Errorf("%+v: %s", q, got)
		}
		if parsed, err := control.ParseLogQuery(q.Values()); err != nil || !parsed.After.Equal(q.After) || parsed.What != q.What || parsed.Stderr != q.Stderr {
			t.Errorf("%+v, %v", parsed, err)
		}
	}
}

// A reader that takes nothing costs the sink nothing but a bounded memory, and learns how much he has lost.
func TestSinkDoesNotWaitForAReader(t *testing.T) {
	dir := t.TempDir()
	s, err := newSink(logPaths{filepath.Join(dir, "out"), filepath.Join(dir, "err")}, testTuning())
	if err != nil {
		t.Fatal(err)
	}
	reader := newLogReader(control.LogQuery{What: "web"})
	found := make(chan []chunk, 1)
	s.pieces <- piece{find: &control.LogQuery{}, reader: reader, found: found}
	<-found
	line := strings.Repeat("x", 3999) + "\n"
	const lines = 3000
	for range lines {
		s.write(rawChunk("web.0.1", line))
	}
	s.close()
	var got uint64
	for len(reader.chunks) > 0 {
		c := <-reader.chunks
		reader.took(c)
		got += uint64(c.count())
	}
	if lost := reader.lost.Load(); lost == 0 || got+lost != lines || got > readerSize/4000 || got < 100 || reader.queued.Load() != 0 {
		t.Errorf("%d came, %d are lost, %d bytes wait", got, reader.lost.Load(), reader.queued.Load())
	}
	if text, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || bytes.Count(text, []byte("\n")) != lines {
		t.Errorf("%d lines are in the file, %v", bytes.Count(text, []byte("\n")), err)
	}
}

func TestControlLogs(t *testing.T) {
	pool := onPort(testPool("worker"))
	trap := filepath.Join(t.TempDir(), "trap")
	bad := testPool("trap:" + trap)
	bad.Name = "bad"
	silent := testPool("worker")
	silent.Name, silent.Output = "silent", config.OutputInherit
	m, c := serving(t, silent, pool, bad)
	ctx := testContext(t)
	os.WriteFile(trap, nil, 0o600)
	unix.Kill(m.pids()[2], unix.SIGKILL)
	m.awaitEvent(control.EventDegraded, "in a crash loop", 1)
	logs, err := c.Logs(ctx, control.LogQuery{What: "bad.0", Newest: 2, Stderr: true})
	if err != nil || len(logs.Lines) != 2 || logs.Lines[0].Text != "caught in the trap" || logs.Lines[0].Worker == logs.Lines[1].Worker || logs.Lines[0].Stream != "stderr" {
		t.Errorf("%+v, %v", logs, err)
	}
	if logs, err = c.Logs(ctx, control.LogQuery{What: control.SupervisorName}); err != nil || len(logs.Lines) == 0 || !strings.Contains(logs.Lines[0].Text, "listening") {
		t.Errorf("%+v, %v", logs, err)
	}
	for what, want := range map[string]struct {
		status int
		text   string
	}{"wbe": {404, `there is no pool "wbe"`}, "silent.0": {409, `output = "inherit"`}} {
		_, err := c.Logs(ctx, control.LogQuery{What: what})
		if status, text := refusal(t, err); status != want.status || !strings.Contains(text, want.text) {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	// One who follows gets all that comes, the last words of a stop included.
	texts := make(chan string, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- c.FollowLogs(ctx, control.LogQuery{After: time.Now()}, func(l control.LogLine) error {
			texts <- l.Worker + " " + l.Text
			return nil
		})
	}()
	m.until("it follows", func() bool { return m.streams.Load() == 1 })
	m.signal(os.Interrupt)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(texts)
	var all []string
	for text := range texts {
		all = append(all, text)
	}
	if got := strings.Join(all, "\n"); !strings.Contains(got, "quick stop") || !strings.Contains(all[len(all)-1], "stopped") {
		t.Errorf("%s", got)
	}
}

// An output that nobody takes is told as such.
func TestControlLogsWhileTheOutputIsBlocked(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(blocked, 0o600); err != nil {
		t.Fatal(err)
	}
	nobody, err := os.OpenFile(blocked, os.O_RDWR, 0) // keeps it open, reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	cfg := testConfig(onPort(testPool("worker")))
	cfg.ErrorLog = blocked
	m, c := controlled(t, cfg)
	m.await("pool serves", 1)
	for range 100 {
		m.log.Info(strings.Repeat("x", 4096))
	}
	_, err = c.Logs(testContext(t), control.LogQuery{})
	if status, text := refusal(t, err); status != 503 || !strings.Contains(text, "nobody takes the supervisor's own output") {
		t.Errorf("%d %s", status, text)
	}
}
