package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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

// ctlOptions are the flags of ctl.
var ctlOptions = []option{
	{"socket", "s", "PATH", "the control socket of the supervisor", false},
	{"config", "c", "FILE", "ask the supervisor that this file configures", false},
	{"wait", "", "", "the default: the exit code is the verdict; --wait=false returns at once", false},
	{"timeout", "t", "TIME", "wait at most so long, as in 90s; what was begun goes on, the exit code is 75", false},
	{"quick", "", "", "stop: as INT does, without waiting for requests that run", false},
	{"goroutines", "", "", "dump: what each goroutine does; the default", false},
	{"heap", "", "", "dump: memory in use, by the place that took it", false},
	{"allocs", "", "", "dump: all memory ever taken, by place", false},
	{"cpu", "", "TIME", "dump: where the CPU time goes during so long, as in 10s", false},
	{"output", "o", "FILE", "dump: write into this file; -: stdout", false},
	{"json", "", "", "print JSON", false},
	{"help", "h", "", "print this", false},
}

// commonFlags are those that mean something to every command.
var commonFlags = []string{"socket", "config", "timeout", "json", "help"}

// ctlCommand is one command of ctl. flags are those that mean something to it besides commonFlags.
type ctlCommand struct {
	name  string
	flags []string
	words int // how many may follow it
	run   func(context.Context, *client, *control.Client) error
}

var ctlCommands = []ctlCommand{
	{"status", nil, 0, ctlStatus},
	{"reload", []string{"wait"}, 0, func(ctx context.Context, c *client, to *control.Client) error {
		wait, err := c.wait()
		if err != nil {
			return err
		}
		return c.verdict(to.Reload(ctx, wait))
	}},
	{"upgrade", []string{"wait"}, 0, func(ctx context.Context, c *client, to *control.Client) error {
		wait, err := c.wait()
		if err != nil {
			return err
		}
		return c.verdict(to.Upgrade(ctx, wait))
	}},
	{"scale", []string{"wait"}, 1, ctlScale},
	{"recycle", []string{"wait"}, 1, func(ctx context.Context, c *client, to *control.Client) error {
		wait, err := c.wait()
		if err != nil {
			return err
		}
		return c.verdict(to.Recycle(ctx, control.RecycleRequest{Wait: wait, Target: strings.Join(c.words, "")}))
	}},
	{"dump", []string{"goroutines", "heap", "allocs", "cpu", "output"}, 1, ctlDump},
	{"stop", []string{"wait", "quick"}, 0, ctlStop},
}

// ctl is `supervisor ctl …`.
func ctl(args []string, dashes bool, environ []string, stdout, stderr io.Writer) int {
	c := &client{environ: config.Environment(environ), stdout: stdout, stderr: stderr}
	err := c.parse(ctlOptions, args)
	if err == nil && dashes {
		err = bad("nothing may follow --")
	}
	if err != nil {
		return c.exit(err, "supervisor ctl")
	}
	if c.has("help") {
		io.WriteString(stdout, ctlHelp())
		return exitOK
	}
	return c.exit(c.run(), "supervisor ctl")
}

