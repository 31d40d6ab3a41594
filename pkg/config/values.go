package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
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
