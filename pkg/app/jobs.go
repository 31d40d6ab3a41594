package app

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"supervisor/pkg/operator"
	"supervisor/pkg/tasks"
)

// Jobs as operators see them, in the words of the HTTP answers, the jobs page and `app jobs`.

// Inspector looks at the queues and changes them.
func (t *Tasks) Inspector() *tasks.Inspector { return t.client.Inspector() }

// EnqueueBytes stores a job whose payload is made already.
func (t *Tasks) EnqueueBytes(ctx context.Context, name string, payload []byte, options ...tasks.Option) (id string, err error) {
	id, err = t.client.Enqueue(ctx, name, payload, options...)
	return id, t.note(err)
}

// Purge lets all jobs of a state go, and their uploads with them.
func (t *Tasks) Purge(ctx context.Context, queue string, state tasks.State) (gone int64, err error) {
	gone, err = t.Inspector().Purge(ctx, queue, state, func(ids []string) {
		for _, id := range ids {
			t.store.dropUpload(ctx, id)
		}
	})
	return gone, t.note(err)
}

// Verify reads every key of the queues, and says what does not add up.
func (t *Tasks) Verify(ctx context.Context, queues ...string) (tasks.Books, error) {
	return tasks.Verify(ctx, t.client, queues...)
}

// JobPage is the answer of GET /tasks.
type JobPage struct {
	Jobs []taskStatus `json:"jobs"`
	Next string       `json:"next_cursor,omitempty"`
}

// DescribePage says what a page holds.
func DescribePage(p tasks.Page) JobPage {
	page := JobPage{Jobs: make([]taskStatus, 0, len(p.Jobs)), Next: p.Next}
	for _, job := range p.Jobs {
		page.Jobs = append(page.Jobs, describeForOperator(job))
	}
	return page
}

// describeForOperator tells the error as it was: strangers learn only those that are meant for them.
func describeForOperator(s tasks.Status) taskStatus {
	d := describe(s)
	if e := d.Error; e != nil && e.Code == "internal" {
		d.Error = &errorBody{Code: e.Code, Message: s.Error}
	}
	return d
}

// JobDetail is one job with what it carries.
type JobDetail struct {
	taskStatus
	Priority int    `json:"priority"`
	Crashes  int    `json:"crashes,omitempty"`
	Runner   string `json:"runner,omitempty"`
	TraceID  string `json:"trace_id,omitempty"` // of the request, or whatever, that it was enqueued for
	Size     int    `json:"size"`               // bytes of the payload, or of the result when it is done
	Payload  string `json:"payload,omitempty"`
	Result   string `json:"result,omitempty"`
	Hex      bool   `json:"hex,omitempty"` // the bytes are no text, and shown as a dump
	Cut      bool   `json:"cut,omitempty"` // there are more
}

// DescribeDetail says all that is known of a job.
func DescribeDetail(job tasks.Detail) JobDetail {
	d := JobDetail{taskStatus: describeForOperator(job.Status), Priority: job.Priority, Crashes: job.Crashes, Runner: job.Runner, Size: job.Size, Cut: len(job.Data) < job.Size}
	if job.Trace.Valid() {
		d.TraceID = job.Trace.Trace.String()
	}
	data := job.Data
	for n := 0; d.Cut && n < utf8.UTFMax && !utf8.Valid(data); n++ {
		data = data[:len(data)-1] // the cut may have gone through a character
	}
	text := string(data)
	if d.Hex = !isText(text); d.Hex {
		text = hex.Dump(job.Data)
	}
	if job.State == tasks.Done {
		d.Result = text
	} else {
		d.Payload = text
	}
	return d
}

// Fact is a line about a job for people.
type Fact struct{ Name, Value string }

