package observe

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// expression is one of a panel, an annotation or a rule.
type expression struct {
	where string // the dashboard and the panel, or the rule
	text  string
	empty string // why it may have no data
}

// expressions gives those of all dashboards.
func expressions() (all []expression) {
	for _, d := range dashboards() {
		for _, r := range d.rows {
			for _, p := range r.panels {
				for _, q := range p.queries {
					all = append(all, expression{where: d.title + ": " + p.title, text: q.expr, empty: p.empty})
				}
			}
		}
	}
	return append(all, expression{where: "annotation", text: deployments()["expr"].(string), empty: "while nothing is deployed"})
}

// filled is an expression as Grafana would send it, all being chosen.
func filled(expr, window string) string {
	return strings.NewReplacer("$__rate_interval", window, "$service", ".*", "$instance", ".*", "$pool", ".*", "$queue", ".*").Replace(expr)
}

var (
	comparison = regexp.MustCompile(`\s(>=?|<=?|==|!=)\s+(bool\s+)?`)
	unless     = regexp.MustCompile(`\bunless\b`)
)

// asking makes of an alert's expression, which has data only while it fires, one that has data whenever the alert could tell: each comparison
// answers 0 or 1 instead of leaving out what is 0.
func asking(expr string) string {
	return unless.ReplaceAllString(comparison.ReplaceAllString(expr, " $1 bool "), "and")
}

var (
	quoted   = regexp.MustCompile(`"(\\.|[^"\\])*"`)
	matchers = regexp.MustCompile(`\{[^}]*\}`)
	windows  = regexp.MustCompile(`\[[^\]]*\]`)
	numbers  = regexp.MustCompile(`\b[0-9][0-9a-z.]*`) // and durations
	clauses  = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	names    = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	keywords = []string{"and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf", "nan"}
)

// metrics gives the names of the metrics in an expression: the words that are neither functions nor what PromQL itself means by them.
func metrics(expr string) (found []string) {
	expr = quoted.ReplaceAllString(expr, `""`)
	for _, re := range []*regexp.Regexp{matchers, windows, clauses, numbers} {
		expr = re.ReplaceAllString(expr, " ")
	}
	for _, name := range names.FindAllString(expr, -1) {
		name = strings.TrimSpace(name)
		if !strings.HasSuffix(name, "(") && !slices.Contains(keywords, strings.ToLower(name)) && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found
}

func TestNamesOfMetricsAreFound(t *testing.T) {
	for expr, want := range map[string]string{
		`up{job="backend"} == 0`: "up",
		`sum by (instance, pool) (rate(a_total{x="b_total(c)",y=~"}"}[5m])) / on (pool) group_left(z) b > bool 1e3`: "a_total b",
		`histogram_quantile(0.95, sum by (le) (rate(h_bucket[$__rate_interval]))) or 0 * service:x:rate5m`:          "h_bucket service:x:rate5m",
		`(count(up == 1) or vector(0)) < a:b offset 5m`:                                                             "up a:b",
	} {
		if got := strings.Join(metrics(expr), " "); got != want {
			t.Errorf("%s: %s, want %s", expr, got, want)
		}
	}
}

func TestComparisonsAskInsteadOfFiltering(t *testing.T) {
	for expr, want := range map[string]string{
		`a > 0.5 and count by (s) (b) >= 2`: `a > bool 0.5 and count by (s) (b) >= bool 2`,
		`up{job=~"x",y!="z"} == 0`:          `up{job=~"x",y!="z"} == bool 0`,
		`a unless b`:                        `a and b`,
	} {
		if got := asking(expr); got != want {
			t.Errorf("%s: %s, want %s", expr, got, want)
		}
	}
}

// Every expression is one that Prometheus understands, with its types: this needs no data.
func TestExpressionsAreWellFormed(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t, read(t, etcPrometheus, "prometheus.yml"), nil)
	all := expressions()
	for _, r := range p.rules(t) {
		all = append(all, expression{where: r.Name, text: asking(r.Query)})
	}
	for _, e := range all {
		if _, err := p.query(filled(e.text, "1m")); err != nil {
			t.Errorf("%s: %v", e.where, err)
		}
	}
}
