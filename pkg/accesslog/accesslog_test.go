package accesslog

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// request makes the context of a request as a handler leaves it.
func request(uri string, headers ...string) *fasthttp.RequestCtx {
	var r fasthttp.Request
	r.SetRequestURI(uri)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&r, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4711}, nil)
	ctx.WriteString("hello")
	return ctx
}

func entry(status int) *Entry {
	return &Entry{Status: status, At: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC), Took: 1234567 * time.Nanosecond, ID: []byte("00f067aa0ba902b7")}
}

// on opens a log on a pipe, and gives the end to read.
func on(t testing.TB, o Options) (*Log, *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	out := &output{}
	out.use(write)
	return start(o, out), read
}

// lines reads what is in a pipe whose writers have nothing more to say.
func lines(t *testing.T, read *os.File) []string {
	t.Helper()
	read.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	all, err := io.ReadAll(read)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if len(all) > 0 && all[len(all)-1] != '\n' {
		t.Errorf("the end is torn: %.200q", all[max(0, len(all)-200):])
	}
	return strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
}

type count struct{ atomic.Int64 }

func (c *count) Add(n int64) { c.Int64.Add(n) }

// Nobody reads: the pipe fills up, then the ring. Each request goes on, and each line is either in the pipe or counted.
func TestReaderThatNeverReadsHoldsUpNoRequest(t *testing.T) {
	t.Parallel()
	const requests = 50_000
	lost := &count{}
	log, read := on(t, Options{Sample: All, Lost: lost})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			ctx, e := request("/tasks?state=dead"), entry(200)
			for range requests / 8 {
				log.Log(ctx, e)
			}
		})
	}
	wait.Wait() // would not end if one of them had to wait for the reader
	log.Close(10 * time.Millisecond)
	got := lines(t, read)
	written, gone := log.Stats()
	if uint64(len(got)) != written || written+gone != requests || gone == 0 || written == 0 || lost.Load() != int64(gone) {
		t.Errorf("%d lines in the pipe, written %d + lost %d (counted %d), want %d in all", len(got), written, gone, lost.Load(), requests)
	}
	log.Log(request("/"), entry(200))
	if _, more := log.Stats(); more != gone+1 {
		t.Errorf("a request after the end: %d lost, want %d", more, gone+1)
	}
}

// A reader that is slower than the requests gets whole lines in order, and the count of the rest.
func TestLinesAreWholeAndCountedUnderLoad(t *testing.T) {
	t.Parallel()
	const requests, writers = 40_000, 4
	log, read := on(t, Options{Sample: All})
	last, got := [writers]int{}, 0
	done := make(chan error, 1)
	go func() {
		for in := bufio.NewScanner(read); in.Scan(); got++ {
			var line struct{ Path string }
			var writer, n int
			if err := json.Unmarshal(in.Bytes(), &line); err != nil {
				done <- fmt.Errorf("%q: %w", in.Text(), err)
				return
			}
			if line.Path == "/end" {
				break
			}
			if _, err := fmt.Sscanf(line.Path, "/%d/%d", &writer, &n); err != nil || n <= last[writer] {
				done <- fmt.Errorf("%q after %d: %w", line.Path, last[writer], err)
				return
			}
			last[writer] = n
		}
		done <- nil
	}()
	var wait sync.WaitGroup
	for writer := range writers {
		wait.Go(func() {
			for n := range requests / writers {
				log.Log(request(fmt.Sprintf("/%d/%d", writer, n+1)), entry(200))
			}
		})
	}
	wait.Wait()
	var err error
	for over := false; !over; { // until one finds room
		log.Log(request("/end"), entry(500))
		select {
		case err = <-done:
			over = true
		case <-time.After(2 * gather):
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	log.Close(time.Second)
	written, lost := log.Stats()
	if uint64(got)+1 > written || written+lost < requests+1 {
		t.Errorf("read %d, written %d, lost %d of %d", got, written, lost, requests)
	}
}

func TestTwoProcessesOnOnePipeTearNoLine(t *testing.T) {
	t.Parallel()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var logs [2]*Log
	for i := range logs {
		out := &output{}
		out.use(write)
		logs[i] = start(Options{Sample: All, Worker: fmt.Sprint("web.", i)}, out)
	}
	var wait sync.WaitGroup
	for _, log := range logs {
		wait.Go(func() {
			for n := range 3000 {
				log.Log(request("/"+strings.Repeat("x", n%600)), entry(200))
			}
			log.Close(time.Minute)
		})
	}
	go func() { wait.Wait(); write.Close() }()
	n := uint64(0)
	for in := bufio.NewScanner(read); in.Scan(); n++ {
		if !json.Valid(in.Bytes()) {
			t.Fatalf("torn: %q", in.Text())
		}
	}
	a, lostA := logs[0].Stats()
	b, lostB := logs[1].Stats()
	if n != a+b || a+b+lostA+lostB != 6000 {
		t.Errorf("%d lines, written %d and %d, lost %d and %d", n, a, b, lostA, lostB)
	}
}

func TestReaderThatIsGoneIsCounted(t *testing.T) {
	t.Parallel()
	log, read := on(t, Options{Sample: All})
	read.Close()
	for range 100 {
		log.Log(request("/"), entry(200))
	}
	log.Close(time.Minute)
	if written, lost := log.Stats(); written != 0 || lost != 100 {
		t.Errorf("written %d, lost %d", written, lost)
	}
}

func TestSampleLeavesOutAllButFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sample      float64
		least, most int // of 300 with 200: what the pipe holds
	}{{0, 0, 0}, {0.5, 80, 220}, {All, 300, 300}} {
		log, read := on(t, Options{Sample: c.sample})
		for range 300 {
			log.Log(request("/ok"), entry(200))
		}
		for range 10 {
			log.Log(request("/failed"), entry(503))
		}
		log.Close(time.Minute)
		ok, failed := 0, 0
		for _, line := range lines(t, read) {
			if strings.Contains(line, `"/ok"`) {
				ok++
			} else if strings.Contains(line, `"status":503`) {
				failed++
			}
		}
		if ok < c.least || ok > c.most || failed != 10 {
			t.Errorf("sample %v: %d of 300, and %d of 10 failures", c.sample, ok, failed)
		}
	}
	for _, bad := range []float64{-0.1, 1.1} {
		if _, err := Open(Options{Sample: bad}); err == nil {
			t.Errorf("a sample of %v was taken", bad)
		}
	}
}

