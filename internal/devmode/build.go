package devmode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"supervisor/pkg/config"
)

const (
	// stopPatience is what a build has to end once it is told to: go removes its temporary files.
	stopPatience = 3 * time.Second
	// What is shown of its output: compilers begin with what matters.
	mostLines = 200
	mostBytes = 64 << 10
)

// build is one that runs: its commands, one after the other, in a goroutine. nil is none.
type build struct {
	cancel context.CancelFunc
	ended  chan result
}

// result is how one ended.
type result struct {
	command []string // the one that failed
	output  []byte
	err     error
	took    time.Duration
}

func startBuild(o Options) *build {
	ctx, cancel := context.WithCancel(context.Background())
	b := &build{cancel, make(chan result, 1)}
	go func() {
		began := time.Now()
		var r result
		for _, argv := range o.Build {
			r.command = argv
			if r.output, r.err = runCommand(ctx, o.Dir, argv); r.err != nil {
				break
			}
		}
		r.took = time.Since(began).Round(time.Millisecond)
		b.ended <- r
	}()
	return b
}

// result gives the channel on which the end is told.
func (b *build) result() <-chan result {
	if b == nil {
		return nil
	}
	return b.ended
}

// stop ends it, and returns when it has ended.
func (b *build) stop() {
	if b == nil {
		return
	}
	b.cancel()
	<-b.ended
}

// runCommand runs one command in a process group of its own, so that what it has started ends with it.
func runCommand(ctx context.Context, dir string, argv []string) ([]byte, error) {
	out := &head{}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return config.Reserved(name)
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = stopPatience
	err := cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has left behind
	}
	return out.kept.Bytes(), err
}

// head keeps the first bytes that are written. It is no bytes.Buffer itself: io.Copy would go around Write.
type head struct{ kept bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), mostBytes-h.kept.Len())])
	return len(p), nil
}

// title says what has failed.
func (r result) title() string {
	how := r.err.Error()
	if exit := new(exec.ExitError); errors.As(r.err, &exit) {
		how = exit.String()
	}
	return fmt.Sprintf("%s: %s, after %v", line(r.command), how, r.took)
}

// text gives the output.
func (r result) text() string {
	all := strings.Split(strings.TrimRight(string(r.output), "\n"), "\n")
	if len(all) > mostLines {
		all = append(all[:mostLines], fmt.Sprintf("… and %d lines more", len(all)-mostLines))
	}
	return strings.Join(all, "\n")
}

// line shows a command as one would type it.
func line(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = word
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\$`*?;&|<>()") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

func lines(commands [][]string) string {
	shown := make([]string, len(commands))
	for i, argv := range commands {
		shown[i] = line(argv)
	}
	return strings.Join(shown, " && ")
}
