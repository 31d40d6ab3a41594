package app

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"code.dny.dev/ssrf"
	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
	"supervisor/pkg/tracecontext"
)

// Webhooks: JSON that is sent to somebody's URL, signed as the Standard Webhooks specification (1.0) says, and tried again until it is
// taken. Who may have what sent where is checked when it is asked for; which networks are never spoken to, at each connection.

const (
	webhookTask    = "webhook"
	maxWebhookURL  = 2048
	webhookTimeout = 15 * time.Second // one delivery, from the dial to the end of the answer; what the specification advises
	maxAnswerBytes = 64 << 10         // of a receiver's answer: nobody reads it, but a connection that is read to its end is used again
	maxRetryAfter  = 12 * time.Hour   // what a receiver may ask for
)

// Twelve attempts, waiting from seconds to an hour in between: a receiver may be down for some hours.
var webhookOptions = []tasks.Option{tasks.Timeout(2 * webhookTimeout), tasks.MaxAttempts(12)}

var webhookSchema = object(map[string]schema{
	"url":  {"type": "string", "format": "uri", "maxLength": maxWebhookURL, "description": "https:// or http://"},
	"body": {"description": "What is sent, any JSON. The specification wants type, timestamp and data."},
}, "url", "body")

// Webhooks is what signs and sends.
type Webhooks struct {
	keys  [][]byte // WEBHOOK_SECRET, the newest first: receivers may know any of them
	hosts []string // WEBHOOK_HOSTS, in lower case
	allow []netip.Prefix
	http  *http.Client
}

// parseWebhooks reads WEBHOOK_SECRET, WEBHOOK_HOSTS and APP_WEBHOOK_ALLOW; nil without the first. Errors do not repeat secrets.
func parseWebhooks(getenv func(string) string) (*Webhooks, error) {
	secrets := words(getenv("WEBHOOK_SECRET"))
	if len(secrets) == 0 {
		return nil, nil
	}
	w := &Webhooks{}
	for _, secret := range secrets {
		written, ok := strings.CutPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(written)
		if !ok || err != nil || len(key) < 24 || len(key) > 64 {
			return nil, errors.New(`WEBHOOK_SECRET: want whsec_ and 24 to 64 bytes in base64, as from echo "whsec_$(openssl rand -base64 32)"; while one is replaced, the new and the old with a comma between them`)
		}
		w.keys = append(w.keys, key)
	}
	for _, host := range words(getenv("WEBHOOK_HOSTS")) {
		w.hosts = append(w.hosts, strings.ToLower(host))
	}
	for _, written := range words(getenv("APP_WEBHOOK_ALLOW")) {
		network, err := netip.ParsePrefix(written)
		if address, bad := netip.ParseAddr(written); bad == nil {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("APP_WEBHOOK_ALLOW: %q is not a network: want 10.1.0.0/16 or an address", written)
		}
		w.allow = append(w.allow, network.Masked())
	}
	w.http = w.client()
	return w, nil
}

