package supervisor

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// translator makes metrics of what workers name. It keeps what it has understood from one scrape to the next; a new generation begins anew. Only
// used by the one who scrapes.
type translator struct {
	generation int
	named      map[string]*family // by workers: who comes first says what it is
	pools      map[string]*translation
}

// translation is one pool's.
type translation struct {
	named    map[string]*family       // the translator's
	base     []pair                   // labels of every series
	meanings map[string]*meaning      // by the name that a worker wrote
	series   map[string]*workerSeries // by family and labels: two programs may write the same one in two ways
	all      []*workerSeries          // the same
	bounds   map[*family][]float64    // of all series of a histogram
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
	family  *family
	labels  []*dto.LabelPair // sorted; a gauge's without worker
	before  int              // how many of them come before worker
	scale   float64
	seen    bool           // in this scrape
	worker  *dto.LabelPair // that gave this gauge last
	value   uint64         // of a counter, or of a histogram's sum
	buckets []*bucket
}

type bucket struct {
	bound float64
	n     uint64
}

// begin begins a scrape.
func (t *translator) begin(generation int) {
	if t.pools != nil && t.generation == generation {
		return
	}
	before := t.pools
	t.generation, t.pools = generation, map[string]*translation{}
	t.named = map[string]*family{requests.name: requests, requestDuration.name: requestDuration}
	for name, p := range before {
		t.pools[name] = &translation{dropped: p.dropped}
	}
}

// pool begins the scrape of one pool.
func (t *translator) pool(service, name string) *translation {
	p := t.pools[name]
	if p == nil {
		p = &translation{}
		t.pools[name] = p
	}
	if p.meanings == nil {
		p.named, p.meanings, p.series = t.named, map[string]*meaning{}, map[string]*workerSeries{}
		p.bounds = map[*family][]float64{}
		p.base = []pair{{"service", strings.ToValidUTF8(service, "?")}, {"pool", name}}
	}
	for _, s := range p.all {
		s.seen, s.worker, s.value = false, nil, 0
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
	t.meanings[name] = m
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
		m.bucket = m.series.bucket(bound)
		t.level(m.series.family, bound)
	}
	return m
}

// maxBounds is up to how many bounds the series of a histogram are made alike: a worker that names hundreds shall not have as many for each series.
const maxBounds = 64

// level gives all series of a histogram this bound. A worker names a bucket when it needs it first, so each series has bounds of its own, and sums of
// series with different bounds (sum by (le)) would be wrong.
func (t *translation) level(f *family, bound float64) {
	bounds := t.bounds[f]
	i, known := slices.BinarySearch(bounds, bound)
	if known || len(bounds) >= maxBounds {
		return
	}
	t.bounds[f] = slices.Insert(bounds, i, bound)
	for _, s := range t.all {
		if s.family == f {
			s.bucket(bound)
		}
	}
}

// bucket gives the bucket of that bound.
func (s *workerSeries) bucket(bound float64) *bucket {
	i, known := slices.BinarySearchFunc(s.buckets, bound, func(b *bucket, bound float64) int { return cmp.Compare(b.bound, bound) })
	if !known {
		s.buckets = slices.Insert(s.buckets, i, &bucket{bound: bound})
	}
	return s.buckets[i]
}

// seriesOf gives nil when the family is another kind of thing already, or there is no room.
func (t *translation) seriesOf(n named) *workerSeries {
	is := map[part]kind{partGauge: kindGauge, partCounter: kindCounter, partBucket: kindHistogram, partSum: kindHistogram}[n.part]
	f := t.named[n.family]
	if f != nil && f.kind != is {
		return nil
	}
	key := n.family
	for _, l := range n.labels {
		key += "\xff" + l.name + "\xff" + l.value
	}
	s := t.series[key]
	if s == nil && len(t.all) < maxSeries {
		if f == nil {
			help := helpOf(n.family)
			f = &family{name: n.family, kind: is, help: help, desc: prometheus.NewDesc(n.family, help, nil, nil)}
			t.named[n.family] = f
		}
		s = &workerSeries{family: f, scale: 1}
		labels := slices.Concat(n.labels, t.base)
		slices.SortFunc(labels, func(a, b pair) int { return strings.Compare(a.name, b.name) })
		for _, l := range labels {
			if s.labels = append(s.labels, labelPair(l.name, l.value)); l.name < "worker" {
				s.before++
			}
		}
		for _, bound := range t.bounds[f] {
			s.bucket(bound)
		}
		t.series[key] = s
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

// take takes a value of a living worker, whose label is given, and reports whether it is one of those by which a worker speaks for itself.
func (t *translation) take(e emitter, worker *dto.LabelPair, name []byte, value int64) (http bool) {
	m := t.meanings[string(name)]
	if m == nil {
		m = t.meaningOf(string(name))
	}
	t.speaks = t.speaks || m.http
	if s := m.series; s != nil && s.family.kind == kindGauge {
		if s.worker != worker { // else it came twice
			s.worker = worker
			labels := make([]*dto.LabelPair, 0, len(s.labels)+1)
			labels = append(append(append(labels, s.labels[:s.before]...), worker), s.labels[s.before:]...)
			e.sample(s.family.desc, kindGauge, float64(value)*s.scale, labels)
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
		case s.family.kind == kindCounter:
			e.sample(s.family.desc, kindCounter, float64(s.value)*s.scale, s.labels)
		case s.family.kind == kindHistogram:
			bounds, counts := make([]float64, 0, len(s.buckets)), make([]uint64, 0, len(s.buckets))
			for _, b := range s.buckets {
				if counts = append(counts, b.n); !math.IsInf(b.bound, 1) {
					bounds = append(bounds, b.bound)
				}
			}
			e.histogram(s.family.desc, bounds, counts, float64(s.value)*s.scale, s.labels)
		}
	}
}
