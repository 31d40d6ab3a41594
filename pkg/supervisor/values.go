package supervisor

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// valueKind is a kind of value: how it is read, checked and written.
//
// parse stores v behind to. v is what TOML gave (string, int64, float64, bool, []any, …), or for a variable a literal, or for a
// flag literals. note is the value as written where it was resolved to another. show gives what is stored there as TOML.
type valueKind interface {
	parse(v any, to any) (note string, err error)
	show(from any) string
}

// literal is a value from the environment or a flag: text that a file would give a type.
type literal string

// literals are the values of a flag that may be repeated.
type literals []literal

// want is the error about a value that is not what its setting takes.
func want(v any, what string) error {
	if s, ok := v.([]any); ok {
		return fmt.Errorf("a list of %d is not %s", len(s), what)
	}
	if t, ok := v.(fmt.Stringer); ok { // TOML's dates and times
		return fmt.Errorf("%s is not %s", t, what)
	}
	if reflect.ValueOf(v).Kind() == reflect.Map {
		return fmt.Errorf("a table is not %s", what)
	}
	if reflect.ValueOf(v).Kind() == reflect.String {
		return fmt.Errorf("%q is not %s", v, what)
	}
	return fmt.Errorf("%v is not %s", v, what)
}

// one makes the last value of a repeated flag the value, as usual on command lines.
func one(v any) any {
	if list, ok := v.(literals); ok && len(list) > 0 {
		return list[len(list)-1]
	}
	return v
}

// countKind is a whole number.
type countKind struct {
	min, max int
	auto     func() int // what "auto" means; nil: it means nothing
}

// cores gives the processors that we may use: the cgroup's quota counts.
func cores() int { return runtime.GOMAXPROCS(0) }

func (k countKind) parse(v any, to any) (string, error) {
	what := `a whole number, such as 4`
	if k.auto != nil {
		what += `, or "auto"`
	}
	v = one(v)
	if k.auto != nil && (v == literal("auto") || v == "auto") {
		*to.(*int) = k.auto()
		return `"auto"`, nil
	}
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case literal:
		var err error
		if n, err = strconv.ParseInt(strings.TrimSpace(string(v)), 10, 64); err != nil {
			return "", want(v, what)
		}
	default:
		return "", want(v, what)
	}
	if n < int64(k.min) {
		return "", fmt.Errorf("%d is too small: at least %d", n, k.min)
	}
	if n > int64(k.max) {
		return "", fmt.Errorf("%d is too large: at most %d", n, k.max)
	}
	*to.(*int) = int(n)
	return "", nil
}

func (countKind) show(from any) string { return strconv.Itoa(*from.(*int)) }

// limitKind is a resource limit; 0 leaves it alone.
type limitKind struct{}

func (limitKind) parse(v any, to any) (string, error) {
	var n int
	if _, err := (countKind{max: math.MaxInt32}).parse(v, &n); err != nil {
		return "", err
	}
	*to.(*uint64) = uint64(n)
	return "", nil
}

func (limitKind) show(from any) string { return strconv.FormatUint(*from.(*uint64), 10) }

// durationKind is "30s", "1m30s", or a number of seconds.
type durationKind struct {
	positive bool // 0 has no meaning
}

func (k durationKind) parse(v any, to any) (string, error) {
	const what = `a duration: write "30s", "1m30s" or a number of seconds`
	seconds, isNumber := 0.0, true
	var d time.Duration
	switch x := one(v).(type) {
	case int64:
		seconds = float64(x)
	case float64:
		seconds = x
	case string, literal:
		text := strings.TrimSpace(reflect.ValueOf(x).String())
		var err error
		if seconds, err = strconv.ParseFloat(text, 64); err != nil {
			isNumber = false
			if d, err = time.ParseDuration(text); err != nil {
				return "", want(x, what)
			}
		}
	default:
		return "", want(x, what)
	}
	if isNumber {
		if math.IsNaN(seconds) || math.Abs(seconds) > 1e9 {
			return "", want(one(v), what)
		}
		d = time.Duration(math.Round(seconds * float64(time.Second)))
	}
	if d < 0 {
		return "", fmt.Errorf("%s is negative", showDuration(d))
	}
	if d == 0 && k.positive {
		return "", fmt.Errorf("must be more than 0")
	}
	*to.(*time.Duration) = d
	return "", nil
}

func (durationKind) show(from any) string { return quote(showDuration(*from.(*time.Duration))) }

// showDuration writes 1m instead of 1m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeKind is a number of bytes, or "256MiB"; 0: no limit.
type sizeKind struct{}

