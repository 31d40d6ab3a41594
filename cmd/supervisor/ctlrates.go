package main

import (
	"context"
	"time"

	"supervisor/pkg/control"
)

// rateSpan is between two looks at counters.
const rateSpan = time.Second

// row is a worker, with what two looks tell.
type row struct {
	control.Worker
	Pool string  `json:"pool"`
	Rate float64 `json:"requests_per_second"`
	Busy float64 `json:"cpu_cores"` // CPU time per time: 1 is a whole core
	quantiles
}

// poolRow is the same of a pool.
type poolRow struct {
	Name        string  `json:"name"`
	Ready       int     `json:"ready"`
	Wanted      int     `json:"wanted"`
	Leaving     int     `json:"leaving"`
	Drained     int     `json:"drained"`
	Queued      int     `json:"queued"`
	Running     int     `json:"in_flight"`
	Connections int     `json:"connections"`
	Memory      int64   `json:"memory_bytes"`
	Rate        float64 `json:"requests_per_second"`
	ErrorRate   float64 `json:"errors_per_second"`
	Busy        float64 `json:"cpu_cores"`
	quantiles
}

// quantiles are how long requests took; 0: there were none.
type quantiles struct {
	P50 float64 `json:"p50_seconds"`
	P95 float64 `json:"p95_seconds"`

	beyond50, beyond95 bool // it is more than what stands there
}

// comparison is what two looks tell.
type comparison struct {
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds"` // between them, by the supervisor's clock; 0: there was only one
	Pools   []poolRow `json:"pools"`
	Workers []row     `json:"workers"`
}

// lookTwice takes two looks, a moment apart.
func lookTwice(ctx context.Context, to *control.Client) (control.Status, comparison, error) {
	before, err := to.Status(ctx)
	if err != nil {
		return before, comparison{}, err
	}
	select {
	case <-time.After(rateSpan):
	case <-ctx.Done():
		return before, comparison{}, context.Cause(ctx)
	}
	now, err := to.Status(ctx)
	return now, compare(&before, now), err
}

// compare works out rates. before may be nil, or of another life.
func compare(before *control.Status, now control.Status) comparison {
	c := comparison{At: time.Now(), Pools: []poolRow{}, Workers: []row{}}
	pools, workers := map[string]control.Pool{}, map[string]control.Worker{}
	if before != nil && before.Instance == now.Instance && before.Uptime < now.Uptime {
		c.Seconds = now.Uptime - before.Uptime
		for _, p := range before.Pools {
			pools[p.Name] = p
			for _, w := range p.Workers {
				workers[w.Name] = w
			}
		}
	}
	per := func(n float64) float64 {
		if c.Seconds == 0 {
			return 0
		}
		return max(0, n) / c.Seconds
	}
	for _, p := range now.Pools {
		total := poolRow{Name: p.Name, Ready: p.Ready, Wanted: p.Wanted, Leaving: p.Leaving, Drained: p.Drained, Queued: p.Queued}
		if was, known := pools[p.Name]; known {
			total.Rate = per(float64(p.Work.Requests) - float64(was.Work.Requests))
			total.ErrorRate = per(float64(p.Work.Errors) - float64(was.Work.Errors))
			total.quantiles = latency(was.Work.Latency, p.Work.Latency, now.LatencyBounds)
		}
		for _, w := range p.Workers {
			r := row{Worker: w, Pool: p.Name}
			was, known := workers[w.Name]
			if known || w.Age < c.Seconds { // one that came since began with nothing
				r.Rate = per(float64(w.Requests) - float64(was.Requests))
				r.Busy = per(w.CPU - was.CPU)
				r.quantiles = latency(was.Latency, w.Latency, now.LatencyBounds)
			}
			total.Running, total.Connections = total.Running+w.InFlight, total.Connections+w.Connections
			total.Memory, total.Busy = total.Memory+w.Memory, total.Busy+r.Busy
			c.Workers = append(c.Workers, r)
		}
		c.Pools = append(c.Pools, total)
	}
	return c
}

// latency gives those of what was counted between two looks.
func latency(before, now []uint64, bounds []float64) (q quantiles) {
	counts := make([]uint64, len(now))
	for i, n := range now {
		if counts[i] = n; i < len(before) {
			counts[i] -= min(n, before[i])
		}
	}
	q.P50, q.beyond50 = control.Quantile(counts, bounds, 0.5)
	q.P95, q.beyond95 = control.Quantile(counts, bounds, 0.95)
	return q
}
