package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// argvKind is a command: a list of texts, or in a variable one text split as a shell does.
type argvKind struct {
	optional bool // an empty list is none
}

func (k argvKind) parse(v any, to any) (string, error) {
	const what = `a command: write ["/usr/bin/app", "serve"]`
	var argv []string
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return "", fmt.Errorf("its argument %v is not a text: write it in quotes", e)
			}
			argv = append(argv, s)
		}
	case literals:
		for _, s := range x {
			argv = append(argv, string(s))
		}
	case literal:
		var err error
		if argv, err = splitWords(string(x)); err != nil {
			return "", err
		}
	default:
		return "", want(v, what)
	}
	if len(argv) == 0 && k.optional {
		*to.(*[]string) = nil
		return "", nil
	}
	if len(argv) == 0 || argv[0] == "" {
		return "", fmt.Errorf(`is empty; write ["/usr/bin/app", "serve"]`)
	}
	for _, s := range argv {
		if strings.ContainsRune(s, 0) {
			return "", fmt.Errorf("%q holds a NUL byte", s)
		}
	}
	*to.(*[]string) = argv
	return "", nil
}

func (argvKind) show(from any) string { return quoteList(*from.(*[]string)) }

// envKind is a table of variables. What comes later is added to what came before.
type envKind struct{}

func (envKind) parse(v any, to any) (string, error) {
	var pairs []string
	switch x := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(x)) {
			switch value := x[name].(type) {
			case string:
				pairs = append(pairs, name+"="+value)
			case int64, bool:
				pairs = append(pairs, fmt.Sprintf("%s=%v", name, value))
			default:
				return "", want(value, "a text: write it in quotes")
			}
		}
	case literals:
		for _, s := range x {
			pairs = append(pairs, string(s))
		}
	case literal:
		var err error
		if pairs, err = splitWords(string(x)); err != nil {
			return "", err
		}
	default:
		return "", want(v, `a table: write [pool.NAME.env] and lines NAME = "value"`)
	}
	env := to.(*map[string]string)
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return "", fmt.Errorf("%q is not NAME=VALUE", pair)
		}
		if err := checkVariable(name, value); err != nil {
			return "", err
		}
		if *env == nil {
			*env = map[string]string{}
		}
		(*env)[name] = value
	}
	return "", nil
}

func (envKind) show(from any) string {
	env := *from.(*map[string]string)
	pairs := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		pairs = append(pairs, name+" = "+quote(env[name]))
	}
	if len(pairs) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(pairs, ", ") + " }"
}

// checkVariable refuses what cannot be a worker's variable, or is ours to set.
func checkVariable(name, value string) error {
	if !isVariableName(name) {
		return fmt.Errorf("%q is not a variable's name: letters, digits and _, no digit first", name)
	}
	if Reserved(name) {
		return fmt.Errorf("%s is for the supervisor to set", name)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("the value of %s holds a NUL byte", name)
	}
	return nil
}

// Reserved reports whether a variable is the supervisor's to set. No worker sees ours: the real systemd's sockets, tableflip's mark, our
// contracts.
func Reserved(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "MAINPID", "FDSTORE":
		return true
	}
	for _, prefix := range []string{"LISTEN_", "WATCHDOG_", "TABLEFLIP_", "SUPERVISOR_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func isVariableName(s string) bool {
	for i, r := range s {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// splitWords splits a text at white space; quotes and backslashes keep it together as in a shell. Nothing is expanded.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, escaped, quoted := false, false, rune(0)
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quoted != '\'':
			inWord, escaped = true, true
		case quoted != 0:
			if r == quoted {
				quoted = 0
			} else {
				word.WriteRune(r)
			}
		case r == '"' || r == '\'':
			inWord, quoted = true, r
		case unicode.IsSpace(r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	if quoted != 0 || escaped {
		return nil, fmt.Errorf("%q: a quote or a backslash at the end is left open", s)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s { // a byte that is no UTF-8 becomes U+FFFD: TOML cannot say it
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
