package loadtest

import (
	"io"
	"net/http"

	"github.com/valyala/fasthttp"
)

// EchoFast answers as doc.go's contract says: the other end of what the clients check, for workers that exist only in tests.
// The answers name worker in X-Worker.
func EchoFast(worker string) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		nonce := ctx.QueryArgs().Peek("nonce")
		ctx.Response.Header.SetBytesV("X-Nonce", nonce)
		ctx.Response.Header.Set("X-Worker", worker)
		if ctx.QueryArgs().GetBool("body") {
			ctx.SetBody(ctx.PostBody())
		} else {
			ctx.SetBody(nonce)
		}
	}
}

// EchoHTTP is EchoFast for net/http. It reads the whole request before it answers: see client.bodySize.
func EchoHTTP(worker string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		query := r.URL.Query()
		w.Header().Set("X-Nonce", query.Get("nonce"))
		w.Header().Set("X-Worker", worker)
		if query.Get("body") == "" {
			body = []byte(query.Get("nonce"))
		}
		w.Write(body)
	})
}
