package accesslog

import (
	"net"
	"net/netip"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tracecontext"
)

// Bytes of a record's texts; what is longer is cut.
const (
	maxMethod  = 16
	maxID      = 64
	maxURI     = 640 // path and query
	maxReferer = 256
	maxAgent   = 224
	textSize   = maxMethod + maxID + maxURI + maxReferer + maxAgent
)

// record is a request on its way to a line: fixed in size and without pointers, so that the collector has nothing to look at.
type record struct {
	at     int64 // unix ns of its end
	took   int64 // ns
	bytes  int64 // of the body of the answer; -1: it is a stream
	trace  tracecontext.TraceID
	remote [16]byte
	kind   addressKind
	status uint16
	http10 bool
	cut    bool // the path
	// Ends of the texts in text: method, id, path and query, referer, user agent.
	method, id, uri, referer, agent uint16
	text                            [textSize]byte
}

type addressKind uint8

const (
	noAddress addressKind = iota
	address4
	address6
	addressUnix
)

// fill describes a request. All texts are copied: the request's memory belongs to the next one soon.
func (r *record) fill(ctx *fasthttp.RequestCtx, e *Entry, remote netip.Addr) {
	r.at, r.took, r.status, r.trace, r.bytes = e.At.UnixNano(), int64(e.Took), uint16(e.Status), e.Trace, size(ctx)
	switch {
	case remote.Is4():
		r.kind = address4
		four := remote.As4()
		copy(r.remote[:], four[:])
	case remote.IsValid():
		r.kind, r.remote = address6, remote.As16()
	default:
		r.kind = noAddress
		if _, is := ctx.RemoteAddr().(*net.UnixAddr); is {
			r.kind = addressUnix
		}
	}
	r.method, r.uri, r.referer, r.agent, r.cut, r.http10 = 0, 0, 0, 0, false, false
	if e.Unread {
		r.id = r.add(0, e.ID, maxID)
		r.uri, r.referer, r.agent = r.id, r.id, r.id
		return
	}
	header := &ctx.Request.Header
	uri := header.RequestURI()
	r.cut, r.http10 = len(uri) > maxURI, !header.IsHTTP11()
	r.method = r.add(0, header.Method(), maxMethod)
	r.id = r.add(r.method, e.ID, maxID)
	r.uri = r.add(r.id, uri, maxURI)
	r.referer = r.add(r.uri, header.Peek(fasthttp.HeaderReferer), maxReferer)
	r.agent = r.add(r.referer, header.UserAgent(), maxAgent)
}

// add copies a text behind the one that ends at from, and gives its end.
func (r *record) add(from uint16, text []byte, most int) uint16 {
	return from + uint16(copy(r.text[from:], text[:min(len(text), most)]))
}

func size(ctx *fasthttp.RequestCtx) int64 {
	switch {
	case ctx.IsHead():
		return 0
	case ctx.Response.IsBodyStream():
		return -1
	}
	return int64(len(ctx.Response.Body()))
}

// peer is the address of who made the connection.
func peer(ctx *fasthttp.RequestCtx) netip.Addr {
	if addr, is := ctx.RemoteAddr().(*net.TCPAddr); is {
		return addr.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (r *record) address() (a netip.Addr) {
	switch r.kind {
	case address4:
		a = netip.AddrFrom4([4]byte(r.remote[:4]))
	case address6:
		a = netip.AddrFrom16(r.remote)
	}
	return a
}
