package dashboard

import (
	"context"
	"embed"
	"net/http"
	"path"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/operator"
)

//go:embed files
var files embed.FS

// Options are what the dashboard needs of a supervisor. Its functions are called by several goroutines.
type Options struct {
	// Token gives the operator's token as it is now; "": the dashboard is closed, and says how to open it.
	Token func() operator.Token
	// Peer reports whether who asks needs no token: root or our own user at a unix socket. nil: nobody.
	Peer func(*http.Request) bool
	// Hold keeps the connection of a request that lasts, until release. nil: there is no need.
	Hold func(*http.Request) (release func())
	// Read looks at the supervisor. One goroutine calls it, at most once a second, and only while somebody looks.
	Read func(context.Context) (control.Status, error)
	// Follow gives the events that there are, then those that come, until its context ends.
	Follow func(ctx context.Context, send func(control.History) error) error
	// Fault hears of faults of the dashboard's own: pages stand still, and go on with the next sample if that can be shown.
	Fault func(error)

	// What buttons do. Each waits for the end, and calls begun when it has begun; an error says why it did not even begin.
	Reload, Upgrade doing
	Scale           func(ctx context.Context, r control.ScaleRequest, begun func(string)) (control.Verdict, error)
	Recycle         func(ctx context.Context, r control.RecycleRequest, begun func(string)) (control.Verdict, error)
}

// Dashboard serves the page. Close it.
type Dashboard struct {
	opts     Options
	hub      *hub
	handler  http.Handler
	attempts attempts
	ended    ended
}

var pages = operator.Parse(files, "files/*.html")

// New makes a dashboard that nobody looks at yet: it does nothing until somebody does.
func New(opts Options) *Dashboard {
	d := &Dashboard{opts: opts, hub: newHub(opts)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.known(d.page))
	mux.HandleFunc("GET /live", d.known(d.live))
	for name, a := range actions {
		mux.HandleFunc("GET /"+name, d.known(d.question(name, a)))
		mux.HandleFunc("POST /"+name, d.form(d.act(a)))
	}
	mux.HandleFunc("POST /login", d.login)
	mux.HandleFunc("POST /logout", d.form(d.logout))
	mux.HandleFunc("GET /assets/{name}", asset)
	d.handler = mux
	go d.hub.run()
	return d
}

// Close ends the streams of all pages, and what runs for them. What was asked for goes on.
func (d *Dashboard) Close() { d.hub.close() }

// ServeHTTP answers what is the dashboard's, for who may ask.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range operator.Headers {
		w.Header().Set(name, value)
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	d.handler.ServeHTTP(w, r)
}

const (
	answerTime = 10 * time.Second // to take an answer, or a message
	maxForm    = 8 << 10
)

// asset serves the files that pages load. They hold no secret: the login page needs them.
func asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	content, err := operator.Asset(name)
	if err != nil {
		content, err = files.ReadFile("files/" + name)
	}
	kind := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}[path.Ext(name)]
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(content)
}

// page is GET /.
func (d *Dashboard) page(w http.ResponseWriter, r *http.Request, session string) {
	body, frame, err := d.hub.whole(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	form := ""
	if session != "" {
		form = d.opts.Token().Form(session)
	}
	render(w, http.StatusOK, "page", map[string]any{"Title": "Supervisor", "CSRF": form, "Body": body, "Frame": frame})
}

func render(w http.ResponseWriter, status int, name string, data map[string]any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	pages.ExecuteTemplate(w, name, data) // a client that is gone has no use for it
}
