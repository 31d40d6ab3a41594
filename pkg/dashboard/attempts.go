package dashboard

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	maxWrong     = 10 // wrong tokens of one address in attemptSpan; then even the right one waits
	attemptSpan  = time.Minute
	maxAddresses = 1024 // that are remembered; more count as one
)

// attempts counts the wrong tokens of an address.
type attempts struct {
	mu    sync.Mutex
	wrong map[string]*attempt
}

type attempt struct {
	count int
	until time.Time
}

// wait gives how long an address has to wait until it may try again; 0: not at all.
func (a *attempts) wait(who string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.wrong[a.key(who)]; t != nil && t.count >= maxWrong {
		return max(0, time.Until(t.until))
	}
	return 0
}

// failed notes a wrong token.
func (a *attempts) failed(who string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := a.key(who)
	t := a.wrong[key]
	if t == nil || time.Now().After(t.until) {
		if a.wrong == nil {
			a.wrong = map[string]*attempt{}
		}
		t = &attempt{until: time.Now().Add(attemptSpan)}
		a.wrong[key] = t
	}
	t.count++
}

// key gives who's place in the table; when that is full, one that all newcomers share.
func (a *attempts) key(who string) string {
	if _, known := a.wrong[who]; known || len(a.wrong) < maxAddresses {
		return who
	}
	for key, t := range a.wrong {
		if time.Now().After(t.until) {
			delete(a.wrong, key)
		}
	}
	if len(a.wrong) < maxAddresses {
		return who
	}
	return ""
}

// remote names whom a wrong token is laid to: an address, of IPv6 its network of 64 bits, which one client has all of.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "" // a unix socket
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Unmap().Is4() {
		return host
	}
	network, _ := addr.WithZone("").Prefix(64)
	return network.String()
}