func (c *client) run() error {
	var names []string
	for _, command := range ctlCommands {
		names = append(names, command.name)
	}
	if len(c.words) == 0 {
		return bad("which command? %s", strings.Join(names, ", "))
	}
	i := slices.Index(names, c.words[0])
	if i < 0 {
		if guess := config.Nearest(c.words[0], names); guess != "" {
			return bad("there is no command %q; did you mean %s?", c.words[0], guess)
		}
		return bad("there is no command %q; there are %s", c.words[0], strings.Join(names, ", "))
	}
	command := ctlCommands[i]
	c.words = c.words[1:]
	if len(c.words) > command.words {
		return bad("%s: unexpected argument %q", command.name, c.words[command.words])
	}
	for _, o := range ctlOptions {
		if _, set := c.flags[o.long]; set && !slices.Contains(command.flags, o.long) && !slices.Contains(commonFlags, o.long) {
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

func (c *client) wait() (control.Wait, error) {
	wait := control.Wait{Wait: c.flags["wait"] != "false"}
	if !wait.Wait && c.flags["timeout"] != "" {
		return wait, bad("--timeout is about waiting: it does nothing with --wait=false")
	}
	return wait, nil
}

// listeners gives the settings control and admin, of -c FILE where it was given.
func (c *client) listeners() (*config.Config, error) {
	cfg, err := config.Listeners(config.Sources{File: c.flags["config"], Env: c.environ})
	if err != nil {
		return nil, failure{exitConfig, err}
	}
	return cfg, nil
}

// findSocket gives the control socket's path, and where that came from.
func (c *client) findSocket() (path, how string, err error) {
	if path := c.flags["socket"]; path != "" {
		return strings.TrimPrefix(path, "unix:"), "--socket", nil
	}
	cfg, err := c.listeners()
	if err != nil {
		return "", "", err
	}
	file := c.flags["config"]
	if file != "" && cfg.Control == control.Off {
		return "", "", failure{exitNobody, fmt.Errorf(`%s has control = "off": set it to a path and restart the supervisor`, file)}
	}
	configured := ""
	if file != "" {
		configured, how = cfg.ControlPath(c.getenv), file
	}
	if path, how = control.Find(configured, how, c.getenv); path == "" {
		return "", "", failure{exitNobody, errors.New("where is the supervisor? Say --socket PATH, -c FILE, or set " + control.EnvSocket +
			` (there is no default without XDG_RUNTIME_DIR or RUNTIME_DIRECTORY; give the supervisor a path: [supervisor] control = "/run/app/supervisor.sock")`)}
	}
	return path, how, nil
}

func (c *client) getenv(name string) string { return c.environ[name] }

// explainSocket says what to do about an error of the connection.
func explainSocket(err error, path, how string) error {
	at := fmt.Sprintf("%s (from %s)", path, how)
	switch f := (failure{}); {
	case err == nil, errors.As(err, &f): // the command knows better
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return failure{exitTimeout, errors.New("--timeout is over; what was asked for goes on, see supervisor ctl status")}
	case errors.Is(err, fs.ErrNotExist):
		return failure{exitNobody, fmt.Errorf("nobody listens on %s: there is no such file. Is the supervisor running, and is its setting control that path?", at)}
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(path):
		return failure{exitNobody, fmt.Errorf("nobody listens on %s: that is no socket", at)}
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure{exitNobody, fmt.Errorf("nobody listens on %s: the socket is left over from a supervisor that is gone", at)}
	case errors.Is(err, syscall.EAGAIN):
		return failure{exitNobody, fmt.Errorf("too many clients wait on %s: the supervisor hangs, or is stopped", at)}
	case errors.Is(err, fs.ErrPermission):
		return failure{exitPermission, fmt.Errorf("no permission for %s: only root and the supervisor's own user may use it", at)}
	case errors.Is(err, control.ErrSilent):
		return failure{exitNobody, fmt.Errorf("the supervisor on %s does not answer: it hangs, or is stopped (SIGSTOP)", at)}
	}
	if told := new(control.Error); errors.As(err, &told) {
		switch told.Status {
		case 400, 404:
			return failure{exitUsage, err}
		case 403:
			return failure{exitPermission, err}
		case 503:
			return failure{exitNobody, err}
		}
		return failure{exitVerdict, err}
	}
	return failure{exitNobody, fmt.Errorf("%s: %w", at, err)}
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

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

// verdict prints a verdict, and makes one that is not good an error without words.
func (c *client) verdict(v control.Verdict, err error) error {
	if err != nil {
		return err
	}
	out, text := c.stdout, v.Text
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

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
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

// ctlHelp is what ctl --help prints.
func ctlHelp() string {
	var flags strings.Builder
	for _, o := range ctlOptions {
		flags.WriteString(o.line())
	}
	return strings.Replace(ctlHelpText, "FLAGS\n", "FLAGS, before or after the command\n"+flags.String(), 1)
}

const ctlHelpText = `supervisor ctl talks to a running supervisor.

USAGE
   supervisor ctl [flags] COMMAND

COMMANDS
   status              pools and workers, what they do, and what is not as it should be
   reload              read the configuration again and replace all workers, as HUP; if it fails, nothing changes
   upgrade             replace the supervisor's own program as well, as USR2
   scale WHAT          web=4, web=+1, web=-1; without a name the (first) pool with an address, as TTIN and TTOU
                       A reload keeps it, unless it changes workers.
   recycle [WHAT]      replace workers one after the other, at the pace of max_requests: a pool (web), a slot (web.2),
                       one process (web.2.17), or all
   dump [WHAT]         what a process does: its goroutines, here, or with --heap, --allocs or --cpu 10s a profile for
                       go tool pprof, in a file web.2.17-cpu.pprof. WHAT is a slot, a process (also one that leaves), or
                       a pool with one worker; without it, the supervisor. The worker serves on; it must use pkg/worker.
   stop                graceful stop, as TERM, drain_delay included; --quick: as INT

   All but status and dump wait for the end, as systemctl does: what they print and their exit code is the verdict.
   Ctrl-C, or --timeout, ends only the wait: what was begun goes on. (A dump ends.)

FLAGS

   The supervisor is found by --socket, by the setting control of -c FILE, by $SUPERVISOR_SOCKET or $SUPERVISOR_CONTROL,
   or as supervisor.sock in $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR.

EXAMPLES
   supervisor ctl status
   supervisor ctl -c /etc/app.toml reload && echo deployed
   supervisor ctl scale web=8 --timeout 1m
   supervisor ctl status --json
   supervisor ctl dump web.2 | less
   supervisor ctl dump web.2 --cpu 10s && go tool pprof -http : web.2.*-cpu.pprof

EXIT CODES
   0    done as asked                          69   nobody listens there, or does not answer
   1    it failed, or was refused              75   --timeout is over, it goes on
   64   bad flags, no such pool, bad number    77   no permission
                                               78   FILE cannot be read
`

// ctlStatus prints what there is.
func ctlStatus(ctx context.Context, c *client, to *control.Client) error {
	st, err := to.Status(ctx)
	if err != nil {
		return err
	}
	if c.has("json") {
		return printJSON(c.stdout, st)
	}
	writeStatus(c.stdout, st, buildVersion())
	return nil
}
