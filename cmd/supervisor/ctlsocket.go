package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

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