// A log file is moved away again and again while requests go on: no line is lost, torn, or written into a file that was moved before.
func TestReopenedFileGetsAllThatFollows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	log, err := Open(Options{Path: path, Sample: All})
	if err != nil {
		t.Fatal(err)
	}
	var sent int
	for turn := range 10 {
		moved := filepath.Join(dir, fmt.Sprint("access.log.", turn))
		for range 500 {
			log.Log(request(fmt.Sprintf("/%d/%d", turn, sent)), entry(200))
			sent++
		}
		if err := os.Rename(path, moved); err != nil {
			t.Fatal(err)
		}
		log.Reopen()
		for { // the file is there again: what comes from now on goes there
			if _, err := os.Stat(path); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	log.Close(time.Minute)
	log.Reopen() // harms nobody
	seen := 0
	for turn := range 11 {
		name := filepath.Join(dir, fmt.Sprint("access.log.", turn))
		if turn == 10 {
			name = path
		}
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			var got struct{ Path string }
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			if want := fmt.Sprintf("/%d/%d", turn, seen); got.Path != want {
				t.Fatalf("%s: %s, want %s", name, got.Path, want)
			}
			seen++
		}
	}
	if _, lost := log.Stats(); seen != sent || lost != 0 {
		t.Errorf("%d lines of %d, %d lost", seen, sent, lost)
	}
}

func TestFileThatCannotBeOpenedAgainIsReported(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	problems := make(chan error, 1)
	log, err := Open(Options{Path: filepath.Join(dir, "access.log"), Sample: All, Problem: func(err error) { problems <- err }})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	log.Reopen()
	if err := <-problems; !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	log.Log(request("/"), entry(200))
	log.Close(time.Minute)
	if content, err := os.ReadFile(filepath.Join(dir+".old", "access.log")); err != nil || len(content) == 0 {
		t.Errorf("the line is not in the old file: %q, %v", content, err)
	}
	if _, err := Open(Options{Path: filepath.Join(dir, "access.log")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestFullDiskIsCountedAndTearsOneLine(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	out := &output{}
	out.use(full)
	log := start(Options{Sample: All}, out)
	for range 10 {
		log.Log(request("/"), entry(200))
	}
	log.Close(time.Minute)
	if written, lost := log.Stats(); written != 0 || lost != 10 {
		t.Errorf("written %d, lost %d", written, lost)
	}
	// A write that breaks off leaves half a line: the next one does not go on in it.
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out.use(file)
	out.torn = true
	never := func() bool { return false }
	if n := out.write([]byte("whole\n"), never); n != 6 || out.torn {
		t.Errorf("%d bytes, torn %v", n, out.torn)
	}
	if content, _ := os.ReadFile(file.Name()); string(content) != "\nwhole\n" {
		t.Errorf("%q", content)
	}
}

func TestRequestsAllocateNothing(t *testing.T) {
	log, read := on(t, Options{Sample: All, Worker: "web.0.1"})
	go io.Copy(io.Discard, read)
	ctx, e := request("/tasks?x=1", "Referer", "http://example.org/", "User-Agent", "test"), entry(200)
	// The writer's own buffers grow at first.
	for range 3000 {
		log.Log(ctx, e)
	}
	time.Sleep(3 * gather)
	if n := testing.AllocsPerRun(1000, func() { log.Log(ctx, e) }); n >= 1 {
		t.Errorf("%v allocations per request", n)
	}
	log.Close(time.Second)
}

func TestHandlerLogsWhatItAnswers(t *testing.T) {
	t.Parallel()
	log, read := on(t, Options{Sample: All})
	ctx := request("/x", "X-Request-ID", "abc")
	log.Handler(func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(404) })(ctx)
	log.Close(time.Minute)
	if got := lines(t, read); len(got) != 1 || !strings.Contains(got[0], `"status":404`) || !strings.Contains(got[0], `"request_id":"abc"`) {
		t.Errorf("%q", got)
	}
	var none *Log
	none.Log(ctx, entry(200))
	none.Reopen()
	none.Close(0)
}

func BenchmarkLog(b *testing.B) {
	log, read := on(b, Options{Sample: All, Worker: "web.0.1"})
	go io.Copy(io.Discard, read)
	ctx, e := request("/tasks?state=dead", "User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"), entry(200)
	b.ReportAllocs()
	for b.Loop() {
		log.Log(ctx, e)
	}
	written, lost := log.Stats()
	b.ReportMetric(float64(lost)/float64(lost+written+1), "lost")
}

func BenchmarkFormat(b *testing.B) {
	for name, format := range map[string]Format{"json": JSON, "combined": Combined} {
		b.Run(name, func(b *testing.B) {
			f := newFormatter(Options{Format: format, Worker: "web.0.1", Generation: 3})
			var r record
			ctx := request("/tasks?state=dead", "User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
			r.fill(ctx, entry(200), peer(ctx))
			var line []byte
			b.ReportAllocs()
			for b.Loop() {
				line = f.append(line[:0], &r)
			}
		})
	}
}
