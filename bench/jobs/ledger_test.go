package main

import "testing"

func TestLedgerNoticesWhatIsLostAndWhatRunsTwice(t *testing.T) {
	for _, c := range []struct {
		name string
		runs []int
		ok   bool
	}{
		{"each once", []int{2, 0, 1}, true},
		{"one lost", []int{0, 1}, false},
		{"one twice", []int{0, 1, 2, 1}, false},
		{"one lost, another twice", []int{0, 1, 1}, false},
	} {
		l := newLedger(3)
		payloads := [][]byte{l.issue(), l.issue(), l.issue()}
		for _, i := range c.runs {
			if got := l.began(payloads[i]); got != i {
				t.Errorf("%s: job %d is taken for %d", c.name, i, got)
			}
		}
		if err := l.check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	l := newLedger(1)
	l.issue()
	l.began([]byte("truncated"))
	if l.check() == nil {
		t.Error("a payload that is no job's passes")
	}
}
