package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// Shell completion. The scripts know nothing: they call `supervisor completion for WORD…` with what stands on the command line up to the cursor, and
// get a line for each candidate: the word, a tab, what it is. A line ":files" stands for the names of files.

//go:embed completion/bash
var bashCompletion string

//go:embed completion/zsh
var zshCompletion string

//go:embed completion/fish
var fishCompletion string

const completionHelp = `supervisor completion prints a script that completes supervisor's commands, flags, pools and workers.

USAGE
   supervisor completion bash|zsh|fish

   The names of pools and workers are those of the running supervisor: found as ctl finds it, by what the line says so
   far (--socket, -c), or by $SUPERVISOR_SOCKET and the rest.

EXAMPLES
   bash   source <(supervisor completion bash)       in ~/.bashrc
          supervisor completion bash > /usr/share/bash-completion/completions/supervisor
   zsh    source <(supervisor completion zsh)        in ~/.zshrc, after compinit
   fish   supervisor completion fish > ~/.config/fish/completions/supervisor.fish
`

// completion is `supervisor completion …`.
func completion(args, environ []string, stdout, stderr io.Writer) int {
	c := &client{environ: config.Environment(environ), stdout: stdout, stderr: stderr}
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	switch {
	case len(args) > 1 && args[0] == "for":
		for _, k := range c.candidates(args[1:]) {
			fmt.Fprintf(stdout, "%s\t%s\n", k.word, k.what)
		}
		return exitOK
	case slices.Contains(args, "--help"), slices.Contains(args, "-h"):
		io.WriteString(stdout, completionHelp)
		return exitOK
	case len(args) == 1 && scripts[args[0]] != "":
		io.WriteString(stdout, scripts[args[0]])
		return exitOK
	}
	return c.exit(bad("for which shell? bash, zsh or fish"), "supervisor completion")
}

// candidate is what a word may become.
type candidate struct{ word, what string }

// namePatience is how long the supervisor may take to say its names: somebody waits with a finger on the tab key.
const namePatience = time.Second

// files stands for the names of files: the shell knows them.
var files = []candidate{{":files", ""}}

// candidates gives what the last word may become.
func (c *client) candidates(words []string) []candidate {
	words = joinAssignments(words)
	before, last := words[:len(words)-1], words[len(words)-1]
	var found []candidate
	switch {
	case len(before) == 0:
		found = []candidate{
			{"ctl", "talk to a running supervisor"}, {"healthcheck", "is it ready?"}, {"completion", "a script for this shell"},
		}
		if strings.HasPrefix(last, "-") {
			found = c.flagCandidates(options, nil, last)
		}
	case before[0] == "ctl":
		found = c.ctlCandidates(before[1:], last)
	case before[0] == "healthcheck":
		found = c.flagCandidates(healthOptions, before[1:], last)
	case before[0] == "completion" && len(before) == 1:
		found = []candidate{{"bash", ""}, {"zsh", ""}, {"fish", ""}}
	case before[0] == "completion":
	case slices.Contains(before, "--"): // a worker's command
		found = files
	default:
		found = c.flagCandidates(options, before, last)
	}
	return slices.DeleteFunc(found, func(k candidate) bool { return k != files[0] && !strings.HasPrefix(k.word, last) })
}

// joinAssignments undoes what bash does: it takes --config=x for three words.
func joinAssignments(words []string) []string {
	var joined []string
	for i, word := range words {
		if len(joined) > 0 && (word == "=" || i > 0 && words[i-1] == "=") {
			joined[len(joined)-1] += word
		} else {
			joined = append(joined, word)
		}
	}
	return joined
}

