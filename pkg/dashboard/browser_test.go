package dashboard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"supervisor/internal/chromiumtest"
	"supervisor/pkg/control"
)

// furnish gives a page something to show.
func (f *fake) furnish() {
	for _, e := range []control.Event{
		{Kind: control.EventReload, Text: "generation 3 is in force: 6 workers replaced in 1.4 s"},
		{Kind: control.EventReady, Worker: "web.2.17", Pool: "web", PID: 5017, Lived: 0.041, Text: "serves"},
		{Kind: control.EventDrain, Worker: "web.2.3", Pool: "web", PID: 5003, Reason: "max_requests", Text: "was told to leave"},
		{Kind: control.EventGone, Worker: "web.2.3", Pool: "web", PID: 5003, Reason: "max_requests", Exit: "status 0", Lived: 7265, Requests: 100342, Text: "left as it was told"},
		{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.1.2", Pool: "web", PID: 5002, Reason: "crash:panic", Exit: "status 2", Lived: 95, Requests: 812, Text: "died", Words: []string{
			"panic: runtime error: invalid memory address or nil pointer dereference", "goroutine 71 [running]:", "main.render(0x0)", "\t/src/shop/render.go:41 +0x1d", "<script>document.title='owned'</script>",
		}},
		{Kind: control.EventReload, Level: control.LevelError, Text: "the reload failed: web.0.19, the canary, answers 500 to /health; generation 3 stays in force"},
	} {
		f.happens(e)
	}
	f.change(func(st *control.Status) {
		st.Last = &control.Verdict{What: "reload", At: time.Now(), Text: "web.0.19, the canary, answers 500 to /health; generation 3 stays in force"}
		web := &st.Pools[0]
		web.Workers[1].Overdue = "max_lifetime"
		web.Workers[2].State, web.Workers[2].Reason, web.Workers[2].Left = "draining", "recycle", 12
		web.Ready--
		web.Leaving++
	})
}

// remember makes the dashboard believe that somebody has looked for two minutes, at a load that comes and goes.
func (d *Dashboard) remember(f *fake) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var p past
	for n := range points {
		f.work(func(i int) uint64 {
			return uint64(120 + 40*math.Sin(float64(n)/11) + 12*math.Sin(float64(n*7+i*13)))
		})
		st := f.copied()
		p.add(time.Now().Add(time.Duration(n-points)*step), &st)
	}
	d.hub.do(d.hub.ctx, func() {
		d.hub.past = p
		d.hub.publish(true)
	})
}

// opened is a dashboard in a browser, and the browser in it.
func opened(t *testing.T, f *fake) (*chromiumtest.Page, *Dashboard, *httptest.Server) {
	t.Helper()
	d := New(f.options())
	t.Cleanup(d.Close)
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	p := chromiumtest.Start(t)
	p.Window(1440, 900, false)
	p.Do("log in", chromedp.Navigate(server.URL), chromedp.WaitVisible(`input[name=token]`), chromedp.SendKeys(`input[name=token]`, string(testToken)+"\r"), chromedp.WaitVisible(`[data-piece="web.0.1"]`))
	p.Becomes("live", isLive)
	return p, d, server
}

const isLive = `document.getElementById("live").textContent === "live"`

