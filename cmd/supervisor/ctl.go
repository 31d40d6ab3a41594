package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// Exit codes of ctl besides exitOK, exitUsage and exitConfig.
const (
	exitVerdict    = 1  // what was asked for failed; its verdict says why
	exitNobody     = 69 // nobody listens, or does not answer
	exitTimeout    = 75 // --timeout is over; what was asked for goes on
	exitPermission = 77 // not root and not the supervisor's user
)

// client is what a command line says: flags, which may stand anywhere, and the other words.
type client struct {
	flags map[string]string
	words []string

	environ        map[string]string
	stdout, stderr io.Writer
}

// failure is an error with its exit code.
type failure struct {
	code int
	error
}

func (f failure) Unwrap() error { return f.error }

func bad(format string, args ...any) error { return failure{exitUsage, fmt.Errorf(format, args...)} }

// Flags of all commands.
var commonOptions = []option{
	{"socket", "s", "PATH", "the control socket of the supervisor", false},
	{"config", "c", "FILE", "ask the supervisor that this file configures", false},
	{"timeout", "t", "TIME", "wait at most so long, as in 90s; what was begun goes on, the exit code is 75", false},
	{"json", "", "", "print JSON", false},
	{"help", "h", "", "print this; after a command, what that does", false},
}

// Flags of several commands.
var (
	waitOption   = option{"wait", "", "", "the default: the exit code is the verdict; --wait=false returns at once", false}
	followOption = option{"follow", "f", "", "go on with what comes; Ctrl-C ends it", false}
)

// ctlCommand is one command of ctl.
type ctlCommand struct {
	name    string
	args    string   // what follows it, for the help
	brief   []string // the lines of ctl --help
	more    string   // what ctl NAME --help says besides: whole lines
	options []option // that mean something to it, besides commonOptions
	words   int      // how many may follow it
	names   nameKind // what these are, for completion
	run     func(context.Context, *client, *control.Client) error
}

// nameKind is what a word of a command names.
type nameKind int

const (
	noName     nameKind = iota
	workerName          // a pool, a slot or a process
	writerName          // the same, or the supervisor
	poolName
	scaledName // web=
)

// ctlCommands gives all commands, in the order of the help: first those that look, then those that change something.
func ctlCommands() []ctlCommand {
	return []ctlCommand{
		statusCommand, workersCommand, topCommand, historyCommand, logsCommand, configCommand, dumpCommand,
		reloadCommand, upgradeCommand, scaleCommand, recycleCommand, drainCommand, undrainCommand, stopCommand,
	}
}

// ctlOptions gives the flags of all commands.
func ctlOptions() []option {
	all := slices.Clone(commonOptions)
	for _, command := range ctlCommands() {
		for _, o := range command.options {
			if !slices.ContainsFunc(all, func(known option) bool { return known.long == o.long }) {
				all = append(all, o)
			}
		}
	}
	return all
}

// ctl is `supervisor ctl …`.
func ctl(args []string, dashes bool, environ []string, stdout, stderr io.Writer) int {
	c := &client{environ: config.Environment(environ), stdout: stdout, stderr: stderr}
	err := c.parse(ctlOptions(), args)
	if err == nil && dashes {
		err = bad("nothing may follow --")
	}
	if err != nil {
		return c.exit(err, "supervisor ctl")
	}
	if c.has("help") {
		return c.exit(c.help(), "supervisor ctl")
	}
	return c.exit(c.run(), "supervisor ctl")
}

// command finds the command that the first word names.
func (c *client) command() (ctlCommand, error) {
	var names []string
	for _, command := range ctlCommands() {
		names = append(names, command.name)
	}
	if len(c.words) == 0 {
		return ctlCommand{}, bad("which command? %s", strings.Join(names, ", "))
	}
	i := slices.Index(names, c.words[0])
	if i < 0 {
		if guess := config.Nearest(c.words[0], names); guess != "" {
			return ctlCommand{}, bad("there is no command %q; did you mean %s?", c.words[0], guess)
		}
		return ctlCommand{}, bad("there is no command %q; there are %s", c.words[0], strings.Join(names, ", "))
	}
	return ctlCommands()[i], nil
}

func (c *client) run() error {
	command, err := c.command()
	if err != nil {
		return err
	}
	c.words = c.words[1:]
	if len(c.words) > command.words {
		return bad("%s: unexpected argument %q", command.name, c.words[command.words])
	}
	for _, o := range ctlOptions() {
		is := func(other option) bool { return other.long == o.long }
		if _, set := c.flags[o.long]; set && !slices.ContainsFunc(command.options, is) && !slices.ContainsFunc(commonOptions, is) {
			return bad("%s does not take --%s", command.name, o.long)
		}
	}
	ctx := context.Background()
	if text := c.flags["timeout"]; text != "" {
		limit, err := parseTime(text)
		if err != nil {
			return bad("--timeout: %v", err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	path, how, err := c.findSocket()
	if err != nil {
		return err
	}
	to := control.Dial(path)
	if !c.has("json") {
		to.Begun = func(text string) { fmt.Fprintf(c.stderr, "supervisor ctl: %s, waiting\n", text) }
	}
	return explainSocket(command.run(ctx, c, to), path, how)
}

// parse reads flags and words in any order. What looks like a number is a word: scale -1.
func (c *client) parse(options []option, args []string) error {
	c.flags = map[string]string{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if _, err := strconv.Atoi(arg); err == nil || len(arg) < 2 || arg[0] != '-' {
			c.words = append(c.words, arg)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		i := slices.IndexFunc(options, func(o option) bool { return o.long == name || o.short == name && o.short != "" })
		if i < 0 {
			var names []string
			for _, o := range options {
				names = append(names, o.long)
			}
			if guess := config.Nearest(name, names); len(name) > 1 && guess != "" {
				return bad("unknown flag %s; did you mean --%s?", arg, guess)
			}
			return bad("unknown flag %s", arg)
		}
		o := options[i]
		switch {
		case o.value == "" && !hasValue:
			value = "true"
		case o.value == "":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return bad("flag --%s: %q is neither true nor false", o.long, value)
			}
			value = strconv.FormatBool(b)
		case !hasValue && len(args) == 0:
			return bad("flag --%s needs a value", o.long)
		case !hasValue:
			value, args = args[0], args[1:]
		}
		if value == "" {
			return bad("flag --%s needs a value", o.long)
		}
		c.flags[o.long] = value
	}
	return nil
}

func (c *client) has(flag string) bool { return c.flags[flag] == "true" }

// exit says what went wrong and gives the exit code. An error without words has been told already.
func (c *client) exit(err error, name string) int {
	if err == nil {
		return exitOK
	}
	f := failure{exitFailed, err}
	errors.As(err, &f)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line != "" {
			fmt.Fprintf(c.stderr, "%s: %s\n", name, line)
		}
	}
	if f.code == exitUsage {
		fmt.Fprintf(c.stderr, "%s: see %s --help\n", name, name)
	}
	return f.code
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
