package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"time"
)

// Patience is how long a supervisor may take until it has begun what it was asked for, or says why not. Its own loop gets a few
// seconds less.
const Patience = 10 * time.Second

// ErrSilent says that somebody has the socket open and does not answer.
var ErrSilent = errors.New("it does not answer")

// Client asks one supervisor.
type Client struct {
	http *http.Client
	// Begun, if set, is called with what the supervisor says when it has begun.
	Begun func(text string)
}

// Dial makes a client for a socket ("/run/app/supervisor.sock"). It connects at the first request.
func Dial(path string) *Client { return newClient("unix", path) }

// DialAdmin makes a client for the health endpoints of an admin listener: host:port, or unix:path.
func DialAdmin(address string) *Client {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return newClient("unix", path)
	}
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip.IsUnspecified()) { // it listens everywhere, so also here
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
		address = net.JoinHostPort(host, port)
	}
	return newClient("tcp", address)
}

func newClient(network, address string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: Patience}).DialContext(ctx, network, address)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks for everything.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.ask(ctx, http.MethodGet, PathStatus, nil, &s)
	return s, err
}

// Config asks for what is in force.
func (c *Client) Config(ctx context.Context) (Config, error) {
	var cfg Config
	err := c.ask(ctx, http.MethodGet, PathConfig, nil, &cfg)
	return cfg, err
}

// Reload asks to read the configuration again and to replace all workers. Its error, like those of the methods below, is an *Error when the
// supervisor did not even begin.
func (c *Client) Reload(ctx context.Context, r Wait) (Verdict, error) {
	return c.post(ctx, PathReload, r)
}

// Upgrade asks to replace the supervisor's own program.
func (c *Client) Upgrade(ctx context.Context, r Wait) (Verdict, error) {
	return c.post(ctx, PathUpgrade, r)
}

// Scale asks for more workers, or less.
func (c *Client) Scale(ctx context.Context, r ScaleRequest) (Verdict, error) {
	return c.post(ctx, PathScale, r)
}

// Recycle asks to replace workers.
func (c *Client) Recycle(ctx context.Context, r RecycleRequest) (Verdict, error) {
	return c.post(ctx, PathRecycle, r)
}

// Drain asks to take workers out.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (Verdict, error) {
	return c.post(ctx, PathDrain, r)
}

// Undrain asks to bring them back.
func (c *Client) Undrain(ctx context.Context, r DrainRequest) (Verdict, error) {
	return c.post(ctx, PathUndrain, r)
}

// Stop asks the supervisor to stop.
func (c *Client) Stop(ctx context.Context, r StopRequest) (Verdict, error) {
	return c.post(ctx, PathStop, r)
}

func (c *Client) post(ctx context.Context, path string, request any) (Verdict, error) {
	var v Verdict
	err := c.ask(ctx, http.MethodPost, path, request, &v)
	return v, err
}

// Health asks a health endpoint, and gives its status code and its body.
func (c *Client) Health(ctx context.Context, path string) (code int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://supervisor"+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", cause(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	return resp.StatusCode, strings.TrimSpace(string(text)), err
}

// retryPause is between two tries while a self-upgrade hands over.
const retryPause = 50 * time.Millisecond

// ask sends a request and reads its answer.
func (c *Client) ask(ctx context.Context, method, path string, request, answer any) error {
	return c.exchange(ctx, method, path, request, func(resp *http.Response) error {
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return cause(err)
		}
		if err := json.Unmarshal(text, answer); err != nil {
			return fmt.Errorf("unexpected answer: %w: is that a supervisor's socket?", err)
		}
		return nil
	})
}

// exchange sends a request until it is answered: while a self-upgrade hands over, nobody does, for a moment. An answer that is no error is given to
// take.
func (c *Client) exchange(ctx context.Context, method, path string, request any, take func(*http.Response) error) error {
	for deadline := time.Now().Add(Patience); ; time.Sleep(retryPause) {
		again, err := c.exchangeOnce(ctx, method, path, request, take)
		if !again || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
	}
}

// exchangeOnce gives up when nothing is heard for Patience before the supervisor has begun; from then on only ctx ends the wait.
func (c *Client) exchangeOnce(ctx context.Context, method, path string, request any, take func(*http.Response) error) (again bool, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(Patience, func() { cancel(ErrSilent) })
	defer silent.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			if text := header.Get(HeaderBegun); silent.Stop() && c.Begun != nil && text != "" {
				c.Begun(text)
			}
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(context.Cause(ctx), ErrSilent) {
			return false, ErrSilent
		}
		return false, cause(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return false, take(resp)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, cause(err)
	}
	return resp.Header.Get("Retry-After") != "", refusalOf(resp, text)
}

// refusalOf makes the error of an answer that is not what was asked for.
func refusalOf(resp *http.Response, text []byte) error {
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(text, e) != nil || e.Text == "" {
		e.Text = fmt.Sprintf("unexpected answer %s: is that a supervisor's socket?", resp.Status)
	}
	return e
}

// cause takes off what net/http puts around an error: its URL is none of a unix socket.
func cause(err error) error {
	if around := new(url.Error); errors.As(err, &around) {
		return around.Err
	}
	return err
}