// With SCREENSHOTS=DIR it leaves pictures there: `make screenshots`.
func TestTheDashboardIsReadable(t *testing.T) {
	t.Parallel()
	f := newFake(4)
	f.furnish()
	p, d, server := opened(t, f)
	d.remember(f)
	p.Do("look again", chromedp.Reload(), chromedp.WaitVisible(`[data-piece="web.0.1"]`))
	p.Becomes("live", isLive)
	p.Do("last words", chromedp.Click(`.events summary`), chromedp.WaitVisible(`.events pre`))
	if title := p.Text("document.title"); title != "Supervisor" || !strings.Contains(p.Text(`document.querySelector(".events pre").textContent`), "<script>") {
		t.Errorf("title %q", title)
	}
	if steps := p.Text(`getComputedStyle(document.querySelector(".events .step")).display`); steps != "none" {
		t.Errorf("every step is shown: %s", steps)
	}
	p.Do("every step", chromedp.Click("#every"))
	if steps := p.Text(`getComputedStyle(document.querySelector(".events .step")).display`); steps == "none" {
		t.Error("no step is shown")
	}
	p.Do("not every step", chromedp.Click("#every"))
	ground := func() string { return p.Text(`getComputedStyle(document.body).backgroundColor`) }
	light := ground()
	p.Picture(os.Getenv("SCREENSHOTS"), "dashboard")
	p.Window(1440, 900, true)
	if ground() == light {
		t.Error("it is not dark in the dark")
	}
	p.Picture(os.Getenv("SCREENSHOTS"), "dashboard-dark")
	for _, width := range []int64{740, 1024, 1280, 1366} {
		p.Window(width, 900, true)
		p.Picture("", fmt.Sprintf("dashboard-%d", width))
		if wide := p.Text(`[...document.querySelectorAll(".workers")].filter(t => t.offsetWidth > t.parentElement.clientWidth).length`); wide != "0" {
			t.Errorf("%d pixels: %s tables are wider than their column", width, wide)
		}
	}
	p.Window(360, 780, false)
	p.Picture(os.Getenv("SCREENSHOTS"), "dashboard-phone")
	p.Do("down", chromedp.Evaluate(`document.querySelector('[data-piece="web.0.1"]').scrollIntoView()`, nil))
	p.Picture("", "dashboard-phone-workers")

	var tree struct { // the library's own type does not know what this browser says
		Nodes []struct {
			Role struct {
				Value any `json:"value"`
			} `json:"role"`
			Name struct {
				Value any `json:"value"`
			} `json:"name"`
		} `json:"nodes"`
	}
	p.Do("what a screen reader sees", chromedp.ActionFunc(func(ctx context.Context) error {
		return cdp.Execute(ctx, accessibility.CommandGetFullAXTree, nil, &tree)
	}))
	names := map[string]int{}
	for _, n := range tree.Nodes {
		role, _ := n.Role.Value.(string)
		if name, _ := n.Name.Value.(string); role == "button" || role == "link" || role == "checkbox" || role == "region" {
			if name == "" {
				t.Errorf("a %s has no name", role)
			}
			names[role+" "+name]++
		}
	}
	if names["button Recycle pool jobs"] != 1 || names["region Events"] != 1 || names["region web"] != 1 {
		t.Errorf("it sees %v", names)
	}
	for name, n := range names {
		if strings.HasPrefix(name, "button") && n > 1 {
			t.Errorf("%d are called %q", n, name)
		}
	}

	p.Window(1440, 900, false)
	p.Do("without a script", emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(server.URL), chromedp.WaitVisible(`[data-piece="web.0.1"]`),
		chromedp.Click(`[data-piece="web.0.1"] button`), chromedp.WaitVisible(`h1`))
	p.Picture("", "confirm")
	p.Do("yes", chromedp.Click(`form button`), chromedp.WaitVisible(`[data-list=notices] .good`))
	if did := f.done(t, 1); len(did) != 1 || did[0] != "recycle web.0.1" {
		t.Errorf("it did %q", did)
	}
}

