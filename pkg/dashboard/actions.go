package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"supervisor/pkg/control"
	"supervisor/pkg/operator"
)

// action is what a button does. There is none for a stop: nobody could start it again from here.
type action struct {
	verb     string // on the button that says yes
	question func(form url.Values) string
	does     func(form url.Values) string                     // in the list of what was asked
	do       func(o *Options, form url.Values) (doing, error) // an error says what is wrong with the form
}

// doing does it, and waits for the end.
type doing = func(ctx context.Context, begun func(string)) (control.Verdict, error)

// actions by their path.
var actions = map[string]action{
	"reload": ofAll("Reload", "Reload? The configuration is read again and all workers are replaced, new ones first. If one fails, nothing changes.",
		func(o *Options) doing { return o.Reload }),
	"upgrade": ofAll("Upgrade", "Upgrade the supervisor itself? The program on disk takes over addresses, workers and connections. If it does not come up, nothing changes.",
		func(o *Options) doing { return o.Upgrade }),
	"scale": {
		"Scale",
		func(f url.Values) string {
			if by(f) < 0 {
				return fmt.Sprintf("%s fewer in pool %s? What runs there is finished.", plural(-by(f), "worker"), f.Get("pool"))
			}
			return fmt.Sprintf("%s more in pool %s?", plural(by(f), "worker"), f.Get("pool"))
		},
		func(f url.Values) string { return fmt.Sprintf("Scale %s by %+d", f.Get("pool"), by(f)) },
		func(o *Options, f url.Values) (doing, error) {
			if by(f) == 0 || f.Get("pool") == "" {
				return nil, errors.New("say which pool, and by how many workers: pool=web&by=1")
			}
			return func(ctx context.Context, begun func(string)) (control.Verdict, error) {
				return o.Scale(ctx, control.ScaleRequest{Pool: f.Get("pool"), Delta: by(f)}, begun)
			}, nil
		},
	},
	"recycle": {
		"Recycle",
		func(f url.Values) string {
			if strings.Contains(f.Get("target"), ".") {
				return fmt.Sprintf("Recycle %s? A new worker takes its place, and is ready before it leaves.", f.Get("target"))
			}
			return fmt.Sprintf("Recycle all workers of pool %s? They are replaced in turn, new ones first.", f.Get("target"))
		},
		func(f url.Values) string { return "Recycle " + f.Get("target") },
		func(o *Options, f url.Values) (doing, error) {
			if f.Get("target") == "" {
				return nil, errors.New("say what: target=web, target=web.2, or target=web.2.17")
			}
			return func(ctx context.Context, begun func(string)) (control.Verdict, error) {
				return o.Recycle(ctx, control.RecycleRequest{Target: f.Get("target")}, begun)
			}, nil
		},
	},
}

// ofAll is an action on everything.
func ofAll(verb, question string, do func(*Options) doing) action {
	return action{verb, func(url.Values) string { return question }, func(url.Values) string { return verb }, func(o *Options, _ url.Values) (doing, error) { return do(o), nil }}
}

// maxName bounds the names that a form may hold: they are shown to everybody.
const maxName = 100

func by(f url.Values) int {
	n, err := strconv.Atoi(f.Get("by"))
	if err != nil || n < -1000 || n > 1000 {
		return 0
	}
	return n
}

// field is an input of a form.
type field struct{ Name, Value string }

// fields gives what a form says, without what is not the action's.
func fields(f url.Values) []field {
	var list []field
	for _, name := range []string{"pool", "by", "target"} {
		if v := f.Get(name); v != "" && len(v) <= maxName {
			list = append(list, field{name, v})
		}
	}
	return list
}

// button is the form of an action: without a script it leads to the page that asks, with one the page itself asks.
type button struct {
	Path, Verb, Question, Text, Label string
	Fields                            []field
}

func newButton(text, label, path string, pairs []string) button {
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	a := actions[path]
	return button{path, a.verb, a.question(form), text, label, fields(form)}
}

// Button is one within a piece, or the page: its text, what it is called where that says too little, the action, and names and values.
func (p *piece) Button(text, label, path string, pairs ...string) button {
	return newButton(text, label, path, pairs)
}

// Button is the same on the page itself.
func (f *frame) Button(text, label, path string, pairs ...string) button {
	return newButton(text, label, path, pairs)
}

// question is GET /ACTION: the page that asks, where there is no script.
func (d *Dashboard) question(name string, a action) func(w http.ResponseWriter, r *http.Request, session string) {
	return func(w http.ResponseWriter, r *http.Request, session string) {
		form := r.URL.Query()
		if _, err := a.do(&d.opts, form); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		render(w, http.StatusOK, "confirm", map[string]any{
			"Title": a.verb + "?", "Question": operator.Question(a.question(form)), "Verb": a.verb, "Action": name, "Fields": fields(form), "Back": "./",
			"CSRF": d.opts.Token().Form(session),
		})
	}
}

// act is POST /ACTION. It does not wait for the end: the page shows it when it comes.
func (d *Dashboard) act(a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		form := url.Values{}
		for _, f := range fields(r.PostForm) {
			form.Set(f.Name, f.Value)
		}
		do, err := a.do(&d.opts, form)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := d.hub.request(r.Context(), a.verb, a.does(form), do); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		seeOther(w, "./")
	}
}
