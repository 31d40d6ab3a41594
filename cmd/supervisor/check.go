package main

import (
	"fmt"
	"io"

	"supervisor/pkg/config"
)

// check is --check-config: `supervisor -c FILE --check-config && kill -HUP PID` is the documented deploy.
func check(cfg *config.Config, stdout io.Writer) error {
	summary, err := cfg.Check()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "config ok: %s\n", summary)
	return err
}
