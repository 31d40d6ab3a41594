package dashboard

import (
	"testing"
	"time"
)

// What a step costs with 100 workers, beside looking itself: the frame, its difference, and the message.
func BenchmarkStep(b *testing.B) {
	f := newFake(100)
	h := newHub(f.options())
	at := time.Now()
	sample := func() {
		st, _ := f.read(b.Context())
		at = at.Add(step)
		h.status, h.at = st, at
		h.past.add(at, &st)
	}
	for range points {
		sample()
	}
	h.publish(true)
	size := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		sample()
		b.StartTimer()
		h.publish(true)
		size = len(h.recent[len(h.recent)-1].data)
	}
	b.ReportMetric(float64(size), "bytes/message")
}

// What the whole frame costs: once for all pages that open within a step.
func BenchmarkWhole(b *testing.B) {
	f := newFake(100)
	h := newHub(f.options())
	at := time.Now()
	for range points {
		st, _ := f.read(b.Context())
		at = at.Add(step)
		h.status, h.at = st, at
		h.past.add(at, &st)
	}
	size := 0
	for b.Loop() {
		h.publish(true)
		size = len(h.wholeEvent().data)
	}
	b.ReportMetric(float64(size), "bytes/message")
}
