package control

// Quantile reads off how long requests took: the q-th part of those that counts has (see Status.LatencyBounds) took at most so many seconds, in between
// the bounds of its bucket. above says that it is longer than that: the last bucket has no bound. Without requests it is 0.
func Quantile(counts []uint64, bounds []float64, q float64) (seconds float64, above bool) {
	sum := 0.0
	for _, n := range counts {
		sum += float64(n)
	}
	if sum == 0 || len(bounds) == 0 {
		return 0, false
	}
	before := 0.0
	for i, n := range counts {
		if n == 0 || before+float64(n) < q*sum {
			before += float64(n)
			continue
		}
		if i >= len(bounds) {
			break
		}
		low := 0.0
		if i > 0 {
			low = bounds[i-1]
		}
		return low + (q*sum-before)/float64(n)*(bounds[i]-low), false
	}
	return bounds[len(bounds)-1], true
}
