package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
)

// /openapi.json is made of the route table: paths, methods and sentences are the table's, what goes in and comes out of each stands in
// operations.go, the shapes that they share in components.go. A test compares both ways, and holds every request and answer of the other tests
// against it.

// operation is what a route takes and answers.
type operation struct {
	id     string
	admin  access
	query  map[string]schema // all optional
	header map[string]schema // all optional
	takes  map[string]schema // bodies by their type; nil: none
	gives  map[int]reply
	fails  []int // beside what every route may answer
}

// access is who may.
type access int

const (
	anybody access = iota
	moreForAdmin
	adminsOnly
)

// reply is one answer that is no error.
type reply struct {
	about  string
	bodies map[string]schema // by type; nil: none. A nil schema is not JSON
}

func jsonOf(s schema) map[string]schema { return map[string]schema{"application/json": s} }

func ref(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }

// failures are those of every route: what cannot be read, and our own.
var failures = []int{fasthttp.StatusBadRequest, fasthttp.StatusRequestTimeout, fasthttp.StatusRequestEntityTooLarge, fasthttp.StatusRequestHeaderFieldsTooLarge, fasthttp.StatusInternalServerError}

// openAPI makes the document.
func (a *app) openAPI() map[string]any {
	operations := a.operations()
	paths := map[string]map[string]any{}
	for _, r := range a.routes {
		method := r.method
		if method == anyMethod {
			method = "ANY"
		}
		o, ok := operations[method+" "+r.path]
		if !ok {
			continue // a test says so
		}
		if paths[r.path] == nil {
			paths[r.path] = map[string]any{}
		}
		if method != "ANY" {
			paths[r.path][strings.ToLower(method)] = o.describe(r)
			continue
		}
		for _, method := range []string{"get", "post"} { // of all that it takes
			d := o.describe(r)
			d["operationId"] = o.id + strings.ToUpper(method[:1]) + method[1:]
			paths[r.path][method] = d
		}
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "app", "version": "1", "description": "The application that ships with the supervisor: thumbnails and other jobs."},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         a.schemas(),
			"securitySchemes": map[string]any{"admin": map[string]any{"type": "http", "scheme": "bearer", "description": "APP_ADMIN_TOKEN"}},
		},
	}
}

func (o operation) describe(r route) map[string]any {
	var parameters []map[string]any
	for _, in := range []string{"path", "query", "header"} {
		of := map[string]map[string]schema{"path": pathParameters(r.path), "query": o.query, "header": o.header}[in]
		for _, name := range slices.Sorted(maps.Keys(of)) {
			parameters = append(parameters, map[string]any{"name": name, "in": in, "required": in == "path", "schema": of[name]})
		}
	}
	responses := map[string]any{}
	for status, reply := range o.gives {
		responses[strconv.Itoa(status)] = map[string]any{"description": reply.about, "content": content(reply.bodies)}
	}
	for _, status := range append(o.fails, failures...) {
		responses[strconv.Itoa(status)] = map[string]any{"description": http.StatusText(status), "content": content(jsonOf(ref("Error")))}
	}
	d := map[string]any{"operationId": o.id, "summary": strings.TrimSuffix(r.about, "."), "responses": responses}
	if len(parameters) > 0 {
		d["parameters"] = parameters
	}
	if o.takes != nil {
		d["requestBody"] = map[string]any{"required": r.method != anyMethod, "content": content(o.takes)}
	}
	switch o.admin {
	case moreForAdmin:
		d["security"] = []map[string][]string{{}, {"admin": {}}}
	case adminsOnly:
		d["security"] = []map[string][]string{{"admin": {}}}
	}
	return d
}

func content(bodies map[string]schema) map[string]any {
	c := map[string]any{}
	for kind, body := range bodies {
		if c[kind] = map[string]any{}; body != nil {
			c[kind] = map[string]any{"schema": body}
		}
	}
	return c
}

func pathParameters(path string) map[string]schema {
	found := map[string]schema{}
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			found[strings.TrimSuffix(name, "}")] = schema{"type": "string"}
		}
	}
	return found
}

// getOpenAPI answers with the document.
func (a *app) getOpenAPI(ctx *fasthttp.RequestCtx) error {
	text, err := json.MarshalIndent(a.openAPI(), "", "  ")
	if err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(append(text, '\n'))
	return nil
}
