package app

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"supervisor/internal/chromiumtest"
	"supervisor/pkg/tasks"
)

// furnish fills a desk with what a page should be able to show.
func (d *desk) furnish() (dead, running string) {
	d.t.Helper()
	c, ctx := d.tasks.client, d.t.Context()
	for range 2 {
		dead = d.dead([]byte(`{"to": ["ada@example.org"], "subject": "<script>document.title='owned'</script>"}`))
	}
	mux := tasks.NewMux()
	mux.Handle("quick", func(context.Context, *tasks.Job) ([]byte, error) { time.Sleep(20 * time.Millisecond); return nil, nil })
	mux.Handle("<b>report</b>", func(ctx context.Context, job *tasks.Job) ([]byte, error) {
		job.Progress(40, "reads rows")
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	for _, queue := range [][]string{{"mail"}, {"default"}} {
		runner, err := d.tasks.NewRunner(mux, tasks.RunnerOptions{Queues: queue, Concurrency: 4, Grace: time.Millisecond})
		if err != nil {
			d.t.Fatal(err)
		}
		work, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(work) }()
		d.t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil && !errors.Is(err, tasks.ErrAbandoned) {
				d.t.Error(err)
			}
		})
	}
	var batch []tasks.Task
	for n := range 130 {
		batch = append(batch, tasks.Task{Name: []string{"thumbnail", "import"}[n%2], Payload: []byte("\xff\xd8\x00binary"), Options: []tasks.Option{tasks.Queue("slow")}})
	}
	batch = append(batch, tasks.Task{Name: "thumbnail", Options: []tasks.Option{tasks.Queue("slow"), tasks.In(time.Hour)}})
	if _, err := c.EnqueueBatch(ctx, batch); err != nil {
		d.t.Fatal(err)
	}
	running, err := c.Enqueue(ctx, "<b>report</b>", []byte("{}"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.await(running, "running")
	if _, err := d.tasks.Inspector().Pause(ctx, "slow"); err != nil {
		d.t.Fatal(err)
	}
	// Something to draw a rate of.
	produced := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(produced)
		for {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
				_, _ = c.Enqueue(context.Background(), "quick", nil, tasks.Queue("mail"))
			}
		}
	}()
	d.t.Cleanup(func() { close(stop); <-produced })
	return dead, running
}

// With SCREENSHOTS=DIR it leaves pictures there: `make screenshots`.
func TestJobsPageInABrowser(t *testing.T) {
	t.Parallel()
	d := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	dead, running := d.furnish()
	p := chromiumtest.Start(t)
	do, becomes := p.Do, p.Becomes
	picture := func(name string, width, height int64, dark bool) {
		t.Helper()
		p.Window(width, height, dark)
		p.Picture(os.Getenv("SCREENSHOTS"), name)
	}
	address := "http://" + d.addr + jobsPath

	do("log in", chromedp.EmulateViewport(1280, 900), chromedp.Navigate(address+"?queue=default&state=dead"), chromedp.WaitVisible(`input[name=token]`),
		chromedp.SendKeys(`input[name=token]`, testToken+"\r"), chromedp.WaitVisible(`[data-queue=mail]`))
	var title, text string
	do("read", chromedp.Title(&title), chromedp.Text(`[data-live=jobs]`, &text))
	if title != "Jobs of default" || !strings.Contains(text, dead) || !strings.Contains(text, "10.0.0.7") {
		t.Errorf("title %q, jobs %s", title, text)
	}
	becomes("several points", `document.querySelector('[data-queue=mail] path.line')?.getAttribute('d').split('L').length > 5`)
	picture("jobs", 1280, 860, false)

	do("open", chromedp.Click(`[data-key="`+dead+`"] a[data-open]`), chromedp.WaitVisible(`#show[open] pre`), chromedp.Text(`#shown`, &text), chromedp.Title(&title))
	if !strings.Contains(text, "<script>document.title='owned'</script>") || title == "owned" || !strings.Contains(text, "ada@example.org") {
		t.Errorf("title %q, detail %s", title, text)
	}
	picture("jobs-detail", 1280, 860, true)
	do("close", chromedp.KeyEvent("\x1b"), chromedp.WaitNotVisible(`#show`))

	// Retry asks; no is no, yes is yes; and the page knows without a reload.
	do("ask", chromedp.Evaluate(`window.stays = true`, nil), chromedp.Click(`[data-key="`+dead+`"] .actions button`), chromedp.WaitVisible(`#ask[open]`),
		chromedp.Click(`#ask button.plain`), chromedp.WaitNotVisible(`#ask`))
	if v := d.get("/tasks/" + dead).json(); v["state"] != "dead" {
		t.Errorf("after a no it is %v", v["state"])
	}
	do("retry", chromedp.Click(`[data-key="`+dead+`"] .actions button`), chromedp.WaitVisible(`#ask[open]`), chromedp.Click(`#yes`))
	becomes("back at the list", `!window.stays && !!document.querySelector('[data-queue=mail]')`)
	d.await(dead, "retrying") // nobody knows its name here: it waits for a runner that does

	do("pages", chromedp.Navigate(address+"?queue=slow"), chromedp.WaitVisible(`.pager a[rel=next]`), chromedp.Evaluate(`document.querySelectorAll('[data-live=jobs] tbody tr').length + ''`, &text))
	if text != "50" {
		t.Errorf("%s jobs on a page", text)
	}
	do("binary", chromedp.Click(`[data-live=jobs] a[data-open]`), chromedp.WaitVisible(`#show[open] pre`), chromedp.Text(`#shown`, &text))
	if !strings.Contains(text, "00000000  ff d8 00 62") {
		t.Errorf("binary is shown as %s", text)
	}
	do("close", chromedp.KeyEvent("\x1b"), chromedp.WaitNotVisible(`#show`), chromedp.Evaluate(`window.stays = true; scrollTo(0, 0)`, nil))
	if _, err := d.tasks.client.Enqueue(t.Context(), "more", nil, tasks.Queue("slow")); err != nil {
		t.Fatal(err)
	}
	becomes("131", `window.stays && document.querySelector('[data-queue=slow] [data-label=Pending]').textContent == '131'`)

	do("resume", chromedp.Click(`[data-queue=slow] .actions button`), chromedp.WaitVisible(`#ask[open]`), chromedp.Click(`#yes`))
	becomes("resumed", `!window.stays && document.querySelector('[data-queue=slow] .actions button')?.textContent == 'Pause'`)
	do("cancel", chromedp.Navigate(address+"?state=running&queue=default"), chromedp.WaitVisible(`[data-key="`+running+`"] progress`))
	picture("jobs-phone", 390, 844, false)
	do("cancel", chromedp.EmulateViewport(1280, 900), chromedp.Evaluate(`window.stays = true`, nil), chromedp.Click(`[data-key="`+running+`"] .danger`), chromedp.WaitVisible(`#ask[open]`), chromedp.Click(`#yes`))
	d.await(running, "cancelled")
	becomes("back at the list", `!window.stays && !!document.querySelector('[data-queue=mail]')`)
	do("find", chromedp.Navigate(address), chromedp.SendKeys(`input[name=id]`, running+"\r"), chromedp.WaitVisible(`[data-detail] .state.cancelled`))
	do("dark", chromedp.Navigate(address+"?queue=slow"), chromedp.WaitVisible(`[data-queue=mail]`))
	becomes("several points", `document.querySelector('[data-queue=mail] path.line')?.getAttribute('d').split('L').length > 8`)
	picture("jobs-dark", 1280, 860, true)
}
