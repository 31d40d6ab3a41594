package supervisor

import (
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// A bake watches the canary do what the others do. It takes connections and the old workers of its pool do not any more; each of them gives
// it its share, so that it has something to show. The verdict comes after bakeEnough requests, or when the time is over. Dying is one of
// the faults that end a reload anyway; here it is judged by the answers with a status from 500, next to those of the old workers in the same
// time: when the database is down, both fail.

// bake is a canary's time of proof. The zero value is over.
type bake struct {
	until  time.Time
	giveAt time.Time
	given  bool
	before map[*worker]score // what each worker of the pool had when it began
}

// score is what a worker answered.
type score struct{ all, bad uint64 }

const (
	bakeEnough = 50
	bakeLook   = 20 * time.Millisecond  // between two looks at the scoreboards: what fails until then, fails
	givePause  = 100 * time.Millisecond // in which the old workers hear that they shall not take from each other

	// The canary fails when chance alone would make it look so bad less often than this: at its end, and before (where looking often
	// gives chance more chances).
	bakeDoubt      = 0.01
	bakeDoubtEarly = 0.0001
)

func scoreOf(w *worker) score {
	board := w.proc.Board()
	all := board.Total(scoreboard.Finished) // first: an error is counted before its request has finished
	return score{all: all, bad: min(all, board.Total(scoreboard.Errors))}
}

// veterans gives the ready workers of the old generation.
func (c *change) veterans() []*worker {
	var old []*worker
	for _, sl := range c.pool.slots {
		if w := sl.current; w != nil && w.state == ready && w.generation == c.pool.generation {
			old = append(old, w)
		}
	}
	return old
}

// favour makes the new workers, and not the old ones, take the connections that others give away.
func (s *Supervisor) favour(c *change) {
	c.favoured = true
	for _, w := range c.veterans() {
		if w.speaks {
			w.proc.Send(adoptOff)
		}
	}
}

// beginBake gives the canary something to do, if it is to be watched.
func (s *Supervisor) beginBake(c *change) {
	c.step = stepBake
	if c.cfg.Bake == 0 || c.fresh {
		return
	}
	c.bake = bake{until: time.Now().Add(c.cfg.Bake), before: map[*worker]score{c.canary: scoreOf(c.canary)}}
	s.favour(c)
	for _, w := range c.veterans() {
		c.bake.before[w] = scoreOf(w)
	}
	c.bake.giveAt = time.Now().Add(givePause)
	s.log.Info("canary takes its share of connections and is watched", append(c.canary.fields(), zap.Duration("bake", c.cfg.Bake))...)
	s.recordWorker(c.canary, control.EventReload, control.LevelInfo, "", "the canary takes its share of connections and is watched for %v", c.cfg.Bake)
}

// give makes the old workers give the canary its share of their connections.
func (c *change) give() {
	c.bake.given = true
	old := c.veterans()
	for _, w := range old {
		if open := w.proc.Board().Connections(); open > 0 && w.speaks {
			share := (open + len(old)) / (len(old) + 1) // one of n+1 is the canary's; rounded up
			w.proc.Send(protocol.GiveIdle(share))
		}
	}
}

// watchCanary looks at what the canary has shown, and gives the verdict.
func (s *Supervisor) watchCanary(c *change) {
	if c.bake.before == nil {
		c.step = stepOthers
		return
	}
	if !c.bake.given && !time.Now().Before(c.bake.giveAt) {
		c.give()
	}
	canary, old := s.shown(c)
	over := canary.all >= bakeEnough || !time.Now().Before(c.bake.until)
	doubt := bakeDoubtEarly
	if over {
		doubt = bakeDoubt
	}
	switch {
	case canary.worseThan(old, doubt):
		s.reload.fail(fmt.Errorf("canary %s answered %d of %d requests with a status from 500, the old workers %d of %d meanwhile",
			c.canary.id, canary.bad, canary.all, old.bad, old.all))
	case !over:
		s.wake(bakeLook)
	case canary.all == 0 && c.cfg.Health.IsZero():
		s.reload.unproven = append(s.reload.unproven, c.pool.cfg.Name)
		s.log.Warn("canary passes unproven: no request reached it while it was watched, and the pool has no health", c.canary.fields()...)
		s.recordWorker(c.canary, control.EventReload, control.LevelWarning, "", "the canary passes unproven: no request reached it while it was watched")
		c.step = stepOthers
	default:
		s.log.Info("canary passes", append(c.canary.fields(), zap.Uint64("requests", canary.all), zap.Uint64("errors", canary.bad),
			zap.Uint64("old_requests", old.all), zap.Uint64("old_errors", old.bad))...)
		s.recordWorker(c.canary, control.EventReload, control.LevelInfo, "", "the canary passes: %d of %d requests were errors, of the old workers' %d of %d",
			canary.bad, canary.all, old.bad, old.all)
		c.step = stepOthers
	}
}

// shown gives what the canary and the old workers have answered since the bake began.
func (s *Supervisor) shown(c *change) (canary, old score) {
	for _, w := range c.pool.workers() {
		now, before := scoreOf(w), c.bake.before[w] // one that came later began at 0
		switch {
		case w == c.canary:
			canary = now.minus(before)
		case w.generation == c.pool.generation:
			old = old.plus(now.minus(before))
		}
	}
	return canary, old
}

// minus never goes below 0: a worker may write what it likes.
func (t score) minus(o score) score {
	return score{t.all - min(t.all, o.all), t.bad - min(t.bad, o.bad)}
}

func (t score) plus(o score) score { return score{t.all + o.all, t.bad + o.bad} }

// What is believed of a pool before it has answered anything: priorWeight answers, priorShare of them bad.
const (
	priorWeight = 2
	priorShare  = 0.05
)

// worseThan reports whether t fails more often than o, and would look so bad by chance with a probability below doubt.
func (t score) worseThan(o score, doubt float64) bool {
	if t.bad == 0 || float64(t.bad)*float64(o.all) <= float64(o.bad)*float64(t.all) && o.all > 0 {
		return false
	}
	share := (float64(o.bad) + priorShare*priorWeight) / (float64(o.all) + priorWeight)
	return chance(t.bad, t.all, share) < doubt
}

// chance gives the probability of at least bad out of all where each is bad with the probability share.
func chance(bad, all uint64, share float64) float64 {
	if share >= 1 {
		return 1
	}
	choose := func(k float64) float64 { // the logarithm of all over k
		n, _ := math.Lgamma(float64(all) + 1)
		a, _ := math.Lgamma(k + 1)
		b, _ := math.Lgamma(float64(all) - k + 1)
		return n - a - b
	}
	sum := 0.0
	for k := float64(bad); k <= float64(all); k++ {
		term := math.Exp(choose(k) + k*math.Log(share) + (float64(all)-k)*math.Log1p(-share))
		sum += term
		if term < sum*1e-9 && k > float64(all)*share {
			break // what follows is smaller still
		}
	}
	return sum
}
