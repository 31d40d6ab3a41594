package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

func testTuning() *logTuning { return newLogTuning(&config.Config{}, new(atomic.Bool)) }

// modes are the output modes that pass through us, and what is left of a line when the mode's own part is taken away.
var modes = map[config.OutputMode]func(line string) (text string, ok bool){
	config.OutputPrefix: func(line string) (string, bool) { return strings.CutPrefix(line, "[web.0.1] ") },
	config.OutputRaw:    func(line string) (string, bool) { return line, true },
	config.OutputJSON: func(line string) (string, bool) {
		var object struct {
			Time                 time.Time
			Worker, Stream, Text string
		}
		err := json.Unmarshal([]byte(line), &object)
		return object.Text + "\n", err == nil && object.Worker == "web.0.1" && object.Stream == "stdout" && time.Since(object.Time) < time.Hour
	},
}

// However a worker's writes fall, its lines come out whole and in order, and its logs may be moved away at any moment: what is written into the
// new file begins after a line's end, and nothing more goes into the old one.
func TestLinesAreWholeInEachModeWhileTheirLogIsMoved(t *testing.T) {
	for mode, strip := range modes {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			s, err := newSink(logPaths{path, filepath.Join(dir, "err")}, testTuning())
			if err != nil {
				t.Fatal(err)
			}
			pipe, end, err := newOutputPipe(streamOut, "web.0.1", mode, s)
			if err != nil {
				t.Fatal(err)
			}
			go pipe.run()
			worker := os.NewFile(uintptr(end), "worker")
			var sent bytes.Buffer
			random := rand.New(rand.NewPCG(1, 2))
			for i := range 8_000 {
				fmt.Fprintf(&sent, "line %d %s\n", i, strings.Repeat("x", random.IntN(300)))
			}
			const moves = 10
			written, portions := make(chan error, 1), make(chan bool, moves)
			go func() { // in pieces that know nothing of lines; the next tenth not before the log was moved once more
				defer worker.Close()
				portion := 0
				for rest := sent.Bytes(); len(rest) > 0; {
					if portion <= 0 {
						<-portions
						portion = sent.Len()/moves + 1
					}
					n := min(1+random.IntN(9000), len(rest))
					portion -= n
					if _, err := worker.Write(rest[:n]); err != nil {
						written <- err
						return
					}
					rest = rest[n:]
				}
				written <- nil
			}()
			var moved []string
			sizes := map[string]int64{}
			for n := range moves {
				portions <- true
				for { // each file gets something
					if info, err := os.Stat(path); err == nil && info.Size() > 0 || pipe.ended() {
						break
					}
					time.Sleep(time.Millisecond)
				}
				name := filepath.Join(dir, fmt.Sprint("out.", n))
				if err := os.Rename(path, name); err != nil {
					t.Fatal(err)
				}
				moved = append(moved, name)
				reopened := make(chan error, 1)
				s.reopen(logPaths{path, filepath.Join(dir, "err")}, func(err error) { reopened <- err })
				if err := <-reopened; err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				sizes[name] = info.Size()
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			<-pipe.done
			s.close()
			var got bytes.Buffer
			files := 0
			for _, name := range append(moved, path) {
				content, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if size, was := sizes[name]; was && size != int64(len(content)) {
					t.Errorf("%s had %d bytes when the new file was open, and has %d", name, size, len(content))
				}
				if len(content) > 0 {
					files++
				}
				for line := range strings.Lines(string(content)) {
					text, ok := strip(line)
					if !ok || !strings.HasSuffix(line, "\n") {
						t.Fatalf("%s: torn: %q", name, line)
					}
					got.WriteString(text)
				}
			}
			if !bytes.Equal(got.Bytes(), sent.Bytes()) {
				t.Errorf("%d bytes came out of %d", got.Len(), sent.Len())
			}
			if files < moves {
				t.Errorf("only %d files have got something", files)
			}
		})
	}
}

// A line longer than maxLine comes in pieces, each a line of its mode; what never ends does not grow for ever; bytes that are no text do not break JSON.
func TestLongLinesAndOddBytes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 3*maxLine/10)
	for mode, strip := range modes {
		dir := t.TempDir()
		s, err := newSink(logPaths{filepath.Join(dir, "out"), filepath.Join(dir, "err")}, testTuning())
		if err != nil {
			t.Fatal(err)
		}
		pipe, end, err := newOutputPipe(streamOut, "web.0.1", mode, s)
		if err != nil {
			t.Fatal(err)
		}
		go pipe.run()
		worker := os.NewFile(uintptr(end), "worker")
		io.WriteString(worker, "before\n"+long+"\nodd \xff\x00\x1b[31m\r\n\nwithout an end")
		worker.Close()
		<-pipe.done
		s.close()
		content, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for line := range strings.Lines(string(content)) {
			text, ok := strip(line)
			if !ok || len(text) > maxLine+64<<10 {
				t.Fatalf("%s: %d bytes: %.100q", mode, len(line), line)
			}
			texts = append(texts, strings.TrimSuffix(text, "\n"))
		}
		n := len(texts)
		odd := "odd \xff\x00\x1b[31m\r"
		if mode == config.OutputJSON {
			odd = "odd \ufffd\x00\x1b[31m"
		}
		if n < 7 || texts[0] != "before" || strings.Join(texts[1:n-3], "") != long || texts[n-3] != odd || texts[n-2] != "" || texts[n-1] != "without an end" {
			t.Errorf("%s: %d lines, the last %q", mode, n, texts[max(0, n-3):])
		}
	}
}

