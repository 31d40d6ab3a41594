package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// contract holds what a site says against what its /openapi.json says, by a library that knows nothing of ours.
type contract struct {
	document *openapi3.T
	router   routers.Router
}

// asItIs takes the bodies that are not JSON for what they are.
var asItIs = sync.OnceFunc(func() {
	for _, kind := range []string{"image/jpeg", "image/png", "text/html", "text/csv", "text/event-stream", "application/octet-stream", "*/*"} {
		openapi3filter.RegisterBodyDecoder(kind, openapi3filter.FileBodyDecoder)
	}
})

func readContract(t testing.TB, a *app) *contract {
	t.Helper()
	asItIs()
	text, err := json.Marshal(a.openAPI())
	if err != nil {
		t.Fatal(err)
	}
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document) // validates it
	if err != nil {
		t.Fatal(err)
	}
	return &contract{document, router}
}

// check looks at one request and its answer. A request that was taken must be one that the document allows; any answer must be in it.
func (c *contract) check(t testing.TB, request *http.Request, body []byte, status int, header http.Header, answer []byte) {
	t.Helper()
	if request.Method == http.MethodHead || request.Method == http.MethodOptions {
		return
	}
	route, parameters, err := c.router.FindRoute(request)
	if status == 404 && strings.HasSuffix(request.URL.Path, "/") {
		return // the library takes it for the path without
	}
	if err != nil {
		var unknown *routers.RouteError
		if any := c.document.Paths.Value(request.URL.Path); !errors.As(err, &unknown) || (any == nil && status != 404 || any != nil && status != 405) && !strings.HasPrefix(request.URL.Path, "/debug/") && !strings.HasPrefix(request.URL.Path, "/admin/") {
			t.Errorf("%s %s is not in /openapi.json (%v), and was answered with %d", request.Method, request.URL.Path, err, status)
		}
		return
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	kind := request.Header.Get("Content-Type")
	asked := &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route, Options: &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
		ExcludeRequestBody: !strings.HasPrefix(kind, "application/json"), // bytes are bytes
	}}
	if status < 400 {
		if err := openapi3filter.ValidateRequest(context.Background(), asked); err != nil {
			t.Errorf("%s %s was answered with %d, but /openapi.json forbids it: %v", request.Method, request.URL, status, err)
		}
	}
	said := &openapi3filter.ResponseValidationInput{RequestValidationInput: asked, Status: status, Header: header, Options: asked.Options}
	if len(answer) > 0 {
		said.SetBodyBytes(answer)
	} else {
		said.Body = io.NopCloser(bytes.NewReader(nil))
	}
	if err := openapi3filter.ValidateResponse(context.Background(), said); err != nil {
		t.Errorf("%s %s: the answer %d %.300q is not in /openapi.json: %v", request.Method, request.URL, status, answer, err)
	}
}

// Every route is in the document, and everything in the document is a route.
func TestOpenAPIIsTheRouteTable(t *testing.T) {
	for _, s := range []*site{serve(t, Config{}), serveTasks(t, "APP_DEBUG", "1").site} {
		document := readContract(t, s.app).document
		if !document.IsOpenAPI31OrLater() {
			t.Errorf("it is OpenAPI %s", document.OpenAPI)
		}
		routes := map[string]bool{}
		for _, r := range s.app.routes {
			methods := []string{r.method}
			if r.method == anyMethod {
				methods = []string{"GET", "POST"}
			}
			for _, method := range methods {
				routes[method+" "+r.path] = true
				if path := document.Paths.Value(r.path); path == nil || path.GetOperation(method) == nil {
					t.Errorf("%s %s is not in it: describe it in openapi.go", method, r.path)
				}
			}
		}
		ids := map[string]string{}
		for path, item := range document.Paths.Map() {
			for method, o := range item.Operations() {
				here := method + " " + path
				if !routes[here] {
					t.Errorf("%s is in it, but is no route", here)
				}
				if ids[o.OperationID] != "" || o.OperationID == "" {
					t.Errorf("%s and %s have the operationId %q", here, ids[o.OperationID], o.OperationID)
				}
				ids[o.OperationID] = here
			}
		}
		// Each description belongs to a route that there can be.
		for key := range s.app.operations() {
			method, path, _ := strings.Cut(key, " ")
			if method == "ANY" {
				method = "GET"
			}
			if !routes[method+" "+path] && (s.app.config.Debug || !strings.HasPrefix(path, "/debug/")) {
				t.Errorf("openapi.go describes %s, which is no route", key)
			}
		}
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	got := serve(t, Config{}).get("/openapi.json")
	if got.status != 200 || got.json()["openapi"] != "3.1.0" {
		t.Errorf("%d %.200s", got.status, got.body)
	}
	got.isGuarded()
}

// The check can fail: a document that says otherwise is noticed.
func TestContractNoticesWhatIsNotInIt(t *testing.T) {
	s := serve(t, Config{})
	c := readContract(t, s.app)
	request := func(path string) *http.Request {
		r, _ := http.NewRequest("GET", "http://"+s.addr+path, nil)
		return r
	}
	header := http.Header{"Content-Type": {"application/json"}}
	for name, look := range map[string]func(testing.TB){
		"a status": func(t testing.TB) {
			c.check(t, request("/health"), nil, 418, header, []byte(`{"error": {"code": "teapot", "message": ""}}`))
		},
		"a member": func(t testing.TB) {
			c.check(t, request("/health/live"), nil, 200, header, []byte(`{"status": "healthy", "more": 1}`))
		},
		"an error's shape": func(t testing.TB) {
			c.check(t, request("/health/ready"), nil, 503, header, []byte(`{"error": "draining"}`))
		},
		"a path": func(t testing.TB) { c.check(t, request("/nope"), nil, 200, header, []byte(`{}`)) },
		"a parameter": func(t testing.TB) {
			c.check(t, postRequest(s.addr, "/images?width=99999"), nil, 200, http.Header{"Content-Type": {"image/png"}}, []byte("x"))
		},
		"a type of an answer": func(t testing.TB) {
			c.check(t, request("/health/live"), nil, 200, http.Header{"Content-Type": {"text/plain"}}, []byte("well"))
		},
	} {
		noticed := &recorder{TB: t}
		if look(noticed); !noticed.failed {
			t.Errorf("%s that is not in the document passes", name)
		}
	}
}

func postRequest(addr, path string) *http.Request {
	r, _ := http.NewRequest("POST", "http://"+addr+path, nil)
	return r
}

// recorder notes that a test would have failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
