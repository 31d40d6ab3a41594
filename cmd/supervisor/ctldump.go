package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"supervisor/pkg/control"
	"supervisor/pkg/profile"
)

var dumpCommand = ctlCommand{
	name: "dump", args: "[WHAT]", brief: []string{
		"what a process does: its goroutines, here, or with --heap, --allocs or --cpu 10s a profile for",
		"go tool pprof, in a file; without a name the supervisor",
	},
	more: `   WHAT is a slot, a process (also one that leaves), or a pool with one worker. The worker serves on; it must
   use pkg/worker. Profiles are written into a file here, as web.2.17-cpu.pprof, unless -o says another one.

EXAMPLES
   supervisor ctl dump web.2 | less
   supervisor ctl dump web.2 --cpu 10s && go tool pprof -http : web.2.*-cpu.pprof
`,
	options: []option{
		{"goroutines", "", "", "what each goroutine does; the default", false},
		{"heap", "", "", "memory in use, by the place that took it", false},
		{"allocs", "", "", "all memory ever taken, by place", false},
		{"cpu", "", "TIME", "where the CPU time goes during so long, as in 10s", false},
		{"output", "o", "FILE", "write into this file; -: stdout", false},
	},
	words: 1, names: workerName, run: ctlDump,
}

// ctlDump writes what a worker, or the supervisor, does and holds: goroutines to stdout, what is for pprof into a file.
func ctlDump(ctx context.Context, c *client, to *control.Client) error {
	request := control.DumpRequest{Target: strings.Join(c.words, ""), Kind: profile.Goroutines}
	asked := 0
	for _, kind := range []profile.Kind{profile.Goroutines, profile.Heap, profile.Allocs} {
		if c.has(string(kind)) {
			request.Kind = kind
			asked++
		}
	}
	if text := c.flags["cpu"]; text != "" {
		length, err := parseTime(text)
		if err != nil {
			return bad("--cpu: %v", err)
		}
		request.Kind, request.Seconds = profile.CPU, length.Seconds()
		asked++
	}
	if asked > 1 {
		return bad("dump: one profile at a time")
	}
	file := c.flags["output"]
	if file == "" && !request.Kind.Binary() {
		file = "-"
	}
	if file == "-" && c.has("json") {
		return bad("dump: --json is about the file that was written: say -o FILE")
	}
	if file == "-" && request.Kind.Binary() && isTerminal(c.stdout) {
		return bad("dump: this is a profile for go tool pprof, and nothing for a terminal: leave -o away, say -o FILE, or redirect it")
	}
	worker, data, err := to.Dump(ctx, request)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = failure{exitTimeout, errors.New("--timeout is over: the profile was given up")}
		}
		return err
	}
	if file == "-" {
		_, err = c.stdout.Write(data)
	} else {
		file, err = writeDump(file, worker, request.Kind, data)
	}
	if err != nil {
		return failure{exitFailed, err}
	}
	switch {
	case c.has("json"):
		return printJSON(c.stdout, dumped{worker, request.Kind, file, len(data)})
	case file != "-" && request.Kind.Binary():
		fmt.Fprintf(c.stdout, "%s of %s: go tool pprof %s\n", request.Kind, worker, file)
	case file != "-":
		fmt.Fprintf(c.stdout, "%s of %s: %s\n", request.Kind, worker, file)
	}
	return nil
}

// dumped is what dump --json prints.
type dumped struct {
	Worker string       `json:"worker"`
	Kind   profile.Kind `json:"kind"`
	File   string       `json:"file"`
	Bytes  int          `json:"bytes"`
}

// maxDumpNames bounds the search for a name that is free.
const maxDumpNames = 1000

// writeDump writes a profile into a file: the given one, or one that says what it is and that there was not yet, since profiles are for
// comparing: web.2.17-heap.pprof, web.2.17-heap-2.pprof.
func writeDump(file, worker string, kind profile.Kind, data []byte) (string, error) {
	if file != "" {
		return file, os.WriteFile(file, data, 0o600)
	}
	end := ".pprof"
	if !kind.Binary() {
		end = ".txt"
	}
	stem := filepath.Base(worker) + "-" + string(kind) // whatever a supervisor says, the file is here
	for n := 1; ; n++ {
		name := stem + end
		if n > 1 {
			name = fmt.Sprintf("%s-%d%s", stem, n, end)
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) && n < maxDumpNames {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = f.Write(data)
		return name, errors.Join(err, f.Close())
	}
}

// isTerminal reports whether somebody looks at what is written there.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
