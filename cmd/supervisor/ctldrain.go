package main

import (
	"context"
	"strings"

	"supervisor/pkg/control"
)

// drain and undrain: who is away by hand.
var (
	drainCommand = ctlCommand{
		name: "drain", args: "WHAT", brief: []string{
			"take a worker out: its connections move to the others, and its slot stays empty until undrain,",
			"or until a reload; to replace it is what recycle does",
		},
		more: `   WHAT is a slot (web.2), a process (web.2.17: its slot, if it is still there), or a pool (web). The last slot that
   serves goes only with its pool: then clients wait in the queue, and readiness fails. status tells who is drained.
   Nobody comes back by itself, not after a self-upgrade or a crash of the supervisor either.
`,
		options: []option{waitOption}, words: 1, names: workerName, run: func(ctx context.Context, c *client, to *control.Client) error {
			wait, err := c.wait()
			if err != nil {
				return err
			}
			if len(c.words) == 0 {
				return bad("drain: what? web.2, web.2.17, or a pool; to replace a worker is what recycle does")
			}
			return c.verdict(to.Drain(ctx, control.DrainRequest{Wait: wait, Target: c.words[0]}))
		},
	}
	undrainCommand = ctlCommand{
		name: "undrain", args: "[WHAT]", brief: []string{"bring back what is drained: a slot, a pool, or everything"},
		options: []option{waitOption}, words: 1, names: workerName, run: func(ctx context.Context, c *client, to *control.Client) error {
			wait, err := c.wait()
			if err != nil {
				return err
			}
			return c.verdict(to.Undrain(ctx, control.DrainRequest{Wait: wait, Target: strings.Join(c.words, "")}))
		},
	}
)
