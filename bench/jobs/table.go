package main

import (
	"fmt"
	"slices"

	"supervisor/bench/rig"
)

// table has a row for each figure, in the order in which they came first, with a value per contestant and round.
type table struct{ rows []*row }

type row struct {
	name, format string
	values       map[*contestant][]float64
}

func (t *table) add(c *contestant, name, format string, value float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{name, format, make(map[*contestant][]float64)})
	}
	t.rows[i].values[c] = append(t.rows[i].values[c], value)
}

// print gives medians, the lowest and the highest, and the ratio of the first two contestants.
func (t *table) print(all []*contestant) {
	for _, r := range t.rows {
		fmt.Printf("| %s |", r.name)
		for _, c := range all {
			values := r.values[c]
			if len(values) == 0 {
				fmt.Print(" |")
				continue
			}
			fmt.Printf(" "+r.format, rig.Median(values))
			if len(values) > 1 {
				fmt.Printf(" ("+r.format+"–"+r.format+")", slices.Min(values), slices.Max(values))
			}
			fmt.Print(" |")
		}
		if a, b := r.values[all[0]], r.values[all[1]]; len(a) > 0 && len(b) > 0 {
			fmt.Printf(" %.3g |\n", rig.Ratio(a, b))
		} else {
			fmt.Println(" |")
		}
	}
}
