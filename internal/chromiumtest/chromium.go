// Package chromiumtest is a real Chromium, without a window, for tests of pages.
package chromiumtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// patience bounds each step: long enough for a machine with all cores busy, never waited out by a green run.
const patience = 60 * time.Second

// Page is one page of a browser. Its methods end the test when they fail.
type Page struct {
	t   testing.TB
	ctx context.Context
}

// Start starts a browser that lives as long as the test, and gives its first page.
func Start(t testing.TB) *Page {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Fatal("chromium is missing: run `make deps`")
	}
	dir, err := os.MkdirTemp("", "chromium") // not the test's own: its helpers write for a moment after it has ended
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for tries := 0; os.RemoveAll(dir) != nil && tries < 50; tries++ {
			time.Sleep(20 * time.Millisecond)
		}
	})
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.UserDataDir(dir),
		chromedp.Flag("renderer-process-limit", "4"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to run as root otherwise
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {})) // events that the library does not know
	t.Cleanup(stop)
	if err := chromedp.Run(ctx); err != nil { // starts it: it lives as long as this context
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // waits until it has ended
	return newPage(t, ctx)
}

// newPage fails the test for errors of the page's scripts, for whatever they say, and for what its security policy forbids it.
func newPage(t testing.TB, ctx context.Context) *Page {
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the script failed: %s", e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			t.Errorf("the console says %s", e.Type)
		case *log.EventEntryAdded:
			if e.Entry.Source == log.SourceSecurity {
				t.Errorf("the browser says %s (%s)", e.Entry.Text, e.Entry.URL)
			}
		}
	})
	return &Page{t, ctx}
}

// Another opens one more page of the same browser, with cookies and connections of its own.
func (p *Page) Another() *Page {
	p.t.Helper()
	var id target.ID
	browser := cdp.WithExecutor(p.ctx, chromedp.FromContext(p.ctx).Browser)
	own, err := target.CreateBrowserContext().Do(browser)
	if err == nil {
		id, err = target.CreateTarget("about:blank").WithBrowserContextID(own).WithNewWindow(true).Do(browser)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, stop := chromedp.NewContext(p.ctx, chromedp.WithTargetID(id))
	p.t.Cleanup(stop)
	if err := chromedp.Run(ctx); err != nil {
		p.t.Fatal(err)
	}
	return newPage(p.t, ctx)
}

// Do does something.
func (p *Page) Do(what string, actions ...chromedp.Action) {
	p.t.Helper()
	limit, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Run(limit, actions...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// Text gives what a JavaScript expression is, as text.
func (p *Page) Text(expression string) (text string) {
	p.t.Helper()
	p.Do(expression, chromedp.Evaluate("String("+expression+")", &text))
	return text
}

// Becomes waits for a JavaScript expression to be true, also while the page goes from one address to another.
func (p *Page) Becomes(what, expression string) {
	p.t.Helper()
	for deadline, is := time.Now().Add(patience), false; ; time.Sleep(50 * time.Millisecond) {
		err := chromedp.Run(p.ctx, chromedp.Evaluate(expression, &is))
		if err == nil && is {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("never %s: %v\n%s", what, err, p.Text("document.body.innerText"))
		}
	}
}

// Window sets the window's size, and whether its owner likes it dark.
func (p *Page) Window(width, height int64, dark bool) {
	p.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.Do("window", chromedp.EmulateViewport(width, height),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
}

// Picture looks whether the page fits into the window as it is, and keeps what it shows in dir/name.png; dir "": it only looks.
func (p *Page) Picture(dir, name string) {
	p.t.Helper()
	var png []byte
	p.Do(name, chromedp.Sleep(300*time.Millisecond), chromedp.CaptureScreenshot(&png))
	if p.Text(`document.documentElement.scrollWidth > innerWidth`) == "true" {
		p.t.Errorf("%s: the page is wider than its window", name)
	}
	if dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}
