package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// healthPatience is how long healthcheck waits by default: Docker's own limit is 30 s, Kubernetes' 1 s.
const healthPatience = 5 * time.Second

var healthOptions = []option{
	{"admin", "a", "ADDR", "the admin listener: host:port, or unix:PATH", false},
	{"config", "c", "FILE", "ask the supervisor that this file configures", false},
	{"path", "p", "PATH", "/health/ready (default), /health/live, /health/startup", false},
	{"timeout", "t", "TIME", "how long to wait for the answer; 5s", false},
	{"help", "h", "", "print this", false},
}

// healthcheck is `supervisor healthcheck`: for images that have nothing but our binary. It ends with 0 or 1, as Docker wants it, and with 64
// when it was called wrongly.
func healthcheck(args []string, dashes bool, environ []string, stdout, stderr io.Writer) int {
	const name = "supervisor healthcheck"
	c := &client{environ: config.Environment(environ), stdout: stdout, stderr: stderr}
	err := c.parse(healthOptions, args)
	if err == nil && (dashes || len(c.words) > 0) {
		err = bad("it takes no arguments")
	}
	if err != nil {
		return c.exit(err, name)
	}
	if c.has("help") {
		io.WriteString(stdout, healthHelp())
		return exitOK
	}
	limit := healthPatience
	if text := c.flags["timeout"]; text != "" {
		if limit, err = parseTime(text); err != nil {
			return c.exit(bad("--timeout: %v", err), name)
		}
	}
	path := c.flags["path"]
	switch path {
	case "":
		path = control.PathReady
	case control.PathLive, control.PathReady, control.PathStartup:
	case "live", "ready", "startup":
		path = "/health/" + path
	default:
		return c.exit(bad("--path: %q is none of %s, %s, %s", path, control.PathReady, control.PathLive, control.PathStartup), name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	to, where, err := c.findAdmin()
	if err != nil {
		return c.exit(failure{exitFailed, err}, name)
	}
	code, body, err := to.Health(ctx, path)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%s gave no answer within %v", where, limit)
	case err != nil:
		err = fmt.Errorf("%s: %w", where, err)
	case code != 200:
		err = fmt.Errorf("%s: status %d %s", where, code, body)
	default:
		fmt.Fprintln(stdout, body)
	}
	if err != nil {
		return c.exit(failure{exitFailed, err}, name)
	}
	return exitOK
}

// findAdmin gives a client for the health endpoints: those of the admin listener, or, where there is none, of the control socket.
func (c *client) findAdmin() (to *control.Client, where string, err error) {
	if address := c.flags["admin"]; address != "" {
		return control.DialAdmin(address), address, nil
	}
	cfg, err := c.listeners() // SUPERVISOR_ADMIN, too
	if err != nil {
		return nil, "", err
	}
	if b := cfg.Admin; b.Network == "unix" {
		return control.DialAdmin("unix:" + b.Address), b.String(), nil
	} else if b.Network != "" {
		return control.DialAdmin(b.Address), b.String(), nil
	}
	path, _, err := c.findSocket()
	if err != nil {
		return nil, "", errors.New("which supervisor? Neither an admin listener nor a control socket is configured here: say --admin ADDR or -c FILE, or set " +
			"SUPERVISOR_ADMIN, or SUPERVISOR_SOCKET to the path of its control socket")
	}
	return control.Dial(path), path, nil
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a time, such as 90s", text)
	}
	return d, nil
}

func healthHelp() string {
	var flags strings.Builder
	for _, o := range healthOptions {
		flags.WriteString(o.line())
	}
	return strings.Replace(healthHelpText, "FLAGS\n", "FLAGS\n"+flags.String(), 1)
}

const healthHelpText = `supervisor healthcheck asks a running supervisor how it is, for images without a shell or curl.

USAGE
   supervisor healthcheck [flags]

FLAGS

   The supervisor is found by --admin, by the setting admin of -c FILE, by $SUPERVISOR_ADMIN, or else by its control
   socket, as supervisor ctl finds it.

EXAMPLES
   HEALTHCHECK CMD ["/supervisor", "healthcheck", "-c", "/etc/supervisor.toml"]
   supervisor healthcheck --admin 127.0.0.1:9900 --path /health/live

EXIT CODES
   0   healthy      1   not, or nobody answers      64   bad flags
`
