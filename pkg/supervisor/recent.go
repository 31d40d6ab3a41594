package supervisor

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// recent holds the latest output of every slot, whatever process is in it, of hooks, and of ourselves. All together it is bounded: who has most loses
// its oldest lines first, so that one who writes a lot does not wash away what another one said before it died. Only used by sink.run.
type recent struct {
	tails   map[string]*tail // by source
	size    int
	last    time.Time // of the latest chunk
	readers []*logReader
	spare   chan<- []byte // takes memory back; nil: nobody does
}

const (
	recentSize    = 1 << 20 // bytes of all chunks
	recentSources = 4096    // slots, and hooks: names that a service had once
	chunkSize     = 128     // what a chunk costs besides its bytes
)

// tail is the output of one source, oldest first.
type tail struct {
	chunks []chunk
	size   int
}

// chunk is whole lines that were read at once, as the sink has written them: nothing is copied for this.
type chunk struct {
	at     time.Time
	writer string // web.2.17
	stream stream
	mode   config.OutputMode
	lines  []byte
	lent   bool // somebody else has it, too, for as long as he likes
}

func (c *chunk) cost() int { return cap(c.lines) + chunkSize }

// sourceOf gives what a writer's lines are kept under: its slot.
func sourceOf(writer string) string {
	if i := strings.LastIndexByte(writer, '.'); i > strings.IndexByte(writer, '.') {
		return writer[:i]
	}
	return writer
}

// keep takes a chunk, and gives it to those who follow.
func (r *recent) keep(c chunk) {
	if c.at = time.Now().Round(0); !c.at.After(r.last) {
		c.at = r.last.Add(time.Nanosecond) // who comes back asks for what is later
	}
	r.last = c.at
	if r.tails == nil {
		r.tails = map[string]*tail{}
	}
	source := sourceOf(c.writer)
	t := r.tails[source]
	if t == nil {
		r.makeRoom()
		t = &tail{}
		r.tails[source] = t
	}
	c.lent = len(r.readers) > 0
	t.chunks = append(t.chunks, c)
	t.size += c.cost()
	r.size += c.cost()
	for r.size > recentSize {
		r.drop(source, t)
	}
	if len(r.readers) > 0 {
		r.readers = slices.DeleteFunc(r.readers, func(l *logReader) bool { return l.gone.Load() })
		for _, l := range r.readers {
			l.offer(c)
		}
	}
}

// drop forgets the oldest chunk of who has most. The one who has just written is asked first: mostly it is him.
func (r *recent) drop(source string, t *tail) {
	if t.size <= r.size/len(r.tails) || len(t.chunks) == 1 {
		for name, other := range r.tails {
			if other.size > t.size {
				source, t = name, other
			}
		}
	}
	cost := t.chunks[0].cost()
	if c := &t.chunks[0]; !c.lent && cap(c.lines) == maxSpare {
		select {
		case r.spare <- c.lines:
		default:
		}
	}
	t.chunks[0] = chunk{}
	t.chunks = t.chunks[1:] // append moves what is left to the front now and then
	t.size -= cost
	r.size -= cost
	if len(t.chunks) == 0 {
		delete(r.tails, source)
	}
}

// makeRoom forgets the source that has been silent for longest, when there are too many.
func (r *recent) makeRoom() {
	if len(r.tails) < recentSources {
		return
	}
	oldest := ""
	newest := func(t *tail) time.Time { return t.chunks[len(t.chunks)-1].at }
	for name, t := range r.tails {
		if oldest == "" || newest(t).Before(newest(r.tails[oldest])) {
			oldest = name
		}
	}
	r.size -= r.tails[oldest].size
	delete(r.tails, oldest)
}

// find gives the chunks that may have lines for somebody, in their order.
func (r *recent) find(q control.LogQuery) []chunk {
	var found []chunk
	for _, t := range r.tails {
		for i := range t.chunks {
			if c := &t.chunks[i]; c.wanted(q) {
				c.lent = true
				found = append(found, *c)
			}
		}
	}
	slices.SortFunc(found, func(a, b chunk) int { return a.at.Compare(b.at) })
	return found
}

func (c *chunk) wanted(q control.LogQuery) bool {
	return (!q.Stderr || c.stream == streamErr) && c.at.After(q.After) && control.LogLine{Worker: c.writer}.About(q.What)
}

// count gives how many lines it has.
func (c *chunk) count() int { return bytes.Count(c.lines, []byte{'\n'}) }

// decode gives its lines as they were before format.
func (c *chunk) decode() []control.LogLine {
	var lines []control.LogLine
	prefix := []byte("[" + c.writer + "] ")
	for line := range bytes.Lines(c.lines) {
		l := control.LogLine{At: c.at, Worker: c.writer, Stream: streamNames[c.stream]}
		switch line = bytes.TrimRight(line, "\r\n"); c.mode {
		case config.OutputJSON:
			var as jsonLine
			json.Unmarshal(line, &as)
			l.Text = as.Text
		case config.OutputRaw:
			l.Text = string(line)
		default:
			l.Text = string(bytes.TrimPrefix(line, prefix))
		}
		lines = append(lines, l)
	}
	return lines
}

// logReader is somebody who follows. The sink offers, and never waits: what does not fit is lost, and counted.
type logReader struct {
	query  control.LogQuery
	chunks chan chunk
	queued atomic.Int64  // bytes of them
	lost   atomic.Uint64 // lines, since it was told last
	gone   atomic.Bool
}

const (
	readerChunks = 1024
	readerSize   = 1 << 20 // bytes that wait for one reader
)

func newLogReader(q control.LogQuery) *logReader {
	return &logReader{query: q, chunks: make(chan chunk, readerChunks)}
}

func (l *logReader) offer(c chunk) {
	if !c.wanted(l.query) {
		return
	}
	size := int64(c.cost())
	if l.queued.Add(size) <= readerSize {
		select {
		case l.chunks <- c:
			return
		default:
		}
	}
	l.queued.Add(-size)
	l.lost.Add(uint64(c.count()))
}

// took notes that a chunk is not queued any more.
func (l *logReader) took(c chunk) { l.queued.Add(-int64(c.cost())) }
