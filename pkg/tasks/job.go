package tasks

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/tracecontext"
)

// Job is what a handler gets. The payload must not be changed.
type Job struct {
	ID        string
	Name      string
	Queue     string
	Priority  int
	Payload   []byte
	Attempt   int // 1 for the first
	Max       int
	Crashes   int // runners that died with it: it may have been begun that often before
	Postponed int // runs that did not count: something was away or full
	Enqueued  time.Time
	Parent    string // the id of the job that this one follows (Then)
	Input     []byte // what that one returned; also the payload if the job has none of its own
	// Trace is for whom the job is done, its span this attempt: also tracecontext.From of the handler's context. Not Valid without one.
	Trace tracecontext.Context

	namespace string
	progress  progress
	log       *zap.Logger // nil: silent
}

type jobKey struct{}

// FromContext returns the job that a handler's context belongs to, nil elsewhere.
func FromContext(ctx context.Context) *Job {
	job, _ := ctx.Value(jobKey{}).(*Job)
	return job
}

// Logger is the runner's, with the job's id, name, attempt and trace_id on each line; a silent one outside of handlers.
func Logger(ctx context.Context) *zap.Logger {
	job := FromContext(ctx)
	if job == nil || job.log == nil {
		return zap.NewNop()
	}
	return job.log.With(zap.String("job", job.ID), zap.String("name", job.Name), zap.Int("attempt", job.Attempt), job.traceField())
}

// traceField names the job's trace in a line of the log; nothing without one.
func (j *Job) traceField() zap.Field {
	if !j.Trace.Valid() {
		return zap.Skip()
	}
	return zap.Stringer("trace_id", j.Trace.Trace)
}

// Progress is what a handler last told.
type Progress struct {
	Percent int
	Note    string
}

// Progress of a job is side data: written at most twice a second, the last word wins, lost when Redis is away.
const (
	progressEvery = 500 * time.Millisecond
	progressTTL   = 24 * time.Hour // outlives any sensible pause between two words; deleted at the end
	maxNote       = 500            // bytes
)

// Progress tells how far the job is. It never waits for Redis.
func (j *Job) Progress(percent int, note string) { j.progress.set(Progress{percent, note}) }

// progress passes the last word on, not more often than progressEvery.
type progress struct {
	write func(Progress) // nil: nobody wants to know

	mu    sync.Mutex
	last  Progress
	timer *time.Timer // runs while a write was made less than progressEvery ago
	dirty bool        // last was told after that write
	used  bool
	over  bool
}

func (p *progress) set(said Progress) {
	said.Note = cut(strings.ToValidUTF8(said.Note, "?"), maxNote)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.write == nil || p.over {
		return
	}
	p.last = said
	if p.timer != nil {
		p.dirty = true
		return
	}
	p.used = true
	p.timer = time.AfterFunc(progressEvery, p.again)
	go p.write(said)
}

func (p *progress) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if p.dirty && !p.over {
		p.dirty = false
		p.timer = time.AfterFunc(progressEvery, p.again)
		go p.write(p.last)
	}
}

// end reports whether anything was written. Nothing is written after it, but for one write that may be under way.
func (p *progress) end() (used bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
	return p.used
}

func (p Progress) encode() string { return strconv.Itoa(p.Percent) + " " + p.Note }

func decodeProgress(s string) Progress {
	number, note, _ := strings.Cut(s, " ")
	percent, _ := strconv.Atoi(number)
	return Progress{percent, note}
}
