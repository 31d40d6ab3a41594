package fast_test

import (
	"log"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/worker/fast"
)

func ExampleServe() {
	handler := func(ctx *fasthttp.RequestCtx) { ctx.WriteString("hello") }
	log.Fatal(fast.Serve(&fasthttp.Server{Handler: handler}, ":8080"))
}
