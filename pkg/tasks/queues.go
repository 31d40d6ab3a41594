package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// QueueInfo is what a queue holds, over all its shards. Its price does not depend on how much that is.
type QueueInfo struct {
	Name    string
	Paused  time.Time         // since when, by Redis' clock; zero: it is not
	Pending [priorities]int64 // by priority; cancelled ones that no claim has dropped yet are among them
	Dropped int64             // how many those are
	Waiting int64             // those that are not
	// Oldest is since when the oldest of the jobs that are next in their lists has been known, by its enqueuer's clock; zero: none waits.
	Oldest    time.Time
	Scheduled int64 // for the first time, or for a retry
	Running   int64
	Dead      int64
	Runners   int64
	Counters  Counters
	Now       time.Time // Redis' clock: two infos make a rate
}

// Counters are what a queue's scripts counted, for ever.
type Counters struct {
	Accepted, Done, Dead, Cancelled, Expired, Lost, Retried, Postponed, Crashed int64
	Revived                                                                     int64 // dead ones that somebody retried
}

// ErrUnknownQueue says that nobody has enqueued into this queue or served it.
var ErrUnknownQueue = errors.New("no such queue")

// Inspector looks at queues and changes them, for people: their pages and command lines. It must know the same namespace and shards as
// clients and runners.
type Inspector struct{ c *Client }

// Inspector of the client's namespace.
func (c *Client) Inspector() *Inspector { return &Inspector{c} }

// do makes calls within one CallTimeout, a second time if a connection had broken: they must bear that.
func (i *Inspector) do(ctx context.Context, calls func(context.Context, rueidis.Client) error) error {
	return i.c.ask(ctx, calls)
}

// Names of all queues, in order.
func (i *Inspector) Names(ctx context.Context) (names []string, err error) {
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		names, err = conn.Do(ctx, conn.B().Smembers().Key(queuesKey(i.c.options.Namespace)).Build()).AsStrSlice()
		return err
	})
	slices.Sort(names)
	return names, err
}

// Queues tells of all queues.
func (i *Inspector) Queues(ctx context.Context) ([]QueueInfo, error) {
	names, err := i.Names(ctx)
	if err != nil {
		return nil, err
	}
	return i.queues(ctx, names)
}

// Queue tells of one.
func (i *Inspector) Queue(ctx context.Context, name string) (QueueInfo, error) {
	if err := i.exists(ctx, name); err != nil {
		return QueueInfo{}, err
	}
	infos, err := i.queues(ctx, []string{name})
	if err != nil {
		return QueueInfo{}, err
	}
	return infos[0], nil
}

func (i *Inspector) exists(ctx context.Context, queue string) error {
	var known bool
	err := i.do(ctx, func(ctx context.Context, conn rueidis.Client) (err error) {
		known, err = conn.Do(ctx, conn.B().Sismember().Key(queuesKey(i.c.options.Namespace)).Member(queue).Build()).AsBool()
		return err
	})
	if err == nil && !known {
		err = fmt.Errorf("queue %.100q: %w", queue, ErrUnknownQueue)
	}
	return err
}

func (i *Inspector) lanes(queue string) []lane {
	lanes := make([]lane, i.c.options.Shards)
	for shard := range lanes {
		lanes[shard] = newLane(i.c.options.Namespace, queue, shard)
	}
	return lanes
}

