package operator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Token is the operator's secret; "" is none, and then nothing is it.
//
// His browser bears a session instead: `<end, unix seconds>.<random>.<mac>`. Whoever has the token can make and check one, so all processes with
// one token know each other's sessions, also those that come after them; another token ends them all.
type Token string

// LeastToken is what no one guesses by trying: 16 random bytes have 32 hexadecimal digits.
const LeastToken = 16

// SessionTime is how long a session holds.
const SessionTime = 12 * time.Hour

// ParseToken refuses what could be guessed. Its error does not hold the text.
func ParseToken(text string) (Token, error) {
	if text != "" && len(text) < LeastToken {
		return "", errors.New("is too short: want at least 16 characters, as from openssl rand -hex 32")
	}
	return Token(text), nil
}

// String keeps the token out of logs.
func (t Token) String() string {
	if t == "" {
		return ""
	}
	return "REDACTED"
}

// Is compares the sums, which have one length: the time that it takes tells nothing about the token.
func (t Token) Is(given string) bool {
	one, other := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(t))
	return t != "" && subtle.ConstantTimeCompare(one[:], other[:]) == 1
}

// Bearer reports whether an Authorization header is the token's: Bearer TOKEN.
func (t Token) Bearer(authorization string) bool {
	kind, given, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(kind, "Bearer") && t.Is(strings.TrimSpace(given))
}

// seal is a MAC that only the token's owner can make, one kind for each use.
func (t Token) seal(use, text string) string {
	mac := hmac.New(sha256.New, []byte(t))
	mac.Write([]byte(use + "\x00" + text))
	return hex.EncodeToString(mac.Sum(nil))
}

func (t Token) sealed(use, text, seal string) bool {
	return t != "" && hmac.Equal([]byte(t.seal(use, text)), []byte(seal))
}

// NewSession makes one that begins now.
func (t Token) NewSession() (session string, end time.Time) {
	end = time.Now().Add(SessionTime)
	text := strconv.FormatInt(end.Unix(), 10) + "." + rand.Text()
	return text + "." + t.seal("session", text), end
}

// IsSession reports whether a session is ours and has not ended.
func (t Token) IsSession(session string) bool {
	at := max(0, strings.LastIndex(session, "."))
	text, seal := session[:at], strings.TrimPrefix(session[at:], ".")
	end, _, _ := strings.Cut(text, ".")
	until, err := strconv.ParseInt(end, 10, 64)
	return err == nil && time.Now().Unix() <= until && t.sealed("session", text, seal)
}

// Form is what a form of a session's page bears, so that no other page can send it (CSRF).
func (t Token) Form(session string) string { return t.seal("form", session) }

// IsForm reports whether a form is the session's.
func (t Token) IsForm(session, form string) bool { return t.sealed("form", session, form) }

// SameSite reports whether a request comes from a page of ours, as far as the browser tells (Sec-Fetch-Site).
func SameSite(header string) bool { return header == "" || header == "same-origin" || header == "none" }
