package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/valyala/fasthttp"
)

// What clients send as JSON is read strictly: a field that nobody knows is more likely a slip than a wish.

// badField is a request that is wrong in one place: in a field of its body, as in args.to[0].
func badField(field, format string, args ...any) *problem {
	p := newProblem(fasthttp.StatusBadRequest, "bad_field", "%s", field+": "+fmt.Sprintf(format, args...))
	p.field = field
	return p
}

// decodeStrictly reads one JSON object into the struct that v points to. name is the field that raw is the value of, "" for a whole body.
func decodeStrictly(raw []byte, name string, v any) error {
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return badJSON(name, "want a JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return badJSON(name, "there is more behind the JSON object")
		}
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return badField(join(name, wrong.Field), "it is a JSON %s, want %s", wrong.Value, jsonWord(wrong.Type))
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return badField(join(name, strings.Trim(field, `"`)), "there is no such field")
	}
	return badJSON(name, "this is not JSON (%v)", err)
}

func badJSON(name, format string, args ...any) *problem {
	if name != "" {
		return badField(name, format, args...)
	}
	return badRequest("the body: "+format, args...)
}

func join(name, field string) string {
	switch {
	case name == "":
		return field
	case field == "":
		return name
	}
	return name + "." + field
}

// jsonWord says in JSON's words what a Go type is read from.
func jsonWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}
