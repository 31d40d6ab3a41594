package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap/zapcore"

	"supervisor/pkg/app"
	"supervisor/pkg/tasks"
)

func jobsCommand() *cli.Command {
	queue := &cli.StringFlag{Name: "queue", Value: "default", Usage: "`NAME` of the queue"}
	asJSON := &cli.BoolFlag{Name: "json", Usage: "answer with JSON, for programs"}
	state := func(otherwise string, states []tasks.State) cli.Flag {
		return &cli.StringFlag{Name: "state", Value: otherwise, Usage: "`STATE` of the jobs: " + words(states)}
	}
	// Each takes from least to most arguments.
	sub := func(name, args, usage string, least, most int, act func(*desk) error, flags ...cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, UsageText: strings.TrimSpace("app jobs " + name + " [options] " + args), Flags: append(flags, asJSON), HideHelpCommand: true,
			Action: func(c *cli.Context) error {
				if n := c.NArg(); n < least || n > most {
					return usageOf(c, least, args)
				}
				d, err := openDesk(c)
				if err != nil {
					return err
				}
				defer d.close()
				return d.explain(act(d))
			},
		}
	}
	return &cli.Command{
		Name:      "jobs",
		Usage:     "look at background jobs, and change them",
		UsageText: "app jobs COMMAND [options] [arguments]",
		Description: "With the Redis of REDIS_URL or TASK_BROKER_URL. Exit codes: 0, 1 it failed (Redis is away, for instance), 3 there is no such job or\n" +
			"queue, 4 it is in a state in which that cannot be done, or verify found something, 64 bad usage, 78 bad configuration.",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			sub("enqueue", "NAME [PAYLOAD]", "store a job for the handler NAME; PAYLOAD is JSON for those of this app, - reads it from stdin", 1, 2, enqueueJob, queue,
				&cli.IntFlag{Name: "priority", Value: 1, Usage: "`N` from 0 (first) to 3 (last)"},
				&cli.DurationFlag{Name: "in", Usage: "not before this `DURATION` has passed"},
				&cli.StringFlag{Name: "key", Usage: "the same `KEY` is the same job: enqueueing it again changes nothing"},
				&cli.IntFlag{Name: "attempts", Value: 8, Usage: "it may fail `N` times"},
				&cli.DurationFlag{Name: "timeout", Value: 30 * time.Minute, Usage: "`DURATION` of one attempt at most; 0: any"},
				&cli.BoolFlag{Name: "force", Usage: "store it although this app has no handler NAME: a runner of another version may"}),
			sub("list", "", "list jobs of one state, page by page", 0, 0, listJobs, queue, state("pending", tasks.Listed),
				&cli.IntFlag{Name: "limit", Value: 50, Usage: "at most `N` of them, up to 1000"},
				&cli.StringFlag{Name: "cursor", Usage: "begin at `WORD`, where the page before ended"}),
			sub("show", "ID", "all that is known of a job", 1, 1, showJob,
				&cli.IntFlag{Name: "bytes", Value: 1024, Usage: "at most `N` bytes of its payload or result"}),
			sub("cancel", "ID", "end a job for good; one that runs is told", 1, 1, cancelJob),
			sub("retry", "ID", "let a dead job begin anew", 1, 1, retryJob),
			sub("purge", "", "let all jobs of one state go; asks first", 0, 0, purgeJobs, queue, state("dead", tasks.Purgeable),
				&cli.BoolFlag{Name: "yes", Usage: "do not ask"}),
			sub("queues", "", "what the queues hold, and what they have counted", 0, 0, listQueues),
			sub("pause", "QUEUE", "let no runner begin a job of this queue", 1, 1, pauseQueue),
			sub("resume", "QUEUE", "end a pause", 1, 1, resumeQueue),
			sub("runners", "", "who works, where, and at how many jobs", 0, 0, listRunners),
			sub("verify", "[QUEUE…]", "read every key, and say what does not add up; when nothing moves", 0, 1000, verifyJobs),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage("there is no command %q under app jobs; there are %s", c.Args().First(), namesOf(c.Command.Subcommands))
			}
			return usage("jobs: which command? %s", namesOf(c.Command.Subcommands))
		},
	}
}

// namesOf lists commands, for people who gave none of them.
func namesOf(commands []*cli.Command) string {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func words(states []tasks.State) string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

func usageOf(c *cli.Context, least int, args string) error {
	if c.NArg() < least {
		return usage("jobs %s: want %s", c.Command.Name, args)
	}
	return usage("jobs %s: too many arguments: %q", c.Command.Name, strings.Join(c.Args().Slice(), " "))
}

// desk is what a command of app jobs works with.
type desk struct {
	*cli.Context
	ctx       context.Context
	stop      context.CancelFunc
	tasks     *app.Tasks
	inspector *tasks.Inspector
}

func openDesk(c *cli.Context) (*desk, error) {
	config, err := app.ConfigFromEnv(os.Getenv)
	if err != nil {
		return nil, &failure{exitConfig, err}
	}
	config.LogLevel = max(config.LogLevel, zapcore.ErrorLevel) // what a command has to say it says itself
	log := config.NewLog(os.Stderr)
	if config.Broker == "" {
		return nil, &failure{exitConfig, errors.New("there is no Redis to look at: set REDIS_URL or TASK_BROKER_URL, as in redis://127.0.0.1:6379")}
	}
	config.Tasks = true // also where ENABLE_BACKGROUND_TASKS=false turns them off for clients
	opened, err := openTasks(config, log)
	if err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	return &desk{c, ctx, stop, opened, opened.Inspector()}, nil
}

func (d *desk) close() {
	d.stop()
	d.tasks.Close()
}

// explain gives an error its exit code.
func (d *desk) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tasks.ErrNotFound), errors.Is(err, tasks.ErrUnknownQueue):
		return &failure{exitNotFound, err}
	case errors.Is(err, tasks.ErrNotDead), errors.Is(err, errEnded):
		return &failure{exitState, err}
	case errors.Is(err, tasks.ErrBadID), errors.Is(err, tasks.ErrInvalid), errors.Is(err, tasks.ErrBadCursor):
		return usage("%w", err)
	case app.IsRefusal(err) && tasks.Refusal(err) != "":
		return &failure{exitConfig, fmt.Errorf("redis refuses this, see REDIS_URL or TASK_BROKER_URL: %w", err)}
	}
	return err
}

// say answers: JSON for programs, else what print writes, in columns where it writes tabs.
func (d *desk) say(v any, print func(w io.Writer)) error {
	if d.Bool("json") {
		encoder := json.NewEncoder(d.App.Writer)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(v)
	}
	w := tabwriter.NewWriter(d.App.Writer, 0, 0, 2, ' ', 0)
	print(w)
	return w.Flush()
}

// wordsOf gives an error as one reads it: those of this app are stored as JSON, for its clients.
func wordsOf(text string) string {
	var told struct{ Code, Message string }
	if json.Unmarshal([]byte(text), &told) == nil && told.Message != "" {
		return told.Code + ": " + told.Message
	}
	return text
}
