package app

import (
	"fmt"
	"strings"
	"sync"

	"supervisor/pkg/scoreboard"
)

// enqueueMeter counts the jobs that this process stores: jobs_enqueued_total{queue,task} on the scoreboard. What runners do with them is counted by
// cmd/app. Without label it counts nothing.
type enqueueMeter struct {
	label func(name string) scoreboard.Label // set once, by Begin

	mu     sync.RWMutex // guards what follows
	series map[[2]string]scoreboard.Label
}

const (
	mostEnqueued = 32 // series; what comes after these is counted as task "other"
	otherTask    = "other"
)

// enqueued is tasks.Options.Enqueued.
func (m *enqueueMeter) enqueued(queue, task string) {
	if m.label == nil {
		return
	}
	m.mu.RLock()
	l, ok := m.series[[2]string{queue, task}]
	m.mu.RUnlock()
	if !ok {
		l = m.add(queue, task)
	}
	l.Add(1)
}

func (m *enqueueMeter) add(queue, task string) scoreboard.Label {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{queue, task}
	// A label may have 112 bytes; a name that would have to be escaped is nobody's.
	if len(m.series) >= mostEnqueued || len(queue)+len(task) > 70 || strings.ContainsFunc(task, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		key = [2]string{queue[:min(len(queue), 40)], otherTask}
		if len(m.series) >= 2*mostEnqueued {
			key[0] = otherTask
		}
	}
	l, ok := m.series[key]
	if !ok {
		l = m.label(fmt.Sprintf("jobs_enqueued_total{queue=%q,task=%q}", key[0], key[1]))
		m.series[key] = l
	}
	return l
}
