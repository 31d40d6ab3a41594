package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Sources are the places that a configuration comes from. A later one wins: built-in defaults, file, environment, flags.
type Sources struct {
	File  string              // path; "": none, and then there is one pool called web
	Env   map[string]string   // the environment, see Environment
	Flags map[string][]string // the flags that were really set, by their long names, see FlagNames
	Args  []string            // what follows -- : the command of the pool that the flags are about
	Pools []string            // run only these; empty: all
}

// Load reads, overlays and validates. Its error is a *ConfigError that holds everything that is wrong.
func Load(src Sources) (*Config, error) {
	cfg := Defaults()
	l := loader{src: src, cfg: cfg, broken: map[string]bool{}}
	cfg.sources = map[string]origin{}
	if src.File != "" {
		cfg.Pools = nil
		l.readFile()
		if len(l.problems) > 0 && len(cfg.Pools) == 0 {
			return nil, l.problems.err() // whatever else we said would follow from that
		}
	}
	l.selectPools()
	l.readEnvironment()
	l.readFlags()
	l.nameBinds()
	cfg.Pools = l.selected
	l.validate()
	if err := l.problems.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

type loader struct {
	src      Sources
	cfg      *Config
	selected []*PoolConfig // those of cfg.Pools that shall run
	problems problems
	broken   map[string]bool // keys that have a problem already: nothing more is said about them
}

func poolKey(p *PoolConfig, key string) string { return "pool." + p.Name + "." + key }

// fail notes what is wrong with a key's value.
func (l *loader) fail(from origin, key, format string, args ...any) {
	l.broken[key] = true
	if from.kind == fromEnvironment || from.kind == fromFlag {
		l.problems.add(from, "", format, args...) // the name of the variable or flag says it
		return
	}
	l.problems.add(from, key, format, args...)
}

// set gives a setting of a section its value.
func set[S any](l *loader, section *S, s *setting[S], key string, v any, from origin) {
	note, err := s.kind.parse(v, s.field(section))
	if err != nil {
		l.fail(from, key, "%v", err)
		return
	}
	from.note = note
	l.cfg.sources[key] = from
}

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
		case e.path[0] != "supervisor" && e.path[0] != "pool":
			l.once(from, e.path[0], "unknown section; there are [supervisor], [pool.NAME] and [deploy]%s",
				didYouMean(e.path[0], []string{"supervisor", "pool", "deploy"}))
		case e.inList:
			l.once(from, key, "[[…]] is a list of sections; write [%s]", key)
		case e.path[0] == "supervisor":
			if len(e.path) > 1 {
				l.readEntry(nil, e, from)
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

// pool finds a pool, or adds it in the order of the file. It is nil when its name is no name.
func (l *loader) pool(name string, from origin) *PoolConfig {
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
func (l *loader) readEntry(p *PoolConfig, e entry, from origin) {
	depth := 1
	if p != nil {
		depth = 2
	}
	name, key := e.path[depth], strings.Join(e.path[:depth+1], ".")
	nested := e.table || len(e.path) > depth+1
	ps, ss := find(poolSettings, name), find(supervisorSettings, name)
	switch {
	case p != nil && ps == nil && ss != nil:
		l.once(from, key, "belongs into [supervisor]")
	case p == nil && ss == nil && ps != nil:
		l.once(from, key, "belongs into [pool.NAME]")
	case p != nil && ps == nil:
		l.once(from, key, "unknown key%s", didYouMean(name, keys(poolSettings)))
	case p == nil && ss == nil:
		l.once(from, key, "unknown key%s", didYouMean(name, keys(supervisorSettings)))
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

// readEnv takes [pool.NAME.env], line by line, so that each variable knows where it came from.
func (l *loader) readEnv(p *PoolConfig, s *setting[PoolConfig], e entry, from origin) {
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
	case find(supervisorSettings, name) != nil:
		l.fail(from, name, "stands above the first section; it belongs into [supervisor]")
	case find(poolSettings, name) != nil:
		l.fail(from, name, "stands above the first section; it belongs into [pool.NAME]")
	default:
		l.fail(from, name, "unknown key%s", didYouMean(name, append(keys(supervisorSettings), keys(poolSettings)...)))
	}
}

// selectPools keeps the pools that the command line names.
func (l *loader) selectPools() {
	l.selected = l.cfg.Pools
	if len(l.src.Pools) == 0 {
		return
	}
	from := origin{kind: fromFlag, name: "pool"}
	for _, name := range l.src.Pools {
		if !slices.Contains(poolNames(l.cfg.Pools), name) {
			l.problems.add(from, "", "no pool %q: there is %s%s", name, strings.Join(poolNames(l.cfg.Pools), ", "),
				didYouMean(name, poolNames(l.cfg.Pools)))
		}
	}
	l.selected = slices.DeleteFunc(slices.Clone(l.cfg.Pools), func(p *PoolConfig) bool { return !slices.Contains(l.src.Pools, p.Name) })
}

func poolNames(pools []*PoolConfig) []string {
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.Name
	}
	return names
}

// flagPool gives the pool that the flags are about: the one that listens, or the only one.
func (l *loader) flagPool() *PoolConfig {
	if len(l.selected) == 1 {
		return l.selected[0]
	}
	return onlyOne(listening(l.selected))
}

func listening(pools []*PoolConfig) []*PoolConfig {
	return slices.DeleteFunc(slices.Clone(pools), func(p *PoolConfig) bool { return len(p.Bind) == 0 })
}

func onlyOne(pools []*PoolConfig) *PoolConfig {
	if len(pools) == 1 {
		return pools[0]
	}
	return nil
}

// readFlags overlays the command line.
func (l *loader) readFlags() {
	for i := range supervisorSettings {
		s := &supervisorSettings[i]
		if values, ok := l.src.Flags[s.flag]; ok && s.flag != "" {
			set(l, l.cfg, s, "supervisor."+s.key, toLiterals(values), origin{kind: fromFlag, name: s.flag})
		}
	}
	p := l.flagPool()
	for i := range poolSettings {
		s := &poolSettings[i]
		values, ok := l.src.Flags[s.flag]
		from := origin{kind: fromFlag, name: s.flag}
		switch {
		case !ok || s.flag == "":
		case p == nil:
			l.ambiguous(from, s.key)
		case s.key == "env":
			for _, v := range values {
				name, _, _ := strings.Cut(v, "=")
				set(l, p, s, poolKey(p, "env."+name), literals{literal(v)}, from)
			}
		default:
			set(l, p, s, poolKey(p, s.key), toLiterals(values), from)
		}
	}
	if len(l.src.Args) > 0 {
		from := origin{kind: fromFlag}
		if p == nil {
			l.problems.add(from, "", "which pool's command is that? There are %s", strings.Join(poolNames(l.selected), ", "))
			return
		}
		set(l, p, find(poolSettings, "command"), poolKey(p, "command"), toLiterals(l.src.Args), from)
	}
	for name := range maps.Keys(l.src.Flags) {
		if !slices.Contains(FlagNames(), name) {
			l.problems.add(origin{kind: fromFlag, name: name}, "", "unknown flag")
		}
	}
}

func toLiterals(values []string) literals {
	list := make(literals, len(values))
	for i, v := range values {
		list[i] = literal(v)
	}
	return list
}

// ambiguous is about a flag or variable that several pools could mean.
func (l *loader) ambiguous(from origin, key string) {
	if len(l.selected) == 0 {
		return // an unknown --pool: said already
	}
	pools := listening(l.selected)
	what := "listen"
	if len(pools) == 0 {
		pools, what = l.selected, "could be meant"
	}
	l.problems.add(from, "", "is for the one pool with bind, but %s %s; set %s in the file, or %s", strings.Join(poolNames(pools), ", "),
		what, key, variableName(pools[0], key))
}

// nameBinds names the addresses that have no name after their pool: web, web-2, web-3, …
func (l *loader) nameBinds() {
	type owner struct {
		bind Bind
		key  string
	}
	var taken []owner
	for _, p := range l.cfg.Pools {
		key := poolKey(p, "bind")
		for i := range p.Bind {
			b := &p.Bind[i]
			if b.Name == "" {
				b.Name = p.Name
				if i > 0 {
					b.Name = fmt.Sprintf("%s-%d", p.Name, i+1)
				}
			}
			for _, other := range taken {
				if other.bind.Name == b.Name {
					l.fail(l.cfg.sources[key], key, "the name %q is taken by %s at %s", b.Name, other.key, l.cfg.sources[other.key])
				}
				if other.bind.overlaps(*b) {
					l.fail(l.cfg.sources[key], key, "%s overlaps %s of %s at %s", b, other.bind, other.key, l.cfg.sources[other.key])
				}
			}
			taken = append(taken, owner{*b, key})
		}
	}
}
