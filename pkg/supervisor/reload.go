package supervisor

import (
	"fmt"
	"reflect"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/protocol"
)

// reload is a change of generation under way: the new workers start beside the old ones, and only when all of them are ready do the
// old ones drain. Until then it can fail without a trace.
type reload struct {
	cfg        *Config
	generation int
	began      time.Time
	changes    []*change
	opened     []*bindSockets // addresses that the old configuration does not have
	err        error
}

// change is what a reload does to one pool.
type change struct {
	pool    *pool
	cfg     *PoolConfig
	sockets []*bindSockets
	fresh   bool // the old configuration does not have the pool
	keep    bool // its workers stay: replace = "never"
	delta   int
}

// wanted gives how many workers of the new generation must be ready.
func (c *change) wanted() int { return max(1, c.cfg.Workers+c.delta) }

// beginReload reads the configuration and binds what is new. One reload runs, one may wait with the newest configuration.
func (s *Supervisor) beginReload() {
	if s.stopping != running {
		return
	}
	if s.reload != nil {
		s.again = true
		s.log.Info("a reload runs: this one waits for it")
		return
	}
	cfg, err := s.load()
	if err == nil {
		err = s.prepare(cfg)
	}
	if err != nil {
		s.log.Error("reload failed, nothing changed", zap.Int("generation", s.generation), zap.Error(err))
		return
	}
	s.log.Info("reload begins", zap.Int("generation", s.reload.generation))
}

// prepare works out what changes. After an error nothing is left of it.
func (s *Supervisor) prepare(cfg *Config) error {
	r := &reload{cfg: cfg, generation: s.generation + 1, began: time.Now()}
	for _, pc := range cfg.Pools {
		c := &change{cfg: pc}
		for _, p := range s.pools {
			if p.cfg.Name == pc.Name && !p.removed {
				c.pool = p
			}
		}
		if c.pool == nil {
			c.pool, c.fresh = &pool{cfg: pc, generation: r.generation, pending: true}, true
		} else {
			c.keep = pc.Replace == ReplaceNever
			if pc.Workers == c.pool.cfg.Workers {
				c.delta = c.pool.delta
			}
		}
		for _, b := range pc.Bind {
			sockets := c.pool.socketsOf(b, pc)
			if sockets == nil {
				var err error
				if sockets, err = openBind(b, pc, s.inherited); err == nil {
					r.opened = append(r.opened, sockets)
					err = sockets.listen()
				}
				if err != nil {
					r.close()
					return err
				}
			}
			c.sockets = append(c.sockets, sockets)
		}
		r.changes = append(r.changes, c)
	}
	s.endRecycling()
	for _, c := range r.changes {
		if c.fresh {
			s.pools = append(s.pools, c.pool)
		}
	}
	s.reload = r
	return nil
}

// socketsOf finds the open sockets of an address.
func (p *pool) socketsOf(b Bind, cfg *PoolConfig) *bindSockets {
	for _, s := range p.sockets {
		if s.bind == b && p.cfg.Sockets == cfg.Sockets {
			return s
		}
	}
	return nil
}

// endRecycling takes back replacements that are not ready: the reload replaces everybody.
func (s *Supervisor) endRecycling() {
	for _, p := range s.pools {
		for _, sl := range p.slots {
			if sl.next != nil {
				w := sl.next
				p.vacate(w)
				s.drain(w, protocol.DrainMove, reasonReload)
			}
		}
	}
}

func (r *reload) close() {
	for _, b := range r.opened {
		b.Close()
	}
}

// fail notes that a worker of the new generation died.
func (r *reload) fail(w *worker) {
	if r.err == nil {
		r.err = fmt.Errorf("worker %s of the new generation is gone before all were ready: %s", w.id, w.died)
		if w.cause != "" {
			r.err = fmt.Errorf("%w (%s)", r.err, w.cause)
		}
	}
}

