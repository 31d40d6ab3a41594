package supervisor

import "time"

// proportions are the workers' proportional memory. It is dear to measure, so it is measured now and then, by a goroutine of its own: a scrape waits a
// moment for it, and else shows what was measured last. Only used by the one who scrapes.
type proportions struct {
	last    map[processID]int64
	at      time.Time                // when it was asked for
	pending chan map[processID]int64 // nil: nobody measures
}

const (
	proportionsAge  = 30 * time.Second
	proportionsWait = 250 * time.Millisecond
)

// of gives what is known of the workers of a reading, in bytes.
func (s *proportions) of(v *view) map[processID]int64 {
	if s.pending == nil && time.Since(s.at) >= proportionsAge {
		var ids []processID
		for _, p := range v.pools {
			for _, w := range p.workers {
				if w.id.PID > 0 {
					ids = append(ids, w.id)
				}
			}
		}
		if len(ids) == 0 {
			return nil
		}
		pending := make(chan map[processID]int64, 1)
		s.pending, s.at = pending, time.Now()
		go func() {
			measured := make(map[processID]int64, len(ids))
			for _, id := range ids {
				measured[id] = proportional(id)
			}
			pending <- measured
		}()
	}
	if s.pending != nil {
		wait := time.NewTimer(proportionsWait)
		defer wait.Stop()
		select {
		case s.last = <-s.pending:
			s.pending = nil
		case <-wait.C:
		}
	}
	return s.last
}
