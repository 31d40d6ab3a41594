package control

import (
	"net/url"
	"reflect"
	"testing"
)

func TestHistoryQueryGoesThroughAURL(t *testing.T) {
	for _, q := range []HistoryQuery{
		{}, {After: 1 << 63, What: "web.2.17", Kinds: []string{EventCrash, EventGone}, Newest: 20}, {What: "a b&c=d"},
	} {
		v, err := url.ParseQuery(q.Values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseHistoryQuery(v); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v became %+v, %v", q, got, err)
		}
	}
	for _, text := range []string{"after=-1", "after=x", "n=-1", "n=many"} {
		v, _ := url.ParseQuery(text)
		if _, err := ParseHistoryQuery(v); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

func TestEventIsAboutAPoolASlotOrAProcess(t *testing.T) {
	e := Event{Seq: 3, Kind: EventGone, Pool: "web", Worker: "web.2.17"}
	for what, want := range map[string]bool{
		"": true, "web": true, "web.2": true, "web.2.17": true, "web.2.1": false, "web.1": false, "we": false, "jobs": false, "web.20": false,
	} {
		if e.About(what) != want {
			t.Errorf("about %q: %v", what, !want)
		}
	}
	if (Event{Kind: EventReload}).About("web") {
		t.Error("a reload is about web")
	}
	if !(HistoryQuery{After: 2, Kinds: []string{EventCrash, EventGone}}).Wants(e) || (HistoryQuery{After: 3}).Wants(e) || (HistoryQuery{Kinds: []string{EventCrash}}).Wants(e) {
		t.Error("wants")
	}
}
