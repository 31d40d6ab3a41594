package dashboard

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"supervisor/pkg/operator"
)

// Who may ask. A browser shows its session (a cookie, from the login form), and changes something only with a form of that session and from
// this very site. A program shows the token itself; nothing sends that along by itself, so it needs no form.

// session gives the browser's session, "" without one that holds.
func (d *Dashboard) session(r *http.Request) string {
	c, err := r.Cookie(cookieName(r))
	if err != nil || !d.opts.Token().IsSession(c.Value) || d.ended.has(c.Value) {
		return ""
	}
	return c.Value
}

// cookieName is of the port: cookies are shared by all ports of a host, and another supervisor may be at the next one.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return "supervisor-" + strconv.FormatUint(n, 10)
		}
	}
	return "supervisor"
}

// Program judges who asks for what is for programs: 200 for one that bears the token, or needs none; else the status to answer with, and why.
func (d *Dashboard) Program(w http.ResponseWriter, r *http.Request) (status int, why string) {
	if r.Header.Get("Authorization") == "" && d.peer(r) {
		return http.StatusOK, ""
	}
	return d.bearer(w, r)
}

// bearer judges the token that a request bears.
func (d *Dashboard) bearer(w http.ResponseWriter, r *http.Request) (status int, text string) {
	token, header := d.opts.Token(), r.Header.Get("Authorization")
	switch {
	case token == "":
		return http.StatusForbidden, closed
	case header == "":
		w.Header().Set("WWW-Authenticate", `Bearer realm="supervisor"`)
		return http.StatusUnauthorized, "this is for the operator: send Authorization: Bearer, and the token"
	}
	return d.try(w, r, token.Bearer(header))
}

// try judges a token that was right or not: of who has tried too often none is taken.
func (d *Dashboard) try(w http.ResponseWriter, r *http.Request, right bool) (status int, text string) {
	who := remote(r)
	if wait := d.attempts.wait(who); wait > 0 {
		seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
		w.Header().Set("Retry-After", seconds)
		return http.StatusTooManyRequests, "Too many wrong tokens from this address: try again in " + seconds + " s."
	}
	if !right {
		d.attempts.failed(who)
		return http.StatusUnauthorized, "This is not the token."
	}
	return http.StatusOK, ""
}

const closed = "There is no operator's token yet. Write one into a file (openssl rand -hex 32), name that as admin_token_file in [supervisor], and reload; " +
	"or set SUPERVISOR_ADMIN_TOKEN and restart."

// peer reports whether a program at a unix socket needs no token. A browser that comes to it (through a proxy, or a tunnel) is no such program: it
// also brings what strangers' pages make it ask.
func (d *Dashboard) peer(r *http.Request) bool {
	if d.opts.Peer == nil || !d.opts.Peer(r) {
		return false
	}
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Cookie", "Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	host := r.Host // a name with a dot may be a stranger's, who lets it mean this machine
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || !strings.Contains(host, ".")
}

// known runs a handler for who may look; session is "" for programs. The others may log in.
func (d *Dashboard) known(next func(w http.ResponseWriter, r *http.Request, session string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		session := d.session(r)
		if session == "" && r.Header.Get("Authorization") != "" {
			if status, text := d.bearer(w, r); status != http.StatusOK {
				http.Error(w, text, status)
				return
			}
		} else if session == "" && !d.peer(r) {
			d.loginPage(w, r, http.StatusUnauthorized, "")
			return
		}
		next(w, r, session)
	}
}

// foreign is the standard library's judgement of Sec-Fetch-Site and Origin.
var foreign = http.NewCrossOriginProtection()

// form runs a handler for a form of ours, or for a program.
func (d *Dashboard) form(next func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	return d.known(func(w http.ResponseWriter, r *http.Request, session string) {
		switch err := r.ParseForm(); {
		case err != nil:
			http.Error(w, "the form is not understood, or too large", http.StatusBadRequest)
		case foreign.Check(r) != nil, session != "" && !d.opts.Token().IsForm(session, r.PostForm.Get("csrf")):
			http.Error(w, "this did not come from a form of this page: go back, reload, and try again", http.StatusForbidden)
		default:
			next(w, r)
		}
	})
}

func (d *Dashboard) loginPage(w http.ResponseWriter, r *http.Request, status int, problem string) {
	open := d.opts.Token() != ""
	if !open {
		status, problem = http.StatusForbidden, closed
	}
	back := "./"
	if r.Method == http.MethodGet && actions[strings.TrimPrefix(r.URL.Path, "/")].verb != "" {
		back = strings.TrimPrefix(r.URL.RequestURI(), "/")
	}
	render(w, status, "login", map[string]any{"Title": "Supervisor · log in", "Problem": problem, "Open": open, "Login": "login", "Back": back})
}

// ownPath keeps a way back within this page.
func ownPath(back string) string {
	name, _, _ := strings.Cut(back, "?")
	if actions[name].verb != "" {
		return back
	}
	return "./"
}

// login is POST /login.
func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || foreign.Check(r) != nil {
		d.loginPage(w, r, http.StatusForbidden, "This did not come from the form below.")
		return
	}
	token := d.opts.Token()
	if status, text := d.try(w, r, token.Is(r.PostForm.Get("token"))); token == "" || status != http.StatusOK {
		d.loginPage(w, r, status, text)
		return
	}
	session, end := token.NewSession()
	setCookie(w, r, session, end)
	seeOther(w, ownPath(r.PostForm.Get("back")))
}

// logout is POST /logout.
func (d *Dashboard) logout(w http.ResponseWriter, r *http.Request) {
	d.ended.add(d.session(r))
	setCookie(w, r, "", time.Unix(1, 0))
	seeOther(w, "./")
}

func setCookie(w http.ResponseWriter, r *http.Request, session string, end time.Time) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: session, Path: "/", Expires: end, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	})
}

// seeOther leads on, relative to where we are: a proxy may have put us below a path.
func seeOther(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// ended are sessions that were logged out. Another process knows nothing of it: it ends by its own time there.
type ended struct {
	mu       sync.Mutex
	sessions map[string]time.Time // until when they would have held
}

func (e *ended) add(session string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for s, end := range e.sessions {
		if now.After(end) {
			delete(e.sessions, s)
		}
	}
	if e.sessions == nil {
		e.sessions = map[string]time.Time{}
	}
	if session != "" { // only who had the token can fill it
		e.sessions[session] = now.Add(operator.SessionTime)
	}
}

func (e *ended) has(session string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, gone := e.sessions[session]
	return gone
}

// holds reports whether a stream's session still does; a program has none that could end.
func (d *Dashboard) holds(session string) bool {
	return session == "" || d.opts.Token().IsSession(session) && !d.ended.has(session)
}
