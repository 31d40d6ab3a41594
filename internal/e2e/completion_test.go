package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Real shells on a real terminal, somebody at the tab key, and a supervisor that says its names.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	c := configured(t, webPool("workers = 2")+"[pool.worker-jobs]\ncommand = [\"sleep\", \"1000\"]\nready = \"exec\"\n")
	// A line that was completed is run, by a program of that name that says what it got.
	says := write(t, "supervisor", fmt.Sprintf("#!/bin/sh\n[ \"$1\" = completion ] && [ $# -gt 1 ] && exec %s/supervisor \"$@\"\nprintf 'got:%%s\\n' \"$*\"\n", bin))
	for shell, start := range map[string][]string{
		"bash": {"bash", "--norc", "--noprofile", "-i"},
		"zsh":  {"zsh", "-f", "-i"},
		"fish": {"fish", "--no-config", "-i"},
	} {
		if _, err := exec.LookPath(shell); err != nil && shell != "bash" {
			t.Logf("%s is not installed: `make deps`", shell)
			continue
		}
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			term := onTerminal(t, []string{"SUPERVISOR_SOCKET=" + c.socket, "PATH=" + filepath.Dir(says) + ":/usr/bin:/bin"}, start...)
			load := map[string]string{
				"bash": `source <(supervisor completion bash); echo rea''dy`,
				"zsh":  `autoload -U compinit; compinit -u -D; source <(supervisor completion zsh); echo rea''dy`,
				"fish": `supervisor completion fish | source; echo rea''dy`,
			}[shell]
			term.presses(load + "\r")
			term.await("ready")
			for keys, want := range map[string]string{
				"supervisor ctl hist\t":                                       "got:ctl history",
				"supervisor healthc\t--adm\tx":                                "got:healthcheck --admin x",
				"supervisor ctl scale we\t4":                                  "got:ctl scale web=4",
				"supervisor ctl history worker-\t":                            "got:ctl history worker-jobs",
				"supervisor ctl recycle web.1\t":                              "got:ctl recycle web.1",
				"supervisor ctl logs --foll\tsup\t":                           "got:ctl logs --follow supervisor",
				"supervisor ctl -c " + filepath.Dir(c.file) + "/c.to\tstat\t": "got:ctl -c " + c.file + " status",
				"supervisor --log-level warn\t":                               "got:--log-level warning",
			} {
				term.forget()
				term.presses(keys)
				term.presses("\r")
				term.await(strings.TrimSpace(want))
			}
		})
	}
}