// What a full disk does not take is counted and said, in the form of the log, once there is room; a line that broke off does not swallow the next.
func TestLinesThatAFileDoesNotTakeAreCounted(t *testing.T) {
	t.Parallel()
	for _, format := range []string{config.LogConsole, config.LogJSON} {
		// A pipe that is full for a while plays the disk: a write into it breaks off at its deadline.
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, 4096)
		read, full := os.NewFile(uintptr(ends[0]), "read"), os.NewFile(uintptr(ends[1]), "full")
		s := &sink{tune: newLogTuning(&config.Config{LogFormat: format}, new(atomic.Bool)), files: [numStreams]*os.File{full, full}}
		full.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		s.put(streamErr, bytes.Repeat([]byte("ten bytes\n"), 1000))
		s.put(streamErr, []byte("lost, too\n"))
		const room = 4096 / 10
		if got := s.lostInAll.Load(); got != 1001-room || !s.torn[streamErr] {
			t.Errorf("%d lines of 1001 are lost, torn %v", got, s.torn[streamErr])
		}
		buffer := make([]byte, 4096)
		if n, err := io.ReadFull(read, buffer); n != 4096 || err != nil {
			t.Fatal(n, err)
		}
		full.SetWriteDeadline(time.Time{})
		s.writeOwn([]byte("our own\n"))
		n, err := read.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(buffer[:n]), "\n")
		if len(lines) != 4 || lines[0] != "" || lines[1] != "our own" || !strings.Contains(lines[2], "found no room, and are lost") || !strings.Contains(lines[2], fmt.Sprint(1001-room)) {
			t.Errorf("%q", lines)
		}
		if isJSON := json.Valid([]byte(lines[2])); isJSON != (format == config.LogJSON) {
			t.Errorf("%s: %s", format, lines[2])
		}
		read.Close()
		full.Close()
	}
}

// The same with a real supervisor: USR1 again and again while a worker writes, in each mode.
func TestSignalsToReopenTearNothing(t *testing.T) {
	for mode, strip := range modes {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			const lines = 3000
			pool := testPool("lines:" + fmt.Sprint(lines))
			pool.Output = mode
			cfg := testConfig(pool)
			m := startMaster(t, cfg)
			m.await("pool serves", 1)
			var files []string
			content := func() (all string) {
				for _, name := range append(files, cfg.AccessLog) {
					text, _ := os.ReadFile(name)
					all += string(text)
				}
				return all
			}
			for deadline := time.Now().Add(eventually); strings.Count(content(), "\n") < lines && time.Now().Before(deadline); {
				moved := fmt.Sprint(cfg.AccessLog, ".", len(files))
				if err := os.Rename(cfg.AccessLog, moved); err != nil {
					t.Fatal(err)
				}
				files = append(files, moved)
				m.signal(syscall.SIGUSR1)
				m.await("logs reopened", len(files))
			}
			i := 0
			for line := range strings.Lines(content()) {
				text, ok := strip(line)
				if want := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", i%300)); !ok || text != want {
					t.Fatalf("line %d is %q, want %q", i, line, want)
				}
				i++
			}
			if i != lines {
				t.Errorf("%d lines, want %d", i, lines)
			}
		})
	}
}

// The memory of large pieces is used again, but not while somebody has it: who asked for recent output, who follows, or the file.
func TestMemoryThatSomebodyHasIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out")
	s, err := newSink(logPaths{path, path}, testTuning())
	if err != nil {
		t.Fatal(err)
	}
	pipe := &outputPipe{name: "web.0.1", mode: config.OutputRaw, stream: streamOut, sink: s}
	var sent bytes.Buffer
	write := func(n int) {
		piece := bytes.Repeat(fmt.Appendf(nil, "piece %d %s\n", n, strings.Repeat("x", 90)), 600)
		sent.Write(piece)
		pipe.take(piece)
	}
	look := func(reader *logReader) []chunk {
		found := make(chan []chunk, 1)
		s.pieces <- piece{find: &control.LogQuery{}, reader: reader, found: found}
		return <-found
	}
	for n := range 100 {
		write(n)
	}
	found := look(nil)
	if len(s.spare) == 0 || len(found) < 5 {
		t.Errorf("%d pieces came back, %d are kept", len(s.spare), len(found))
	}
	var were [][]byte
	for _, c := range found {
		were = append(were, bytes.Clone(c.lines))
	}
	for n := range 50 {
		write(100 + n)
	}
	reader := newLogReader(control.LogQuery{})
	look(reader)
	for n := range 50 {
		write(150 + n)
	}
	look(nil) // all is written
	for i, c := range found {
		if !bytes.Equal(c.lines, were[i]) {
			t.Errorf("what began with %.12q begins with %.12q", were[i], c.lines)
		}
	}
	for n := 150; len(reader.chunks) > 0; n++ {
		if c := <-reader.chunks; !bytes.HasPrefix(c.lines, fmt.Appendf(nil, "piece %d ", n)) {
			t.Errorf("piece %d begins with %.12q", n, c.lines)
		}
	}
	s.close()
	if content, err := os.ReadFile(path); err != nil || !bytes.Equal(content, sent.Bytes()) {
		t.Errorf("the file has %d bytes of %d, %v", len(content), sent.Len(), err)
	}
}

func BenchmarkOutput(b *testing.B) {
	for mode := range modes {
		b.Run(string(mode), func(b *testing.B) {
			s, err := newSink(logPaths{os.DevNull, os.DevNull}, testTuning())
			if err != nil {
				b.Fatal(err)
			}
			pipe := &outputPipe{name: "web.0.1", mode: mode, stream: streamOut, sink: s}
			lines := bytes.Repeat([]byte(strings.Repeat("x", 279)+"\n"), 230) // what is read at once
			b.ReportAllocs()
			for b.Loop() {
				pipe.take(lines)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(230*b.N), "ns/line")
			s.close()
		})
	}
}
