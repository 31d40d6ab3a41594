package app

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"html/template"
	"strings"

	"github.com/valyala/fasthttp"
)

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page.html").Parse(pageHTML))

// endpoint is a route as index shows it.
type endpoint struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	About  string `json:"about"`
	Curl   string `json:"curl"`
	Link   string `json:"-"` // for a browser, "" where a click would not do
}

// index says what this is and where to go: to a browser as a page, to everything else as JSON.
func (a *app) index(ctx *fasthttp.RequestCtx) error {
	header := &ctx.Response.Header
	header.Set(fasthttp.HeaderVary, fasthttp.HeaderAccept)
	header.Set(fasthttp.HeaderCacheControl, "no-store")
	endpoints, worker := a.endpoints(a.config.Proxies.base(ctx)), a.status() // base: so that the curl lines work from where the client is
	if !bytes.Contains(ctx.Request.Header.Peek(fasthttp.HeaderAccept), []byte("text/html")) {
		answerJSON(ctx, fasthttp.StatusOK, map[string]any{
			"about": "the application that ships with the supervisor: it makes thumbnails", "worker": worker, "endpoints": endpoints,
			"client": a.config.Proxies.remote(ctx),
		})
		return nil
	}
	nonce := rand.Text() // the page's own style and script run, nothing that somebody manages to slip in does
	header.Set(fasthttp.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'nonce-"+nonce+"'; script-src 'nonce-"+nonce+
		"'; connect-src 'self'; img-src blob: data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	ctx.SetContentType("text/html; charset=utf-8")
	return page.Execute(ctx.Response.BodyWriter(), map[string]any{
		"Worker": worker, "Tasks": a.tasks != nil, "Endpoints": endpoints, "Nonce": nonce, "Debug": a.config.Debug,
		"Field": uploadField, "MaxMiB": maxUploadBytes >> 20, "Formats": acceptedFormats,
	})
}

func (a *app) endpoints(base string) []endpoint {
	list := make([]endpoint, 0, len(a.routes))
	for _, r := range a.routes {
		e := endpoint{Method: r.method, Path: r.path, About: r.about, Curl: "curl"}
		if r.flags != "" {
			e.Curl += " " + r.flags
		}
		path := strings.NewReplacer("{id}", "ID", "{queue}", "default").Replace(r.path) // braces mean something to curl
		if address := base + path + r.query; r.query == "" {
			e.Curl += " " + address
		} else {
			e.Curl += " '" + address + "'" // ? and & mean something to a shell
		}
		switch r.method {
		case fasthttp.MethodGet:
			if path == r.path {
				e.Link = r.path + r.query
			}
		case anyMethod:
			e.Method = "ANY"
		}
		list = append(list, e)
	}
	return list
}