// minSize catches a number that was meant in MiB.
const minSize = 1 << 20

var sizeUnits = []struct {
	suffix string
	bytes  float64
}{ // longest suffix first; a bare K, M, G is binary as in systemd and docker
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1},
}

func (sizeKind) parse(v any, to any) (string, error) {
	const what = `a size: write "256MiB", "1GiB" or a number of bytes`
	var size float64
	switch x := one(v).(type) {
	case int64:
		size = float64(x)
	case string, literal:
		text := strings.ToLower(strings.TrimSpace(reflect.ValueOf(x).String()))
		unit := 1.0
		for _, u := range sizeUnits {
			if number, ok := strings.CutSuffix(text, u.suffix); ok {
				text, unit = strings.TrimSpace(number), u.bytes
				break
			}
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) {
			return "", want(x, what)
		}
		size = n * unit
	default:
		return "", want(x, what)
	}
	if size < 0 || size > 1<<60 {
		return "", want(one(v), what)
	}
	if size > 0 && size < minSize {
		return "", fmt.Errorf("%.0f bytes are too little for any process; write \"%.0fMiB\" if that is what you mean", size, max(size, 1))
	}
	*to.(*int64) = int64(size)
	return "", nil
}

func (sizeKind) show(from any) string {
	n := *from.(*int64)
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	if n > 0 {
		i = min(bits.TrailingZeros64(uint64(n))/10, len(units)-1)
	}
	if i == 0 {
		return strconv.FormatInt(n, 10)
	}
	return quote(strconv.FormatInt(n>>(10*i), 10) + units[i])
}

// boolKind is true or false.
type boolKind struct{}

func (boolKind) parse(v any, to any) (string, error) {
	switch x := one(v).(type) {
	case bool:
		*to.(*bool) = x
		return "", nil
	case literal:
		if b, err := strconv.ParseBool(strings.ToLower(string(x))); err == nil {
			*to.(*bool) = b
			return "", nil
		}
	}
	return "", want(one(v), "true or false")
}

func (boolKind) show(from any) string { return strconv.FormatBool(*from.(*bool)) }

// textKind is a name or a path; "" leaves things as they are.
type textKind struct {
	required bool
}

func (k textKind) parse(v any, to any) (string, error) {
	var s string
	switch x := one(v).(type) {
	case string:
		s = x
	case literal:
		s = string(x)
	default:
		return "", want(x, `a text: write it in quotes`)
	}
	if s == "" && k.required {
		return "", fmt.Errorf(`is empty; write "-" for the standard output`)
	}
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("%q holds a NUL byte", s)
	}
	*to.(*string) = s
	return "", nil
}

func (textKind) show(from any) string { return quote(*from.(*string)) }

// wordKind is one of some words.
type wordKind []string

func (k wordKind) parse(v any, to any) (string, error) {
	x := reflect.ValueOf(one(v))
	quoted := make([]string, len(k))
	for i, w := range k {
		quoted[i] = quote(w)
	}
	what := "one of " + strings.Join(quoted, ", ")
	if x.Kind() != reflect.String {
		return "", want(one(v), what)
	}
	word := x.String()
	if !slices.Contains(k, word) {
		return "", fmt.Errorf("%w%s", want(word, what), didYouMean(word, k))
	}
	reflect.ValueOf(to).Elem().SetString(word)
	return "", nil
}

func (wordKind) show(from any) string { return quote(reflect.ValueOf(from).Elem().String()) }

// argvKind is a command: a list of texts, or in a variable one text split as a shell does.
type argvKind struct{}

func (argvKind) parse(v any, to any) (string, error) {
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

// umaskKind is an octal text; "" is the supervisor's own.
type umaskKind struct{}

func (umaskKind) parse(v any, to any) (string, error) {
	const what = `an octal mask in quotes, such as "0027"`
	x := reflect.ValueOf(one(v))
	if x.Kind() != reflect.String {
		return "", want(one(v), what)
	}
	if x.String() == "" {
		*to.(*int) = -1
		return "", nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(x.String(), "0o"), 8, 32)
	if err != nil || n > 0o777 {
		return "", want(x.String(), what)
	}
	*to.(*int) = int(n)
	return "", nil
}

func (umaskKind) show(from any) string {
	if n := *from.(*int); n >= 0 {
		return quote(fmt.Sprintf("%04o", n))
	}
	return `""`
}

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
	if scrubbed(name) {
		return fmt.Errorf("%s is for the supervisor to set", name)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("the value of %s holds a NUL byte", name)
	}
	return nil
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
