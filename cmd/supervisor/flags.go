package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"supervisor/pkg/config"
)

// option is one flag. All values are texts here: one parser, in pkg/config, reads flags, variables and files alike.
type option struct {
	long, short string
	value       string // what it takes, for --help; "": nothing
	usage       string
	repeatable  bool
}

// options are gunicorn's where the meaning is gunicorn's, in the order of --help.
var options = []option{
	{"config", "c", "FILE", "TOML file; etc/supervisor.toml shows every key", false},
	{"pool", "", "NAME", "run only this pool of the file; repeatable", true},
	{"workers", "w", "N", "worker processes; auto: one per core", false},
	{"bind", "b", "ADDR", "[name=]:8080, host:8080, unix:/path?mode=0660, systemd:NAME; repeatable", true},
	{"timeout", "t", "TIME", "a request that takes longer is answered with 504; 30s, or seconds; 0: never", false},
	{"graceful-timeout", "", "TIME", "what a worker has to finish its requests", false},
	{"keep-alive", "", "TIME", "how long a connection may be idle", false},
	{"max-requests", "", "N", "replace a worker after so many requests; 0: never", false},
	{"max-requests-jitter", "", "N", "and up to so many more, at random", false},
	{"user", "u", "USER", "run workers as this user", false},
	{"group", "g", "GROUP", "run workers as this group", false},
	{"umask", "m", "MASK", "umask of workers, octal", false},
	{"chdir", "", "DIR", "working directory of workers", false},
	{"ready", "", "WHEN", "a worker is ready when it says so: notify (default with -b), or at once: exec", false},
	{"env", "e", "NAME=VALUE", "a variable of workers; repeatable", true},
	{"pid", "p", "FILE", "pidfile", false},
	{"error-logfile", "", "FILE", "our log and the workers' stderr; -: stderr", false},
	{"access-logfile", "", "FILE", "the workers' stdout; -: stdout", false},
	{"log-level", "", "LEVEL", "debug, info, warning or error", false},
	{"log-format", "", "FORMAT", "of our own lines: console or json", false},
	{"reload", "", "", "development: watch files, build, and reload when the build succeeds", false},
	{"reload-extra-file", "", "GLOB", "with --reload: watch these as well, as in 'assets/**'; repeatable", true},
	{"build", "", "COMMAND", "with --reload: what to run before a reload; default: go build of the program here", false},
	{"holder", "", "", "stay above it and restart it if it crashes; PID 1 does so anyway", false},
	{"check-config", "", "", "say whether a start or a reload would work, and exit", false},
	{"print-config", "", "", "print every setting and where it came from, and exit", false},
	{"version", "", "", "print the version", false},
	{"help", "h", "", "print this", false},
}

func (o option) aliases() []string {
	if o.short == "" {
		return nil
	}
	return []string{o.short}
}

func (o option) flag() cli.Flag {
	switch {
	case o.value == "":
		return &cli.BoolFlag{Name: o.long, Aliases: o.aliases()}
	case o.repeatable:
		return &cli.StringSliceFlag{Name: o.long, Aliases: o.aliases()}
	}
	return &cli.StringFlag{Name: o.long, Aliases: o.aliases()}
}

// line gives a line of --help.
func (o option) line() string {
	short := "    "
	if o.short != "" {
		short = "-" + o.short + ", "
	}
	return fmt.Sprintf("   %s%-26s %s\n", short, "--"+o.long+" "+o.value, o.usage)
}

// newApp describes the command line to urfave/cli.
func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                      "supervisor",
		HideHelp:                  true, // --help and --version are options like the others
		HideVersion:               true,
		CustomAppHelpTemplate:     helpText(),
		Writer:                    stdout,
		ErrWriter:                 stderr,
		DisableSliceFlagSeparator: true, // a comma in --env LIST=a,b is a comma
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return usageError{explain(err)} },
	}
	for _, o := range options {
		app.Flags = append(app.Flags, o.flag())
	}
	return app
}

// longNames writes -b as --bind, up to the first argument: urfave/cli refuses both forms of a flag on one command line, which
// for one that may be repeated is nobody's mistake.
func longNames(args []string) []string {
	out := slices.Clone(args)
	for i := 1; i < len(out); i++ {
		name, _, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(out[i], "-"), "-"), "=")
		known := slices.IndexFunc(options, func(o option) bool { return name != "" && (o.short == name || o.long == name) })
		if known < 0 || out[i][0] != '-' {
			break
		}
		o := options[known]
		out[i] = "--" + o.long + strings.TrimPrefix(strings.TrimLeft(out[i], "-"), name)
		if o.value != "" && !hasValue {
			i++ // its value
		}
	}
	return out
}

// explain says in our words what the flag parser found.
func explain(err error) error {
	message := err.Error()
	if name, ok := strings.CutPrefix(message, "flag needs an argument: -"); ok {
		return fmt.Errorf("flag %s needs a value", dashed(name))
	}
	name, ok := strings.CutPrefix(message, "flag provided but not defined: -")
	if !ok {
		return errors.New(message)
	}
	for _, o := range options {
		if o.short != "" && o.value != "" && len(name) > 1 && name[:1] == o.short && !unicode.IsLetter(rune(name[1])) {
			return fmt.Errorf("unknown flag -%s; write -%s %s", name, o.short, strings.TrimPrefix(name[1:], "="))
		}
	}
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.long
	}
	if guess := config.Nearest(name, names); len(name) > 1 && guess != "" {
		return fmt.Errorf("unknown flag %s; did you mean %s?", dashed(name), dashed(guess))
	}
	return fmt.Errorf("unknown flag %s%s", dashed(name), config.Elsewhere(strings.ReplaceAll(name, "-", "_")))
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
