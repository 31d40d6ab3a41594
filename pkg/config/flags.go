package config

import (
	"maps"
	"slices"
	"strings"
)

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
	l.selected = slices.DeleteFunc(slices.Clone(l.cfg.Pools), func(p *Pool) bool { return !slices.Contains(l.src.Pools, p.Name) })
}

func poolNames(pools []*Pool) []string {
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.Name
	}
	return names
}

// flagPool gives the pool that the flags are about: the one that listens, or the only one.
func (l *loader) flagPool() *Pool {
	if len(l.selected) == 1 {
		return l.selected[0]
	}
	return onlyOne(listening(l.selected))
}

func listening(pools []*Pool) []*Pool {
	return slices.DeleteFunc(slices.Clone(pools), func(p *Pool) bool { return len(p.Bind) == 0 })
}

func onlyOne(pools []*Pool) *Pool {
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
	for i := range devSettings {
		s := &devSettings[i]
		if values, ok := l.src.Flags[s.flag]; ok && s.flag != "" {
			set(l, &l.cfg.Dev, s, "dev."+s.key, toLiterals(values), origin{kind: fromFlag, name: s.flag})
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
