package dashboard

import (
	"testing"
	"time"

	"supervisor/pkg/control"
)

func TestQuantilesAreReadOffTheHistogram(t *testing.T) {
	t.Parallel()
	h := make([]uint64, 16)
	bounds := newFake(1).status.LatencyBounds
	if d, _ := quantile(h, bounds, 0.5); d != 0 {
		t.Errorf("of nothing: %v", d)
	}
	h[2], h[4] = 90, 10 // 500 µs to 1 ms, 2 to 4 ms
	for q, want := range map[float64]time.Duration{0.45: 750 * time.Microsecond, 0.9: time.Millisecond, 0.95: 3 * time.Millisecond, 1: 4 * time.Millisecond} {
		if d, above := quantile(h, bounds, q); (d-want).Abs() > time.Microsecond || above {
			t.Errorf("%v: %v, want %v", q, d, want)
		}
	}
	h[15] = 100
	if d, above := quantile(h, bounds, 0.99); d != 4096*time.Millisecond || !above {
		t.Errorf("in the last one: %v, above %v", d, above)
	}
}

func TestRatesAreOfTheLastSecondsAndNeverNegative(t *testing.T) {
	t.Parallel()
	var c counter
	at := time.Unix(1e9, 0)
	add := func(v float64) { at = at.Add(step); c.add(at, v) }
	add(1000)
	if _, ok := c.now(); ok || len(c.rate.values) != 0 {
		t.Error("a rate of one number")
	}
	for i := range 10 {
		add(1000 + 50*float64(i+1))
	}
	if rate, ok := c.now(); !ok || rate != 50 {
		t.Errorf("%v", rate)
	}
	for range 5 {
		add(1500)
	}
	if rate, _ := c.now(); rate != 0 {
		t.Errorf("%v, seconds after the last one", rate)
	}
	add(3) // a process of the same name in another life
	if rate, ok := c.now(); ok || rate < 0 {
		t.Errorf("%v", rate)
	}
	for range 2 * points {
		add(5)
	}
	for _, v := range c.rate.values {
		if v < 0 || len(c.rate.values) != points {
			t.Fatalf("%d points, one is %v", len(c.rate.values), v)
		}
	}
}

func TestSparklinesOfAPoolHaveOneScale(t *testing.T) {
	t.Parallel()
	var a, b series
	a.add(3)
	b.add(170)
	oneScale([]*series{&a, &b})
	if a.scale != 200 || b.scale != 200 || !a.moved || a.y(0) != height-1 || b.y(200) != 1 || a.y(100) != 15 {
		t.Errorf("%+v %+v, %d %d", a, b, b.y(200), a.y(100))
	}
	a.add(100)
	if oneScale([]*series{&a, &b}); a.moved || a.line() != "117,31 118,29 119,15 121,15 121,31" {
		t.Errorf("%+v %s", a, a.line())
	}
	for range points {
		b.add(20)
		a.add(20)
		oneScale([]*series{&a, &b})
	}
	if a.scale != 20 || len(a.values) != points {
		t.Errorf("scale %v of %d points when all are small", a.scale, len(a.values))
	}
}

func TestOneSectionForAPoolThatCameBack(t *testing.T) {
	t.Parallel()
	worker := func(name string) []control.Worker { return []control.Worker{{Name: name}} }
	pools := together([]control.Pool{
		{Name: "web", Generation: 3, Leaving: 1, Workers: worker("web.0.1")}, {Name: "jobs", Generation: 5},
		{Name: "web", Generation: 5, Ready: 1, Wanted: 1, Workers: worker("web.0.2")},
	})
	if len(pools) != 2 || pools[0].Generation != 5 || pools[0].Leaving != 1 || len(pools[0].Workers) != 2 || pools[0].Workers[0].Name != "web.0.2" {
		t.Errorf("%+v", pools)
	}
}

func TestTheTimelineKeepsWhatIsNotDaily(t *testing.T) {
	t.Parallel()
	var line timeline
	seq := uint64(0)
	add := func(kind, level, worker string) {
		seq++
		line.add([]control.Event{{Seq: seq, Kind: kind, Level: level, Worker: worker, Pool: "web", Text: kind}})
	}
	add(control.EventCrash, control.LevelError, "web.0.1")
	if len(line.say()) != 0 {
		t.Error("what there was is read out")
	}
	for range 1000 {
		add(control.EventStart, control.LevelInfo, "web.1.2")
		add(control.EventGone, control.LevelInfo, "web.1.2")
	}
	all := line.newest()
	if len(all) != 1+shownEnds+shownSteps || all[len(all)-1].Kind != control.EventCrash {
		t.Errorf("%d events, the oldest is %+v", len(all), all[len(all)-1])
	}
	for i := range all[1:] {
		if all[i].Seq <= all[i+1].Seq {
			t.Fatalf("%d before %d", all[i].Seq, all[i+1].Seq)
		}
	}
	for range 10 {
		add(control.EventHung, control.LevelWarning, "web.2.3")
	}
	if said := line.say(); len(said) != maxSaid || said[0] != "web.2.3: hung" || len(line.say()) != 0 {
		t.Errorf("%q", said)
	}
}
