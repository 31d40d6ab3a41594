package main

import (
	"fmt"
	"io"

	"supervisor/pkg/supervisor"
)

// check is --check-config: `supervisor -c FILE --check-config && kill -HUP PID` is the documented deploy.
func check(cfg *supervisor.Config, stdout io.Writer) error {
	summary, err := cfg.Check()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "config ok: %s\n", summary)
	return err
}
