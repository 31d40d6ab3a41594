package tracecontext

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

func TestParentIsReadAsTheSpecificationSays(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"00-" + trace + "-" + span + "-01":                    "00-" + trace + "-" + span + "-01",
		"00-" + trace + "-" + span + "-00":                    "00-" + trace + "-" + span + "-00",
		"00-" + trace + "-" + span + "-03":                    "00-" + trace + "-" + span + "-03",
		"00-" + trace + "-" + span + "-ff":                    "00-" + trace + "-" + span + "-03", // flags that nobody knows yet are passed on as zero
		"cc-" + trace + "-" + span + "-01":                    "00-" + trace + "-" + span + "-01", // of a later version as much as this one has
		"cc-" + trace + "-" + span + "-01-what-":              "00-" + trace + "-" + span + "-01",
		"cc-" + trace + "-" + span + "-01.what":               "",
		"cc-" + trace + "-" + span + "-012":                   "",
		"00-" + trace + "-" + span + "-01-what":               "",
		"00-" + trace + "-" + span + "-01.":                   "",
		"00-" + trace + "-" + span + "-01 ":                   "",
		"00-" + trace + "-" + span + "-1":                     "",
		"00-" + trace + "-" + span + "-0x":                    "",
		"00-" + trace + "-" + span:                            "",
		"ff-" + trace + "-" + span + "-01":                    "",
		"0-" + trace + "-" + span + "-01x":                    "",
		".0-" + trace + "-" + span + "-01":                    "",
		"00-" + trace[1:] + "-" + span + "-010":               "",
		"00-" + trace + "0-" + span[1:] + "-01":               "",
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":   "",
		"00-" + trace + "-" + strings.ToUpper(span) + "-01":   "",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":  "",
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01": "",
		"00-" + trace[:31] + ".-" + span + "-01":              "",
		"00_" + trace + "-" + span + "-01":                    "",
		"00-" + trace + "_" + span + "-01":                    "",
		"00-" + trace + "-" + span + "_01":                    "",
		"":                                                    "",
		strings.Repeat("-", 55):                               "",
	} {
		c, ok := Parse(value)
		if ok != (want != "") || ok && c.Parent() != want {
			t.Errorf("%q: %v %s, want %q", value, ok, c.Parent(), want)
		}
		if other, same := Parse([]byte(value)); other != c || same != ok {
			t.Errorf("%q as bytes: %v, %v", value, other, same)
		}
		if !ok && c != (Context{}) {
			t.Errorf("%q left %v", value, c)
		}
	}
}