// advanceReload starts what is missing of the new generation; when all are ready it commits, when one failed it takes all back.
func (s *Supervisor) advanceReload() {
	r := s.reload
	if r.err != nil {
		s.rollBack()
		return
	}
	missing := 0
	for _, c := range r.changes {
		if c.keep {
			continue
		}
		c.pool.grow(c.wanted())
		for _, sl := range c.pool.slots[:c.wanted()] {
			switch {
			case sl.next == nil && s.booting() < bootsAtOnce():
				missing++
				if sl.next = s.spawn(c.pool, sl, c.cfg, r.generation, c.sockets); sl.next == nil {
					r.err = fmt.Errorf("worker %s.%d of the new generation could not be started", c.cfg.Name, sl.index)
					s.rollBack()
					return
				}
			case sl.next == nil || sl.next.state != ready:
				missing++
			}
		}
	}
	if missing == 0 {
		s.commit()
	}
}

// commit puts the new generation in force.
func (s *Supervisor) commit() {
	r := s.reload
	s.reload = nil
	s.cfg, s.generation = r.cfg, r.generation
	s.level.SetLevel(logLevel(r.cfg.LogLevel))
	var old []*worker
	order := make([]*pool, 0, len(s.pools))
	for _, c := range r.changes {
		p := c.pool
		order = append(order, p)
		changed := !reflect.DeepEqual(p.cfg, c.cfg)
		before := p.sockets
		p.delta, p.serving, p.pending = c.delta, true, false
		if !c.keep {
			p.cfg, p.sockets, p.generation = c.cfg, c.sockets, r.generation
			for _, sl := range p.slots {
				if sl.next != nil {
					if sl.current != nil {
						old = append(old, sl.current)
						p.leaving = append(p.leaving, sl.current)
					}
					sl.current, sl.next = sl.next, nil
					sl.failures = 0
				}
			}
		} else if changed {
			p.cfg, p.sockets, p.generation = c.cfg, c.sockets, r.generation
			for _, sl := range p.slots {
				s.empty(p, sl, protocol.DrainClose, reasonReload)
			}
		}
		s.retire(before, p.sockets)
		s.steer(p)
	}
	for _, p := range s.pools {
		if r.has(p) || p.removed {
			if p.removed {
				order = append(order, p)
			}
			continue
		}
		p.removed = true
		order = append(order, p)
		s.retire(p.sockets, nil)
		for _, sl := range p.slots {
			s.empty(p, sl, protocol.DrainClose, reasonReload)
		}
	}
	s.pools = order
	for _, c := range r.changes {
		for _, sl := range c.pool.slots {
			if w := sl.current; w != nil && w.state == ready && w.speaks {
				s.welcome(w)
			}
		}
	}
	// First nobody old takes connections, then they let go of theirs.
	for _, w := range old {
		w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
	}
	for _, w := range old {
		s.drain(w, protocol.DrainMove, reasonReload)
	}
	s.log.Info("reload done", zap.Int("generation", s.generation), zap.Duration("took", time.Since(r.began).Round(time.Millisecond)))
	s.nextReload()
}

func (r *reload) has(p *pool) bool {
	for _, c := range r.changes {
		if c.pool == p {
			return true
		}
	}
	return false
}

// retire keeps addresses that are no longer wanted until their last worker is gone; new connections are refused at once.
func (s *Supervisor) retire(before, after []*bindSockets) {
	for _, b := range before {
		kept := false
		for _, a := range after {
			kept = kept || a == b
		}
		if !kept {
			b.refuse()
			s.retired = append(s.retired, b)
		}
	}
}

// rollBack takes the new generation back. Connections that it served already move to the old one.
func (s *Supervisor) rollBack() {
	r := s.reload
	s.reload = nil
	for _, c := range r.changes {
		for _, sl := range c.pool.slots {
			if w := sl.next; w != nil && w.generation == r.generation {
				c.pool.vacate(w)
				w.proc.Send(protocol.Command{Verb: protocol.VerbAdopt, Args: []string{"off"}})
				s.drain(w, protocol.DrainMove, reasonRollback)
			}
		}
		if c.fresh {
			c.pool.pending, c.pool.removed = false, true
		}
		s.steer(c.pool)
	}
	for _, b := range r.opened {
		b.refuse()
		s.retired = append(s.retired, b)
	}
	s.log.Error("reload failed, nothing changed", zap.Int("generation", s.generation), zap.Error(r.err))
	s.nextReload()
}

func (s *Supervisor) nextReload() {
	if s.again {
		s.again = false
		s.beginReload()
	}
}
