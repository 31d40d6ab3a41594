// Command server is the same small fasthttp server in three clothes, for bench/compare:
//
//	server bare ADDR        one process on all cores
//	server prefork ADDR     fasthttp's own prefork: one process per core, one shared socket
//	server reuseport ADDR   the same with a socket per process
//	server supervised ADDR  a worker of our supervisor
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/prefork"

	"supervisor/pkg/worker/fast"
)

// body is what bench/nginx.conf answers too; with the headers below the answers have the same size.
var body = []byte("hello, world\n")

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: server bare|prefork|reuseport|supervised ADDR")
		os.Exit(64)
	}
	mode, addr := os.Args[1], os.Args[2]
	pid := strconv.Itoa(os.Getpid())
	srv := &fasthttp.Server{
		Name: "bench",
		// The supervisor's default keepalive: the others would otherwise spare themselves a timer per request.
		IdleTimeout: 5 * time.Second,
		Handler: func(ctx *fasthttp.RequestCtx) {
			h := &ctx.Response.Header
			h.SetContentType("text/plain")
			h.Set("X-Worker", pid)
			if !ctx.Request.Header.ConnectionClose() {
				h.Set("X-Pad", "as nginx says..") // in place of nginx's "Connection: keep-alive"
			}
			ctx.SetBody(body)
		},
	}
	var err error
	switch mode {
	case "bare":
		err = srv.ListenAndServe(addr)
	case "prefork", "reuseport":
		p := prefork.New(srv)
		p.Reuseport = mode == "reuseport"
		p.OnMasterDeath = func() { os.Exit(1) }
		err = p.ListenAndServe(addr)
	case "supervised":
		err = fast.Serve(srv, addr)
	default:
		err = fmt.Errorf("mode %q is unknown", mode)
	}
	if err != nil {
		log.Fatal(err)
	}
}
