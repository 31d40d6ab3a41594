// Command app is the application that ships with the supervisor.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/worker"
)

// Exit codes. 2 is not among them: it is what Go exits with after a panic.
const (
	exitOK       = 0
	exitFailed   = 1  // failed while running
	exitNotFound = 3  // app jobs: there is no such job or queue
	exitState    = 4  // app jobs: it is in a state in which that cannot be done
	exitUsage    = 64 // bad usage
	exitBind     = 69 // the address could not be bound
	exitConfig   = 78 // bad configuration
)

// failure is an error that knows its exit code.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usage(format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main without the exit.
func run(args []string, stdout, stderr io.Writer) int {
	program := newCLI(stdout, stderr)
	err := program.Run(flagsFirst(args, jobsCommand()))
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "app: %v\n", err)
	var f *failure
	if !errors.As(err, &f) {
		return exitFailed
	}
	if f.code == exitUsage {
		fmt.Fprintf(stderr, "app: try %s --help\n", named(program, args))
	}
	return f.code
}

// named gives those first words of a command line that name a command.
func named(program *cli.App, args []string) string {
	name, commands := program.Name, program.Commands
	for _, word := range args[1:] {
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
		if at < 0 {
			break
		}
		name += " " + word
		commands = commands[at].Subcommands
	}
	return name
}

func newCLI(stdout, stderr io.Writer) *cli.App {
	badUsage := func(_ *cli.Context, err error, _ bool) error { return usage("%w", err) }
	commands := []*cli.Command{serveCommand(), workCommand(), redisCommand(), devCommand(), migrateCommand()}
	for _, c := range commands {
		act := c.Action
		c.HideHelpCommand, c.OnUsageError = true, badUsage
		c.Action = func(ctx *cli.Context) error {
			if ctx.Args().Present() { // flags after an argument would be taken for arguments, and ignored
				return usage("%s takes no arguments, but got %q", ctx.Command.Name, strings.Join(ctx.Args().Slice(), " "))
			}
			return act(ctx)
		}
	}
	jobs := jobsCommand()
	for _, c := range append(jobs.Subcommands, jobs) {
		c.OnUsageError = badUsage
	}
	commands = append(commands, jobs)
	for _, c := range append(jobs.Subcommands, commands...) {
		for _, flag := range c.Flags {
			if yes, ok := flag.(*cli.BoolFlag); ok {
				yes.DisableDefaultText = true // "(default: false)" tells nobody anything
			}
		}
	}
	return &cli.App{
		Name:      "app",
		Usage:     "make thumbnails of photographs",
		UsageText: "app serve [--addr HOST:PORT]\napp work [--queues NAMES] [--concurrency N]\napp redis [--addr unix:PATH]\napp dev [--addr HOST:PORT]\napp migrate [--status]\napp jobs COMMAND",
		Description: "A web service to run under the supervisor, and to start yours from.\n" +
			"Try: app dev, then open http://127.0.0.1:8080/",
		Version:         buildVersion(),
		Commands:        commands,
		Writer:          stdout,
		ErrWriter:       stderr,
		HideHelpCommand: true,
		OnUsageError:    badUsage,
		ExitErrHandler:  func(*cli.Context, error) {}, // only main exits
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage("there is no command %q; there are %s", c.Args().First(), namesOf(commands))
			}
			return usage("which command? %s", namesOf(commands))
		},
	}
}

// setUp reads the configuration and makes the log. Sync the log at the end.
func setUp() (app.Config, *zap.Logger, error) {
	config, err := app.ConfigFromEnv(os.Getenv)
	if err != nil {
		return config, nil, &failure{exitConfig, err}
	}
	return config, config.NewLog(os.Stderr), nil
}

// openTasks gives the background tasks of that configuration, nil when they are off. Close them at the end.
func openTasks(config app.Config, log *zap.Logger) (*app.Tasks, error) {
	facts := factsOf(worker.Join())
	if err := config.CheckBudget(facts); err != nil {
		return nil, &failure{exitConfig, err}
	}
	background, err := app.OpenTasks(config, log)
	if err != nil {
		return nil, &failure{exitConfig, err}
	}
	background.Begin(config, facts)
	return background, nil
}

// bindFailure gives an address that cannot be bound its exit code.
func bindFailure(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "listen" {
		return &failure{exitBind, err}
	}
	return err
}

// version is set by -ldflags "-X main.version=v1.2.3"; without it the build's own information is shown.
var version string

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
