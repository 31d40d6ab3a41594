package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"supervisor/pkg/control"
)

// The commands that change something: each waits for a verdict.
var (
	reloadCommand = ctlCommand{
		name: "reload", brief: []string{"read the configuration again and replace all workers, as HUP; if it fails, nothing changes"},
		more: `   The verdict says what came of it and why: a key that is not understood, a new worker's last words, what health or
   bake found. One reload runs, one waits with the newest configuration.
`,
		options: []option{waitOption}, run: func(ctx context.Context, c *client, to *control.Client) error {
			wait, err := c.wait()
			if err != nil {
				return err
			}
			return c.verdict(to.Reload(ctx, wait))
		},
	}
	upgradeCommand = ctlCommand{
		name: "upgrade", brief: []string{"replace the supervisor's own program as well, as USR2"},
		more: `   The program on disk takes addresses, workers and connections over. If it does not come up, nothing changes.
`,
		options: []option{waitOption}, run: func(ctx context.Context, c *client, to *control.Client) error {
			wait, err := c.wait()
			if err != nil {
				return err
			}
			return c.verdict(to.Upgrade(ctx, wait))
		},
	}
	scaleCommand = ctlCommand{
		name: "scale", args: "WHAT", brief: []string{
			"web=4, web=+1, web=-1; without a name the (first) pool with an address, as TTIN and TTOU",
			"A reload keeps it, unless it changes workers.",
		},
		options: []option{waitOption}, words: 1, names: scaledName, run: ctlScale,
	}
	recycleCommand = ctlCommand{
		name: "recycle", args: "[WHAT]", brief: []string{
			"replace workers one after the other, at the pace of max_requests: a pool (web), a slot (web.2),",
			"one process (web.2.17), or all",
		},
		options: []option{waitOption}, words: 1, names: workerName, run: func(ctx context.Context, c *client, to *control.Client) error {
			wait, err := c.wait()
			if err != nil {
				return err
			}
			return c.verdict(to.Recycle(ctx, control.RecycleRequest{Wait: wait, Target: strings.Join(c.words, "")}))
		},
	}
	stopCommand = ctlCommand{
		name: "stop", brief: []string{"graceful stop, as TERM, drain_delay included; --quick: as INT"},
		more: `   It returns when the process is gone: a start right after it finds nothing in its way.
`,
		options: []option{waitOption, {"quick", "", "", "as INT does, without waiting for requests that run", false}}, run: ctlStop,
	}
)

func (c *client) wait() (control.Wait, error) {
	wait := control.Wait{Wait: c.flags["wait"] != "false"}
	if !wait.Wait && c.flags["timeout"] != "" {
		return wait, bad("--timeout is about waiting: it does nothing with --wait=false")
	}
	return wait, nil
}

// verdict prints a verdict, and makes one that is not good an error without words.
func (c *client) verdict(v control.Verdict, err error) error {
	if err != nil {
		return err
	}
	out, text := c.stdout, plainLines(v.Text)
	if !v.OK {
		out = c.stderr
		text = "supervisor ctl: " + text
	}
	if c.has("json") {
		if err := printJSON(c.stdout, v); err != nil {
			return err
		}
	} else if v.Took >= 0.001 && c.flags["wait"] != "false" {
		fmt.Fprintf(out, "%s (%v)\n", text, time.Duration(v.Took*float64(time.Second)).Round(time.Millisecond))
	} else {
		fmt.Fprintln(out, text)
	}
	if !v.OK {
		return failure{exitVerdict, errors.New("")}
	}
	return nil
}

// ctlScale takes web=4, web=+1, 4, +1, -1.
func ctlScale(ctx context.Context, c *client, to *control.Client) error {
	if len(c.words) == 0 {
		return bad("scale: how many? web=4, web=+1, or +1 for the pool with an address")
	}
	r, err := parseScale(c.words[0])
	if err != nil {
		return err
	}
	if r.Wait, err = c.wait(); err != nil {
		return err
	}
	return c.verdict(to.Scale(ctx, r))
}

func parseScale(word string) (control.ScaleRequest, error) {
	var r control.ScaleRequest
	pool, count, named := strings.Cut(word, "=")
	if !named {
		pool, count = "", word
	}
	n, err := strconv.Atoi(count)
	switch {
	case named && pool == "", err != nil:
		return r, bad("scale: %q is not web=4, web=+1, web=-1, 4, +1 or -1", word)
	case n == 0:
		return r, bad("scale: %q: a pool keeps at least one worker", word)
	}
	r.Pool = pool
	if count[0] == '+' || count[0] == '-' {
		r.Delta = n
	} else {
		r.Workers = n
	}
	return r, nil
}

// ctlStop waits also for the end of the process, so that a start right after it finds nothing in its way.
func ctlStop(ctx context.Context, c *client, to *control.Client) error {
	wait, err := c.wait()
	if err != nil {
		return err
	}
	v, err := to.Stop(ctx, control.StopRequest{Wait: wait, Quick: c.has("quick")})
	if err == nil && wait.Wait && v.Process != nil {
		if err := v.Process.AwaitEnd(ctx); err != nil {
			return err
		}
	}
	return c.verdict(v, err)
}
