package accesslog

import (
	"os"
	"time"
)

const (
	// pipeChunk is what a pipe takes in one piece, without mixing it with what other processes write (PIPE_BUF of Linux), and what it has room for
	// when poll says that it can be written to. No line is longer.
	pipeChunk = 4096
	// largeChunk is what a file takes at once, and a pipe that is almost empty: who reads it wakes up once for so much, not for each 4 KiB.
	largeChunk = 64 << 10

	// lookEvery is how long a writer waits for a reader before it looks whether it was told to end.
	lookEvery = 100 * time.Millisecond
)

// output is where lines go.
type output struct {
	path  string // "": stdout
	file  *os.File
	chunk int  // bytes of a write at most
	waits bool // a write may have to wait for a reader
	holds int  // bytes that a pipe holds; 0: it is none, or nobody knows
	torn  bool // the last write broke off within a line
}

func openOutput(path string) (*output, error) {
	if path == "-" {
		path = ""
	}
	o := &output{path: path}
	return o, o.open()
}

func (o *output) open() error {
	file := os.Stdout
	if o.path != "" {
		var err error
		if file, err = os.OpenFile(o.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640); err != nil {
			return err
		}
	}
	o.use(file)
	return nil
}

func (o *output) use(file *os.File) {
	o.file, o.chunk, o.waits, o.holds = file, pipeChunk, true, 0
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.Mode().IsRegular():
		o.chunk, o.waits = largeChunk, false
	case info.Mode()&os.ModeNamedPipe != 0:
		if o.holds = pipeSize(file); o.holds >= 16*pipeChunk {
			o.chunk = largeChunk
		} else {
			o.holds = 0
		}
	}
}

// reopen opens the file of that path anew; when it cannot, lines go on into the old one.
func (o *output) reopen() error {
	if o.path == "" {
		return nil
	}
	old := o.file
	if err := o.open(); err != nil {
		return err
	}
	o.torn = false
	return old.Close()
}

func (o *output) close() {
	if o.path != "" {
		o.file.Close()
	}
}

// write writes as much as it can, and gives how many bytes that was: less when the output does not take them, or when over says so while a
// reader is awaited.
func (o *output) write(p []byte, over func() bool) (done int) {
	if o.torn {
		if n := o.write1([]byte("\n"), over); n == 0 {
			return 0
		}
		o.torn = false
	}
	done = o.write1(p, over)
	o.torn = done > 0 && p[done-1] != '\n'
	return done
}
