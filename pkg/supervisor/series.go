package supervisor

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"supervisor/pkg/scoreboard"
)

// A worker names its values in a text of its own: package scoreboard says how. It is not to be trusted.

// part is what one of these values is of a family.
type part int

const (
	partGauge part = iota
	partCounter
	partBucket
	partSum
)

// Endings of names that say what they are.
const (
	endCounter = "_total"
	endBucket  = "_bucket"
	endSum     = "_sum"
	endCount   = "_count" // made of the buckets
	endSeconds = "_seconds"
)

// partOf tells it by the name before the brace.
func partOf[Text ~string | ~[]byte](label Text) part {
	name := []byte(label)
	if i := bytes.IndexByte(name, '{'); i >= 0 {
		name = name[:i]
	}
	switch {
	case bytes.HasSuffix(name, []byte(endCounter)):
		return partCounter
	case bytes.HasSuffix(name, []byte(endBucket)):
		return partBucket
	case bytes.HasSuffix(name, []byte(endSum)):
		return partSum
	}
	return partGauge
}

// namesHTTP reports whether a worker counts its requests itself. It names them before it has answered the first.
func namesHTTP(board *scoreboard.Reader) (yes bool) {
	board.EachLabel(func(name []byte, _ int64) { yes = yes || isHTTP(name) })
	return yes
}

func isHTTP(label []byte) bool {
	name, _, _ := bytes.Cut(label, []byte("{"))
	switch string(name) {
	case requests.name, requestDuration.name + endBucket, requestDuration.name + endSum:
		return true
	}
	return false
}

// named is a label of a worker's, understood.
type named struct {
	family string // without what says which part of it this is
	part   part
	labels []pair  // sorted by name; without le
	bound  string  // of a bucket: le
	scale  float64 // what the value is multiplied with
}

type pair struct{ name, value string }

// Labels that the supervisor adds, or that mean something to Prometheus.
var reservedLabels = []string{"service", "pool", "worker", "le", "quantile"}

// reservedPrefixes are of names that are ours.
var reservedPrefixes = []string{"supervisor_", "backend_", "process_", "go_", "promhttp_"}

// otherLabel is where a worker counts what its table has no room for.
const otherLabel = "other"

// understand reads a label as a worker wrote it.
func understand(label string) (named, error) {
	name, rest, braced := strings.Cut(label, "{")
	n := named{family: name, part: partOf(label), scale: 1}
	switch n.part {
	case partBucket:
		n.family = strings.TrimSuffix(name, endBucket)
	case partSum:
		n.family = strings.TrimSuffix(name, endSum)
	}
	if strings.HasSuffix(strings.TrimSuffix(n.family, endCounter), endSeconds) && n.part != partBucket {
		n.scale = 1e-6
	}
	switch {
	case !isName(n.family):
		return n, fmt.Errorf("%q is no name of a metric", n.family)
	case label == otherLabel:
		return n, fmt.Errorf("the worker's table is full")
	case strings.HasSuffix(n.family, endCount), n.part != partCounter && strings.HasSuffix(n.family, endCounter):
		return n, fmt.Errorf("%s is the name of a part of another metric", n.family)
	case slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(n.family, p) }):
		return n, fmt.Errorf("%s is a name of the supervisor's", n.family)
	case slices.ContainsFunc(families, func(f *family) bool { return f.name == n.family && f != requests && f != requestDuration }):
		return n, fmt.Errorf("%s is a name of the supervisor's", n.family)
	}
	if braced {
		var err error
		if n.labels, err = readLabels(rest); err != nil {
			return n, err
		}
	}
	kept := n.labels[:0]
	for _, l := range n.labels {
		switch {
		case l.name == "le" && n.part == partBucket:
			if f, err := strconv.ParseFloat(l.value, 64); err != nil || math.IsNaN(f) {
				return n, fmt.Errorf("le=%q is no number", l.value)
			}
			n.bound = l.value
		case slices.Contains(reservedLabels, l.name):
			return n, fmt.Errorf("label %s is not a worker's to give", l.name)
		default:
			kept = append(kept, l)
		}
	}
	n.labels = kept
	if n.part == partBucket && n.bound == "" {
		return n, fmt.Errorf("a bucket without le")
	}
	slices.SortFunc(n.labels, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	for i := range n.labels {
		if i > 0 && n.labels[i].name == n.labels[i-1].name {
			return n, fmt.Errorf("label %s comes twice", n.labels[i].name)
		}
	}
	return n, nil
}

// readLabels reads what stands behind the opening brace.
func readLabels(text string) ([]pair, error) {
	var labels []pair
	for text != "}" {
		name, rest, ok := strings.Cut(text, `="`)
		if !ok || !isName(name) || strings.HasPrefix(name, "__") {
			return nil, fmt.Errorf("no label at %q", text)
		}
		var value strings.Builder
		closed := false
		for i := 0; i < len(rest) && !closed; i++ {
			switch c := rest[i]; {
			case c == '"':
				rest, closed = rest[i+1:], true
			case c == '\\' && i+1 < len(rest):
				i++
				escaped, ok := map[byte]byte{'\\': '\\', '"': '"', 'n': '\n'}[rest[i]]
				if !ok {
					return nil, fmt.Errorf(`\%c means nothing`, rest[i])
				}
				value.WriteByte(escaped)
			default:
				value.WriteByte(c)
			}
		}
		switch {
		case !closed:
			return nil, fmt.Errorf("label %s does not end", name)
		case !utf8.ValidString(value.String()):
			return nil, fmt.Errorf("label %s is not UTF-8", name)
		}
		labels = append(labels, pair{name, value.String()})
		switch after, more := strings.CutPrefix(rest, ","); {
		case more && after != "}":
			text = after
		case rest == "}":
			text = rest
		default:
			return nil, fmt.Errorf("no comma and no end at %q", rest)
		}
	}
	return labels, nil
}

// isName reports whether every Prometheus takes this for a name. Colons are for recording rules.
func isName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
