package app

import (
	"bytes"
	"testing"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

func benchmarkHandler(b *testing.B, method, path string, body []byte) {
	handler := NewServer(Config{}, Standalone(), nil, nil, zap.NewNop()).Handler
	ctx := &fasthttp.RequestCtx{}
	b.ReportAllocs()
	for b.Loop() {
		ctx.Request.Header.SetMethod(method)
		ctx.Request.SetRequestURI(path)
		ctx.Request.SetBodyRaw(body)
		handler(ctx)
		if ctx.Response.StatusCode() != 200 {
			b.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
		}
		ctx.Request.Reset()
		ctx.Response.Reset()
	}
}

func BenchmarkLive(b *testing.B)   { benchmarkHandler(b, "GET", "/health/live", nil) }
func BenchmarkHealth(b *testing.B) { benchmarkHandler(b, "GET", "/health", nil) }
func BenchmarkPostImage(b *testing.B) {
	benchmarkHandler(b, "POST", "/images", bytes.Clone(encodeJPEG(b, landscape(3000, 2000))))
}
