package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

var topCommand = ctlCommand{
	name: "top", args: "[WHAT]", words: 1, names: workerName,
	brief: []string{"pools, and what workers shows of each process, live: drawn anew each second; q ends it"},
	more: `   Keys: c, r, m, o, a, n sort by CPU, requests, memory, oldest request, age, name; q or Ctrl-C ends it. Without a
   terminal it prints one frame and ends; with -n it prints so many, one below the other.

EXAMPLES
   ssh host supervisor ctl top                     one frame; with ssh -t live
   supervisor ctl top -n 60 >> /var/tmp/minute     a frame a second
   supervisor ctl top --json -n 5                  a line of JSON each
`,
	options: []option{
		{"number", "n", "N", "end after N frames", false},
		{"sort", "", "ORDER", "cpu (default), requests, memory, oldest, age, name", false},
	},
	run: ctlTop,
}

// sortOrders are the orders of top by their names; the first letter is the key.
var sortOrders = map[string]func(a, b row) int{
	"cpu":      func(a, b row) int { return cmp.Compare(b.Busy, a.Busy) },
	"requests": func(a, b row) int { return cmp.Compare(b.Rate, a.Rate) },
	"memory":   func(a, b row) int { return cmp.Compare(b.Memory, a.Memory) },
	"oldest":   func(a, b row) int { return cmp.Compare(b.Oldest, a.Oldest) },
	"age":      func(a, b row) int { return cmp.Compare(b.Age, a.Age) },
	"name":     func(a, b row) int { return 0 }, // as they come: by pool and slot
}

var orderNames = []string{"cpu", "requests", "memory", "oldest", "age", "name"}

// ctlTop prints frames.
func ctlTop(ctx context.Context, c *client, to *control.Client) error {
	frames, err := c.number(0, 0)
	if err != nil {
		return err
	}
	order := cmp.Or(c.flags["sort"], "cpu")
	if sortOrders[order] == nil {
		if guess := config.Nearest(order, orderNames); guess != "" {
			return bad("--sort: there is no order %q; did you mean %s?", order, guess)
		}
		return bad("--sort: there is no order %q; there are %s", order, strings.Join(orderNames, ", "))
	}
	what := strings.Join(c.words, "")
	if frames == 0 && isTerminal(c.stdout) && !c.has("json") {
		return liveTop(ctx, c.stdout.(*os.File), to, what, order)
	}
	for i := range max(1, frames) {
		st, now, err := lookTwice(ctx, to)
		if err != nil {
			return err
		}
		if now, err = now.only(what); err != nil {
			return err
		}
		slices.SortStableFunc(now.Workers, sortOrders[order])
		if c.has("json") {
			if err := json.NewEncoder(c.stdout).Encode(now); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(c.stdout)
		}
		if err := writeFrame(c.stdout, st, now, order); err != nil {
			return err
		}
	}
	return nil
}

// writeFrame prints one frame.
func writeFrame(out io.Writer, st control.Status, now comparison, order string) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s; %s, by %s\n", headline(st), now.At.Format("15:04:05"), order)
	writeTrouble(&text, st)
	fmt.Fprintln(&text)
	writePools(&text, now)
	fmt.Fprintln(&text)
	writeRows(&text, now)
	_, err := out.Write(text.Bytes())
	return err
}

// What a terminal understands since the VT100, and the alternate screen of xterm.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K\r\n" // what stood behind it goes
	restOff     = "\x1b[J"
)

// look is one reading of live top, or why there is none.
type look struct {
	status control.Status
	err    error
}

// liveTop draws frames on a terminal until somebody ends it.
func liveTop(ctx context.Context, out *os.File, to *control.Client, what, order string) error {
	first, err := to.Status(ctx) // what is wrong from the start is no frame
	if err != nil {
		return err
	}
	now := compare(nil, first)
	if _, err := now.only(what); err != nil {
		return err
	}
	keys := make(chan byte)
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		before, err := term.MakeRaw(in)
		if err != nil {
			return err
		}
		defer term.Restore(in, before)
		go readKeys(keys)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	io.WriteString(out, enterScreen)
	defer io.WriteString(out, leaveScreen)

	ticker := time.NewTicker(rateSpan)
	defer ticker.Stop()
	looks := make(chan look, 1)
	asking := false
	last, trouble := first, ""
	for {
		sorted, _ := now.only(what) // a copy: how they come is an order, too; who has gone leaves a table without him
		slices.SortStableFunc(sorted.Workers, sortOrders[order])
		if err := draw(out, last, sorted, order, trouble); err != nil {
			return err
		}
		select {
		case <-ticker.C:
			if !asking { // one that hangs is asked once
				asking = true
				go func() {
					st, err := to.Status(ctx)
					looks <- look{st, err}
				}()
			}
		case l := <-looks:
			asking = false
			if l.err != nil {
				trouble = fmt.Sprintf("no answer since %s: %v", now.At.Format("15:04:05"), l.err)
				break
			}
			now, last, trouble = compare(&last, l.status), l.status, ""
		case <-resized:
		case key := <-keys:
			switch key {
			case 'q', 'Q', 3, 4: // Ctrl-C, Ctrl-D
				return nil
			}
			for _, name := range orderNames {
				if name[0] == key {
					order = name
				}
			}
		case <-ctx.Done():
			if context.Cause(ctx) == context.DeadlineExceeded {
				return context.DeadlineExceeded
			}
			return nil
		}
	}
}

func readKeys(keys chan<- byte) {
	var pressed [64]byte
	for {
		n, err := os.Stdin.Read(pressed[:])
		if err != nil || n == 0 {
			return
		}
		for _, key := range letters(pressed[:n]) {
			keys <- key
		}
	}
}

// letters leaves out arrows and the like: ESC [ … up to a letter or ~, and ESC O with a letter.
func letters(pressed []byte) []byte {
	var keys []byte
	for len(pressed) > 0 {
		key := pressed[0]
		pressed = pressed[1:]
		switch {
		case key != '\x1b':
			keys = append(keys, key)
		case len(pressed) > 1 && pressed[0] == 'O':
			pressed = pressed[2:]
		case len(pressed) > 1 && pressed[0] == '[':
			end := bytes.IndexFunc(pressed[1:], func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				return keys
			}
			pressed = pressed[end+2:]
		}
	}
	return keys
}

// draw shows a frame, cut to the size of the terminal.
func draw(out *os.File, st control.Status, now comparison, order, trouble string) error {
	var frame bytes.Buffer
	if trouble != "" {
		fmt.Fprintln(&frame, plain(trouble))
	}
	writeFrame(&frame, st, now, order) // to memory
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil || width < 1 || height < 1 {
		width, height = 80, 24
	}
	_, err = out.Write(fit(frame.String(), width, height))
	return err
}

// fit makes a screen of a frame: its first lines, and of each what fits. The last line says how many did not.
func fit(frame string, width, height int) []byte {
	var screen bytes.Buffer
	screen.WriteString(screenHome)
	lines := strings.Split(strings.TrimSuffix(frame, "\n"), "\n")
	if rest := len(lines) - height; rest > 0 {
		lines[height-1] = fmt.Sprintf("… %d more", rest+1)
		lines = lines[:height]
	}
	for i, line := range lines {
		if i > 0 {
			screen.WriteString(lineEnd)
		}
		if runes := []rune(line); len(runes) > width {
			line = string(runes[:width])
		}
		screen.WriteString(line)
	}
	screen.WriteString("\x1b[K" + restOff)
	return screen.Bytes()
}