// client speaks to public addresses only, and to those that are allowed. The guard looks at the address that is dialled, after names have
// been looked up: a name that points elsewhere the second time gets nowhere. A proxy would dial for us where nobody guards, so none is used.
func (w *Webhooks) client() *http.Client {
	var v4, v6 []netip.Prefix
	for _, network := range w.allow {
		if network.Addr().Is4() {
			v4 = append(v4, network)
		} else {
			v6 = append(v6, network)
		}
	}
	guard := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	return &http.Client{
		Timeout: webhookTimeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second, Control: guard.Safe}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConns:           100,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true, // an answer that unpacks to gigabytes
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type webhookArgs struct {
	URL  string          `json:"url"`
	Body json.RawMessage `json:"body"`
}

func (args webhookArgs) check(t *Tasks, byAdmin bool) error {
	if t.webhooks == nil {
		return newProblem(fasthttp.StatusServiceUnavailable, "webhooks_off", "no webhooks are sent here: set WEBHOOK_SECRET")
	}
	u, err := url.Parse(args.URL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.User != nil || len(args.URL) > maxWebhookURL {
		return badField("args.url", "want https://host/path or http://…, without user and password, of at most %d bytes", maxWebhookURL)
	}
	if !byAdmin && !slices.Contains(t.webhooks.hosts, strings.ToLower(u.Hostname())) {
		p := newProblem(fasthttp.StatusForbidden, "host_not_allowed",
			"args.url: only the operator may have something sent to %q: send the token of APP_ADMIN_TOKEN, or set WEBHOOK_HOSTS to the hosts that everybody may", u.Hostname())
		p.field = "args.url"
		return p
	}
	if len(args.Body) == 0 {
		return badField("args.body", "want what is to be sent, as JSON")
	}
	return nil
}

// webhook is the handler.
func (t *Tasks) webhook(ctx context.Context, args webhookArgs) ([]byte, error) {
	if err := args.check(t, true); err != nil {
		return nil, &taskError{err.(*problem), tasks.ErrSkipRetry}
	}
	status, err := t.webhooks.deliver(ctx, tasks.FromContext(ctx).ID, args)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]int{"status": status})
}

// deliver tries once. The id is the same each time: receivers know a repeat by it.
func (w *Webhooks) deliver(ctx context.Context, id string, args webhookArgs) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, args.URL, bytes.NewReader(args.Body))
	if err != nil {
		return 0, &taskError{badField("args.url", "it cannot be asked for"), tasks.ErrSkipRetry}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "supervisor-app-webhook")
	if trace, ok := tracecontext.From(ctx); ok { // of who asked for it: the receiver's work is part of it
		request.Header.Set(headerParent, trace.Parent())
		if trace.State != "" {
			request.Header.Set(headerState, trace.State)
		}
	}
	w.sign(request.Header, id, time.Now(), args.Body)
	response, err := w.http.Do(request)
	if err != nil {
		return 0, unreachable(err)
	}
	defer response.Body.Close()
	io.CopyN(io.Discard, response.Body, maxAnswerBytes)
	return response.StatusCode, verdict(response)
}

// sign puts the three headers of the specification on a delivery.
func (w *Webhooks) sign(header http.Header, id string, now time.Time, body []byte) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	var signatures []string
	for _, key := range w.keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", timestamp)
	header.Set("webhook-signature", strings.Join(signatures, " "))
}

// unreachable says what to make of a delivery without an answer.
func unreachable(err error) error {
	if errors.Is(err, ssrf.ErrProhibitedIP) || errors.Is(err, ssrf.ErrProhibitedNetwork) {
		return &taskError{newProblem(0, "address_refused", "the host has an address that is not a public one, and APP_WEBHOOK_ALLOW does not name its network"),
			fmt.Errorf("%w: %w", tasks.ErrSkipRetry, err)}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return &taskError{newProblem(0, "receiver_timeout", "the receiver did not answer within %s", webhookTimeout), err}
	}
	return &taskError{newProblem(0, "receiver_unreachable", "the receiver could not be reached"), err}
}

// verdict says what to make of an answer. A redirect is no delivery: it is not followed, since its target was never looked at.
func verdict(response *http.Response) error {
	status := response.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	err := fmt.Errorf("webhook: the receiver answered %d", status)
	switch status {
	case http.StatusGone:
		return &taskError{newProblem(0, "receiver_gone", "the receiver answered 410: it wants no more of these"), fmt.Errorf("%w: %w", tasks.ErrSkipRetry, err)}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if wait := retryAfterOf(response.Header, time.Now()); wait > 0 {
			err = tasks.RetryAfter(err, wait)
		}
	}
	return &taskError{newProblem(0, "receiver_failed", "the receiver answered %d, it takes 2xx", status), err}
}

// retryAfterOf reads Retry-After: seconds or a date; 0 without a sensible one.
func retryAfterOf(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	wait := time.Duration(0)
	if n, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
