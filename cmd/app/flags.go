package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst puts the flags of an `app jobs` command before its arguments: the library takes those that come after one for arguments, and people
// write `app jobs show ID --json`. What follows "--" stays.
func flagsFirst(args []string, jobs *cli.Command) []string {
	if len(args) < 4 || args[1] != jobs.Name {
		return args
	}
	at := slices.IndexFunc(jobs.Subcommands, func(c *cli.Command) bool { return c.HasName(args[2]) })
	if at < 0 {
		return args
	}
	alone := map[string]bool{"h": true, "help": true} // take no value
	for _, flag := range jobs.Subcommands[at].Flags {
		if is, ok := flag.(*cli.BoolFlag); ok {
			alone[is.Name] = true
		}
	}
	var flags, rest []string
	for n := 3; n < len(args); n++ {
		word := args[n]
		name := strings.TrimLeft(word, "-")
		switch {
		case word == "--":
			rest = append(rest, args[n:]...)
			n = len(args)
		case word == "-" || !strings.HasPrefix(word, "-"):
			rest = append(rest, word)
		case alone[name] || strings.Contains(name, "=") || n+1 == len(args):
			flags = append(flags, word)
		default:
			flags = append(flags, word, args[n+1])
			n++
		}
	}
	return slices.Concat(args[:3], flags, rest)
}
