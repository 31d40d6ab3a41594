package tasks

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

const ellipsis = "…"

// cut shortens a text to at most limit bytes, at the border of a character. What is JSON stays JSON: its longest string is cut.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	if json.Valid([]byte(text)) {
		from, to := longestString(text)
		keep := to - from - (len(text) - limit) - len(ellipsis)
		if keep >= 0 {
			end := from
			for size := step(text[end:to]); size > 0 && end+size-from <= keep; size = step(text[end:to]) {
				end += size
			}
			return text[:end] + ellipsis + text[to:]
		}
	}
	limit = max(limit-len(ellipsis), 0)
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + ellipsis
}

// longestString tells where the longest string in valid JSON lies, without its quotes.
func longestString(text string) (from, to int) {
	for i := 0; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		start := i + 1
		for i = start; text[i] != '"'; i += step(text[i:]) {
		}
		if i-start > to-from {
			from, to = start, i
		}
	}
	return from, to
}

// step is how many bytes the first character of a JSON string has, an escape being one character; 0 at its end.
func step(s string) int {
	switch {
	case s == "":
		return 0
	case strings.HasPrefix(s, `\u`):
		return min(6, len(s))
	case s[0] == '\\':
		return min(2, len(s))
	}
	_, size := utf8.DecodeRuneInString(s)
	return size
}
