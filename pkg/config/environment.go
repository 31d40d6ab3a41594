package config

import (
	"maps"
	"slices"
	"strings"
)

const (
	supervisorPrefix = "SUPERVISOR_"      // + KEY of [supervisor]
	devPrefix        = "SUPERVISOR_DEV_"  // + KEY of [dev]
	poolPrefix       = "SUPERVISOR_POOL_" // + NAME + _ + KEY of [pool.NAME]
)

// Environment makes Sources.Env of os.Environ().
func Environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}

// variableName gives the variable of a pool's setting.
func variableName(p *Pool, key string) string {
	return poolPrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(p.Name+"_"+key))
}

// readEnvironment overlays the variables. An empty one counts as unset: that is what ${WORKERS:-} in a Compose file gives.
//
// The guides' plain names are for the one pool with bind; a pool's own variable wins over them.
func (l *loader) readEnvironment() {
	l.readSupervisorVariables()
	for i := range poolSettings {
		s := &poolSettings[i]
		if v := l.src.Env[s.variable]; v != "" && s.variable != "" {
			l.readPlain(s, v)
		}
	}
	l.readPoolVariables()
}

// readSupervisorVariables takes SUPERVISOR_<KEY> and SUPERVISOR_DEV_<KEY>.
func (l *loader) readSupervisorVariables() {
	for i := range supervisorSettings {
		s := &supervisorSettings[i]
		name := supervisorPrefix + strings.ToUpper(s.key)
		if v := l.src.Env[name]; v != "" {
			set(l, l.cfg, s, "supervisor."+s.key, literal(v), origin{kind: fromEnvironment, name: name})
		}
	}
	for i := range devSettings {
		s := &devSettings[i]
		name := devPrefix + strings.ToUpper(s.key)
		if v := l.src.Env[name]; v != "" {
			set(l, &l.cfg.Dev, s, "dev."+s.key, literal(v), origin{kind: fromEnvironment, name: name})
		}
	}
}

// readPlain takes a variable that names no pool.
func (l *loader) readPlain(s *setting[Pool], v string) {
	from := origin{kind: fromEnvironment, name: s.variable}
	p := l.variablePool()
	if p != nil {
		set(l, p, s, poolKey(p, s.key), literal(v), from)
		return
	}
	if len(listening(l.selected)) == 0 && len(listening(l.cfg.Pools)) > 0 {
		return // the pool that it is for does not run here
	}
	l.ambiguous(from, s.key)
}

// variablePool gives the pool that the plain variables are about. Unlike a flag, a variable is often set for several commands at
// once: with --pool jobs, WORKERS stays that of the pool with bind.
func (l *loader) variablePool() *Pool {
	if p := onlyOne(listening(l.selected)); p != nil {
		return p
	}
	if len(l.cfg.Pools) == 1 {
		return onlyOne(l.selected)
	}
	return nil
}

// readPoolVariables takes SUPERVISOR_POOL_<NAME>_<KEY>. One that fits no pool and no key is an error: a misspelt variable that
// is silently ignored is found only in production.
func (l *loader) readPoolVariables() {
	type target struct {
		pool    *Pool
		setting *setting[Pool]
	}
	targets := map[string]target{}
	for _, p := range l.cfg.Pools {
		for i := range poolSettings {
			name := variableName(p, poolSettings[i].key)
			if other, ok := targets[name]; ok && l.src.Env[name] != "" {
				l.problems.add(origin{kind: fromEnvironment, name: name}, "", "means both pool %q and pool %q; rename one", other.pool.Name, p.Name)
				continue
			}
			targets[name] = target{p, &poolSettings[i]}
		}
	}
	known := slices.Sorted(maps.Keys(targets))
	for _, name := range slices.Sorted(maps.Keys(l.src.Env)) {
		if !strings.HasPrefix(name, poolPrefix) {
			continue
		}
		from := origin{kind: fromEnvironment, name: name}
		t, ok := targets[name]
		v := l.src.Env[name]
		switch {
		case !ok:
			l.problems.add(from, "", "unknown setting%s", didYouMean(name, known))
		case v == "":
		case t.setting.key == "env":
			l.readEnvVariable(t.pool, t.setting, v, from)
		default:
			set(l, t.pool, t.setting, poolKey(t.pool, t.setting.key), literal(v), from)
		}
	}
}

// readEnvVariable takes SUPERVISOR_POOL_<NAME>_ENV: words NAME=VALUE.
func (l *loader) readEnvVariable(p *Pool, s *setting[Pool], v string, from origin) {
	words, err := splitWords(v)
	if err != nil {
		l.fail(from, poolKey(p, "env"), "%v", err)
		return
	}
	for _, word := range words {
		name, _, _ := strings.Cut(word, "=")
		set(l, p, s, poolKey(p, "env."+name), literals{literal(word)}, from)
	}
}
