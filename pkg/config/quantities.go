package config

import (
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// durationKind is "30s", "1m30s", or a number of seconds.
type durationKind struct {
	positive bool // 0 has no meaning
}

func (k durationKind) parse(v any, to any) (string, error) {
	const what = `a duration: write "30s", "1m30s" or a number of seconds`
	seconds, isNumber := 0.0, true
	var d time.Duration
	switch x := one(v).(type) {
	case int64:
		seconds = float64(x)
	case float64:
		seconds = x
	case string, literal:
		text := strings.TrimSpace(reflect.ValueOf(x).String())
		var err error
		if seconds, err = strconv.ParseFloat(text, 64); err != nil {
			isNumber = false
			if d, err = time.ParseDuration(text); err != nil {
				return "", want(x, what)
			}
		}
	default:
		return "", want(x, what)
	}
	if isNumber {
		if math.IsNaN(seconds) || math.Abs(seconds) > 1e9 {
			return "", want(one(v), what)
		}
		d = time.Duration(math.Round(seconds * float64(time.Second)))
	}
	if d < 0 {
		return "", fmt.Errorf("%s is negative", showDuration(d))
	}
	if d == 0 && k.positive {
		return "", fmt.Errorf("must be more than 0")
	}
	*to.(*time.Duration) = d
	return "", nil
}

func (durationKind) show(from any) string { return quote(showDuration(*from.(*time.Duration))) }

// showDuration writes 1m instead of 1m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeKind is a number of bytes, or "256MiB"; 0: no limit.
type sizeKind struct{}

// minSize catches a number that was meant in MiB.
const minSize = 1 << 20

var sizeUnits = []struct {
	suffix string
	bytes  float64
}{ // longest suffix first; a bare K, M, G is binary as in systemd and docker
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1},
}

func (sizeKind) parse(v any, to any) (string, error) {
	const what = `a size: write "256MiB", "1GiB" or a number of bytes`
	var size float64
	switch x := one(v).(type) {
	case int64:
		size = float64(x)
	case string, literal:
		text := strings.ToLower(strings.TrimSpace(reflect.ValueOf(x).String()))
		unit := 1.0
		for _, u := range sizeUnits {
			if number, ok := strings.CutSuffix(text, u.suffix); ok {
				text, unit = strings.TrimSpace(number), u.bytes
				break
			}
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) {
			return "", want(x, what)
		}
		size = n * unit
	default:
		return "", want(x, what)
	}
	if size < 0 || size > 1<<60 {
		return "", want(one(v), what)
	}
	if size > 0 && size < minSize {
		return "", fmt.Errorf("%.0f bytes are too little for any process; write \"%.0fMiB\" if that is what you mean", size, max(size, 1))
	}
	*to.(*int64) = int64(size)
	return "", nil
}

func (sizeKind) show(from any) string {
	n := *from.(*int64)
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	if n > 0 {
		i = min(bits.TrailingZeros64(uint64(n))/10, len(units)-1)
	}
	if i == 0 {
		return strconv.FormatInt(n, 10)
	}
	return quote(strconv.FormatInt(n>>(10*i), 10) + units[i])
}
