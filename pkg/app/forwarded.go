package app

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unsafe"

	"github.com/valyala/fasthttp"
)

// Proxies are the peers whose X-Forwarded-For, -Proto and -Host are believed. Anybody else may write into these headers whatever he likes, so
// without such a list (a nil Proxies) nobody is believed. Set once.
type Proxies struct {
	networks []netip.Prefix
	unix     bool // peers of unix sockets: whoever may open the file
}

// ParseProxies reads a list such as "10.0.0.0/8, ::1, unix". An empty one trusts nobody and is nil.
func ParseProxies(list string) (*Proxies, error) {
	var p Proxies
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if word == "unix" {
			p.unix = true
			continue
		}
		network, err := netip.ParsePrefix(word)
		if addr, single := netip.ParseAddr(word); single == nil {
			network, err = netip.PrefixFrom(addr.WithZone(""), addr.BitLen()), nil
		}
		switch {
		case word == "*":
			return nil, errors.New(`"*": if you mean everybody, write 0.0.0.0/0,::/0; then every client can say that he is another one`)
		case err != nil:
			return nil, fmt.Errorf(`%q is not a network, an address or "unix", as in 10.0.0.0/8,::1,unix`, word)
		case network.Addr().Is4In6():
			return nil, fmt.Errorf("%q: write it as an IPv4 network", word)
		case network.Masked() != network:
			return nil, fmt.Errorf("%q has bits beyond its mask; write %s", word, network.Masked())
		}
		p.networks = append(p.networks, network)
	}
	if !p.unix && p.networks == nil {
		return nil, nil
	}
	return &p, nil
}

// trusts reports whether an address is a proxy's.
func (p *Proxies) trusts(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, network := range p.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// believes reports whether the peer of a request is a proxy that we trust, and gives its address, which a unix socket's has not.
func (p *Proxies) believes(ctx *fasthttp.RequestCtx) (peer netip.Addr, yes bool) {
	switch addr := ctx.RemoteAddr().(type) {
	case *net.TCPAddr:
		peer = addr.AddrPort().Addr().Unmap()
		return peer, p != nil && p.trusts(peer)
	case *net.UnixAddr:
		return peer, p != nil && p.unix
	}
	return peer, false
}

// client gives the client's address; the zero Addr where it has none: at a unix socket. Each proxy appends to X-Forwarded-For whom it talks to, so the header is read from its right
// end: the first address that is not a proxy's is the client's, and what stands left of it is only the client's word. What is no address ends
// the walk as well: nobody whom we trust wrote it.
func (p *Proxies) client(ctx *fasthttp.RequestCtx) netip.Addr {
	client, yes := p.believes(ctx)
	if !yes {
		return client
	}
	lines := ctx.Request.Header.PeekAll(fasthttp.HeaderXForwardedFor)
	for i := len(lines) - 1; i >= 0; i-- {
		rest, more := lines[i], true
		for more {
			cut := bytes.LastIndexByte(rest, ',')
			word := bytes.TrimSpace(rest[cut+1:])
			if more = cut >= 0; more {
				rest = rest[:cut]
			}
			addr, ok := forwardedAddr(word)
			if !ok {
				return client
			}
			if client = addr; !p.trusts(addr) {
				return client
			}
		}
	}
	return client
}

// remote gives the client's address for people: with its port, where we see that.
func (p *Proxies) remote(ctx *fasthttp.RequestCtx) string {
	if _, yes := p.believes(ctx); yes {
		if client := p.client(ctx); client.IsValid() {
			return client.String()
		}
	}
	return ctx.RemoteAddr().String()
}

// forwardedAddr reads 192.0.2.1, 2001:db8::1, and both with the port that some proxies add: 192.0.2.1:80, [2001:db8::1]:80.
func forwardedAddr(line []byte) (netip.Addr, bool) {
	word := unsafe.String(unsafe.SliceData(line), len(line)) // only until we return: a copy per request would be garbage
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(word, "["), "]"))
	if err != nil {
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(word)
		addr = with.Addr()
	}
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// base gives scheme and host of the address that the client used. A proxy that we trust says them in X-Forwarded-Proto and -Host; where several
// values stand, the last one is its own.
func (p *Proxies) base(ctx *fasthttp.RequestCtx) string {
	scheme, host := "http", string(ctx.Host())
	if ctx.IsTLS() {
		scheme = "https"
	}
	if _, yes := p.believes(ctx); yes {
		if said := strings.ToLower(lastValue(ctx, fasthttp.HeaderXForwardedProto)); said == "http" || said == "https" {
			scheme = said
		}
		if said := lastValue(ctx, fasthttp.HeaderXForwardedHost); isHost(said) {
			host = said
		}
	}
	return scheme + "://" + host
}

func lastValue(ctx *fasthttp.RequestCtx, name string) string {
	lines := ctx.Request.Header.PeekAll(name)
	if len(lines) == 0 {
		return ""
	}
	line := string(lines[len(lines)-1])
	return strings.TrimSpace(line[strings.LastIndexByte(line, ',')+1:])
}

// isHost reports whether a text is host, host:port or [address]:port, and nothing that means something elsewhere in a URL.
func isHost(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for _, c := range []byte(s) {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]", rune(c)) {
			return false
		}
	}
	return true
}
