package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	etcPrometheus = filepath.Join("..", "..", "etc", "prometheus")
	etcGrafana    = filepath.Join("..", "..", "etc", "grafana")
)

func read(t testing.TB, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// need gives the path of a program, or skips the test where it is not installed.
func need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is missing: run `make deps`", program)
	}
	return path
}

func TestDashboardsAreWhatIsGenerated(t *testing.T) {
	files := Files()
	for name, want := range files {
		if got := read(t, etcGrafana, "dashboards", name); got != string(want) {
			t.Errorf("%s is another one than its source says: go generate ./internal/observe", name)
		}
	}
	there, err := filepath.Glob(filepath.Join(etcGrafana, "dashboards", "*"))
	if err != nil || len(there) != len(files) {
		t.Errorf("%d files in etc/grafana/dashboards, %d dashboards; %v", len(there), len(files), err)
	}
}

// grafanaDashboard is what Grafana reads, as far as we hold it to something.
type grafanaDashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	Description   string `json:"description"`
	SchemaVersion int    `json:"schemaVersion"`
	ID            *int   `json:"id"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []struct {
			Name string `json:"name"`
			Expr string `json:"expr"`
		} `json:"list"`
	} `json:"annotations"`
	Panels []grafanaPanel `json:"panels"`
}

type grafanaPanel struct {
	ID          int               `json:"id"`
	Type        string            `json:"type"`
	Title       string            `json:"title"`
	Description string            `json:"description"`
	Datasource  map[string]string `json:"datasource"`
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID      string            `json:"refId"`
		Expr       string            `json:"expr"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

// committed reads the dashboards as they are in etc/grafana.
func committed(t testing.TB) map[string]grafanaDashboard {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(etcGrafana, "dashboards", "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no dashboards", err)
	}
	all := map[string]grafanaDashboard{}
	for _, path := range paths {
		var d grafanaDashboard
		if err := json.Unmarshal([]byte(read(t, path)), &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all[filepath.Base(path)] = d
	}
	return all
}

var (
	fixedWindow = regexp.MustCompile(`\[[^$\]]*\]`)
	uses        = regexp.MustCompile(`\$(\w+)|\$\{(\w+)\}`)
	units       = []string{"short", "reqps", "ops", "cps", "s", "bytes", "Bps", "percentunit"}
)

func TestDashboardsAreWellFormed(t *testing.T) {
	uids, titles := map[string]string{}, map[string]string{}
	for name, d := range committed(t) {
		if other := uids[d.UID]; other != "" || !regexp.MustCompile(`^[a-z-]{1,40}$`).MatchString(d.UID) {
			t.Errorf("%s: uid %q (of %q, too)", name, d.UID, other)
		}
		if other := titles[d.Title]; other != "" || d.Title == "" || d.Description == "" {
			t.Errorf("%s: title %q (of %q, too), description %q", name, d.Title, other, d.Description)
		}
		uids[d.UID], titles[d.Title] = name, name
		if d.SchemaVersion < 39 || d.SchemaVersion > 41 || d.ID != nil {
			t.Errorf("%s: schemaVersion %d, id %v", name, d.SchemaVersion, d.ID)
		}
		var variables []string
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name)
		}
		if !slices.Equal(variables[:min(3, len(variables))], []string{"datasource", "service", "instance"}) {
			t.Errorf("%s: its variables begin with %v", name, variables)
		}
		used := map[string]bool{"datasource": true}
		ids := map[int]bool{}
		var grid [1000][gridWidth]string
		for _, p := range d.Panels {
			what := fmt.Sprintf("%s: panel %q", name, p.Title)
			if p.Title == "" || ids[p.ID] || p.ID == 0 {
				t.Errorf("%s has id %d", what, p.ID)
			}
			ids[p.ID] = true
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
					if x >= gridWidth || grid[y][x] != "" {
						t.Fatalf("%s lies over %q at %d,%d", what, grid[y][min(x, gridWidth-1)], x, y)
					}
					grid[y][x] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if p.GridPos.W < 4 || p.GridPos.H < 4 {
				t.Errorf("%s is too small: %+v", what, p.GridPos)
			}
			if !strings.HasSuffix(p.Description, ".") || !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
				t.Errorf("%s: unit %q, description %q", what, p.FieldConfig.Defaults.Unit, p.Description)
			}
			if p.Datasource["uid"] != "${datasource}" || len(p.Targets) == 0 {
				t.Errorf("%s: datasource %v, %d queries", what, p.Datasource, len(p.Targets))
			}
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if q.Datasource["uid"] != "${datasource}" || refs[q.RefID] || strings.TrimSpace(q.Expr) != q.Expr || q.Expr == "" {
					t.Errorf("%s: query %+v", what, q)
				}
				refs[q.RefID] = true
				if fixed := fixedWindow.FindString(quoted.ReplaceAllString(q.Expr, "")); fixed != "" || strings.Contains(q.Expr, "$__interval") {
					t.Errorf("%s: %s where $__rate_interval fits any scrape interval: %s", what, fixed, q.Expr)
				}
				for _, m := range uses.FindAllStringSubmatch(q.Expr, -1) {
					v := m[1] + m[2]
					used[v] = true
					if v != "__rate_interval" && v != "1" && !slices.Contains(variables, v) {
						t.Errorf("%s uses $%s, which is no variable", what, v)
					}
				}
			}
		}
		for _, v := range variables {
			if !used[v] {
				t.Errorf("%s: variable %s has no effect", name, v)
			}
		}
	}
	if len(uids) != 4 {
		t.Errorf("%d dashboards, want 4", len(uids))
	}
}

