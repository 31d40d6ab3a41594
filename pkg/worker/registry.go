package worker

import "sync"

// registry is the list of open connections.
type registry struct {
	mu   sync.Mutex
	head *Conn
}

func (r *registry) add(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.next = r.head; c.next != nil {
		c.next.prev = c
	}
	r.head = c
}

func (r *registry) remove(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		r.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

// each calls f for every connection. f must not block, nor close a connection.
func (r *registry) each(f func(*Conn)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := r.head; c != nil; c = c.next {
		f(c)
	}
}
