package tasks

import (
	"context"

	"github.com/redis/rueidis"
)

// Room tells which id an enqueue with these options makes (Key must be among them), and whether it would be let in now: ErrQueueFull if
// MaxPending jobs wait. It is for those who have something dear to do before, such as storing an upload under that id; the enqueue
// itself decides.
func (c *Client) Room(ctx context.Context, options ...Option) (id string, err error) {
	p := c.plan(Task{Name: "room", Options: options})
	if p.invalid != nil {
		return "", p.invalid
	}
	l, id := p.lane, p.id
	if c.options.MaxPending == 0 {
		return id, nil
	}
	waiting := int64(0)
	err = c.ask(ctx, func(ctx context.Context, conn rueidis.Client) error {
		commands := []rueidis.Completed{conn.B().Zcard().Key(l.sched()).Build()}
		for p := range priorities {
			commands = append(commands, conn.B().Llen().Key(l.pending(p)).Build())
		}
		commands = append(commands, conn.B().Scard().Key(l.gone()).Build()) // these wait no more
		waiting = 0
		for i, answer := range conn.DoMulti(ctx, commands...) {
			n, err := answer.AsInt64()
			if err != nil {
				return err
			}
			if i == len(commands)-1 {
				n = -n
			}
			waiting += n
		}
		return nil
	})
	if err == nil && waiting >= int64(c.options.MaxPending) {
		err = ErrQueueFull
	}
	return id, err
}
