package tasks

import (
	"reflect"
	"testing"
	"time"
)

func TestTheExtraComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for i, x := range []extra{
		{},
		{unique: "report:1", scope: UntilDone},
		{next: &next{id: "mail.0.a:n", due: "+500", record: []byte("a|record\x00|")}, parent: "default.0.a"},
		{split: true, own: 0, unique: "a:b", scope: For(time.Second)},
		{split: true, own: 17, backoff: time.Second, longest: time.Hour, trace: "00-a b=c"},
	} {
		got, err := decodeExtra(append(x.encode(), "z\x03new"...)) // a later version's field
		if err != nil || !reflect.DeepEqual(got, x) {
			t.Errorf("%d: %+v, %v", i, got, err)
		}
	}
	if x, err := decodeExtra((&extra{backoff: time.Microsecond, longest: time.Microsecond}).encode()); err != nil || x.backoff != time.Millisecond {
		t.Errorf("a back-off of a microsecond: %+v, %v", x, err)
	}
	if b := (&extra{}).encode(); b != nil {
		t.Errorf("a plain job has an extra of %d bytes", len(b))
	}
	for _, bad := range []string{"u", "u\x05a", "u\x01s", "u\x030:a", "u\x04-3:a", "o\x02-1", "n\x01a", "b\x01x", "b\x030/5", "b\x035/4", "b\x055.5/9", "u\x03-1:", "u\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if x, err := decodeExtra([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %+v", bad, x)
		}
	}
}

func FuzzExtra(f *testing.F) {
	f.Add((&extra{unique: "u", scope: For(time.Minute), parent: "p", split: true, own: 1}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeExtra(b)
		if err != nil {
			return
		}
		again, err := decodeExtra(x.encode())
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Errorf("%+v became %+v, %v", x, again, err)
		}
	})
}