func TestStateIsReadAsTheSpecificationSays(t *testing.T) {
	t.Parallel()
	large := "a=" + strings.Repeat("x", 200)
	many := make([]string, 33)
	for i := range many {
		many[i] = fmt.Sprintf("k%d=1", i)
	}
	for _, c := range []struct {
		headers []string
		want    string
		bad     bool
	}{
		{headers: nil},
		{headers: []string{""}},
		{headers: []string{"foo=1"}, want: "foo=1"},
		{headers: []string{"foo=1 \t,  \tbar=2", "", "baz=3"}, want: "foo=1,bar=2,baz=3"},
		{headers: []string{"foo=1,,bar=2,"}, want: "foo=1,bar=2"},
		{headers: []string{"foo=1;2 3"}, want: "foo=1;2 3"},
		{headers: []string{"fw529a3039@dt=x,a_-*/=y"}, want: "fw529a3039@dt=x,a_-*/=y"},
		{headers: []string{"0t@v=1"}, want: "0t@v=1"},
		{headers: []string{strings.Repeat("z", 256) + "=1"}, want: strings.Repeat("z", 256) + "=1"},
		{headers: []string{strings.Repeat("z", 257) + "=1"}, bad: true},
		{headers: []string{strings.Repeat("t", 241) + "@" + strings.Repeat("v", 14) + "=1"}, want: strings.Repeat("t", 241) + "@" + strings.Repeat("v", 14) + "=1"},
		{headers: []string{strings.Repeat("t", 242) + "@v=1"}, bad: true},
		{headers: []string{"t@" + strings.Repeat("v", 15) + "=1"}, bad: true},
		{headers: []string{"foo=" + strings.Repeat("x", 256)}, want: "foo=" + strings.Repeat("x", 256)},
		{headers: []string{"foo=" + strings.Repeat("x", 257)}, bad: true},
		{headers: []string{"0foo=1"}, bad: true},
		{headers: []string{"foo@=1"}, bad: true},
		{headers: []string{"@foo=1"}, bad: true},
		{headers: []string{"foo@0v=1"}, bad: true},
		{headers: []string{"foo@@bar=1"}, bad: true},
		{headers: []string{"foo@bar@baz=1"}, bad: true},
		{headers: []string{"foo"}, bad: true},
		{headers: []string{"foo="}, bad: true},
		{headers: []string{"=1"}, bad: true},
		{headers: []string{"foo =1"}, bad: true},
		{headers: []string{"FOO=1"}, bad: true},
		{headers: []string{"foo.bar=1"}, bad: true},
		{headers: []string{"foo=bar=baz"}, bad: true},
		{headers: []string{"foo=1\x01"}, bad: true},
		{headers: []string{"foo=ü"}, bad: true},
		{headers: []string{"foo=1", "foo=1"}, bad: true},
		{headers: []string{strings.Join(many[:32], ",")}, want: strings.Join(many[:32], ",")},
		{headers: []string{strings.Join(many, ",")}, bad: true},
		// Too long: large entries go, from the last, then the last ones.
		{headers: []string{large, "b=1", "c" + large[1:], "d=1", "e" + large[1:], "f=1"}, want: large + ",b=1,c" + large[1:] + ",d=1,f=1"},
		{headers: []string{strings.ReplaceAll(strings.Join(many[:32], ","), "=1", "="+strings.Repeat("y", 20))}, want: func() string {
			kept := strings.ReplaceAll(strings.Join(many[:20], ","), "=1", "="+strings.Repeat("y", 20))
			return kept
		}()},
	} {
		got, ok := ParseState(c.headers...)
		if got != c.want || ok == c.bad {
			t.Errorf("%.80q: %v %q, want %q", c.headers, ok, got, c.want)
		}
		if len(got) > 512 {
			t.Errorf("%.80q: %d bytes", c.headers, len(got))
		}
	}
}

func TestNewTracesAreValidAndDiffer(t *testing.T) {
	t.Parallel()
	seen := map[TraceID]bool{}
	for range 1000 {
		c := New()
		again, ok := Parse(c.Parent())
		if !ok || again != c || c.Flags != Random || seen[c.Trace] {
			t.Fatalf("%s: %v, %v", c.Parent(), again, ok)
		}
		seen[c.Trace] = true
		child := c.Child()
		if child.Trace != c.Trace || child.Span == c.Span || !child.Valid() || child.Flags != c.Flags {
			t.Fatalf("%s of %s", child.Parent(), c.Parent())
		}
	}
}

func TestContextCarriesATrace(t *testing.T) {
	t.Parallel()
	if c, ok := From(context.Background()); ok || c.Valid() {
		t.Error("from nothing")
	}
	want := New()
	if c, ok := From(With(context.Background(), want)); !ok || c != want {
		t.Errorf("%v, %v", c, ok)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("00-"+trace+"-"+span+"-01", "foo=1,bar@baz=2")
	f.Fuzz(func(t *testing.T, parent, state string) {
		if c, ok := Parse(parent); ok {
			again, same := Parse(c.Parent())
			if !same || again != c || len(c.Parent()) != 55 {
				t.Errorf("%q became %q", parent, c.Parent())
			}
		}
		if s, ok := ParseState(state); ok {
			if again, same := ParseState(s); !same || again != s || len(s) > 512 {
				t.Errorf("%q became %q, then %q", state, s, again)
			}
		}
	})
}

func BenchmarkParseAndChild(b *testing.B) {
	b.ReportAllocs()
	value := []byte("00-" + trace + "-" + span + "-01")
	var out [64]byte
	for b.Loop() {
		c, _ := Parse(value)
		c.Child().AppendParent(out[:0])
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		New()
	}
}
