package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// stream is one of the two ways out: the workers' stdout (accesslog), or the workers' stderr and our own log (errorlog).
type stream int

const (
	streamOut stream = iota
	streamErr
	numStreams
)

var streamNames = [numStreams]string{"stdout", "stderr"}

// sinkQueue is how many pieces of output may wait for a slow terminal or disk.
const sinkQueue = 256

// sinkFlush bounds how long a stop waits for an output that nobody reads.
const sinkFlush = 2 * time.Second

// sink owns the log files. Its goroutine alone writes, whole lines only, so a reopen falls between two lines and nothing tears.
type sink struct {
	own       chan []byte // our own log; it goes before the workers' output
	pieces    chan piece
	done      chan struct{} // closed when run has returned
	lost      atomic.Uint64 // lines since the last own one that was written: own ones that found no room, and those that a file did not take
	lostInAll atomic.Uint64
	tune      *logTuning  // how our own lines look
	spare     chan []byte // memory of maxSpare bytes that nobody needs any more, see room

	// Only used by run.
	files  [numStreams]*os.File
	torn   [numStreams]bool // the last write broke off within a line
	paths  logPaths
	recent recent
}

// logPaths are the files of both streams; "-" or "": stdout and stderr.
type logPaths [numStreams]string

func logPathsOf(cfg *config.Config) logPaths {
	return logPaths{streamOut: cfg.AccessLog, streamErr: cfg.ErrorLog}
}

// piece is something to write, or a wish: open the files at these paths, find recent output, or end. A wish is answered on its channel.
type piece struct {
	chunk  // whole lines; the sink keeps them
	open   *logPaths
	reply  chan<- error
	find   *control.LogQuery
	reader *logReader // who wants to have what comes after that, or nil
	found  chan<- []chunk
	end    bool
}

// newSink opens the files and starts writing.
func newSink(paths logPaths, tune *logTuning) (*sink, error) {
	s := &sink{tune: tune, spare: make(chan []byte, 8), own: make(chan []byte, sinkQueue), pieces: make(chan piece, sinkQueue), done: make(chan struct{})}
	s.recent.spare = s.spare
	if err := s.open(paths); err != nil {
		return nil, err
	}
	go s.run()
	return s, nil
}

// open opens both files, or changes nothing.
func (s *sink) open(paths logPaths) error {
	var opened [numStreams]*os.File
	for i, path := range paths {
		switch {
		case path != "" && path != "-":
			f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
			if err != nil {
				closeLogs(opened)
				return fmt.Errorf("open log: %w", err)
			}
			opened[i] = f
		case stream(i) == streamOut:
			opened[i] = os.Stdout
		default:
			opened[i] = os.Stderr
		}
	}
	closeLogs(s.files)
	s.files, s.paths, s.torn = opened, paths, [numStreams]bool{}
	return nil
}

func closeLogs(files [numStreams]*os.File) {
	for _, f := range files {
		if f != nil && f != os.Stdout && f != os.Stderr {
			f.Close()
		}
	}
}

func (s *sink) run() {
	defer close(s.done)
	for {
		select { // what we have to say ourselves goes first: the workers refill their queue as fast as it empties
		case line := <-s.own:
			s.writeOwn(line)
			continue
		default:
		}
		select {
		case line := <-s.own:
			s.writeOwn(line)
		case p := <-s.pieces:
			switch {
			case p.end:
				for len(s.own) > 0 {
					s.writeOwn(<-s.own)
				}
				return
			case p.open != nil:
				p.reply <- s.open(*p.open)
			case p.find != nil:
				p.found <- s.recent.find(*p.find)
				if p.reader != nil {
					s.recent.readers = append(s.recent.readers, p.reader)
				}
			default:
				s.put(p.stream, p.lines)
				s.recent.keep(p.chunk)
			}
		}
	}
}

func (s *sink) writeOwn(line []byte) {
	before := s.lost.Load()
	s.put(streamErr, line)
	s.recent.keep(chunk{writer: control.SupervisorName, stream: streamErr, mode: config.OutputRaw, lines: line})
	if before > 0 && s.lost.CompareAndSwap(before, 0) { // this line found room
		s.put(streamErr, s.tune.line(zap.WarnLevel, "lines of the logs found no room, and are lost", zap.Uint64("lines", before)))
	}
}

// put writes whole lines. What the file does not take is counted: a full disk must not stop the service. A line that broke off is ended before
// the next one begins.
func (s *sink) put(to stream, lines []byte) {
	if s.torn[to] {
		if _, err := s.files[to].Write([]byte("\n")); err != nil {
			s.lose(bytes.Count(lines, []byte("\n")))
			return
		}
		s.torn[to] = false
	}
	n, err := s.files[to].Write(lines)
	if err != nil {
		s.lose(bytes.Count(lines[n:], []byte("\n")))
		s.torn[to] = n > 0 && lines[n-1] != '\n'
	}
}

func (s *sink) lose(lines int) {
	s.lost.Add(uint64(lines))
	s.lostInAll.Add(uint64(lines))
}

// maxSpare is the size of memory that is used again: that of a full read of a pipe, and what its lines grow by.
const maxSpare = 96 << 10

// room gives memory for so many bytes. Workers that write a lot would keep the collector busy with what was written a moment ago: so large pieces
// come back when recent forgets them.
func (s *sink) room(bytes int) []byte {
	if bytes < maxSpare/2 || bytes > maxSpare {
		return make([]byte, 0, bytes)
	}
	select {
	case b := <-s.spare:
		return b[:0]
	default:
		return make([]byte, 0, maxSpare)
	}
}

// write queues whole lines of a worker and waits for room: its pipe holds what a slow reader cannot take.
func (s *sink) write(c chunk) {
	select {
	case s.pieces <- piece{chunk: c}:
	case <-s.done:
	}
}

// Write queues a line of our own log. It never waits: a terminal that nobody reads must not stop the loop.
func (s *sink) Write(line []byte) (int, error) {
	select {
	case s.own <- append([]byte(nil), line...):
	default:
		s.lose(1)
	}
	return len(line), nil
}

// Sync is there for zap; every line is written as it comes.
func (s *sink) Sync() error { return nil }

// reopen closes the files and opens these, and tells how it went. It does not wait: the output may be blocked for long.
func (s *sink) reopen(paths logPaths, tell func(error)) {
	reply := make(chan error, 1)
	wish := piece{open: &paths, reply: reply}
	queued := false
	select {
	case s.pieces <- wish: // before anything that a worker writes because it was told to reopen, too
		queued = true
	default:
	}
	go func() {
		if !queued {
			select {
			case s.pieces <- wish:
			case <-s.done:
				return
			}
		}
		select {
		case err := <-reply:
			tell(err)
		case <-s.done:
		}
	}()
}

// close writes what is queued and ends the sink.
func (s *sink) close() {
	timeout := time.After(sinkFlush)
	select {
	case s.pieces <- piece{end: true}:
		select {
		case <-s.done:
		case <-timeout:
		}
	case <-timeout:
	}
}
