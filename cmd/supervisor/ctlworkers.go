package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"supervisor/pkg/control"
)

var workersCommand = ctlCommand{
	name: "workers", args: "[WHAT]", brief: []string{"each worker with its rate, CPU, latency and oldest request: two looks, a second apart"},
	more: `   REQ/S, CPU, P50 and P95 are of that second; CPU is of one core. Workers that do not use pkg/worker show - where only
   a scoreboard would tell.

EXAMPLES
   supervisor ctl workers web
   supervisor ctl workers --json | jq '.workers[] | select(.silent_seconds > 5) | .name'
`,
	words: 1, names: workerName, run: ctlWorkers,
}

// ctlWorkers prints a table.
func ctlWorkers(ctx context.Context, c *client, to *control.Client) error {
	_, now, err := lookTwice(ctx, to)
	if err != nil {
		return err
	}
	if now, err = now.only(strings.Join(c.words, "")); err != nil {
		return err
	}
	if c.has("json") {
		return printJSON(c.stdout, now)
	}
	writeRows(c.stdout, now)
	return nil
}

// only leaves what is about a pool, a slot or a process, and the pool around it.
func (c comparison) only(what string) (comparison, error) {
	all := c
	c.Workers, c.Pools = []row{}, []poolRow{}
	var names []string
	for _, r := range all.Workers {
		if names = append(names, r.Name); control.Names(what, r.Name) {
			c.Workers = append(c.Workers, r)
		}
	}
	for _, p := range all.Pools {
		if pool, _, _ := strings.Cut(what, "."); what == "" || p.Name == pool {
			c.Pools = append(c.Pools, p)
		}
	}
	if len(c.Workers) == 0 && !slices.ContainsFunc(c.Pools, func(p poolRow) bool { return p.Name == what }) && what != "" {
		return c, bad("there is no worker %s; there is %s", what, strings.Join(names, ", "))
	}
	return c, nil
}

// writeRows prints the workers of a comparison.
func writeRows(out io.Writer, c comparison) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKER\tPID\tSTATE\tGEN\tAGE\tREQUESTS\tREQ/S\tRUNNING\tCONNS\tMEMORY\tCPU\tP50\tP95\tOLDEST\tNOTE")
	for _, r := range c.Workers {
		cells := []string{r.Name, "-", r.State, fmt.Sprint(r.Generation), "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", ""}
		if r.PID > 0 {
			cells[1], cells[4], cells[9] = fmt.Sprint(r.PID), span(r.Age), size(r.Memory)
			cells[10] = c.ofRate(percent(r.Busy))
		}
		if r.Scored {
			cells[5], cells[7], cells[8] = fmt.Sprint(r.Requests), fmt.Sprint(r.InFlight), fmt.Sprint(r.Connections)
			cells[6] = c.ofRate(rate(r.Rate))
			if r.P95 > 0 {
				cells[11], cells[12] = short(r.P50, r.beyond50), short(r.P95, r.beyond95)
			}
			if r.InFlight > 0 && r.Oldest > 0 {
				cells[13] = short(r.Oldest, false)
			}
		}
		unusual := r.Worker
		unusual.Oldest = 0 // it has a column
		cells[14] = note(unusual)
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	table.Flush()
}

// writePools prints the pools of a comparison.
func writePools(out io.Writer, c comparison) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "POOL\tREADY\tLEAVING\tDRAINED\tREQ/S\tERRORS/S\tP50\tP95\tRUNNING\tCONNS\tQUEUED\tMEMORY\tCPU")
	for _, p := range c.Pools {
		queued, p50, p95 := fmt.Sprint(p.Queued), "-", "-"
		if p.Queued < 0 {
			queued = "-"
		}
		if p.P95 > 0 {
			p50, p95 = short(p.P50, p.beyond50), short(p.P95, p.beyond95)
		}
		fmt.Fprintf(table, "%s\t%d/%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, p.Ready, p.Wanted, p.Leaving, p.Drained, c.ofRate(rate(p.Rate)),
			c.ofRate(rate(p.ErrorRate)), p50, p95, p.Running, p.Connections, queued, size(p.Memory), c.ofRate(percent(p.Busy)))
	}
	table.Flush()
}

// ofRate gives the text of a rate, or - while there is none.
func (c comparison) ofRate(text string) string {
	if c.Seconds == 0 {
		return "-"
	}
	return text
}

func rate(perSecond float64) string {
	if perSecond > 0 && perSecond < 10 {
		return fmt.Sprintf("%.1f", perSecond)
	}
	return fmt.Sprintf("%.0f", perSecond)
}

func percent(cores float64) string { return fmt.Sprintf("%.0f%%", 100*cores) }

// short shows a latency with three digits.
func short(seconds float64, beyond bool) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	case d < time.Second:
		d = d.Round(time.Millisecond)
	default:
		return map[bool]string{true: ">"}[beyond] + span(seconds)
	}
	return map[bool]string{true: ">"}[beyond] + d.String()
}