// Facts tells what is known of a job but its id, name, state, error and data, in the order in which it happens; what is not so is left out.
// Times are written by when.
func Facts(job tasks.Detail, when func(time.Time) string) []Fact {
	var facts []Fact
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, Fact{name, value})
		}
	}
	count := func(name string, n int) {
		if n > 0 {
			add(name, strconv.Itoa(n))
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			add(name, when(t))
		}
	}
	add("queue", job.Queue)
	add("priority", strconv.Itoa(job.Priority))
	add("attempt", fmt.Sprintf("%d of %d", job.Attempt, job.Max))
	count("crashes", job.Crashes)
	count("postponed", job.Postponed)
	at("enqueued", job.Enqueued)
	at("due", job.Due)
	at("expires", job.Expires)
	at("deadline", job.Deadline)
	at("started", job.Started)
	at("finished", job.Finished)
	add("runner", job.Runner)
	if job.Progress != (tasks.Progress{}) {
		add("progress", fmt.Sprintf("%d %% %s", job.Progress.Percent, job.Progress.Note))
	}
	if job.Trace.Valid() {
		add("trace", job.Trace.Trace.String())
	}
	return facts
}

// isText reports whether people can read it.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f })
}

// DataKind is the name of what the job carries now.
func (d JobDetail) DataKind() string {
	if d.State == tasks.Done {
		return "result"
	}
	return "payload"
}

// DataText is that: JSON with indentation, other text as it is, a dump of the rest.
func (d JobDetail) DataText() string {
	text := d.Payload + d.Result
	var indented bytes.Buffer
	if !d.Cut && !d.Hex && json.Indent(&indented, []byte(text), "", "  ") == nil {
		text = indented.String()
	}
	return text
}

// QueueStatus is a queue of GET /queues.
type QueueStatus struct {
	Name      string           `json:"name"`
	Paused    bool             `json:"paused"`
	PausedAt  time.Time        `json:"paused_at,omitzero"`
	Pending   int64            `json:"pending"`
	Priority  [4]int64         `json:"pending_by_priority"`
	OldestAge float64          `json:"oldest_seconds"` // since the oldest of the next jobs was enqueued; 0: none waits
	Scheduled int64            `json:"scheduled"`
	Running   int64            `json:"running"`
	Dead      int64            `json:"dead"`
	Runners   int64            `json:"runners"`
	Counted   map[string]int64 `json:"counted"` // since the queue exists
	At        time.Time        `json:"at"`      // Redis' clock: two answers make a rate
}

// DescribeQueues says what queues hold.
func DescribeQueues(queues []tasks.QueueInfo) []QueueStatus {
	described := make([]QueueStatus, len(queues))
	for i, q := range queues {
		n := q.Counters
		d := QueueStatus{
			Name: q.Name, Paused: !q.Paused.IsZero(), PausedAt: q.Paused.UTC(), Pending: q.Waiting, Priority: q.Pending, Scheduled: q.Scheduled,
			Running: q.Running, Dead: q.Dead, Runners: q.Runners, At: q.Now.UTC(),
			Counted: map[string]int64{
				"accepted": n.Accepted, "done": n.Done, "dead": n.Dead, "cancelled": n.Cancelled, "expired": n.Expired, "lost": n.Lost,
				"retried": n.Retried, "postponed": n.Postponed, "crashed": n.Crashed, "revived": n.Revived,
			},
		}
		if q.Waiting > 0 && !q.Oldest.IsZero() {
			d.OldestAge = math.Max(math.Round(q.Now.Sub(q.Oldest).Seconds()*1000)/1000, 0)
		}
		described[i] = d
	}
	return described
}

// RunnerStatus is a runner as operators see it.
type RunnerStatus struct {
	Name        string    `json:"name"`
	Host        string    `json:"host"`
	PID         int       `json:"pid"`
	Queues      []string  `json:"queues"`
	Claims      int       `json:"jobs"`
	Concurrency int       `json:"concurrency"`
	Since       time.Time `json:"since,omitzero"`
	State       string    `json:"state"` // alive, or lost: its lease has ended
}

// DescribeRunners says who works.
func DescribeRunners(runners []tasks.RunnerInfo) []RunnerStatus {
	described := make([]RunnerStatus, len(runners))
	for i, r := range runners {
		state := "alive"
		if r.Lease <= 0 {
			state = "lost"
		}
		described[i] = RunnerStatus{r.Name, r.Host, r.PID, r.Queues, r.Claims, r.Concurrency, r.Since.UTC(), state}
	}
	return described
}

// Age is for how long the runner has been there.
func (r RunnerStatus) Age() string {
	if r.Since.IsZero() || r.Since.Unix() <= 0 {
		return "-"
	}
	return operator.Ago(time.Since(r.Since))
}
