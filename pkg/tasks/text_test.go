package tasks

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestALongTextIsCutBetweenCharactersAndJSONStaysJSON(t *testing.T) {
	t.Parallel()
	object := func(message string) string {
		b, err := json.Marshal(map[string]any{"code": "bad", "message": message, "n": []int{1}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, text := range map[string]string{
		"plain": strings.Repeat("x", 300), "runes": strings.Repeat("ä€😀", 100), "quotes": object(strings.Repeat(`"\`, 200)),
		"escapes": object(strings.Repeat("\x01<", 200)), "json": object(strings.Repeat("ä€😀", 100)),
		"no long string": "[" + strings.Repeat("1,", 200) + "1]", "many": object("x") + " " + object(strings.Repeat("y", 200)),
	} {
		for limit := 64; limit < 72; limit++ {
			got := cut(text, limit)
			if len(got) > limit || len(got) < limit-8 || !utf8.ValidString(got) || !strings.Contains(got, ellipsis) {
				t.Errorf("%s to %d: %d bytes, %q", name, limit, len(got), got)
			}
			if json.Valid([]byte(text)) && strings.HasPrefix(text, "{") {
				var back struct{ Code, Message string }
				if err := json.Unmarshal([]byte(got), &back); err != nil || back.Code != "bad" || !strings.HasSuffix(back.Message, ellipsis) {
					t.Errorf("%s to %d: %v in %q", name, limit, err, got)
				}
			}
		}
		if got := cut(text, len(text)); got != text {
			t.Errorf("%s: %q was cut without need", name, got)
		}
	}
	if text := decodeError([]byte(encodeError(object(strings.Repeat("€", maxErrorText))))); !json.Valid([]byte(text)) || len(text) > maxErrorText {
		t.Errorf("an error of %d bytes: %q", len(text), text)
	}
	p := progress{write: func(Progress) {}}
	if p.set(Progress{1, strings.Repeat("€", maxNote)}); len(p.last.Note) > maxNote || !utf8.ValidString(p.last.Note) {
		t.Errorf("note %q", p.last.Note)
	}
	p.end()
}
