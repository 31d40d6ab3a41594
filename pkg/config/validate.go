package config

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"supervisor/pkg/machine"
)

// validate looks at what single values cannot show, speaks to the operator, and fills in what follows from other settings. It
// looks only at the pools that shall run: a container that runs one pool need not have the users and files of the others.
func (l *loader) validate() {
	for _, p := range l.cfg.Pools {
		l.validateCommand(p)
		if len(p.Bind) == 0 && l.cfg.sources[poolKey(p, "ready")].kind == fromDefault {
			p.Ready = ReadyExec
		}
		checkJitter(l, p, "max_requests", &p.MaxRequests, &p.MaxRequestsJitter)
		checkJitter(l, p, "max_lifetime", &p.MaxLifetime, &p.MaxLifetimeJitter)
		l.validateUsers(p)
		l.validateFiles(p)
		l.validateReload(p)
	}
	l.validateAdmin()
	l.validateDev()
	l.validateAdminToken()
}

// at gives where a pool's value came from: at least the line of its section.
func (l *loader) at(p *Pool, key string) origin {
	if from := l.cfg.sources[poolKey(p, key)]; from.kind != fromDefault {
		return from
	}
	return l.cfg.sources["pool."+p.Name]
}

func (l *loader) validateCommand(p *Pool) {
	if len(p.Command) > 0 || l.broken[poolKey(p, "command")] {
		return
	}
	if l.src.File == "" {
		l.problems.add(origin{kind: fromFlag}, "", "no command: give it after --, or name a config file with -c")
		return
	}
	l.fail(l.at(p, "command"), poolKey(p, "command"), `is missing; write command = ["/usr/bin/app", "serve"]`)
}

// checkJitter: a spread without a limit does nothing, which somebody who sets it does not expect. A limit that was switched off by a
// stronger source (--max-requests 0) takes its spread along.
func checkJitter[N interface{ ~int | ~int64 }](l *loader, p *Pool, key string, limit, spread *N) {
	limitKey, spreadKey := poolKey(p, key), poolKey(p, key+"_jitter")
	if *limit != 0 || *spread == 0 || l.broken[limitKey] || l.broken[spreadKey] {
		return
	}
	if l.cfg.sources[limitKey].kind > l.cfg.sources[spreadKey].kind {
		*spread = 0
		l.cfg.sources[spreadKey] = l.cfg.sources[limitKey]
		return
	}
	l.fail(l.cfg.sources[spreadKey], spreadKey, "does nothing without %s: set it as well", key)
}

func (l *loader) validateReload(p *Pool) {
	if p.Health.Path != "" && len(p.Bind) == 0 && !l.broken[poolKey(p, "bind")] {
		l.fail(l.at(p, "health"), poolKey(p, "health"), `asks for a path, and the pool has no bind to ask on; give a command instead: ["/usr/bin/check"]`)
	}
}

func (l *loader) validateUsers(p *Pool) {
	if p.User != "" {
		if _, err := machine.LookupUser(p.User); err != nil {
			l.fail(l.at(p, "user"), poolKey(p, "user"), "%v", err)
		}
	}
	if p.Group != "" {
		if _, err := machine.LookupGroup(p.Group); err != nil {
			l.fail(l.at(p, "group"), poolKey(p, "group"), "%v", err)
		}
	}
	for _, b := range p.Bind {
		if b.User != "" {
			if _, err := machine.LookupUser(b.User); err != nil {
				l.fail(l.at(p, "bind"), poolKey(p, "bind"), "%q: %v", b.String(), err)
			}
		}
		if b.Group != "" {
			if _, err := machine.LookupGroup(b.Group); err != nil {
				l.fail(l.at(p, "bind"), poolKey(p, "bind"), "%q: %v", b.String(), err)
			}
		}
	}
}

func (l *loader) validateFiles(p *Pool) {
	if p.Chdir != "" {
		if info, err := os.Stat(p.Chdir); err != nil {
			l.fail(l.at(p, "chdir"), poolKey(p, "chdir"), "%s: %v", p.Chdir, withoutPath(err))
		} else if !info.IsDir() {
			l.fail(l.at(p, "chdir"), poolKey(p, "chdir"), "%s is not a directory", p.Chdir)
		}
	}
	if p.EnvFile == "" {
		return
	}
	data, err := readFile(p.EnvFile)
	if err != nil {
		l.fail(l.at(p, "env_file"), poolKey(p, "env_file"), "%s: %v", p.EnvFile, withoutPath(err))
		return
	}
	if p.EnvFromFile, err = parseEnvFile(string(data)); err != nil {
		// "line 3: …" of another file than the one in front
		l.fail(l.at(p, "env_file"), poolKey(p, "env_file"), "%s:%s", p.EnvFile, strings.TrimPrefix(err.Error(), "line "))
	}
}

// withoutPath gives an error without the path, which the caller names.
func withoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
