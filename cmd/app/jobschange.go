package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"supervisor/pkg/tasks"
)

// What app jobs changes.

// stdin and terminal are what a purge asks, and whether there is somebody to ask. Tests have others.
var (
	stdin    io.Reader = os.Stdin
	terminal           = func() bool { return term.IsTerminal(int(os.Stdin.Fd())) }
)

func enqueueJob(d *desk) error {
	name, known := d.Args().First(), d.tasks.Handlers().Names()
	if !slices.Contains(known, name) && !d.Bool("force") {
		return usage("there is no handler for %q in this app; there are %s (--force stores it nevertheless)", name, strings.Join(known, ", "))
	}
	payload := []byte(d.Args().Get(1))
	if d.Args().Get(1) == "-" {
		var err error
		if payload, err = io.ReadAll(stdin); err != nil {
			return fmt.Errorf("payload from stdin: %w", err)
		}
	}
	options := []tasks.Option{tasks.Queue(d.String("queue")), tasks.Priority(d.Int("priority")), tasks.MaxAttempts(d.Int("attempts")), tasks.Timeout(d.Duration("timeout"))}
	if d.IsSet("in") {
		options = append(options, tasks.In(d.Duration("in")))
	}
	if d.IsSet("key") {
		options = append(options, tasks.Key(d.String("key")))
	}
	id, err := d.tasks.EnqueueBytes(d.ctx, name, payload, options...)
	if err != nil {
		return err
	}
	return d.say(map[string]string{"id": id}, func(w io.Writer) { fmt.Fprintln(w, id) })
}

// errEnded says that there is nothing left to cancel.
var errEnded = errors.New("it has ended: there is nothing left to cancel")

func cancelJob(d *desk) error {
	id := d.Args().First()
	state, err := d.tasks.CancelTask(d.ctx, id)
	if err != nil {
		return err
	}
	if state == "" {
		status, err := d.tasks.GetTaskStatus(d.ctx, id)
		if err != nil {
			return err
		}
		return fmt.Errorf("job %s is %s: %w", id, status.State, errEnded)
	}
	return d.say(map[string]any{"id": id, "state": state}, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", id, state) })
}

func retryJob(d *desk) error {
	id := d.Args().First()
	if err := d.tasks.RetryTask(d.ctx, id); err != nil {
		return err
	}
	return d.say(map[string]any{"id": id, "state": tasks.Pending}, func(w io.Writer) { fmt.Fprintf(w, "%s is pending\n", id) })
}

func purgeJobs(d *desk) error {
	queue, state := d.String("queue"), tasks.State(d.String("state"))
	info, err := d.inspector.Queue(d.ctx, queue)
	if err != nil {
		return err
	}
	count, known := map[tasks.State]int64{tasks.Pending: info.Waiting, tasks.Scheduled: info.Scheduled, tasks.Dead: info.Dead}[state]
	if !known {
		return usage("--state %s: want one of %s", state, words(tasks.Purgeable))
	}
	if !d.Bool("yes") {
		if !terminal() {
			return usage("app jobs purge asks before it does, and there is no terminal: say --yes")
		}
		fmt.Fprintf(d.App.ErrWriter, "Let %s of %s that are %s go? [y/N] ", plural(count, "job"), queue, state)
		line, _ := bufio.NewReader(stdin).ReadString('\n')
		if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
			return errors.New("nothing was done")
		}
	}
	gone, err := d.tasks.Purge(d.ctx, queue, state)
	if err != nil {
		return fmt.Errorf("%s went, then: %w", plural(gone, "job"), err)
	}
	return d.say(map[string]any{"queue": queue, "state": state, "purged": gone}, func(w io.Writer) { fmt.Fprintf(w, "%s went\n", plural(gone, "job")) })
}

func pauseQueue(d *desk) error { return turnQueue(d, "paused", d.inspector.Pause) }

func resumeQueue(d *desk) error { return turnQueue(d, "active", d.inspector.Resume) }

func turnQueue(d *desk, state string, turn func(context.Context, string) (bool, error)) error {
	queue := d.Args().First()
	changed, err := turn(d.ctx, queue)
	if err != nil {
		return err
	}
	return d.say(map[string]any{"queue": queue, "state": state, "changed": changed}, func(w io.Writer) {
		was := ""
		if !changed {
			was = " already"
		}
		fmt.Fprintf(w, "%s is %s%s\n", queue, state, was)
	})
}
