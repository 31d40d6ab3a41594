package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

var configCommand = ctlCommand{
	name: "config", args: "[POOL]", brief: []string{"the configuration in force, where each value came from, without secrets; as --print-config"},
	more: `   That is what the last start, reload or self-upgrade has read; the file may say something else by now. What ctl scale
   has changed since stands above it.

EXAMPLES
   supervisor ctl config web
   supervisor ctl config | diff - <(supervisor -c /etc/app.toml --print-config)      what a reload would change
   supervisor ctl config --json | jq '.settings[] | select(.from != "default")'
`,
	words: 1, names: poolName, run: ctlConfig,
}

// ctlConfig prints the configuration in force.
func ctlConfig(ctx context.Context, c *client, to *control.Client) error {
	cfg, err := to.Config(ctx)
	if err != nil {
		return err
	}
	if len(c.words) > 0 {
		if err := onlySection(&cfg, c.words[0]); err != nil {
			return err
		}
	}
	if c.has("json") {
		return printJSON(c.stdout, cfg)
	}
	for _, note := range cfg.Notes {
		fmt.Fprintf(c.stdout, "# %s\n", note)
	}
	_, err = io.WriteString(c.stdout, cfg.Text)
	return err
}

// onlySection leaves of a configuration what is about one pool, or about the supervisor.
func onlySection(cfg *control.Config, name string) error {
	section := "pool." + name
	if name == "supervisor" {
		section = name
	}
	isIn := func(key string) bool { return strings.HasPrefix(key+".", section+".") }
	cfg.Notes = slices.DeleteFunc(cfg.Notes, func(note string) bool { return !strings.HasPrefix(note, "pool "+name+":") })
	cfg.Settings = slices.DeleteFunc(cfg.Settings, func(s control.Setting) bool { return !isIn(s.Key) })
	var names []string
	var kept strings.Builder
	inside := false
	for line := range strings.Lines(cfg.Text) {
		if header, ok := strings.CutPrefix(line, "["); ok {
			header = strings.TrimSuffix(strings.TrimSpace(header), "]")
			inside = isIn(header)
			if parts := strings.Split(header, "."); len(parts) == 2 {
				names = append(names, parts[1])
			}
		}
		if inside {
			kept.WriteString(line)
		}
	}
	if kept.Len() == 0 {
		guess := config.Nearest(name, append(names, "supervisor"))
		if guess != "" {
			guess = "; did you mean " + guess + "?"
		}
		return bad("there is no pool %q; there is %s%s", name, strings.Join(names, ", "), guess)
	}
	cfg.Text = strings.TrimSpace(kept.String()) + "\n"
	return nil
}