func TestTheDashboardIsLive(t *testing.T) {
	t.Parallel()
	f := newFake(4)
	p, d, server := opened(t, f)
	p.Do("stay", chromedp.Evaluate("window.stays = true", nil))
	p.Becomes("several points", `document.querySelector('[data-piece="web.0.1"] [data-spark=rate] polyline').getAttribute("points").split(" ").length > 5`)
	f.happens(control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.1.2", Pool: "web", Text: "died", Words: []string{"panic: one"}})
	p.Becomes("told of the crash", `document.getElementById("say").textContent === "web.1.2: died"`)
	p.Do("last words", chromedp.Click(`.events summary`), chromedp.WaitVisible(`.events pre`))

	// Who stands on a button stays there, whatever comes and goes around it, and when its row is another one.
	stands := func() string { return p.Text(`document.activeElement.getAttribute("aria-label")`) }
	p.Do("stand", chromedp.Focus(`[data-piece="web.3.4"] button`))
	f.change(func(st *control.Status) {
		st.Pools[0].Workers = append(st.Pools[0].Workers[1:], control.Worker{Name: "web.0.5", PID: 7000, State: "starting", Generation: 4})
		st.Pools[0].Workers[2].Generation = 2
	})
	p.Becomes("another set of workers", `!!document.querySelector('[data-piece="web.0.5"]') && !document.querySelector('[data-piece="web.0.1"]') && /generation 2/.test(document.querySelector('[data-piece="web.3.4"]').textContent)`)
	if at := stands(); at != "Recycle web.3.4" {
		t.Errorf("the focus is at %s", at)
	}
	if p.Text(`[...document.querySelectorAll('[data-list="workers web"] tr')].map(row => row.dataset.piece)`) != "web.1.2,web.2.3,web.3.4,web.0.5" {
		t.Error("the rows are in another order")
	}
	if p.Text(`!!document.querySelector(".events details[open]")`) != "true" {
		t.Error("the last words have closed")
	}

	// By keyboard: Enter asks, Esc is no, Enter on yes is yes; the verdict comes when it comes.
	f.mu.Lock()
	f.hang = make(chan struct{})
	f.mu.Unlock()
	p.Do("go on", chromedp.KeyEvent("\t"))
	if at := stands(); at != "One worker fewer in pool jobs" || p.Text(`getComputedStyle(document.activeElement).outlineStyle`) == "none" {
		t.Errorf("with Tab the focus comes to %s, or nobody sees that", at)
	}
	p.Do("ask", chromedp.Focus(`[data-piece="web.3.4"] button`), chromedp.KeyEvent("\r"), chromedp.WaitVisible(`#ask[open]`))
	if question := p.Text(`document.getElementById("question").textContent`); !strings.HasPrefix(question, "Recycle web.3.4?") {
		t.Errorf("it asks %q", question)
	}
	p.Do("no", chromedp.KeyEvent("\x1b"), chromedp.WaitNotVisible(`#ask`))
	if at := stands(); at != "Recycle web.3.4" {
		t.Errorf("after the question the focus is at %s", at)
	}
	p.Do("yes", chromedp.KeyEvent("\r"), chromedp.WaitVisible(`#ask[open]`), chromedp.Focus("#yes"), chromedp.KeyEvent("\r"), chromedp.WaitNotVisible(`#ask`))
	if did := f.done(t, 1); len(did) != 1 || did[0] != "recycle web.3.4" {
		t.Errorf("it did %q", did)
	}
	p.Becomes("begun", `/recycle web.3.4 has begun/.test(document.querySelector(".notices").textContent)`)
	f.mu.Lock()
	close(f.hang)
	f.mu.Unlock()
	p.Becomes("done", `/Recycle web.3.4 done/.test(document.querySelector(".notices").textContent) && /is done/.test(document.getElementById("say").textContent)`)
	for label, want := range map[string]string{"One worker more in pool web": "scale web +1", "One worker fewer in pool jobs": "scale jobs -1", "Recycle pool web": "recycle web"} {
		before := len(f.done(t, 0))
		p.Do(label, chromedp.Click(`button[aria-label="`+label+`"]`), chromedp.WaitVisible(`#ask[open]`), chromedp.Click("#yes"), chromedp.WaitNotVisible(`#ask`))
		if did := f.done(t, before+1); did[len(did)-1] != want {
			t.Errorf("%s: it did %q", label, did)
		}
	}
	if p.Text("window.stays") != "true" {
		t.Error("the page was loaded anew")
	}

	// The connection breaks: the page says so, and goes on by itself.
	p.Do("watch", chromedp.Evaluate(`window.seen = []; new MutationObserver(() => seen.push(document.getElementById("live").textContent)).observe(document.getElementById("live"), { childList: true }); 0`, nil))
	server.CloseClientConnections()
	p.Becomes("live again", `seen.includes("no answer") && seen.at(-1) === "live"`)
	before := d.hub.samples.Load()
	p.Becomes("going on", fmt.Sprintf(`%d >= 0 && document.querySelectorAll('[data-piece="web.3.4"]').length === 1`, before))

	// So many windows of one browser: this one lets the newer ones have the connections, until somebody comes back to it.
	var cookies []*network.Cookie
	p.Do("its session", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		cookies, err = network.GetCookies().Do(ctx)
		return err
	}))
	for range sessionStreams {
		if _, err := d.hub.join(t.Context(), cookies[0].Value, ""); err != nil {
			t.Fatal(err)
		}
	}
	p.Becomes("quiet", `document.getElementById("live").textContent === "live in other windows"`)
	p.Do("come back", chromedp.Evaluate(`dispatchEvent(new Event("focus")); 0`, nil))
	p.Becomes("live", isLive)

	// The session ends elsewhere.
	f.mu.Lock()
	f.token = "f" + testToken
	f.mu.Unlock()
	p.Becomes("asked for the token", `!!document.querySelector("input[name=token]")`)
}

// Six windows (that many browsers on one machine are enough), and streams like those of 24 more.
func TestThirtyPagesSeeOneEvent(t *testing.T) {
	t.Parallel()
	f := newFake(100)
	first, d, server := opened(t, f)
	windows := []*chromiumtest.Page{first}
	for range 5 {
		p := first.Another()
		session, _ := testToken.NewSession()
		p.Do("open", network.SetCookie("supervisor-"+portOf(server), session).WithURL(server.URL), chromedp.Navigate(server.URL), chromedp.WaitVisible(`[data-piece="web.99.100"]`))
		windows = append(windows, p)
	}
	told := make(chan error, 24)
	s := &served{d, f, t}
	for range cap(told) {
		next, end := s.stream(server)
		defer end()
		if e := next(); e.name != "whole" || !strings.Contains(e.data, "web.99.100") {
			t.Fatalf("a stream begins with %s", e.name)
		}
		go func() {
			for e := next(); !strings.Contains(e.data, "web.1.2: died"); e = next() {
				if e.name == "end" {
					told <- errors.New("a stream ended")
					return
				}
			}
			told <- nil
		}()
	}
	for _, p := range windows {
		p.Becomes("live", isLive)
	}
	samples, began := d.hub.samples.Load(), time.Now()
	f.happens(control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.1.2", Pool: "web", Text: "died"})
	for range cap(told) {
		if err := <-told; err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range windows {
		p.Becomes(fmt.Sprintf("told of the crash, window %d", i), `!!document.querySelector('[data-piece="event 1"]')`)
	}
	if n, most := d.hub.samples.Load()-samples, int64(time.Since(began)/step)+2; n > most {
		t.Errorf("%d samples, at most %d for one page", n, most)
	}
}
