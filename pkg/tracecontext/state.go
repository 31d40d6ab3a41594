package tracecontext

import "strings"

// Limits on tracestate. More than 512 bytes need not be passed on, and are not.
const (
	maxMembers = 32
	maxState   = 512
	largeEntry = 128 // bytes; such entries go first
	maxValue   = 256
	maxName    = 256
	maxTenant  = 241
	maxSystem  = 14
)

// ParseState reads the values of all tracestate headers, in their order. One entry that is not well-formed makes all of it worth nothing (ok is
// false); what is too long loses entries, as the specification has it. The empty state is fine.
func ParseState(headers ...string) (state string, ok bool) {
	var entries []string
	seen := map[string]bool{}
	size := 0
	for _, header := range headers {
		for entry := range strings.SplitSeq(header, ",") {
			if entry = strings.Trim(entry, " \t"); entry == "" {
				continue
			}
			key, value, found := strings.Cut(entry, "=")
			if !found || !validName(key) || !validValue(value) || seen[key] || len(entries) == maxMembers {
				return "", false
			}
			seen[key] = true
			entries = append(entries, entry)
			size += len(entry) + 1
		}
	}
	for i := len(entries) - 1; i >= 0 && size-1 > maxState; i-- {
		if len(entries[i]) > largeEntry {
			size -= len(entries[i]) + 1
			entries = append(entries[:i], entries[i+1:]...)
		}
	}
	for size-1 > maxState {
		size -= len(entries[len(entries)-1]) + 1
		entries = entries[:len(entries)-1]
	}
	return strings.Join(entries, ","), true
}

// validName reports whether a key is vendor, or tenant@vendor.
func validName(key string) bool {
	tenant, system, several := strings.Cut(key, "@")
	if !several {
		return len(key) <= maxName && isName(key) && !isDigit(key[0])
	}
	return len(tenant) <= maxTenant && isName(tenant) && len(system) <= maxSystem && isName(system) && !isDigit(system[0])
}

// isName reports whether a text begins with a letter or digit, and goes on with these and _-*/.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || isDigit(c) || i > 0 && (c == '_' || c == '-' || c == '*' || c == '/')) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// validValue reports whether a text is 1 to 256 printable ASCII characters without comma and equals sign, the last one not a space.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return s != "" && len(s) <= maxValue && s[len(s)-1] != ' '
}