func (i *Inspector) queues(ctx context.Context, names []string) ([]QueueInfo, error) {
	var infos []QueueInfo
	err := i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		infos = make([]QueueInfo, len(names))
		now, err := run(ctx, conn, nowScript.call([]string{queuesKey(i.c.options.Namespace)}))[0].AsIntSlice()
		if err != nil {
			return err
		}
		var reads reads
		type head struct {
			id    string
			lane  lane
			queue *QueueInfo
		}
		var heads []head // of the lists
		for n, name := range names {
			q := &infos[n]
			q.Name = name
			q.Now = time.Unix(now[0], now[1]*1000)
			for _, l := range i.lanes(name) {
				b := conn.B()
				for p := range priorities {
					reads.count(b.Llen().Key(l.pending(p)).Build(), &q.Pending[p])
				}
				reads.count(b.Scard().Key(l.gone()).Build(), &q.Dropped)
				reads.count(b.Zcard().Key(l.sched()).Build(), &q.Scheduled)
				reads.count(b.Hlen().Key(l.act()).Build(), &q.Running)
				reads.count(b.Zcard().Key(l.dead()).Build(), &q.Dead)
				var runners int64 // each serves all shards
				reads.add(b.Zcard().Key(l.wk()).Build(), func(r rueidis.RedisResult) (err error) {
					runners, err = r.AsInt64()
					q.Runners = max(q.Runners, runners)
					return err
				})
				reads.add(b.Hgetall().Key(l.stat()).Build(), func(r rueidis.RedisResult) error {
					stat, err := r.AsIntMap()
					q.Counters.add(stat)
					return err
				})
				reads.add(b.Get().Key(l.paused()).Build(), func(r rueidis.RedisResult) error {
					since, err := r.AsInt64()
					if rueidis.IsRedisNil(err) {
						return nil
					}
					q.Paused = moment(since)
					return err
				})
				for p := range priorities {
					reads.add(b.Lindex().Key(l.pending(p)).Index(0).Build(), func(r rueidis.RedisResult) error {
						id, err := r.ToString()
						if rueidis.IsRedisNil(err) {
							return nil
						}
						heads = append(heads, head{id, l, q})
						return err
					})
				}
			}
		}
		if err := reads.run(ctx, conn); err != nil {
			return err
		}
		for _, h := range heads {
			reads.add(conn.B().Getrange().Key(h.lane.job(h.id)).Start(0).End(headerSize+maxName-1).Build(), func(r rueidis.RedisResult) error {
				raw, err := r.AsBytes()
				if job, bad := decodeHeader(raw); bad == nil && !job.terminal() {
					if since := moment(job.enqueued); h.queue.Oldest.IsZero() || since.Before(h.queue.Oldest) {
						h.queue.Oldest = since
					}
				}
				return err
			})
		}
		return reads.run(ctx, conn)
	})
	for n := range infos {
		q := &infos[n]
		for _, waiting := range q.Pending {
			q.Waiting += waiting
		}
		q.Waiting = max(q.Waiting-q.Dropped, 0) // read one after the other
	}
	return infos, err
}

func (c *Counters) add(stat map[string]int64) {
	c.Accepted += stat["accepted"]
	c.Done += stat["done"]
	c.Dead += stat["dead"]
	c.Cancelled += stat["cancelled"]
	c.Expired += stat["expired"]
	c.Lost += stat["lost"]
	c.Retried += stat["retried"]
	c.Postponed += stat["postponed"]
	c.Crashed += stat["crashed"]
	c.Revived += stat["revived"]
}

// Pause keeps a queue's jobs from being claimed, and what is due from becoming pending. What runs goes on, enqueueing too. It reports
// whether that is new.
func (i *Inspector) Pause(ctx context.Context, queue string) (changed bool, err error) {
	return i.turn(ctx, queue, pauseScript)
}

// Resume ends a pause. It reports whether there was one.
func (i *Inspector) Resume(ctx context.Context, queue string) (changed bool, err error) {
	return i.turn(ctx, queue, resumeScript)
}

func (i *Inspector) turn(ctx context.Context, queue string, s *script) (changed bool, err error) {
	if err := i.exists(ctx, queue); err != nil {
		return false, err
	}
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		for _, l := range i.lanes(queue) {
			did, err := run(ctx, conn, s.call([]string{l.paused(), l.bell()}))[0].AsBool()
			if err != nil {
				return err
			}
			changed = changed || did
		}
		return nil
	})
	return changed, err
}

// reads are commands that go in one round trip, each with what to do with its answer.
type reads struct {
	commands []rueidis.Completed
	take     []func(rueidis.RedisResult) error
}

func (r *reads) add(command rueidis.Completed, take func(rueidis.RedisResult) error) {
	r.commands, r.take = append(r.commands, command), append(r.take, take)
}

// count adds what the command counts.
func (r *reads) count(command rueidis.Completed, sum *int64) {
	r.add(command, func(answer rueidis.RedisResult) error {
		n, err := answer.AsInt64()
		*sum += n
		return err
	})
}

// run sends all commands, and forgets them.
func (r *reads) run(ctx context.Context, conn rueidis.Client) error {
	batch := *r
	*r = reads{}
	if len(batch.commands) == 0 {
		return nil
	}
	for n, answer := range conn.DoMulti(ctx, batch.commands...) {
		if err := batch.take[n](answer); err != nil {
			return err
		}
	}
	return nil
}

// announced is when a process last said that a queue exists, unix seconds.
type announced struct{ at atomic.Int64 }

// announceEvery is how soon a Redis that lost its data knows all queues again.
const announceEvery = 60

// announce tells inspectors that there is such a queue. That it may fail harms nobody: it is said again.
func (a *announced) announce(ctx context.Context, conn rueidis.Client, l lane) {
	now := time.Now().Unix()
	last := a.at.Load()
	if now-last < announceEvery || !a.at.CompareAndSwap(last, now) {
		return
	}
	conn.Do(ctx, conn.B().Sadd().Key(queuesKey(l.namespace)).Member(l.queue).Build())
}
