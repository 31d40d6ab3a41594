package dashboard

import (
	"math"
	"slices"
	"strconv"
	"time"

	"supervisor/pkg/control"
)

const (
	step   = time.Second // between two samples
	points = 120         // of a sparkline: two minutes
	tail   = 30 * time.Second
	// latencySpan is how much of the past latencies and errors are about: less is mostly noise.
	latencySpan = 60 * time.Second
	rateSpan    = 3 * time.Second // of rates as numbers
)

// series is the past of one value, the newest last: NaN where it was not known.
type series struct {
	values []float64
	scale  float64 // what the top of its sparkline means
	moved  bool    // with the last sample the scale became another one
}

func (s *series) add(v float64) {
	if len(s.values) == points {
		s.values = append(s.values[:0], s.values[1:]...)
	}
	s.values = append(s.values, v)
}

func (s *series) max() float64 {
	top := 0.0
	for _, v := range s.values {
		top = max(top, v) // max is NaN if one is
		if math.IsNaN(top) {
			top = 0
		}
	}
	return top
}

// rescale chooses a scale that top fits into: 1, 2 or 5 times a power of ten. It goes down only when there is much room.
func (s *series) rescale(top float64) {
	s.moved = false
	if top <= s.scale && top > s.scale*0.35 {
		return
	}
	scale := 1.0
	if top > 0 {
		power := math.Pow(10, math.Floor(math.Log10(top)))
		for _, m := range []float64{1, 2, 5, 10} {
			if scale = m * power; top <= scale {
				break
			}
		}
	}
	s.scale, s.moved = scale, scale != s.scale
}

// Sparklines are drawn in a box of points × height units; y grows downwards. A line begins below the box, and ends beside and below it, so that it
// can be filled.
const height = 30

// y gives where a value is drawn.
func (s *series) y(v float64) int {
	if s.scale <= 0 || math.IsNaN(v) {
		return height - 1
	}
	return height - 1 - int(math.Round(min(1, v/s.scale)*(height-2)))
}

// line gives the attribute points of the polyline; files/dashboard.js makes the same of its own points.
func (s *series) line() string {
	if len(s.values) == 0 {
		return ""
	}
	first := points - len(s.values)
	text := strconv.AppendInt(nil, int64(first-1), 10)
	text = append(text, ",31"...)
	for i, v := range s.values {
		text = append(text, ' ')
		text = strconv.AppendInt(text, int64(first+i), 10)
		text = append(text, ',')
		text = strconv.AppendInt(text, int64(s.y(v)), 10)
	}
	text = append(text, " 121,"...)
	text = strconv.AppendInt(text, int64(s.y(s.values[len(s.values)-1])), 10)
	return string(append(text, " 121,31"...))
}

// counter makes rates of a number that only grows.
type counter struct {
	past []counted // oldest first, not more than rateSpan of it
	rate series    // each second
}

type counted struct {
	at    time.Time
	value float64
}

// add notes the number; one that is smaller than before begins anew.
func (c *counter) add(at time.Time, value float64) {
	if n := len(c.past); n > 0 {
		last := c.past[n-1]
		seconds := at.Sub(last.at).Seconds()
		switch {
		case value < last.value:
			c.past = c.past[:0]
		case seconds > 0:
			c.rate.add((value - last.value) / seconds)
		}
	}
	c.past = append(c.past, counted{at, value})
	for len(c.past) > 2 && at.Sub(c.past[0].at) > rateSpan {
		c.past = append(c.past[:0], c.past[1:]...)
	}
}

// now gives the rate of the last seconds; ok is false while there is none.
func (c *counter) now() (rate float64, ok bool) {
	if len(c.past) < 2 {
		return 0, false
	}
	first, last := c.past[0], c.past[len(c.past)-1]
	return (last.value - first.value) / last.at.Sub(first.at).Seconds(), true
}

// workerPast is what is remembered of a process.
type workerPast struct {
	requests counter
	memory   series
	cpu      counter
}

