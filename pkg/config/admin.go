package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"supervisor/pkg/control"
)

// ControlPath gives the path of the control socket, "" where there shall be none.
func (c *Config) ControlPath(getenv func(string) string) string {
	switch c.Control {
	case "":
		return control.DefaultPath(getenv)
	case control.Off:
		return ""
	}
	return c.Control
}

// Listeners gives what a client needs to find a running supervisor, where its file and its environment say it: the settings control and
// admin. It reads nothing else, so it works with a file that a reload would refuse.
func Listeners(src Sources) (*Config, error) {
	l := loader{src: src, cfg: Defaults(), broken: map[string]bool{}}
	l.cfg.Pools, l.cfg.sources = nil, map[string]origin{}
	var wrong problems
	if src.File != "" {
		l.readFile()
		if len(l.cfg.Pools) == 0 {
			wrong = l.problems // the file as such cannot be read
		}
	}
	l.readSupervisorVariables()
	for _, p := range l.problems {
		switch {
		case p.Key == "supervisor.control", p.Key == "supervisor.admin", p.from.name == "SUPERVISOR_CONTROL", p.from.name == "SUPERVISOR_ADMIN":
			wrong = append(wrong, p)
		}
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	return l.cfg, nil
}

// validateAdmin: an address of a pool and the admin listener's cannot be the same one.
func (l *loader) validateAdmin() {
	const key = "supervisor.admin"
	for _, p := range l.cfg.Pools {
		for _, b := range p.Bind {
			if l.cfg.Admin.Network != "" && b.overlaps(l.cfg.Admin) {
				l.fail(l.cfg.sources[key], key, "%s is also an address of pool %s", l.cfg.Admin, p.Name)
			}
		}
	}
	if l.cfg.Control == "" { // --print-config tells what comes of that
		path := control.DefaultPath(func(name string) string { return l.src.Env[name] })
		if path == "" {
			path = "no control socket: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set"
		}
		l.cfg.sources["supervisor.control"] = origin{note: path}
	}
}

// socketPathKind is the path of the control socket; a relative one is made absolute.
type socketPathKind struct{}

func (socketPathKind) parse(v any, to any) (string, error) {
	var path string
	if _, err := (textKind{}).parse(v, &path); err != nil {
		return "", err
	}
	switch {
	case path == "" || path == control.Off:
	case strings.HasPrefix(path, "unix:"):
		return "", fmt.Errorf("%q is not a path; write %q", path, strings.TrimPrefix(path, "unix:"))
	case strings.HasPrefix(path, "@"):
		return "", errors.New("an abstract socket has no owner and no mode; use a path")
	case strings.HasSuffix(path, "/"):
		return "", fmt.Errorf("%q is a directory; write %q", path, path+control.SocketName)
	default:
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if len(abs) > unixPathMax {
			return "", fmt.Errorf("the path is %d bytes long; a unix socket's has room for %d", len(abs), unixPathMax)
		}
		path = abs
	}
	*to.(*string) = path
	return "", nil
}

func (socketPathKind) show(from any) string { return quote(*from.(*string)) }

// adminKind is one address; "" is none.
type adminKind struct{}

func (adminKind) parse(v any, to any) (string, error) {
	var s string
	if _, err := (textKind{}).parse(v, &s); err != nil {
		return "", err
	}
	if s == "" {
		*to.(*Bind) = Bind{}
		return "", nil
	}
	b, err := parseBind(s)
	if err != nil {
		return "", err
	}
	if b.Network == "systemd" || b.Name != "" {
		return "", fmt.Errorf(`%q: write "127.0.0.1:9900" or "unix:/path"`, s)
	}
	*to.(*Bind) = b
	return "", nil
}

func (adminKind) show(from any) string {
	b := *from.(*Bind)
	if b.Network == "" {
		return `""`
	}
	return quote(b.String())
}
