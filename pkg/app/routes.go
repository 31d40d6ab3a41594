package app

import (
	"slices"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"
)

// route is one line of the table that the router and the front page are made of.
type route struct {
	method string // or anyMethod
	path   string
	query  string // an example of one, with its question mark
	about  string // one sentence for the front page
	flags  string // what curl needs beside the address
	handle func(*fasthttp.RequestCtx) error
}

// anyMethod is the method of a route that takes all of them.
const anyMethod = router.MethodWild

func (a *app) table() []route {
	get, post := fasthttp.MethodGet, fasthttp.MethodPost
	operator := "-H 'Authorization: Bearer TOKEN'"
	imageAbout, imageFlags := "Makes a thumbnail of a JPEG, PNG, GIF or WebP: form field file, or the bare body.", "-o thumbnail.jpg -F file=@photo.jpg"
	if a.tasks != nil {
		imageAbout, imageFlags = "Takes a JPEG, PNG, GIF or WebP (form field file, or the bare body), and answers 202 with the job that makes its thumbnail.", "-F file=@photo.jpg"
	}
	routes := []route{
		{get, "/", "", "This page; JSON unless the client accepts HTML.", "", a.index},
		{post, "/images", "?width=320&height=320", imageAbout, imageFlags, a.postImage},
		{post, "/tasks", "", "Stores a job: mail, webhook; 202 with where to ask for it.", `--json '{"name": "mail", "args": {"to": ["ada@example.org"], "subject": "Hello", "text": "…"}}'`, a.postTask},
		{post, "/imports", "", "Copies a CSV of contacts (email, name, company) into PostgreSQL, all or nothing: for the operator.", "-H 'Authorization: Bearer TOKEN' -H 'Content-Type: text/csv' --data-binary @contacts.csv", a.adminOnly(a.postImport)},
		{get, "/tasks/{id}", "", "Where a job is: state, attempt, times, progress, error.", "", a.taskRoute(a.getTask)},
		{get, "/tasks/{id}/result", "", "What came of it: the thumbnail, or what else its handler returned.", "-o thumbnail.jpg", a.taskRoute(a.getTaskResult)},
		{fasthttp.MethodDelete, "/tasks/{id}", "", "Cancels a job that has not ended.", "-X DELETE", a.taskRoute(a.deleteTask)},
		{get, "/tasks", "?state=dead&queue=default", "Jobs of one state, 50 a page: for the operator.", operator, a.adminTasks(a.listTasks)},
		{post, "/tasks/{id}/retry", "", "Lets a dead job begin anew: for the operator.", "-X POST " + operator, a.adminTasks(a.retryTask)},
		{get, "/queues", "", "What the queues hold, and what they have counted: for the operator.", operator, a.adminTasks(a.listQueues)},
		{post, "/queues/{queue}/pause", "", "Lets no runner begin a job of this queue: for the operator.", "-X POST " + operator, a.adminTasks(a.turnQueue(true))},
		{post, "/queues/{queue}/resume", "", "Ends a pause: for the operator.", "-X POST " + operator, a.adminTasks(a.turnQueue(false))},
		{get, "/openapi.json", "", "All of this for programs, as OpenAPI 3.1.", "", a.getOpenAPI},
		{get, "/health", "", "Which worker answers: id, pid, uptime in seconds, connections, generation.", "", a.health},
		{get, "/api/health", "", "The same, for what looks for it under /api.", "", a.health},
		{get, "/health/worker", "", "The same, for what asks for a worker's health.", "", a.health},
		{get, "/health/live", "", "Answers while the process can answer.", "", a.live},
		{get, "/health/ready", "", "503 while draining: send new clients elsewhere.", "", a.ready},
		{get, "/health/startup", "", "Answers once the process has started.", "", a.live},
	}
	if a.config.Debug {
		routes = append(routes, a.drills()...)
	}
	return routes
}

// newHandler makes the one handler of all requests.
func (a *app) newHandler() fasthttp.RequestHandler {
	a.routes = a.table()
	r := router.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath = false, false // an address is right or it is not
	r.NotFound = a.notFound
	r.MethodNotAllowed = a.methodNotAllowed
	r.GlobalOPTIONS = func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(fasthttp.StatusNoContent) } // Allow says it all
	r.PanicHandler = a.panicked
	routes := slices.Concat(a.routes, a.pages())
	var templates []string // some have several methods
	index := map[string]routeIndex{}
	for _, route := range routes {
		if index[route.path] == otherRoute {
			templates = append(templates, route.path)
			index[route.path] = routeIndex(len(templates))
		}
	}
	a.meter = newHTTPMeter(a.worker.Label, templates)
	for _, route := range routes {
		h := routed(index[route.path], a.answering(route.handle))
		r.Handle(route.method, route.path, h)
		if route.method == fasthttp.MethodGet {
			r.HEAD(route.path, h)
		}
	}
	return r.Handler
}
