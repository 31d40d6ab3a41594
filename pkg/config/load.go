package config

import (
	"fmt"
)

// Sources are the places that a configuration comes from. A later one wins: built-in defaults, file, environment, flags.
type Sources struct {
	File  string              // path; "": none, and then there is one pool called web
	Env   map[string]string   // the environment, see Environment
	Flags map[string][]string // the flags that were really set, by their long names, see FlagNames
	Args  []string            // what follows -- : the command of the pool that the flags are about
	Pools []string            // run only these; empty: all
}

// Load reads, overlays and validates. Its error is an *Error that holds everything that is wrong.
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
	if err := l.problems.err(); err != nil { // not returned as it is: a nil *Error is no nil error
		return nil, err
	}
	return cfg, nil
}

type loader struct {
	src      Sources
	cfg      *Config
	selected []*Pool // those of cfg.Pools that shall run
	problems problems
	broken   map[string]bool // keys that have a problem already: nothing more is said about them
}

func poolKey(p *Pool, key string) string { return "pool." + p.Name + "." + key }

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
