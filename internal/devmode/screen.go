package devmode

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is where people look: the terminal, beside the log. Each message is one write, so that no line of the log comes in between.
type screen struct{ out io.Writer }

const (
	defaultWidth = 80
	red          = "\x1b[1;31m"
	plain        = "\x1b[0m"
)

// say writes a line.
func (s screen) say(format string, args ...any) {
	fmt.Fprintf(s.out, "supervisor: "+format+"\n", args...)
}

// frame writes something that must not be overlooked.
func (s screen) frame(title, body, foot string) {
	width, on, off := defaultWidth, "", ""
	if f, ok := s.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
		if os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
			on, off = red, plain
		}
	}
	var b bytes.Buffer
	bar := func(text string) {
		text = "━━ " + text + " "
		fmt.Fprintf(&b, "%s%s%s%s\n", on, text, strings.Repeat("━", max(2, width-utf8.RuneCountInString(text))), off)
	}
	bar(title)
	if body != "" {
		b.WriteString(body + "\n")
	}
	bar(foot)
	s.out.Write(b.Bytes())
}
