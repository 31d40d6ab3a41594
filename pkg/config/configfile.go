package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// readFile takes the config file, key by key.
func (l *loader) readFile() {
	file := l.src.File
	data, err := readFile(file)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = fmt.Errorf("cannot read the config file: %w", path.Err)
		}
		l.problems.add(origin{kind: fromFile, name: file}, "", "%v", err)
		return
	}
	entries, line, err := parseDocument(data)
	if err != nil {
		l.problems.add(origin{kind: fromFile, name: file, line: line}, "", "%v", err)
		return
	}
	for _, e := range entries {
		from := origin{kind: fromFile, name: file, line: e.line}
		key := strings.Join(e.path, ".")
		switch {
		case e.path[0] == "deploy": // belongs to fleet
		case len(e.path) == 1 && !e.table:
			l.unknownTop(from, e.path[0])
		case e.path[0] != "supervisor" && e.path[0] != "pool" && e.path[0] != "dev":
			l.once(from, e.path[0], "unknown section; there are [supervisor], [pool.NAME], [dev] and [deploy]%s",
				didYouMean(e.path[0], []string{"supervisor", "pool", "dev", "deploy"}))
		case e.inList:
			l.once(from, key, "[[…]] is a list of sections; write [%s]", key)
		case e.path[0] == "supervisor":
			if len(e.path) > 1 {
				l.readEntry(nil, e, from)
			}
		case e.path[0] == "dev":
			if len(e.path) > 1 {
				l.readDev(e, from)
			}
		case len(e.path) == 1: // [pool]
		case len(e.path) == 2 && !e.table:
			l.fail(from, key, "a pool has a name: write [pool.web], and the key below it")
		default:
			if p := l.pool(e.path[1], from); p != nil && len(e.path) > 2 {
				l.readEntry(p, e, from)
			}
		}
	}
	if len(l.cfg.Pools) == 0 && len(l.problems) == 0 {
		l.problems.add(origin{kind: fromFile, name: file}, "", `has no pool; write [pool.web] and command = ["/usr/bin/app", "serve"]`)
	}
}

// readDev takes a key of [dev].
func (l *loader) readDev(e entry, from origin) {
	key := strings.Join(e.path[:2], ".")
	switch s := find(devSettings, e.path[1]); {
	case s == nil:
		l.once(from, key, "unknown key%s", didYouMean(e.path[1], keys(devSettings)))
	case e.table || len(e.path) > 2:
		l.once(from, key, "is a value, not a section")
	default:
		set(l, &l.cfg.Dev, s, key, e.value, from)
	}
}

// pool finds a pool, or adds it in the order of the file. It is nil when its name is no name.
func (l *loader) pool(name string, from origin) *Pool {
	for _, p := range l.cfg.Pools {
		if p.Name == name {
			return p
		}
	}
	if !namePattern.MatchString(name) {
		l.once(from, "pool."+name, "a pool's name is of %s", nameRule)
		return nil
	}
	p := Defaults().Pools[0]
	p.Name = name
	l.cfg.Pools = append(l.cfg.Pools, p)
	l.cfg.sources["pool."+name] = from
	return p
}

// readEntry takes a key of [supervisor] (p is nil) or of [pool.NAME].
func (l *loader) readEntry(p *Pool, e entry, from origin) {
	depth := 1
	if p != nil {
		depth = 2
	}
	name, key := e.path[depth], strings.Join(e.path[:depth+1], ".")
	nested := e.table || len(e.path) > depth+1
	if p != nil && name == "hooks" {
		l.readHooks(p, e, from)
		return
	}
	ps, ss := find(poolSettings, name), find(supervisorSettings, name)
	switch {
	case p != nil && ps == nil && ss != nil:
		l.once(from, key, "belongs into [supervisor]")
	case ss == nil && ps == nil && find(devSettings, name) != nil:
		l.once(from, key, "belongs into [dev]")
	case p == nil && ss == nil && ps != nil:
		l.once(from, key, "belongs into [pool.NAME]")
	case p != nil && ps == nil:
		l.once(from, key, "unknown key%s", unknownTail(name, keys(poolSettings)))
	case p == nil && ss == nil:
		l.once(from, key, "unknown key%s", unknownTail(name, keys(supervisorSettings)))
	case p != nil && name == "env":
		l.readEnv(p, ps, e, from)
	case nested:
		l.once(from, key, "is a value, not a section")
	case p != nil:
		set(l, p, ps, key, e.value, from)
	default:
		set(l, l.cfg, ss, key, e.value, from)
	}
}

// hooksPrefix begins the keys of the settings in [pool.NAME.hooks].
const hooksPrefix = "hooks."

// readHooks takes [pool.NAME.hooks].
func (l *loader) readHooks(p *Pool, e entry, from origin) {
	if len(e.path) == 3 {
		if !e.table {
			l.once(from, poolKey(p, "hooks"), `is a section; write [pool.%s.hooks] and before_start = ["/usr/bin/migrate"]`, p.Name)
		}
		return
	}
	key := hooksPrefix + e.path[3]
	s := find(poolSettings, key)
	switch {
	case s == nil:
		var known []string
		for _, k := range keys(poolSettings) {
			if hook, ok := strings.CutPrefix(k, hooksPrefix); ok {
				known = append(known, hook)
			}
		}
		l.once(from, poolKey(p, key), "unknown hook%s", didYouMean(e.path[3], known))
	case e.table || len(e.path) > 4:
		l.once(from, poolKey(p, key), "is a value, not a section")
	default:
		set(l, p, s, poolKey(p, key), e.value, from)
	}
}

// readEnv takes [pool.NAME.env], line by line, so that each variable knows where it came from.
func (l *loader) readEnv(p *Pool, s *setting[Pool], e entry, from origin) {
	switch {
	case e.table && len(e.path) == 3:
		l.cfg.sources[poolKey(p, "env")] = from
	case e.table || len(e.path) > 4:
		l.once(from, strings.Join(e.path[:4], "."), "is a variable, not a section")
	case len(e.path) == 3:
		set(l, p, s, poolKey(p, "env"), e.value, from)
	default:
		set(l, p, s, poolKey(p, "env."+e.path[3]), map[string]any{e.path[3]: e.value}, from)
	}
}

// once notes a problem of a section at its first line only.
func (l *loader) once(from origin, key, format string, args ...any) {
	if !l.broken[key] {
		l.fail(from, key, format, args...)
	}
}

// unknownTop is about a key above the first section.
func (l *loader) unknownTop(from origin, name string) {
	switch {
	case name == "supervisor" || name == "pool" || name == "dev":
		l.fail(from, name, "is a section: write [supervisor], [pool.web] or [dev], and keys below it")
	case find(supervisorSettings, name) != nil:
		l.fail(from, name, "stands above the first section; it belongs into [supervisor]")
	case find(poolSettings, name) != nil:
		l.fail(from, name, "stands above the first section; it belongs into [pool.NAME]")
	case find(devSettings, name) != nil:
		l.fail(from, name, "stands above the first section; it belongs into [dev]")
	default:
		l.fail(from, name, "unknown key%s", unknownTail(name, append(keys(supervisorSettings), keys(poolSettings)...)))
	}
}
