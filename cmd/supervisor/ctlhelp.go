package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// help prints what ctl --help says, or what a command's does.
func (c *client) help() error {
	if len(c.words) == 0 {
		_, err := io.WriteString(c.stdout, ctlHelp())
		return err
	}
	command, err := c.command()
	if err == nil {
		_, err = io.WriteString(c.stdout, command.help())
	}
	return err
}

// ctlHelp is what ctl --help prints.
func ctlHelp() string {
	var commands strings.Builder
	for _, command := range ctlCommands() {
		head := strings.TrimSpace(command.name + " " + command.args)
		for i, line := range command.brief {
			if i > 0 {
				head = ""
			}
			fmt.Fprintf(&commands, "   %-19s %s\n", head, line)
		}
	}
	text := strings.Replace(ctlHelpText, "COMMANDS\n", "COMMANDS, each with a --help of its own\n"+commands.String(), 1)
	return strings.Replace(text, "FLAGS\n", "FLAGS of all commands, before or after them\n"+optionLines(commonOptions), 1)
}

// help is what ctl NAME --help prints.
func (command ctlCommand) help() string {
	var text strings.Builder
	fmt.Fprintf(&text, "supervisor ctl %s\n\n", strings.TrimSpace(command.name+" "+command.args))
	for _, line := range command.brief {
		fmt.Fprintf(&text, "   %s\n", line)
	}
	if command.more != "" {
		fmt.Fprintf(&text, "\n%s", command.more)
	}
	fmt.Fprintf(&text, "\nFLAGS\n%s", optionLines(slices.Concat(command.options, commonOptions)))
	return text.String()
}

func optionLines(options []option) string {
	var lines strings.Builder
	for _, o := range options {
		lines.WriteString(o.line())
	}
	return lines.String()
}

const ctlHelpText = `supervisor ctl talks to a running supervisor.

USAGE
   supervisor ctl [flags] COMMAND

COMMANDS

   WHAT is a pool (web), a slot (web.2) or one process (web.2.17).
   Those that change something wait for the end, as systemctl does: what they print and their exit code is the verdict.
   Ctrl-C, or --timeout, ends only the wait: what was begun goes on. (A dump ends.)

FLAGS

   The supervisor is found by --socket, by the setting control of -c FILE, by $SUPERVISOR_SOCKET or $SUPERVISOR_CONTROL,
   or as supervisor.sock in $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR.

EXAMPLES
   supervisor ctl status
   supervisor ctl history --follow
   supervisor ctl -c /etc/app.toml reload && echo deployed
   supervisor ctl scale web=8 --timeout 1m
   supervisor ctl status --json

EXIT CODES
   0    done as asked                          69   nobody listens there, or does not answer
   1    it failed, or was refused              75   --timeout is over, it goes on
   64   bad flags, no such pool, bad number    77   no permission
                                               78   FILE cannot be read
`
