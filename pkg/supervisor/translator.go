package supervisor

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// translator makes metrics of what workers name. It keeps what it has understood from one scrape to the next; a new generation begins anew. Only
// used by the one who scrapes.
type translator struct {
	generation int
	kinds      map[string]kind // of the families that workers have named: who comes first says what it is
	pools      map[string]*translation
}

// translation is one pool's.
type translation struct {
	kinds    map[string]kind // the translator's
	base     prometheus.Labels
	meanings map[string]*meaning      // by the name that a worker wrote
	series   map[string]*workerSeries // by family and labels: two programs may write the same one in two ways
	all      []*workerSeries          // the same
	speaks   bool                     // in this scrape: a worker names its requests itself
	dropped  uint64
}

// meaning is where a named value goes.
type meaning struct {
	series *workerSeries // nil: nowhere
	part   part
	bucket *bucket
	http   bool // see isHTTP
}

// workerSeries is a counter, a histogram, or a gauge of many workers.
type workerSeries struct {
	kind    kind
	desc    *prometheus.Desc
	scale   float64
	seen    bool   // in this scrape
	worker  string // that gave this gauge last
	value   uint64 // of a counter, or of a histogram's sum
	buckets []*bucket
}

type bucket struct {
	bound float64
	n     uint64
}

func (t *translator) begin(generation int) {
	if t.pools == nil || t.generation != generation {
		dropped := map[string]uint64{}
		for name, p := range t.pools {
			dropped[name] = p.dropped
		}
		t.generation, t.pools = generation, map[string]*translation{}
		t.kinds = map[string]kind{requests.name: kindCounter, requestDuration.name: kindHistogram}
		for name, n := range dropped {
			t.pools[name] = &translation{dropped: n}
		}
	}
}

// pool begins a scrape of one pool.
func (t *translator) pool(service, name string) *translation {
	p := t.pools[name]
	if p == nil {
		p = &translation{}
		t.pools[name] = p
	}
	if p.meanings == nil {
		p.kinds, p.meanings, p.series = t.kinds, map[string]*meaning{}, map[string]*workerSeries{}
		p.base = prometheus.Labels{"service": strings.ToValidUTF8(service, "?"), "pool": name}
	}
	for _, s := range p.all {
		s.seen, s.worker, s.value = false, "", 0
		for _, b := range s.buckets {
			b.n = 0
		}
	}
	p.speaks = false
	return p
}

// meaningOf finds out what a name means, once.
func (t *translation) meaningOf(name string) *meaning {
	if len(t.meanings) >= 2*maxSeries { // a program that goes on making up names
		return &meaning{}
	}
	m := &meaning{part: partOf(name), http: isHTTP([]byte(name))}
	t.meanings[strings.Clone(name)] = m
	n, err := understand(name)
	if err == nil {
		m.series = t.seriesOf(n)
	}
	if m.series == nil {
		t.dropped++
		return m
	}
	if n.part == partBucket {
		bound, _ := strconv.ParseFloat(n.bound, 64)
		i, known := slices.BinarySearchFunc(m.series.buckets, bound, func(b *bucket, bound float64) int {
			switch {
			case b.bound < bound:
				return -1
			case b.bound > bound:
				return 1
			}
			return 0
		})
		if !known {
			m.series.buckets = slices.Insert(m.series.buckets, i, &bucket{bound: bound})
		}
		m.bucket = m.series.buckets[i]
	}
	return m
}

// seriesOf gives nil when the family is another kind of thing already, or there is no room.
func (t *translation) seriesOf(n named) *workerSeries {
	is := map[part]kind{partGauge: kindGauge, partCounter: kindCounter, partBucket: kindHistogram, partSum: kindHistogram}[n.part]
	if before, known := t.kinds[n.family]; known && before != is {
		return nil
	}
	key := n.family
	for _, l := range n.labels {
		key += "\xff" + l.name + "\xff" + l.value
	}
	s := t.series[key]
	if s == nil && len(t.all) < maxSeries {
		labels := prometheus.Labels{}
		for _, l := range n.labels {
			labels[l.name] = l.value
		}
		for name, value := range t.base {
			labels[name] = value
		}
		var variable []string
		if is == kindGauge {
			variable = []string{"worker"}
		}
		s = &workerSeries{kind: is, scale: 1, desc: prometheus.NewDesc(n.family, helpOf(n.family), variable, labels)}
		t.series[key], t.kinds[n.family] = s, is
		t.all = append(t.all, s)
	}
	if s != nil && n.part != partBucket { // a bucket's value is a number of things
		s.scale = n.scale
	}
	return s
}

// count adds a part of a counter or histogram.
func (t *translation) count(name string, n uint64) {
	m := t.meanings[name]
	if m == nil {
		m = t.meaningOf(name)
	}
	t.speaks = t.speaks || m.http
	m.add(n)
}

// take takes a value of a living worker, and reports whether it is one of those by which a worker speaks for itself.
func (t *translation) take(e emitter, worker string, name []byte, value int64) (http bool) {
	m := t.meanings[string(name)]
	if m == nil {
		m = t.meaningOf(string(name))
	}
	t.speaks = t.speaks || m.http
	if s := m.series; s != nil && s.kind == kindGauge {
		if s.worker != worker { // the same name twice
			s.worker = worker
			e.send(s.desc)(prometheus.NewConstMetric(s.desc, prometheus.GaugeValue, float64(value)*s.scale, worker))
		}
	} else {
		m.add(uint64(max(value, 0)))
	}
	return m.http
}

func (m *meaning) add(n uint64) {
	s := m.series
	switch {
	case s == nil:
	case m.part == partBucket:
		s.seen = true
		m.bucket.n += n
	default:
		s.seen = s.seen || m.part == partCounter // a sum alone is no histogram
		s.value += n
	}
}

// emit makes metrics of what was counted.
func (t *translation) emit(e emitter) {
	for _, s := range t.all {
		switch {
		case !s.seen:
		case s.kind == kindCounter:
			e.send(s.desc)(prometheus.NewConstMetric(s.desc, prometheus.CounterValue, float64(s.value)*s.scale))
		case s.kind == kindHistogram:
			bounds, counts := make([]float64, 0, len(s.buckets)), make([]uint64, 0, len(s.buckets)+1)
			for _, b := range s.buckets {
				if counts = append(counts, b.n); !math.IsInf(b.bound, 1) {
					bounds = append(bounds, b.bound)
				}
			}
			e.histogram(s.desc, bounds, counts, float64(s.value)*s.scale)
		}
	}
}
