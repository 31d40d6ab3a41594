package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"supervisor/pkg/machine"
)

// Check finds out whether a start or a reload with this configuration would work, without disturbing anything: what a deploy
// does before kill -HUP. It gives one line about what it saw; its error is an *Error.
//
// An address that the running instance holds is fine. The running instance is the process that holds the lock of this pidfile.
func (c *Config) Check() (summary string, err error) {
	ck := checker{cfg: c}
	ck.instance, err = machine.LockHolder(c.PIDFile)
	if err != nil {
		ck.problems.add(c.sources["supervisor.pidfile"], "supervisor.pidfile", "%v", err)
	}
	ck.outputFile("pidfile", c.PIDFile)
	ck.outputFile("errorlog", c.ErrorLog)
	ck.outputFile("accesslog", c.AccessLog)
	if c.Admin.Network != "" {
		if err := ck.bind(c.Admin); err != nil {
			ck.problems = append(ck.problems, Problem{
				Key: "supervisor.admin", Text: fmt.Sprintf("%q: %v", c.Admin.String(), err), from: c.sources["supervisor.admin"], address: true,
			})
		}
	}
	workers, binds := 0, 0
	for _, p := range c.Pools {
		workers += p.Workers
		binds += len(p.Bind)
		ck.commands(p)
		ck.rights(p)
		for _, b := range p.Bind {
			if err := ck.bind(b); err != nil {
				ck.problems = append(ck.problems, Problem{
					Key: poolKey(p, "bind"), Text: fmt.Sprintf("%q: %v", b.String(), err), from: ck.at(p, "bind"), address: true,
				})
			}
		}
	}
	if err := ck.problems.err(); err != nil {
		err.machine = true
		return "", err
	}
	summary = fmt.Sprintf("%s of %s, %s", count(workers, "worker"), count(len(c.Pools), "pool"), count(binds, "address"))
	if ck.instance != 0 {
		summary += fmt.Sprintf("; pid %d is running", ck.instance)
	}
	return summary, nil
}

func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

type checker struct {
	cfg      *Config
	instance int // pid of the running instance; 0: none
	problems problems
}

func (ck *checker) at(p *Pool, key string) origin {
	if from := ck.cfg.sources[poolKey(p, key)]; from.kind != fromDefault {
		return from
	}
	return ck.cfg.sources["pool."+p.Name]
}

// outputFile looks whether a file can be written, or made, without making it.
func (ck *checker) outputFile(key, path string) {
	if path == "" || path == "-" {
		return
	}
	from := ck.cfg.sources["supervisor."+key]
	key = "supervisor." + key
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		ck.problems.add(from, key, "%s is a directory", path)
	case err == nil:
		if err := unix.Access(path, unix.W_OK); err != nil {
			ck.problems.add(from, key, "cannot write %s: %v", path, err)
		}
	case errors.Is(err, fs.ErrNotExist):
		dir := filepath.Dir(path)
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			ck.problems.add(from, key, "cannot make %s: %s: %v", path, dir, err)
		}
	default:
		ck.problems.add(from, key, "%s: %v", path, withoutPath(err))
	}
}

// commands looks whether a pool's programs would be found where its workers and hooks look for them.
func (ck *checker) commands(p *Pool) {
	for _, c := range []struct {
		key  string
		argv []string
	}{
		{"command", p.Command},
		{"health", p.Health.Command},
		{"hooks.before_start", p.Hooks.BeforeStart},
		{"hooks.before_reload", p.Hooks.BeforeReload},
		{"hooks.after_reload", p.Hooks.AfterReload},
		{"hooks.on_worker_exit", p.Hooks.OnWorkerExit},
	} {
		if len(c.argv) == 0 {
			continue
		}
		if path, err := p.findCommand(c.argv[0]); err != nil {
			ck.problems.add(ck.at(p, c.key), poolKey(p, c.key), "%s: %v", path, err)
		}
	}
}

// findCommand gives the file that would be executed; with an error, the path that the error is about.
func (p *Pool) findCommand(name string) (string, error) {
	inPath := !strings.Contains(name, "/")
	for _, file := range p.CommandPaths(name) {
		if !filepath.IsAbs(file) && p.Chdir != "" {
			file = filepath.Join(p.Chdir, file)
		}
		err := isExecutable(file)
		if err == nil || !inPath {
			return file, err
		}
	}
	return name, fmt.Errorf("not found in the worker's PATH=%s", p.path())
}

// CommandPaths gives where a program of the pool is looked for, one after the other, as seen from its directory: in the PATH of its
// environment, or, with a slash in it, in one place.
func (p *Pool) CommandPaths(name string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var paths []string
	for _, dir := range filepath.SplitList(p.path()) {
		path := filepath.Join(dir, name)
		if !strings.Contains(path, "/") {
			path = "./" + path // in the working directory: not to be looked up once more
		}
		paths = append(paths, path)
	}
	return paths
}

// path gives the PATH that the pool's processes have.
func (p *Pool) path() string {
	if path, ok := p.Env["PATH"]; ok {
		return path
	}
	if path, ok := p.EnvFromFile["PATH"]; ok {
		return path
	}
	return os.Getenv("PATH")
}

func isExecutable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return withoutPath(err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("is %s, not a program", machine.FileKind(info.Mode()))
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("is not executable (mode %04o)", info.Mode().Perm())
	}
	return nil
}

// rights looks whether we may do to a worker what the pool asks for.
func (ck *checker) rights(p *Pool) {
	if u, err := machine.LookupUser(p.User); p.User != "" && err == nil && u.Uid != strconv.Itoa(os.Geteuid()) && !capable(unix.CAP_SETUID) {
		ck.problems.add(ck.at(p, "user"), poolKey(p, "user"), "only root may run workers as %s", p.User)
	}
	if gid, err := machine.LookupGroup(p.Group); p.Group != "" && err == nil && gid != os.Getegid() && !capable(unix.CAP_SETGID) {
		ck.problems.add(ck.at(p, "group"), poolKey(p, "group"), "only root may run workers with the group %s", p.Group)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && p.RlimitNofile > limit.Max && !capable(unix.CAP_SYS_RESOURCE) {
		ck.problems.add(ck.at(p, "rlimit_nofile"), poolKey(p, "rlimit_nofile"), "%d is above our own hard limit of %d", p.RlimitNofile, limit.Max)
	}
}

// capable reports whether we have a capability; where /proc does not tell, root has all.
func capable(capability int) bool {
	data, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
				if n, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil {
					return n>>capability&1 == 1
				}
			}
		}
	}
	return os.Geteuid() == 0
}
