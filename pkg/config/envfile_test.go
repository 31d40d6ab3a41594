package config

import (
	"reflect"
	"strings"
	"testing"
)

// What systemd makes of the same file, from its test-fileio.c and systemd.exec(5).
func TestEnvFilesAreReadAsSystemdDoes(t *testing.T) {
	tests := []struct {
		name, in string
		want     map[string]string
	}{
		{"empty", "", map[string]string{}},
		{"plain", "A=1\nB=two words\n", map[string]string{"A": "1", "B": "two words"}},
		{"no newline at the end", "A=1", map[string]string{"A": "1"}},
		{"windows line ends", "A=1\r\nB=2\r\n", map[string]string{"A": "1", "B": "2"}},
		{"comments", "# A=1\n; B=2\n  # C=3\nD=4 # no comment\n", map[string]string{"D": "4 # no comment"}},
		{"a comment goes on after a backslash", "# one \\\nA=1\nB=2", map[string]string{"B": "2"}},
		{"white space around", "  A =  x y  \t\nB=\n\n\tC=\t3", map[string]string{"A": "x y", "B": "", "C": "3"}},
		{"equal signs in the value", "A=b=c", map[string]string{"A": "b=c"}},
		{"double quotes", `A="  x # y  "` + "\nB=\"\"", map[string]string{"A": "  x # y  ", "B": ""}},
		{"escapes in double quotes", `A="\"\\\` + "`" + `\$\n\x"`, map[string]string{"A": "\"\\`$\\n\\x"}},
		{"single quotes", `A='a \n "b" $c'`, map[string]string{"A": `a \n "b" $c`}},
		{"quotes inside a word stay", `A=it's "so"`, map[string]string{"A": `it's "so"`}},
		{"quoted pieces join", `A='a' "b"c`, map[string]string{"A": "abc"}},
		{"a quoted value of lines", "A=\"one\ntwo\"\nB=3", map[string]string{"A": "one\ntwo", "B": "3"}},
		{"a line continued", "A=one\\\ntwo\nB=3", map[string]string{"A": "onetwo", "B": "3"}},
		{"a windows line continued", "A=one\\\r\ntwo\r\nB=3", map[string]string{"A": "onetwo", "B": "3"}},
		{"a line continued in double quotes", "A=\"one\\\ntwo\"", map[string]string{"A": "onetwo"}},
		{"escapes", `A=\"x\ \y\\z`, map[string]string{"A": `"x y\z`}},
		{"escaped white space at the end", "A=x\\ \nB=1", map[string]string{"A": "x ", "B": "1"}},
		{"white space after an escape", "A=\\x  \nB=1", map[string]string{"A": "x", "B": "1"}},
		{"nothing is expanded", "A=$HOME `ls` ~", map[string]string{"A": "$HOME `ls` ~"}},
		{"the last one wins", "A=1\nA=2", map[string]string{"A": "2"}},
		{"unicode", "A=grüße 世界", map[string]string{"A": "grüße 世界"}},
	}
	for _, test := range tests {
		got, err := parseEnvFile(test.in)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func TestBadEnvFilesNameTheLine(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"no equal sign", "A=1\nB\nC=2", `line 2: "B" is not NAME=VALUE`},
		{"no equal sign at the end", "A=1\nB", `line 2: "B" is not NAME=VALUE`},
		{"no name", "\n\n=x", "line 3: has no name before ="},
		{"export", "A=1\nexport B=2", "line 2: write B=… without export: this is no shell"},
		{"bad name", "A-B=2", `line 1: "A-B" is not a variable's name`},
		{"digit first", "1A=2", `line 1: "1A" is not a variable's name`},
		{"open quote", "A=1\nB=\"x\nC=2\n", "line 2: the quote is never closed"},
		{"open single quote", "B='x\nC=2\n", "line 1: the quote is never closed"},
		{"open end", "A=x\\", "line 1: ends in a backslash, but no line follows"},
		{"after a value of lines", "A='\n\n'\nB", `line 4: "B" is not NAME=VALUE`},
		{"not UTF-8", "A=1\nB=\xff", "line 2: is not UTF-8"},
		{"NUL", "A=a\x00b", "line 1: the value of A holds a NUL byte"},
		{"ours", "LISTEN_FDS=1", "line 1: LISTEN_FDS is for the supervisor to set"},
	}
	for _, test := range tests {
		if _, err := parseEnvFile(test.in); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

func FuzzParseEnvFile(f *testing.F) {
	for _, s := range []string{"A=1\n#c\\\n;\nB=\"x\\\"\"\nC='y' z\\\nw \n", "A=\\", "A=\"\\", "=", "\r\rA=\r\n", "A= 'b' \t'c' d "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		env, err := parseEnvFile(text)
		if err != nil && !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%q: %v", text, err)
		}
		for name, value := range env {
			if !isVariableName(name) || strings.ContainsRune(value, 0) {
				t.Errorf("%q gives %q=%q", text, name, value)
			}
			// Single quotes keep everything but themselves.
			if again, err := parseEnvFile(name + "='" + value + "'"); !strings.Contains(value, "'") && (err != nil || again[name] != value) {
				t.Errorf("%q, written in quotes, gives %q, %v", value, again, err)
			}
		}
	})
}
