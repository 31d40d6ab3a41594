package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"supervisor/pkg/control"
)

var statusCommand = ctlCommand{
	name: "status", brief: []string{"pools and workers, what they do, and what is not as it should be"},
	run: func(ctx context.Context, c *client, to *control.Client) error {
		st, err := to.Status(ctx)
		if err != nil {
			return err
		}
		if c.has("json") {
			return printJSON(c.stdout, st)
		}
		writeStatus(c.stdout, st, buildVersion())
		return nil
	},
}

// From when on a worker's silence, or its oldest request, is worth a note.
const (
	notedSilence = 5 * time.Second
	notedRequest = 5 * time.Second
)

// writeStatus prints a status for people. client is our own version, which is worth a line when the supervisor has another one: it runs what
// was on disk when it started, and an upgrade is what it lacks.
func writeStatus(out io.Writer, st control.Status, client string) {
	fmt.Fprintln(out, headline(st))
	if st.Version != "" {
		fmt.Fprintf(out, "version %s", st.Version)
		if st.Version != client {
			fmt.Fprintf(out, "; this ctl is %s", client)
		}
		fmt.Fprintln(out)
	}
	writeTrouble(out, st)
	for _, p := range st.Pools {
		fmt.Fprintf(out, "\npool %s: %d of %d ready", p.Name, p.Ready, p.Wanted)
		if p.Scaled != 0 {
			fmt.Fprintf(out, " (scaled by %+d)", p.Scaled)
		}
		if p.Drained > 0 {
			fmt.Fprintf(out, ", %d drained", p.Drained)
		}
		if p.Leaving > 0 {
			fmt.Fprintf(out, ", %d on the way out", p.Leaving)
		}
		if len(p.Addresses) > 0 {
			fmt.Fprintf(out, ", on %s", strings.Join(p.Addresses, " "))
		}
		fmt.Fprintln(out)
		writeWorkers(out, p.Workers)
	}
}

// headline says in one line how a supervisor is.
func headline(st control.Status) string {
	ready := "ready"
	if !st.Ready {
		ready = "not ready"
		if st.NotReady != "" && st.State != control.StateStopping {
			ready += " (" + st.NotReady + ")"
		}
	}
	return fmt.Sprintf("supervisor %d: %s, %s, generation %d, up %s", st.PID, st.State, ready, st.Generation, span(st.Uptime))
}

// writeTrouble says what goes on, and what is not as it should be.
func writeTrouble(out io.Writer, st control.Status) {
	if r := st.Reload; r != nil {
		fmt.Fprintf(out, "a reload to generation %d runs for %s (%s)", r.Generation, span(r.Age), r.Step)
		if r.Queued {
			fmt.Fprint(out, ", another one waits for it")
		}
		fmt.Fprintln(out)
	}
	if v := st.Last; v != nil {
		fmt.Fprintf(out, "last %s, %s ago: %s\n", v.What, span(time.Since(v.At).Seconds()), plain(v.Text))
	}
	for _, text := range st.Degraded {
		fmt.Fprintf(out, "degraded: %s\n", plain(text))
	}
}

func writeWorkers(out io.Writer, workers []control.Worker) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  WORKER\tPID\tSTATE\tGEN\tAGE\tREQUESTS\tRUNNING\tCONNS\tMEMORY\tNOTE")
	for _, w := range workers {
		pid, requests, running, conns, memory, age := "-", "-", "-", "-", "-", "-"
		if w.PID > 0 {
			pid, memory, age = fmt.Sprint(w.PID), size(w.Memory), span(w.Age)
		}
		if w.Scored {
			requests, running, conns = fmt.Sprint(w.Requests), fmt.Sprint(w.InFlight), fmt.Sprint(w.Connections)
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", w.Name, pid, w.State, w.Generation, age, requests, running, conns, memory, note(w))
	}
	table.Flush()
}

// note says what is unusual about a worker.
func note(w control.Worker) string {
	var notes []string
	if w.State == "drained" {
		notes = append(notes, fmt.Sprintf("for %s, until ctl undrain %s or a reload", span(w.Age), w.Name))
	}
	if w.Reason != "" {
		notes = append(notes, w.Reason)
	}
	if w.Overdue != "" && w.Reason == "" {
		notes = append(notes, "to be replaced: "+w.Overdue)
	}
	if w.Suspect != "" {
		notes = append(notes, "no progress: "+w.Suspect)
	}
	if w.Silent > notedSilence.Seconds() {
		notes = append(notes, "silent for "+span(w.Silent))
	}
	if w.Oldest > notedRequest.Seconds() {
		notes = append(notes, "a request runs for "+span(w.Oldest))
	}
	if w.Failures > 0 {
		notes = append(notes, fmt.Sprintf("%d starts failed", w.Failures))
	}
	return strings.Join(notes, ", ")
}

// span shows seconds as people say them.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size shows bytes as people say them.
func size(bytes int64) string {
	const mib = 1 << 20
	if bytes < 10*mib {
		return fmt.Sprintf("%.1fMiB", float64(bytes)/mib)
	}
	return fmt.Sprintf("%dMiB", bytes/mib)
}