// ctlCandidates completes what follows ctl.
func (c *client) ctlCandidates(before []string, last string) []candidate {
	all := ctlOptions()
	if o := valueOf(all, before); o != nil {
		return c.valueCandidates(*o, "", last)
	}
	c.parse(all, before) // as far as it is right
	if len(c.words) == 0 {
		if strings.HasPrefix(last, "-") {
			return c.flagCandidates(commonOptions, before, last)
		}
		var found []candidate
		for _, command := range ctlCommands() {
			found = append(found, candidate{command.name, command.brief[0]})
		}
		return found
	}
	command, err := c.command()
	switch {
	case err != nil:
		return nil
	case strings.HasPrefix(last, "-") && command.names != scaledName:
		return c.flagCandidates(slices.Concat(command.options, commonOptions), before, last)
	case strings.HasPrefix(last, "--"):
		return c.flagCandidates(slices.Concat(command.options, commonOptions), before, last)
	case len(c.words) > command.words:
		return nil
	}
	return c.nameCandidates(command.names, last)
}

// valueOf gives the flag whose value comes next, or nil.
func valueOf(options []option, before []string) *option {
	if len(before) == 0 {
		return nil
	}
	flag := before[len(before)-1]
	for i, o := range options {
		if o.value != "" && (flag == "--"+o.long || flag == "-"+o.short && o.short != "") {
			return &options[i]
		}
	}
	return nil
}

// flagCandidates completes a flag, or its value.
func (c *client) flagCandidates(options []option, before []string, last string) []candidate {
	if o := valueOf(options, before); o != nil {
		return c.valueCandidates(*o, "", last)
	}
	if name, value, ok := strings.Cut(last, "="); ok {
		for _, o := range options {
			if name == "--"+o.long && o.value != "" {
				return c.valueCandidates(o, name+"=", value)
			}
		}
		return nil
	}
	var found []candidate
	for _, o := range options {
		found = append(found, candidate{"--" + o.long, o.usage})
	}
	return found
}

// valueCandidates completes the value of a flag, behind what stands before it in the same word.
func (c *client) valueCandidates(o option, prefix, last string) []candidate {
	var values []string
	switch o.value {
	case "FILE", "PATH", "DIR", "FILE|-":
		return files
	case "LEVEL":
		values = []string{"debug", "info", "warning", "error"}
	case "WHEN":
		values = []string{"notify", "exec"}
	case "EVENT,…":
		if i := strings.LastIndexByte(last, ','); i >= 0 {
			prefix += last[:i+1]
		}
		values = eventKinds
	}
	var found []candidate
	for _, v := range values {
		found = append(found, candidate{prefix + v, ""})
	}
	return found
}

// nameCandidates asks the supervisor what there is. Without an answer there is nothing.
func (c *client) nameCandidates(kind nameKind, last string) []candidate {
	if kind == noName {
		return nil
	}
	path, _, err := c.findSocket()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), namePatience)
	defer cancel()
	st, err := control.Dial(path).Status(ctx)
	if err != nil {
		return nil
	}
	var found []candidate
	for _, p := range st.Pools {
		what := fmt.Sprintf("pool, %d of %d ready", p.Ready, p.Wanted)
		if kind == scaledName {
			found = append(found, candidate{p.Name + "=", what})
			continue
		}
		if found = append(found, candidate{p.Name, what}); kind == poolName {
			continue
		}
		for _, w := range p.Workers {
			slot := w.Name
			if parts := strings.Split(w.Name, "."); len(parts) == 3 {
				slot = parts[0] + "." + parts[1]
			}
			if !slices.ContainsFunc(found, func(k candidate) bool { return k.word == slot }) {
				found = append(found, candidate{slot, "slot, " + w.State})
			}
			if strings.Count(last, ".") == 2 && slot != w.Name { // else they would hide the slots
				found = append(found, candidate{w.Name, fmt.Sprintf("pid %d, %s", w.PID, w.State)})
			}
		}
	}
	switch kind {
	case writerName:
		found = append(found, candidate{control.SupervisorName, "its own log"})
	case poolName:
		found = append(found, candidate{"supervisor", "the section of that name"})
	}
	return found
}
