// Supervisor holds the listening sockets of a service, runs N worker processes on them, and replaces them without losing a
// request. Run `supervisor --help`, or read docs/.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"supervisor/pkg/config"
	"supervisor/pkg/holder"
	"supervisor/pkg/supervisor"
)

// version is set by -ldflags "-X main.version=v1.2.3"; without it the build's own information is shown.
var version string

func main() {
	// Every worker starts as this binary, for a moment: before flags, loggers and whatever else could print or fail.
	if supervisor.IsExecStub() {
		supervisor.ExecStub()
	}
	if args, ok := holder.Wanted(os.Args); ok && !isClient(os.Args) {
		os.Exit(holder.Run(args))
	}
	holder.Settle()
	os.Exit(command(os.Args, os.Environ(), os.Stdout, os.Stderr, run))
}

// isClient reports whether a command line is one of those that are about a running supervisor: the first word says so. After a flag, or after
// --, nothing is a subcommand.
func isClient(args []string) bool {
	return len(args) > 1 && (args[1] == "ctl" || args[1] == "healthcheck" || args[1] == "completion")
}

// usageError marks a command line that cannot be understood.
type usageError struct{ error }

// command is main without the process around it: it gives the exit code.
func command(args, environ []string, stdout, stderr io.Writer, run func(load func() (*config.Config, error)) (int, error)) int {
	if len(args) > 1 && args[1] == "completion" { // it gets command lines as they are
		return completion(args[2:], environ, stdout, stderr)
	}
	// All that follows -- belongs to the worker. The flag parser never sees it: it would take flags out of it.
	var workerArgs []string
	dashes := slices.Index(args, "--")
	if dashes >= 0 {
		args, workerArgs = args[:dashes], args[dashes+1:]
	}
	if isClient(args) {
		if args[1] == "ctl" {
			return ctl(args[2:], dashes >= 0, environ, stdout, stderr)
		}
		return healthcheck(args[2:], dashes >= 0, environ, stdout, stderr)
	}
	code := exitOK
	app := newApp(stdout, stderr)
	app.Action = func(c *cli.Context) error {
		if c.Bool("version") {
			_, err := fmt.Fprintf(stdout, "supervisor %s\n", buildVersion())
			return err
		}
		if err := refuseArguments(c, dashes >= 0, workerArgs); err != nil {
			return err
		}
		if c.Bool("holder") { // the plain form never comes here
			return usageError{errors.New("--holder takes no value")}
		}
		src := sources(c, environ, workerArgs)
		load := func() (*config.Config, error) { return config.Load(src) }
		if c.Bool("check-config") && c.Bool("print-config") {
			return usageError{errors.New("--check-config and --print-config: one at a time")}
		}
		if !c.Bool("print-config") && !c.Bool("check-config") {
			var err error
			code, err = run(load)
			return err
		}
		cfg, err := load()
		if err != nil {
			return err
		}
		if c.Bool("check-config") {
			return check(cfg, stdout)
		}
		return cfg.Print(stdout)
	}
	if err := app.Run(longNames(args)); err != nil {
		complainAll(stderr, err)
		return exitCode(err)
	}
	return code
}

// exitCode says what went wrong before anything ran.
func exitCode(err error) int {
	var bad *config.Error
	switch {
	case errors.As(err, &usageError{}):
		return exitUsage
	case !errors.As(err, &bad):
		return exitFailed
	case bad.Bind():
		return exitBind
	case bad.Usage():
		return exitUsage
	}
	return exitConfig
}

// complainAll writes each line of an error with our name in front.
func complainAll(stderr io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "supervisor: %s\n", line)
	}
	if errors.As(err, &usageError{}) {
		fmt.Fprintln(stderr, "supervisor: see supervisor --help")
	}
}

// refuseArguments: there are no arguments but those after --. A forgotten -- would otherwise turn the worker's flags into ours.
func refuseArguments(c *cli.Context, dashes bool, workerArgs []string) error {
	if dashes && len(workerArgs) == 0 {
		return usageError{errors.New("no command follows --")}
	}
	args := c.Args().Slice()
	if len(args) == 0 {
		return nil
	}
	if isClient([]string{"", args[0]}) {
		return usageError{fmt.Errorf("%s comes first, its flags after it: supervisor %s …", args[0], strings.Join(args, " "))}
	}
	if i := slices.IndexFunc(args, func(s string) bool { return len(s) > 1 && s[0] == '-' }); i >= 0 && dashes {
		return usageError{fmt.Errorf("unexpected argument %q: the flag %s after it would be ignored", args[0], args[i])}
	}
	if dashes {
		return usageError{fmt.Errorf("unexpected argument %q before --", args[0])}
	}
	return usageError{fmt.Errorf("unexpected argument %q: a worker's command goes after --, as in: supervisor -w 4 -- %s", args[0], strings.Join(args, " "))}
}

// sources collects what the command line says. Values are read by config.Load, like those of the file.
func sources(c *cli.Context, environ, workerArgs []string) config.Sources {
	src := config.Sources{
		File:  c.String("config"),
		Env:   config.Environment(environ),
		Flags: map[string][]string{},
		Args:  workerArgs,
		Pools: c.StringSlice("pool"),
	}
	settings := config.FlagNames()
	for _, o := range options {
		switch {
		case !c.IsSet(o.long) || !slices.Contains(settings, o.long):
		case o.repeatable:
			src.Flags[o.long] = c.StringSlice(o.long)
		case o.value == "":
			src.Flags[o.long] = []string{strconv.FormatBool(c.Bool(o.long))}
		default:
			src.Flags[o.long] = []string{c.String(o.long)}
		}
	}
	return src
}

// buildVersion gives the version for people.
func buildVersion() string {
	v, revision, dirty := version, "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				revision = ", " + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " with changes"
			}
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return fmt.Sprintf("%s (%s%s%s)", v, runtime.Version(), revision, dirty)
}
