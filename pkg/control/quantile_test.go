package control

import (
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	bounds := []float64{1, 2, 4}
	for _, test := range []struct {
		counts []uint64
		q      float64
		want   float64
		above  bool
	}{
		{nil, 0.5, 0, false},
		{[]uint64{0, 0, 0, 0}, 0.5, 0, false},
		{[]uint64{10, 0, 0, 0}, 0.5, 0.5, false},
		{[]uint64{10, 0, 0, 0}, 1, 1, false},
		{[]uint64{5, 0, 5, 0}, 0.5, 1, false},
		{[]uint64{5, 0, 5, 0}, 0.75, 3, false},
		{[]uint64{0, 0, 90, 10}, 0.95, 4, true},
		{[]uint64{0, 0, 0, 7}, 0.5, 4, true},
	} {
		if got, above := Quantile(test.counts, bounds, test.q); math.Abs(got-test.want) > 1e-9 || above != test.above {
			t.Errorf("%v of %v: %v, %v", test.q, test.counts, got, above)
		}
	}
}
