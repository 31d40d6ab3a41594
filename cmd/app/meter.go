package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"supervisor/pkg/scoreboard"
	"supervisor/pkg/tasks"
)

// meter puts what the runner does on the scoreboard, under the names under which Prometheus is to see it; times are in microseconds there,
// see worker.Worker.Label. One loop calls it, so it needs no lock; a job costs it some ten atomic additions.
type meter struct {
	label  func(name string) scoreboard.Label
	queues map[string]*queueSeries
	tasks  map[[2]string]*taskSeries // by queue and task
}

// queueSeries are a queue's, as this runner sees it.
type queueSeries struct {
	claimed, running scoreboard.Label
	start, done      histogram
}

// taskSeries are those of one task in one queue.
type taskSeries struct {
	queue, task string
	ends        map[string]scoreboard.Label // by status
	duration    histogram
}

// mostTasks bounds the series: names come from Redis, and the scoreboard has room for scoreboard.MaxLabels.
const mostTasks = 20

func newMeter(label func(name string) scoreboard.Label, slots int) *meter {
	label("jobs_slots").Set(int64(slots))
	return &meter{label: label, queues: map[string]*queueSeries{}, tasks: map[[2]string]*taskSeries{}}
}

func (m *meter) queue(name string) *queueSeries {
	q := m.queues[name]
	if q == nil {
		labels := fmt.Sprintf("queue=%q", short(name))
		q = &queueSeries{
			claimed: m.label("jobs_claimed_total{" + labels + "}"),
			running: m.label("jobs_in_progress{" + labels + "}"),
			start:   m.histogram("jobs_start_latency_seconds", labels),
			done:    m.histogram("jobs_done_latency_seconds", labels),
		}
		m.queues[name] = q
	}
	return q
}

func (m *meter) task(queue, name string) *taskSeries {
	queue = short(queue)
	t := m.tasks[[2]string{queue, name}]
	if t != nil {
		return t
	}
	if len(m.tasks) >= mostTasks || len(queue)+len(name) > 48 || strings.ContainsAny(name, "\"\\\n{}") || name == "" {
		name = otherTask
		if t = m.tasks[[2]string{queue, name}]; t != nil {
			return t
		}
	}
	t = &taskSeries{
		queue: queue, task: name, ends: map[string]scoreboard.Label{},
		duration: m.histogram("jobs_duration_seconds", fmt.Sprintf("queue=%q,task=%q", queue, name)),
	}
	m.tasks[[2]string{queue, name}] = t
	return t
}

// short is a queue's name with which no series is longer than a label may be.
func short(queue string) string { return queue[:min(len(queue), 40)] }

// otherTask stands for tasks whose names are too long, too odd or too many.
const otherTask = "other"

func (m *meter) Claimed(queue string) { m.queue(queue).claimed.Add(1) }

func (m *meter) Began(queue, _ string, waited time.Duration) {
	q := m.queue(queue)
	if waited >= 0 {
		q.start.observe(waited)
	}
	q.running.Add(1)
}

func (m *meter) Returned(queue string) { m.queue(queue).running.Add(-1) }

func (m *meter) Ended(e tasks.Measured) {
	t := m.task(e.Queue, e.Name)
	status := statusOf(e)
	end, ok := t.ends[status]
	if !ok {
		end = m.label(fmt.Sprintf("jobs_processed_total{queue=%q,task=%q,status=%q}", t.queue, t.task, status))
		t.ends[status] = end
	}
	end.Add(1)
	if e.Took > 0 {
		t.duration.observe(e.Took)
	}
	if e.State == tasks.Done {
		m.queue(e.Queue).done.observe(e.Age)
	}
}

// statusOf is the label of jobs_processed_total. An attempt that fails is retried, a job whose last one fails has failed.
func statusOf(e tasks.Measured) string {
	switch {
	case e.State == tasks.Done:
		return "succeeded"
	case e.State == tasks.Dead:
		return "failed"
	case e.Postponed:
		return "postponed"
	case e.State == tasks.Retrying:
		return "retried"
	case e.State == tasks.Pending:
		return "requeued"
	}
	return string(e.State)
}

// Reaped may be called beside all else: it makes no series.
func (m *meter) Reaped(queue string, jobs int64) {
	m.label(fmt.Sprintf("jobs_crashed_total{queue=%q}", short(queue))).Add(jobs)
}

// histogram is one as a scoreboard wants it: an observation is in one bucket, the supervisor adds them up.
type histogram struct {
	buckets [len(bounds) + 1]scoreboard.Label // the last has no bound
	sum     scoreboard.Label
}

var bounds = [...]time.Duration{
	5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second,
	2 * time.Minute, 10 * time.Minute,
}

func (m *meter) histogram(name, labels string) (h histogram) {
	for i := range h.buckets {
		bound := "+Inf"
		if i < len(bounds) {
			bound = strconv.FormatFloat(bounds[i].Seconds(), 'g', -1, 64)
		}
		h.buckets[i] = m.label(fmt.Sprintf("%s_bucket{%s,le=%q}", name, labels, bound))
	}
	h.sum = m.label(name + "_sum{" + labels + "}")
	return h
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.buckets[i].Add(1)
	h.sum.Add(d.Microseconds())
}

// queuesEvery is how often the first runner of a pool tells what its queues hold; the others would say the same.
const queuesEvery = 5 * time.Second

// reportQueues puts what the queues hold on the scoreboard, until ctx ends: then it is 0, for the largest of what all runners say is taken, and this
// one may drain for long. While Redis is away the last values stay, and jobs_broker_up says so: job_runner_up is 1 as long as all slots
// are taken, and those of a busy runner are, until Redis is back.
func reportQueues(ctx context.Context, label func(name string) scoreboard.Label, inspector *tasks.Inspector, queues []string) {
	tick := time.NewTicker(queuesEvery)
	defer tick.Stop()
	said, up := map[string]scoreboard.Label{}, label("jobs_broker_up")
	defer func() {
		for _, l := range said {
			l.Set(0)
		}
	}()
	for {
		answers := int64(1)
		for _, name := range queues {
			q, err := inspector.Queue(ctx, name)
			if err != nil {
				if !errors.Is(err, tasks.ErrUnknownQueue) { // which nobody has stored anything in yet
					answers = 0
				}
				continue
			}
			set := func(series string, value int64) {
				series = fmt.Sprintf("%s{queue=%q}", series, short(name))
				said[series] = label(series)
				said[series].Set(value)
			}
			oldest, paused := time.Duration(0), int64(0)
			if !q.Oldest.IsZero() {
				oldest = max(q.Now.Sub(q.Oldest), 0)
			}
			if !q.Paused.IsZero() {
				paused = 1
			}
			set("jobs_queue_length", q.Waiting)
			set("jobs_queue_latency_seconds", oldest.Microseconds())
			set("jobs_running", q.Running)
			set("jobs_scheduled", q.Scheduled)
			set("jobs_dead", q.Dead)
			set("jobs_paused", paused)
			set("jobs_runners", q.Runners)
		}
		if ctx.Err() == nil {
			up.Set(answers)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
