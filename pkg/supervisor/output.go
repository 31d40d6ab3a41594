package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

// outputPipe carries one stream of one worker into the sink, line by line.
type outputPipe struct {
	stream stream
	file   *os.File // our end, in the netpoller
	mode   config.OutputMode
	name   string // of the one who writes: a worker's id, or a pool and a hook
	sink   *sink
	done   chan struct{} // closed when all was read
	paused atomic.Bool   // run ends at a deadline, and may be started again

	// Only used by run, and by finish after it.
	partial []byte   // a line whose end has not come yet
	tail    [][]byte // the last lines of stderr, or the first ones of a Go crash
	crash   string   // the kind of that crash
}

const (
	pipeSize = 1 << 20   // bytes that a worker can write while we are busy or dead
	maxLine  = 256 << 10 // a longer line is cut in two
	tailSize = 10        // lines that a crash report shows
	tailLine = 512       // bytes of each
	// outputGrace is how long output is awaited after the process group was killed: a process that left the group may hold the pipe
	// open for ever.
	outputGrace = 500 * time.Millisecond
)

// newOutputPipe makes a pipe and gives the end for the worker.
func newOutputPipe(s stream, name string, mode config.OutputMode, sink *sink) (*outputPipe, int, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("output pipe: %w", err)
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // refused beyond the user's limit: then 64 KiB must do
	return openOutputPipe(s, fds[0], name, mode, sink), fds[1], nil
}

// openOutputPipe reads from a pipe that is there already.
func openOutputPipe(s stream, fd int, name string, mode config.OutputMode, sink *sink) *outputPipe {
	return &outputPipe{stream: s, file: pollable(fd, "output "+name), mode: mode, name: name, sink: sink, done: make(chan struct{})}
}

// run reads until all writers are gone, or until it is paused.
func (p *outputPipe) run() {
	chunk := make([]byte, 64<<10)
	for {
		n, err := p.file.Read(chunk)
		p.take(chunk[:n])
		if err != nil && p.paused.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			if len(p.partial) > 0 {
				p.take([]byte("\n"))
			}
			p.file.Close()
			close(p.done)
			return
		}
	}
}

// ended reports whether all was read.
func (p *outputPipe) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// unfinished gives the line whose end has not come yet. Only while run does not run.
func (p *outputPipe) unfinished() []byte { return p.partial }

// take passes on the whole lines of what was read.
func (p *outputPipe) take(data []byte) {
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && len(p.partial)+len(data) < maxLine {
		p.partial = append(p.partial, data...)
		return
	}
	lines, rest := data[:end], data[end:]
	if end == 0 {
		lines, rest = append(data[:len(data):len(data)], '\n'), nil // an endless line
	}
	out := p.sink.room(len(p.partial) + len(lines) + bytes.Count(lines, []byte("\n"))*p.growth())
	now := time.Now()
	if len(p.partial) > 0 {
		first := bytes.IndexByte(lines, '\n') + 1
		out = p.format(out, append(p.partial, lines[:first]...), now)
		lines = lines[first:]
	}
	p.sink.write(chunk{writer: p.name, stream: p.stream, mode: p.mode, lines: p.format(out, lines, now)})
	if cap(p.partial) > maxSpare {
		p.partial = nil
	}
	p.partial = append(p.partial[:0], rest...)
}

// growth is by how many bytes a line grows in the output mode, if nothing in it has to be escaped.
func (p *outputPipe) growth() int {
	switch p.mode {
	case config.OutputJSON:
		return jsonExtra + len(p.name)
	case config.OutputRaw:
		return 0
	}
	return len("[] ") + len(p.name)
}

// format appends the lines as the pool's output mode wants them.
func (p *outputPipe) format(out, lines []byte, now time.Time) []byte {
	if p.mode == config.OutputRaw && p.stream == streamOut {
		return append(out, lines...)
	}
	var before []byte
	switch p.mode {
	case config.OutputJSON:
		before = now.AppendFormat(append(before, `{"time":"`...), time.RFC3339Nano)
		before = append(append(before, `","worker":"`...), p.name...) // of letters, digits, - _ . and, of hooks, spaces
		before = append(append(append(before, `","stream":"`...), streamNames[p.stream]...), `","text":"`...)
	case config.OutputRaw:
	default:
		before = append(append(append(before, '['), p.name...), "] "...)
	}
	for line := range bytes.Lines(lines) {
		if p.stream == streamErr {
			p.remember(line)
		}
		out = append(out, before...)
		if p.mode == config.OutputJSON {
			out = append(appendEscaped(out, bytes.TrimRight(line, "\r\n")), '"', '}', '\n')
		} else {
			out = append(out, line...)
		}
	}
	return out
}

// appendEscaped appends what stands between the quotes of a JSON string. Bytes that are no UTF-8 become U+FFFD.
func appendEscaped(to, text []byte) []byte {
	const hex = "0123456789abcdef"
	from := 0 // what is to be copied as it is begins there
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && size == 1 {
				to = append(append(to, text[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += size
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			to = append(to, text[from:i]...)
			if from = i + 1; c < ' ' {
				to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				to = append(to, '\\', c)
			}
		}
		i++
	}
	return append(to, text[from:]...)
}

// jsonExtra is what a line grows by in the output mode json, if nothing in it is escaped.
const jsonExtra = len(`{"time":"2026-01-02T15:04:05.123456789+01:00","worker":"","stream":"stdout","text":""}`)

// jsonLine is a line in the output mode json.
type jsonLine struct {
	Time   time.Time `json:"time"`
	Worker string    `json:"worker"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`
}

func (p *outputPipe) remember(line []byte) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 {
		return
	}
	if crash := goCrash(line); crash != "" {
		p.crash, p.tail = crash, nil
	}
	if len(p.tail) == tailSize {
		if p.crash != "" {
			return
		}
		p.tail = p.tail[1:]
	}
	p.tail = append(p.tail, append([]byte(nil), line[:min(len(line), tailLine)]...))
}

// goCrash gives the kind of crash when a Go program's last words begin here, else "". What matters comes first there, the stacks follow.
func goCrash(line []byte) string {
	for _, kind := range []string{"panic", "fatal error", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGQUIT"} {
		if bytes.HasPrefix(line, []byte(kind+": ")) {
			return kind
		}
	}
	return ""
}

// finish waits for the rest of a dead worker's output and gives its last words, and the kind of a Go crash.
func (p *outputPipe) finish() (words []string, crash string) {
	p.file.SetReadDeadline(time.Now().Add(outputGrace))
	select {
	case <-p.done:
	case <-time.After(2 * outputGrace):
		return nil, "" // our own output is blocked; what is left comes when it flows again
	}
	for _, line := range p.tail {
		words = append(words, string(line))
	}
	return words, p.crash
}