// poolPast is what is remembered of a pool.
type poolPast struct {
	requests counter
	work     []worked // oldest first, latencySpan of it
	bounds   []float64
}

type worked struct {
	at time.Time
	control.Work
}

// past is what is remembered of everything.
type past struct {
	all     poolPast // of pools with addresses
	memory  series   // of all workers
	workers map[string]*workerPast
	pools   map[string]*poolPast
}

// add notes a status.
func (p *past) add(at time.Time, st *control.Status) {
	workers, pools := make(map[string]*workerPast, len(p.workers)), map[string]*poolPast{}
	var all control.Work
	memory := int64(0)
	for _, pool := range st.Pools {
		pp := p.pools[pool.Name]
		if pp == nil {
			pp = &poolPast{}
		}
		pools[pool.Name] = pp
		pp.add(at, pool.Work, st.LatencyBounds)
		if len(pool.Addresses) > 0 {
			all = sum(all, pool.Work)
		}
		var rates, memories []*series
		for _, w := range pool.Workers {
			if w.PID == 0 {
				continue
			}
			wp := p.workers[w.Name]
			if wp == nil {
				wp = &workerPast{}
			}
			workers[w.Name] = wp
			if w.Scored {
				wp.requests.add(at, float64(w.Requests))
			}
			wp.cpu.add(at, w.CPU)
			wp.memory.add(float64(w.Memory))
			rates, memories = append(rates, &wp.requests.rate), append(memories, &wp.memory)
			memory += w.Memory
		}
		oneScale(rates)
		oneScale(memories)
	}
	p.workers, p.pools = workers, pools
	p.all.add(at, all, st.LatencyBounds)
	p.memory.add(float64(memory))
	oneScale([]*series{&p.memory})
}

// oneScale gives sparklines one scale, so that they can be compared.
func oneScale(lines []*series) {
	top := 0.0
	for _, s := range lines {
		top = max(top, s.max())
	}
	for _, s := range lines {
		s.rescale(top)
	}
}

func (p *poolPast) add(at time.Time, w control.Work, bounds []float64) {
	p.requests.add(at, float64(w.Requests))
	oneScale([]*series{&p.requests.rate})
	if n := len(p.work); n > 0 && (p.work[n-1].Requests > w.Requests || len(p.work[n-1].Latency) != len(w.Latency)) {
		p.work = nil
	}
	p.bounds = bounds
	p.work = append(p.work, worked{at, w})
	for len(p.work) > 2 && at.Sub(p.work[0].at) > latencySpan {
		p.work = append(p.work[:0], p.work[1:]...)
	}
}

// lately gives what has been done within latencySpan, and how long that is.
func (p *poolPast) lately() (w control.Work, span time.Duration) {
	if len(p.work) < 2 {
		return w, 0
	}
	first, last := p.work[0], p.work[len(p.work)-1]
	w.Requests, w.Errors = growth(first.Requests, last.Requests), growth(first.Errors, last.Errors)
	for i := range last.Latency {
		w.Latency = append(w.Latency, growth(first.Latency[i], last.Latency[i]))
	}
	return w, last.at.Sub(first.at)
}

// sum adds what two pools have done.
func sum(a, b control.Work) control.Work {
	s := control.Work{Requests: a.Requests + b.Requests, Errors: a.Errors + b.Errors, Latency: slices.Clone(b.Latency)}
	for i := range min(len(s.Latency), len(a.Latency)) {
		s.Latency[i] += a.Latency[i]
	}
	return s
}

// growth of a counter that workers write to: they may write anything.
func growth(from, to uint64) uint64 {
	if to < from {
		return 0
	}
	return to - from
}

// quantile is control.Quantile as a duration.
func quantile(counts []uint64, bounds []float64, q float64) (latency time.Duration, above bool) {
	s, above := control.Quantile(counts, bounds, q)
	return seconds(s), above
}
