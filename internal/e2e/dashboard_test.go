package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"supervisor/internal/chromiumtest"
)

// An operator in a real browser, at a real supervisor under load: what he sees, what his buttons do, and that page and session outlive a self-upgrade.
func TestAnOperatorAtTheDashboard(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	s := start(t, []string{"APP_DEBUG=1", "SUPERVISOR_ADMIN=127.0.0.1:0", "SUPERVISOR_ADMIN_TOKEN=" + token}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	admin := "http://" + regexp.MustCompile(`admin listens.*"address": "([^"]*)"`).FindStringSubmatch(s.await("admin listens", 1))[1]
	for _, pid := range s.children() {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || strings.Contains(string(environ), token) {
			t.Errorf("worker %d: %v, its environment has the token: %v", pid, err, err == nil)
		}
	}
	load := startLoad(t, s, everybody)
	p := chromiumtest.Start(t)
	p.Window(1280, 900, false)
	p.Do("log in", chromedp.Navigate(admin), chromedp.WaitVisible(`input[name=token]`), chromedp.SendKeys(`input[name=token]`, token+"\r"), chromedp.WaitVisible(`[data-piece="web.0.1"]`))
	isLive := `document.getElementById("live")?.textContent === "live"`
	p.Becomes("live", isLive)
	p.Do("stay", chromedp.Evaluate("window.stays = true", nil))
	p.Becomes("a rate", `Number(document.querySelector('[data-piece="tiles"] [data-cell=rate]').textContent.replace(",", "")) > 0`)
	p.Becomes("a latency", `/ms$/.test(document.querySelector('[data-piece="head web"] [data-cell=p95]').textContent)`)
	click := func(label string) {
		t.Helper()
		p.Do(label, chromedp.Click(`//button[.="`+label+`"]`), chromedp.WaitVisible(`#ask[open]`), chromedp.Click("#yes"), chromedp.WaitNotVisible(`#ask`))
	}
	notices := `document.querySelector(".notices").textContent`
	click("Reload")
	p.Becomes("reloaded", `/Reload done/.test(`+notices+`) && /generation 2/.test(document.querySelector(".addresses").textContent)`)
	click("Upgrade")
	line := s.await("this supervisor leaves", 1)
	successor := regexp.MustCompile(`"successor": (\d+)`).FindStringSubmatch(line)[1]
	p.Becomes("live at the successor", isLive+` && document.querySelector('[data-list=name]').textContent.includes("pid `+successor+`") && /Last upgrade/.test(`+notices+`)`)
	if p.Text("window.stays") != "true" {
		t.Error("the page was loaded anew")
	}
	load.Await(1000)
	mustBeClean(t, load)

	s.await("this supervisor is in charge", 1)
	fmt.Sscan(successor, &s.pid)
	worker := p.Text(`document.querySelector('[data-list="workers web"] tr').dataset.piece`)
	pid := 0
	fmt.Sscan(p.Text(`document.querySelector('[data-list="workers web"] tr [data-label=Pid]').textContent`), &pid)
	syscall.Kill(pid, syscall.SIGKILL)
	p.Becomes("told of the death", `/`+worker+`: died/.test(document.getElementById("say").textContent)`)
	p.Becomes("whole again", `!document.querySelector('[data-piece="`+worker+`"]') && /2 of 2 workers ready/.test(document.querySelector('[data-piece="tiles"]').textContent)`)
}
