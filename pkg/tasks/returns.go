package tasks

import "sync"

// returns is where handlers lay what they have ended, and the loop takes all of it at once: waking the loop for each would cost more than
// the rest of a short job. Shared and safe.
type returns struct {
	wake chan struct{} // of one place

	mu     sync.Mutex
	ended  []*attempt
	enough int // with fewer the loop can do nothing; 0: whatever there is, the answer of a call will wake it
}

func (b *returns) put(a *attempt) {
	b.mu.Lock()
	b.ended = append(b.ended, a)
	enough := len(b.ended) == b.enough
	b.mu.Unlock()
	if enough {
		b.ring()
	}
}

// take swaps the list for an empty one.
func (b *returns) take(empty []*attempt) []*attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	ended := b.ended
	b.ended = empty[:0]
	return ended
}

// sleep is told when the loop is about to wait, and how many must lie here to wake it.
func (b *returns) sleep(enough int) {
	b.mu.Lock()
	b.enough = enough
	missed := enough > 0 && len(b.ended) >= enough
	b.mu.Unlock()
	if missed {
		b.ring()
	}
}

func (b *returns) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
