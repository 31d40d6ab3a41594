package supervisor

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// stream is one of the two ways out: the workers' stdout (accesslog), or the workers' stderr and our own log (errorlog).
type stream int

const (
	streamOut stream = iota
	streamErr
	numStreams
)

// sinkQueue is how many pieces of output may wait for a slow terminal or disk.
const sinkQueue = 256

// sinkFlush bounds how long a stop waits for an output that nobody reads.
const sinkFlush = 2 * time.Second

// sink owns the log files. Its goroutine alone writes, whole lines only, so a reopen falls between two lines and nothing tears.
type sink struct {
	pieces chan piece
	done   chan struct{} // closed when run has returned
	lost   atomic.Uint64 // of our own log lines, when the queue was full

	// Only used by run.
	files [numStreams]*os.File
	paths [numStreams]string
}

// piece is something to write, or a question: reopen or close, answered on reply.
type piece struct {
	stream stream
	lines  []byte // whole lines; the sink keeps it
	reply  chan<- error
	close  bool
}

// newSink opens the two files ("-" or "": stdout and stderr) and starts writing.
func newSink(accessLog, errorLog string) (*sink, error) {
	s := &sink{pieces: make(chan piece, sinkQueue), done: make(chan struct{})}
	s.paths = [numStreams]string{accessLog, errorLog}
	if err := s.open(); err != nil {
		return nil, err
	}
	go s.run()
	return s, nil
}

func (s *sink) open() error {
	var opened [numStreams]*os.File
	for i, path := range s.paths {
		switch {
		case path != "" && path != "-":
			f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
			if err != nil {
				return fmt.Errorf("open log: %w", err)
			}
			opened[i] = f
		case stream(i) == streamOut:
			opened[i] = os.Stdout
		default:
			opened[i] = os.Stderr
		}
	}
	for i, f := range s.files {
		if f != nil && f != os.Stdout && f != os.Stderr {
			f.Close()
		}
		s.files[i] = opened[i]
	}
	s.files = opened
	return nil
}

func (s *sink) run() {
	defer close(s.done)
	for p := range s.pieces {
		switch {
		case p.close:
			p.reply <- nil
			return
		case p.reply != nil:
			p.reply <- s.open() // on error the old files stay
		default:
			s.files[p.stream].Write(p.lines) // a full disk must not stop the service
		}
	}
}

// write queues whole lines and waits for room: a worker's pipe holds what a slow reader cannot take.
func (s *sink) write(to stream, lines []byte) {
	select {
	case s.pieces <- piece{stream: to, lines: lines}:
	case <-s.done:
	}
}

// Write queues a line of our own log. It never waits: a terminal that nobody reads must not stop the loop.
func (s *sink) Write(line []byte) (int, error) {
	select {
	case s.pieces <- piece{stream: streamErr, lines: append([]byte(nil), line...)}:
	default:
		s.lost.Add(1)
	}
	return len(line), nil
}

// Sync is there for zap; every line is written as it comes.
func (s *sink) Sync() error { return nil }

// reopen closes and opens the files under their names.
func (s *sink) reopen() error {
	reply := make(chan error, 1)
	select {
	case s.pieces <- piece{reply: reply}:
		return <-reply
	case <-time.After(sinkFlush):
		return fmt.Errorf("reopen logs: output is blocked")
	case <-s.done:
		return nil
	}
}

// close writes what is queued and ends the sink.
func (s *sink) close() {
	reply := make(chan error, 1)
	timeout := time.After(sinkFlush)
	select {
	case s.pieces <- piece{close: true, reply: reply}:
		select {
		case <-s.done:
		case <-timeout:
		}
	case <-timeout:
	}
}