// What the files of Grafana say to each other.
func TestProvisioningFindsWhatThereIs(t *testing.T) {
	source := read(t, etcGrafana, "provisioning", "datasources", "prometheus.yml")
	scrape := regexp.MustCompile(`(?m)^\s*scrape_interval: (\S+)`).FindStringSubmatch(read(t, etcPrometheus, "prometheus.yml"))
	interval := regexp.MustCompile(`(?m)^\s*timeInterval: (\S+)`).FindStringSubmatch(source)
	if scrape == nil || interval == nil || scrape[1] != interval[1] {
		t.Errorf("Prometheus scrapes every %v, Grafana thinks every %v", scrape, interval)
	}
	if guide := read(t, "..", "..", "docs", "monitoring.md"); true {
		path := regexp.MustCompile(`(?m)^\s*path: (\S+)`).FindStringSubmatch(read(t, etcGrafana, "provisioning", "dashboards", "supervisor.yml"))
		if path == nil || !strings.Contains(guide, path[1]) {
			t.Errorf("docs/monitoring.md does not put the dashboards where Grafana looks for them: %v", path)
		}
	}
}

// run gives a program's output, and fails if it does.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out)
}

func TestPromtoolTakesConfigurationAndRules(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	run(t, promtool, "check", "config", filepath.Join(etcPrometheus, "prometheus.yml"))
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		run(t, promtool, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(etcPrometheus, name))
	}
	run(t, promtool, "test", "rules", filepath.Join(etcPrometheus, "recording_test.yml"), filepath.Join(etcPrometheus, "alerts_test.yml"))
}

// heading is how GitHub and others make an anchor of one.
func heading(text string) string {
	text = strings.ToLower(strings.TrimSpace(strings.ReplaceAll(text, "`", "")))
	return regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ReplaceAll(text, " ", "-"), "")
}

// inWords is a rule's `for` as it is written in YAML.
func inWords(seconds float64) string {
	if seconds >= 60 {
		return fmt.Sprintf("%gm", seconds/60)
	}
	return fmt.Sprintf("%gs", seconds)
}

// Each alert says what, how much and where to read on, its test has a moment at which it fires and one at which it does not, and the runbook
// has a heading for it and for no other.
func TestEachAlertIsExplainedAndTested(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t, read(t, etcPrometheus, "prometheus.yml"), nil)
	tests, guide := read(t, etcPrometheus, "alerts_test.yml"), read(t, "..", "..", "docs", "monitoring.md")
	anchors := map[string]bool{}
	for line := range strings.Lines(read(t, "..", "..", "docs", "troubleshooting.md")) {
		if title, ok := strings.CutPrefix(line, "### "); ok {
			anchors[heading(title)] = false
		}
	}
	alerts := 0
	for _, r := range p.rules(t) {
		if r.Type != "alerting" {
			if !strings.Contains(read(t, etcPrometheus, "recording_test.yml"), "- expr: "+r.Name) {
				t.Errorf("recording_test.yml has no test of %s", r.Name)
			}
			continue
		}
		alerts++
		if r.Annotations["summary"] == "" || !strings.Contains(r.Annotations["description"], "$value") {
			t.Errorf("%s: a summary, and a description with the value: %q", r.Name, r.Annotations)
		}
		if !slices.Contains([]string{"critical", "warning", "info", "none"}, r.Labels["severity"]) {
			t.Errorf("%s: severity %q", r.Name, r.Labels["severity"])
		}
		row := fmt.Sprintf(`\n\| %s \| [^|]* \| %s \| [^|]*\b%s\b[^|]* \|\n`, r.Name, inWords(r.Duration), r.Labels["severity"])
		if !regexp.MustCompile(row).MatchString(guide) {
			t.Errorf("docs/monitoring.md has no row for %s, %s, after %s", r.Name, r.Labels["severity"], inWords(r.Duration))
		}
		anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], "docs/troubleshooting.md#")
		if _, there := anchors[anchor]; !ok || !there {
			t.Errorf("%s: no heading for %q", r.Name, r.Annotations["runbook_url"])
		}
		anchors[anchor] = true
		if !regexp.MustCompile(`alertname: ` + r.Name + `\n *eval_time: .*\n *exp_alerts:`).MatchString(tests) {
			t.Errorf("alerts_test.yml has no moment at which %s fires", r.Name)
		}
		if r.Name != "Watchdog" && len(regexp.MustCompile(`- \{alertname: `+r.Name+`, eval_time`).FindAllString(tests, -1)) == 0 {
			t.Errorf("alerts_test.yml has no moment at which %s does not fire", r.Name)
		}
	}
	if alerts < 20 {
		t.Errorf("%d alerts", alerts)
	}
	for anchor, used := range anchors {
		if !used {
			t.Errorf("docs/troubleshooting.md explains %q, and no alert leads there", anchor)
		}
	}
}
