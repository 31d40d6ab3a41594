package accesslog

import "bytes"

// Queries carry secrets although they should not: tokens of links in mails, keys of APIs, signatures of signed URLs. A log is read by more people,
// and kept for longer, than anybody wants for these.

// masked stands for a secret.
const masked = "***"

// secretParts are what the name of a secret has in it, in lower case and without _ - . and brackets; secretNames are whole names.
var (
	secretParts = [][]byte{
		[]byte("token"), []byte("secret"), []byte("passw"), []byte("passphrase"), []byte("pwd"), []byte("apikey"), []byte("accesskey"), []byte("privatekey"),
		[]byte("signature"), []byte("credential"), []byte("session"), []byte("jwt"), []byte("authorization"), []byte("bearer"),
	}
	secretNames = [][]byte{
		[]byte("key"), []byte("sig"), []byte("auth"), []byte("oauth"), []byte("code"), []byte("otp"), []byte("pin"), []byte("pass"), []byte("sid"),
	}
)

// isSecret reports whether a parameter's value should not be logged. The name may be percent-encoded.
func isSecret(name []byte) bool {
	var plain [64]byte
	n := 0
	for i := 0; i < len(name) && n < len(plain); i++ {
		c := name[i]
		if c == '%' && i+2 < len(name) {
			if high, low := unhex(name[i+1]), unhex(name[i+2]); high|low < 16 {
				c = high<<4 | low
				i += 2
			}
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			plain[n] = c
			n++
		}
	}
	for _, part := range secretParts {
		if bytes.Contains(plain[:n], part) {
			return true
		}
	}
	for _, whole := range secretNames {
		if bytes.Equal(plain[:n], whole) {
			return true
		}
	}
	return false
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// appendMasked appends a URL, or a path and query, without user, password and values of secrets.
func appendMasked(to, uri []byte) []byte {
	path, query, has := bytes.Cut(uri, []byte("?"))
	if at := bytes.Index(path, []byte("//")); at >= 0 && (at == 0 || path[at-1] == ':') {
		// https://user:password@host/…
		rest := path[at+2:]
		end := bytes.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		if user := bytes.LastIndexByte(rest[:end], '@'); user >= 0 {
			to = append(append(to, path[:at+2]...), masked...)
			path = rest[user:]
		}
	}
	to = append(to, path...)
	if !has {
		return to
	}
	for separator := byte('?'); ; {
		to = append(to, separator)
		end := bytes.IndexAny(query, "&;#?")
		pair := query
		if end >= 0 {
			pair = query[:end]
		}
		if name, value, is := bytes.Cut(pair, []byte("=")); is && len(value) > 0 && isSecret(name) {
			to = append(append(append(to, name...), '='), masked...)
		} else {
			to = append(to, pair...)
		}
		if end < 0 {
			return to
		}
		separator, query = query[end], query[end+1:]
	}
}
