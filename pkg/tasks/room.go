package tasks

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"
)

// Room tells which id an enqueue with these options makes (Key must be among them), and whether it would be let in now: ErrQueueFull if
// MaxPending jobs wait. It is for those who have something dear to do before, such as storing an upload under that id; the enqueue
// itself decides.
func (c *Client) Room(ctx context.Context, options ...Option) (id string, err error) {
	p := newPlan(Task{Name: "room", Options: options})
	if p.invalid != nil {
		return "", p.invalid
	}
	l := newLane(c.options.Namespace, p.queue, shardOf(p.key, c.options.Shards))
	id = fmt.Sprintf("%s.%d.%s", p.queue, l.shard, p.key)
	if c.options.MaxPending == 0 {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return id, err
	}
	commands := []rueidis.Completed{conn.B().Zcard().Key(l.sched()).Build()}
	for p := range priorities {
		commands = append(commands, conn.B().Llen().Key(l.pending(p)).Build())
	}
	commands = append(commands, conn.B().Scard().Key(l.gone()).Build()) // these wait no more
	waiting := int64(0)
	for i, answer := range conn.DoMulti(ctx, commands...) {
		n, err := answer.AsInt64()
		if err != nil {
			return id, redisError(ctx, err)
		}
		if i == len(commands)-1 {
			n = -n
		}
		waiting += n
	}
	if waiting >= int64(c.options.MaxPending) {
		return id, ErrQueueFull
	}
	return id, nil
}
