package supervisor

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// emitter makes metrics of values.
type emitter struct{ out chan<- prometheus.Metric }

// value makes one of a family of ours.
func (e emitter) value(f *family, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if f.kind == kindCounter {
		kind = prometheus.CounterValue
	}
	m, err := prometheus.NewConstMetric(f.desc, kind, value, labels...)
	if err != nil { // a scrape must not end the supervisor
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	e.out <- m
}

// spread makes a histogram of ours.
func (e emitter) spread(f *family, bounds []float64, buckets []uint64, sum float64, labels ...string) {
	pairs := make([]*dto.LabelPair, len(labels))
	for i, value := range labels {
		pairs[i] = labelPair(f.labels[i], value)
	}
	e.histogram(f.desc, bounds, buckets, sum, pairs)
}

// sample makes one whose labels were made before. There are many of these: a worker may name hundreds. desc says its name and what it means.
func (e emitter) sample(desc *prometheus.Desc, k kind, value float64, labels []*dto.LabelPair) {
	e.out <- &sample{desc: desc, kind: k, value: value, labels: labels}
}

// histogram takes buckets that are not cumulative; what is beyond the last bound is in one more.
func (e emitter) histogram(desc *prometheus.Desc, bounds []float64, buckets []uint64, sum float64, labels []*dto.LabelPair) {
	cumulated := make([]uint64, len(bounds))
	total := uint64(0)
	for i := range max(len(bounds), len(buckets)) {
		if i < len(buckets) {
			total += buckets[i]
		}
		if i < len(bounds) {
			cumulated[i] = total
		}
	}
	made := make([]dto.Bucket, len(bounds))
	h := &dto.Histogram{SampleCount: &total, SampleSum: &sum, Bucket: make([]*dto.Bucket, len(bounds))}
	for i := range made {
		made[i].UpperBound, made[i].CumulativeCount = &bounds[i], &cumulated[i]
		h.Bucket[i] = &made[i]
	}
	e.out <- &sample{desc: desc, kind: kindHistogram, histogram: h, labels: labels}
}

// sample is a prometheus.Metric whose labels many scrapes share. They are sorted by name.
type sample struct {
	desc      *prometheus.Desc
	kind      kind
	value     float64
	histogram *dto.Histogram
	labels    []*dto.LabelPair
}

func (m *sample) Desc() *prometheus.Desc { return m.desc }

func (m *sample) Write(out *dto.Metric) error {
	out.Label = m.labels
	switch m.kind {
	case kindCounter:
		out.Counter = &dto.Counter{Value: &m.value}
	case kindHistogram:
		out.Histogram = m.histogram
	default:
		out.Gauge = &dto.Gauge{Value: &m.value}
	}
	return nil
}

func labelPair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }
