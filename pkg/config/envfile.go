package config

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"supervisor/pkg/machine"
)

// fileMax bounds a config or environment file: a device or a log given by mistake must not fill the memory.
const fileMax = 4 << 20

// readFile reads a small regular file. A pipe is refused: a reload could not read it again, and opening one may block for ever.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s; it must be a regular file, since each reload reads it again", path, machine.FileKind(info.Mode()))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err == nil && len(data) > fileMax {
		err = fmt.Errorf("%s is larger than %d MiB", path, fileMax>>20)
	}
	return data, err
}

// envFileState is a state of systemd's parser of EnvironmentFile=, which parseEnvFile follows.
type envFileState int

const (
	beforeKey envFileState = iota
	inKey
	beforeValue // also after a closing quote: what follows is appended
	inValue
	inValueEscape
	inSingleQuotes
	inDoubleQuotes
	inDoubleQuotesEscape
	inComment
	inCommentEscape
)

// parseEnvFile reads KEY=VALUE lines as systemd's EnvironmentFile= does: lines that begin with # or ; are comments, a backslash
// at the end of a line continues it, white space around a value is dropped, quotes keep it, and nothing is expanded. Unlike
// systemd it refuses what it does not understand. Its error names the line.
func parseEnvFile(text string) (map[string]string, error) {
	env := map[string]string{}
	var key, value strings.Builder
	state, line, quoteLine, keyLine, escapeLine := beforeKey, 1, 0, 0, 0
	trailing := -1 // where the white space at the value's end begins; -1: there is none

	fail := func(line int, format string, args ...any) (map[string]string, error) {
		return nil, fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...))
	}
	finish := func() error {
		v := value.String()
		if trailing >= 0 {
			v = v[:trailing]
		}
		k := strings.TrimRight(key.String(), " \t")
		key.Reset()
		value.Reset()
		trailing = -1
		if name, ok := strings.CutPrefix(k, "export "); ok {
			return fmt.Errorf("line %d: write %s=… without export: this is no shell", keyLine, strings.TrimSpace(name))
		}
		if err := checkVariable(k, v); err != nil {
			return fmt.Errorf("line %d: %w", keyLine, err)
		}
		env[k] = v
		return nil
	}
	if !utf8.ValidString(text) {
		return fail(1+strings.Count(text[:invalidUTF8(text)], "\n"), "is not UTF-8")
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		newline := c == '\n' || c == '\r'
		blank := c == ' ' || c == '\t'
		switch state {
		case beforeKey:
			switch {
			case c == '#' || c == ';':
				state = inComment
			case !newline && !blank:
				state, keyLine = inKey, line
				key.WriteByte(c)
				if c == '=' {
					return fail(line, "has no name before =")
				}
			}
		case inKey:
			switch {
			case newline:
				return fail(line, "%q is not NAME=VALUE", key.String())
			case c == '=':
				state = beforeValue
			default:
				key.WriteByte(c)
			}
		case beforeValue, inValue:
			switch {
			case newline:
				if err := finish(); err != nil {
					return nil, err
				}
				state = beforeKey
			case c == '\\':
				state, trailing, escapeLine = inValueEscape, -1, line
			case state == beforeValue && c == '\'':
				state, quoteLine = inSingleQuotes, line
			case state == beforeValue && c == '"':
				state, quoteLine = inDoubleQuotes, line
			case state == beforeValue && blank:
			default:
				state = inValue
				if !blank {
					trailing = -1
				} else if trailing < 0 {
					trailing = value.Len()
				}
				value.WriteByte(c)
			}
		case inValueEscape:
			state = inValue
			if c == '\r' && i+1 < len(text) && text[i+1] == '\n' {
				i++ // one line end
				c = '\n'
			}
			if c != '\n' && c != '\r' {
				value.WriteByte(c)
			}
		case inSingleQuotes:
			if c == '\'' {
				state = beforeValue
			} else {
				value.WriteByte(c)
			}
		case inDoubleQuotes:
			switch c {
			case '"':
				state = beforeValue
			case '\\':
				state = inDoubleQuotesEscape
			default:
				value.WriteByte(c)
			}
		case inDoubleQuotesEscape:
			state = inDoubleQuotes
			if !strings.ContainsRune("\"\\`$\n", rune(c)) {
				value.WriteByte('\\') // only these need it; before others it stands for itself
			}
			if c != '\n' {
				value.WriteByte(c)
			}
		case inComment:
			if newline {
				state = beforeKey
			} else if c == '\\' {
				state = inCommentEscape
			}
		case inCommentEscape:
			state = inComment
		}
		if c == '\n' {
			line++
		}
	}
	switch state {
	case inSingleQuotes, inDoubleQuotes, inDoubleQuotesEscape:
		return fail(quoteLine, "the quote is never closed")
	case inKey:
		return fail(line, "%q is not NAME=VALUE", key.String())
	case inValueEscape:
		return fail(escapeLine, "ends in a backslash, but no line follows")
	case beforeValue, inValue:
		if err := finish(); err != nil {
			return nil, err
		}
	}
	return env, nil
}

// invalidUTF8 gives the offset of the first byte that is no UTF-8.
func invalidUTF8(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return len(s)
}
