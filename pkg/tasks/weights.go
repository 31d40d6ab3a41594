package tasks

import "math/rand/v2"

// Weights of the four priorities.
type Weights [priorities]int

// order draws the order in which a claim asks the priorities: by weight, and those without one last. What the first cannot fill is
// taken from the next, so no slot stays free for a priority that has nothing.
func (w Weights) order() string {
	if w == (Weights{}) {
		return "0123"
	}
	order := make([]byte, 0, priorities)
	sum := 0
	for _, n := range w {
		sum += n
	}
	taken := [priorities]bool{}
	for sum > 0 {
		at := rand.IntN(sum)
		for p, n := range w {
			if taken[p] {
				continue
			}
			if at < n {
				order, taken[p], sum = append(order, '0'+byte(p)), true, sum-n
				break
			}
			at -= n
		}
	}
	for p := range priorities {
		if !taken[p] {
			order = append(order, '0'+byte(p))
		}
	}
	return string(order)
}
