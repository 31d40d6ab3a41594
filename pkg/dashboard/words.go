package dashboard

import (
	"fmt"
	"math"
	"time"

	"supervisor/pkg/operator"
)

const unknown = "–"

// perSecond writes a rate: 0.4, 12, 1,250.
func perSecond(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	return operator.Grouped(int64(math.Round(v)))
}

// size writes bytes.
func size(bytes int64) string {
	switch {
	case bytes <= 0:
		return unknown
	case bytes < 1<<20:
		return fmt.Sprintf("%d KiB", bytes>>10)
	case bytes < 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	case bytes < 10<<30:
		return operator.Grouped(bytes>>20) + " MiB"
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

// latency writes a time with two or three digits: the histogram knows no more.
func latency(d time.Duration, above bool) string {
	text := unknown
	switch {
	case d <= 0:
		return text
	case d < 10*time.Millisecond:
		text = fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		text = fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		text = fmt.Sprintf("%.1f s", d.Seconds())
	}
	if above {
		text = "> " + text
	}
	return text
}

// percent writes a share of one CPU.
func percent(share float64) string { return fmt.Sprintf("%.0f %%", share*100) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// ago says how long, from seconds.
func ago(s float64) string { return operator.Ago(seconds(s)) }

func count(n int) string { return operator.Grouped(int64(n)) }

// plural counts something.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// clock writes when something happened: today by the hour.
func clock(at, now time.Time) string {
	at, now = at.Local(), now.Local()
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04:05")
	}
	return at.Format("Jan 2 15:04:05")
}
