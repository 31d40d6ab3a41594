package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Kinds of the settings about reloads.

// healthKind is a path to ask for, or a command: a list of texts. In a variable one word that begins with / is a path.
type healthKind struct{}

func (healthKind) parse(v any, to any) (string, error) {
	const what = `a path such as "/health", or a command such as ["/usr/bin/check", "--quick"]`
	health := to.(*Health)
	v = one(v)
	text, isText := v.(string)
	if word, ok := v.(literal); ok && (word == "" || strings.HasPrefix(string(word), "/") && !strings.ContainsAny(string(word), " \t\n")) {
		text, isText = string(word), true
	}
	switch {
	case isText && text == "":
		*health = Health{}
		return "", nil
	case isText && (!strings.HasPrefix(text, "/") || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f })):
		return "", want(text, what)
	case isText:
		*health = Health{Path: text}
		return "", nil
	}
	if _, isList := v.([]any); !isList && reflect.ValueOf(v).Kind() != reflect.String {
		return "", want(v, what)
	}
	var command []string
	if _, err := (argvKind{}).parse(v, &command); err != nil {
		return "", err
	}
	*health = Health{Command: command}
	return "", nil
}

func (healthKind) show(from any) string {
	if health := from.(*Health); len(health.Command) > 0 {
		return quoteList(health.Command)
	}
	return quote(from.(*Health).Path)
}

// surgeKind is a number of processes or a share of the workers.
type surgeKind struct{}

func (surgeKind) parse(v any, to any) (string, error) {
	const what = `a share of the workers such as "25%", or a number of processes from 1`
	v = one(v)
	text, isPercent := "", false
	if x := reflect.ValueOf(v); x.Kind() == reflect.String {
		text, isPercent = strings.CutSuffix(strings.TrimSpace(x.String()), "%")
	}
	if isPercent {
		percent, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || percent < 1 || percent > 100 {
			return "", fmt.Errorf("%s is not a share of 1%% to 100%%", quote(text+"%"))
		}
		*to.(*Surge) = Surge{Percent: percent}
		return "", nil
	}
	var count int
	if _, err := (countKind{min: math.MinInt, max: MaxWorkers}).parse(v, &count); err != nil || count < 1 {
		return "", want(v, what)
	}
	*to.(*Surge) = Surge{Count: count}
	return "", nil
}

func (surgeKind) show(from any) string {
	s := from.(*Surge)
	if s.Count > 0 {
		return strconv.Itoa(s.Count)
	}
	return quote(strconv.Itoa(s.Percent) + "%")
}
