package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"supervisor/pkg/app"
	"supervisor/pkg/operator"
	"supervisor/pkg/tasks"
)

// What app jobs only looks at.

func listJobs(d *desk) error {
	if state := tasks.State(d.String("state")); !slices.Contains(tasks.Listed, state) {
		return usage("--state %s: want one of %s", state, words(tasks.Listed))
	}
	if n := d.Int("limit"); n < 1 || n > 1000 {
		return usage("--limit %d: want 1 to 1000", n)
	}
	page, err := d.inspector.Jobs(d.ctx, tasks.Filter{
		Queue: d.String("queue"), State: tasks.State(d.String("state")), Cursor: d.String("cursor"), Limit: d.Int("limit"),
	})
	if err != nil {
		return err
	}
	return d.say(app.DescribePage(page), func(w io.Writer) {
		if len(page.Jobs) == 0 && page.Next == "" {
			fmt.Fprintf(w, "no jobs of %s are %s\n", d.String("queue"), d.String("state"))
			return
		}
		fmt.Fprintln(w, "ID\tNAME\tSTATE\tATTEMPT\tSINCE\tERROR")
		for _, job := range page.Jobs {
			attempt := "-"
			if job.Max > 0 {
				attempt = fmt.Sprintf("%d/%d", job.Attempt, job.Max)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", job.ID, printable(job.Name), job.State, attempt, since(job), brief(job.Error))
		}
		if page.Next != "" {
			fmt.Fprintf(w, "more: --cursor %s\n", page.Next)
		}
	})
}

// since says for how long the job has been in its state, or how long it will be.
func since(s tasks.Status) string {
	switch {
	case !s.Due.IsZero():
		return "in " + operator.Ago(time.Until(s.Due))
	case !s.Finished.IsZero():
		return operator.Ago(time.Since(s.Finished)) + " ago"
	case !s.Started.IsZero() && s.Runner != "":
		return operator.Ago(time.Since(s.Started))
	case !s.Enqueued.IsZero():
		return operator.Ago(time.Since(s.Enqueued))
	}
	return "-"
}

// printable keeps what somebody stored from moving the cursor of who looks at it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ReplaceAll(s, "\t", "    "))
}

func brief(text string) string {
	line, _, _ := strings.Cut(wordsOf(text), "\n")
	if short := []rune(line); len(short) > 60 {
		line = string(short[:59]) + "…"
	}
	return printable(line)
}

func showJob(d *desk) error {
	if n := d.Int("bytes"); n < 0 || n > 10<<20 {
		return usage("--bytes %d: want 0 to %d", n, 10<<20)
	}
	job, err := d.inspector.Job(d.ctx, d.Args().First(), d.Int("bytes"))
	if err != nil {
		return err
	}
	shown := app.DescribeDetail(job)
	return d.say(shown, func(w io.Writer) {
		row := func(name string, value any) {
			if text := fmt.Sprint(value); text != "" {
				fmt.Fprintf(w, "%s\t%s\n", name, text)
			}
		}
		row("id", job.ID)
		row("name", printable(job.Name))
		row("state", job.State)
		for _, f := range app.Facts(job, func(t time.Time) string { return t.Local().Format(time.DateTime) }) {
			row(f.Name, printable(f.Value))
		}
		for n, line := range strings.Split(strings.TrimRight(wordsOf(job.Error), "\n"), "\n") {
			if name := "error"; n == 0 {
				row(name, printable(line))
			} else {
				fmt.Fprintf(w, "\t%s\n", printable(line))
			}
		}
		if job.Size > 0 {
			row(shown.DataKind(), fmt.Sprintf("%d bytes", job.Size))
			for line := range strings.Lines(shown.DataText()) {
				fmt.Fprintf(w, "\t%s\n", printable(strings.TrimRight(line, "\n")))
			}
		}
	})
}

func listQueues(d *desk) error {
	queues, err := d.inspector.Queues(d.ctx)
	if err != nil {
		return err
	}
	return d.say(map[string]any{"queues": app.DescribeQueues(queues)}, func(w io.Writer) {
		if len(queues) == 0 {
			fmt.Fprintln(w, "no queue yet: nothing was enqueued, and no runner was there")
			return
		}
		fmt.Fprintln(w, "QUEUE\tSTATE\tPENDING\tOLDEST\tRUNNING\tSCHEDULED\tDEAD\tRUNNERS\tACCEPTED\tDONE\tRETRIED\tCANCELLED\tEXPIRED\tCRASHED")
		for _, q := range queues {
			state, oldest := "active", "-"
			if !q.Paused.IsZero() {
				state = "paused " + operator.Ago(q.Now.Sub(q.Paused))
			}
			if !q.Oldest.IsZero() {
				oldest = operator.Ago(time.Since(q.Oldest))
			}
			n := q.Counters
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", q.Name, state, q.Waiting, oldest, q.Running, q.Scheduled, q.Dead, q.Runners,
				n.Accepted, n.Done, n.Retried, n.Cancelled, n.Expired, n.Crashed)
		}
	})
}

func listRunners(d *desk) error {
	runners, err := d.inspector.Runners(d.ctx)
	if err != nil {
		return err
	}
	return d.say(map[string]any{"runners": app.DescribeRunners(runners)}, func(w io.Writer) {
		if len(runners) == 0 {
			fmt.Fprintln(w, "no runner: start one with app work")
			return
		}
		fmt.Fprintln(w, "HOST\tPID\tJOBS\tUP FOR\tLEASE\tQUEUES\tNAME")
		for _, r := range app.DescribeRunners(runners) {
			fmt.Fprintf(w, "%s\t%d\t%d/%d\t%s\t%s\t%s\t%s\n", printable(r.Host), r.PID, r.Claims, r.Concurrency, r.Age(), r.State, strings.Join(r.Queues, ","), r.Name)
		}
	})
}

func verifyJobs(d *desk) error {
	queues := d.Args().Slice()
	if len(queues) == 0 {
		var err error
		if queues, err = d.inspector.Names(d.ctx); err != nil {
			return err
		}
	}
	books, err := d.tasks.Verify(d.ctx, queues...)
	if err != nil {
		return err
	}
	if err := d.say(books, func(w io.Writer) {
		for _, p := range books.Problems {
			fmt.Fprintf(w, "problem: %s\n", p)
		}
		fmt.Fprintf(w, "%s: accepted %d, done %d, dead %d, cancelled %d, expired %d, lost %d, pending %d, scheduled %d, running %d\n", plural(int64(len(queues)), "queue"),
			books.Accepted, books.Done, books.Dead, books.Cancelled, books.Expired, books.Lost, books.Pending, books.Scheduled, books.Running)
	}); err != nil {
		return err
	}
	if n := len(books.Problems); n > 0 {
		return &failure{exitState, fmt.Errorf("verify found %s; jobs that move meanwhile look like some", plural(int64(n), "problem"))}
	}
	return nil
}
