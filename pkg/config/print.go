package config

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// redacted stands where a secret was.
const redacted = "REDACTED"

// Setting is one setting as Print shows it.
type Setting struct {
	Key   string `json:"key"`   // pool.web.workers
	Value any    `json:"value"` // as in a config file: durations and sizes are texts
	From  string `json:"from"`  // where that came from: "default", "app.toml:17", "flag --workers"; and whether it is redacted
}

// Settings gives all settings in force, in the order of Print, and without secrets as there.
func (c *Config) Settings() []Setting {
	out := &printer{w: bufio.NewWriter(io.Discard), sources: c.sources, settings: []Setting{}}
	c.print(out)
	return out.settings
}

// Print writes all settings in force as a config file: each line says where its value came from. Loading it gives the same
// configuration, except where it says that a secret is redacted.
func (c *Config) Print(w io.Writer) error {
	out := &printer{w: bufio.NewWriter(w), sources: c.sources}
	c.print(out)
	return out.w.Flush()
}

func (c *Config) print(out *printer) {
	out.begin("supervisor")
	for _, s := range supervisorSettings {
		out.line(s.key, s.kind.show(s.field(c)), c.sources["supervisor."+s.key], "")
	}
	fmt.Fprintln(out.w)
	out.begin("dev")
	for _, s := range devSettings {
		out.line(s.key, s.kind.show(s.field(&c.Dev)), c.sources["dev."+s.key], "")
	}
	for _, p := range c.Pools {
		fmt.Fprintln(out.w)
		out.begin("pool." + p.Name)
		for _, s := range poolSettings {
			from := c.sources[poolKey(p, s.key)]
			argv, isCommand := s.field(p).(*[]string)
			if s.key == "health" && len(p.Health.Command) > 0 {
				argv, isCommand = &p.Health.Command, true
			}
			switch {
			case isCommand:
				command, note := redactAll(*argv)
				out.line(s.key, quoteList(command), from, note)
			case s.key == "env" && len(p.Env) > 0:
				out.env(p)
			default:
				out.line(s.key, s.kind.show(s.field(p)), from, "")
			}
		}
	}
}

type printer struct {
	w        *bufio.Writer
	sources  map[string]origin
	section  string
	settings []Setting // nil: only the text is wanted
}

func (out *printer) begin(section string) {
	out.section = section
	fmt.Fprintf(out.w, "[%s]\n", section)
}

// keyWidth aligns the equal signs; valueWidth most of the comments.
const (
	keyWidth   = 19
	valueWidth = 24
)

func (out *printer) line(key, value string, from origin, note string) {
	source := from.describe()
	if note != "" {
		source += ", " + note
	}
	source = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?' // a file's name may hold a newline
		}
		return r
	}, source)
	fmt.Fprintf(out.w, "%-*s = %-*s # %s\n", keyWidth, key, valueWidth, value, source)
	if out.settings != nil {
		var read map[string]any
		toml.Unmarshal([]byte("value = "+value), &read) // what we print is what we read
		out.settings = append(out.settings, Setting{out.section + "." + key, read["value"], source})
	}
}

// Origins says of each setting that is not the default where it came from: for the supervisor after this one, that goes on with this
// configuration without having read it.
func (c *Config) Origins() map[string]string {
	origins := map[string]string{}
	for key, from := range c.sources {
		if from.kind != fromDefault || from.note != "" {
			origins[key] = from.describe()
		}
	}
	return origins
}

// SetOrigins takes what Origins gave.
func (c *Config) SetOrigins(origins map[string]string) {
	c.sources = map[string]origin{}
	for key, from := range origins {
		c.sources[key] = origin{kind: fromFile, name: from}
	}
}

// env writes the variables as a table of its own, which therefore stands last in its pool.
func (out *printer) env(p *Pool) {
	fmt.Fprintln(out.w)
	out.begin("pool." + p.Name + ".env")
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		value, note := redact(name, p.Env[name])
		out.line(name, quote(value), out.sources[poolKey(p, "env."+name)], note)
	}
}

// secretName are words in the names of variables whose values nobody prints into a terminal or a ticket.
var secretName = regexp.MustCompile(`PASSW|PASSPHRASE|SECRET|TOKEN|KEY|CREDENTIAL|PRIVATE|_PASS$|^PASS$|PWD.`)

// secretFlag are the flags of a worker's command that hold a secret.
var secretFlag = regexp.MustCompile(`(?i)^--?[a-z0-9-]*(passw|secret|token|api-?key|credential)[a-z0-9-]*=?`)

// redact hides a value that looks like a secret: by its variable's name, or a URL with userinfo.
func redact(name, value string) (_, note string) {
	if value != "" && secretName.MatchString(strings.ToUpper(name)) {
		return redacted, "redacted"
	}
	return redactText(value)
}

// userinfo finds what stands between :// and @, also in a list of URLs, or where somebody forgot to escape a slash.
var userinfo = regexp.MustCompile(`(://)(?:[^/?#]*|[^@:]*:[^@]*)@`)

// assigned finds secrets in a query or in a DSN of words.
var assigned = regexp.MustCompile(`(?i)((?:passw(?:or)?d|secret|token|api_?key)=)[^&;\s]+`)

func redactText(value string) (_, note string) {
	hidden := userinfo.ReplaceAllString(value, "${1}"+redacted+"@")
	if hidden = assigned.ReplaceAllString(hidden, "${1}"+redacted); hidden == value {
		return value, ""
	}
	return hidden, "redacted"
}

// redactAll hides secrets in a command.
func redactAll(argv []string) (_ []string, note string) {
	shown := slices.Clone(argv)
	for i, arg := range argv {
		flag := secretFlag.FindString(arg)
		switch {
		case strings.HasSuffix(flag, "=") && len(arg) > len(flag):
			shown[i], note = flag+redacted, "redacted"
		case i > 0 && secretFlag.FindString(argv[i-1]) == argv[i-1] && !strings.HasSuffix(argv[i-1], "=") && !strings.HasPrefix(arg, "-"):
			shown[i], note = redacted, "redacted"
		default:
			var n string
			if shown[i], n = redactText(arg); n != "" {
				note = n
			}
		}
	}
	return shown, note
}
