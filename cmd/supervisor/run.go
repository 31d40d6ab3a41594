package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"supervisor/pkg/config"
	"supervisor/pkg/supervisor"
)

// Exit codes: sysexits.h where it has one. Never 2, which is Go's panic.
const (
	exitOK       = 0
	exitFailed   = 1  // failed while running
	exitUsage    = 64 // bad flags or arguments
	exitBind     = 69 // an address could not be bound
	exitNotReady = 75 // no worker became ready
	exitConfig   = 78 // bad configuration
)

// run is the supervisor's life: pidfile, addresses, workers, until it is stopped. load is asked again at every SIGHUP.
func run(cfg *config.Config, load func() (*config.Config, error)) int {
	signals := supervisor.Signals()
	// The pidfile first, so that one supervisor at a time looks at the addresses. It goes again when we fail.
	if cfg.PIDFile != "" {
		pidfile, err := supervisor.LockPIDFile(cfg.PIDFile)
		if err != nil {
			complain(err)
			return exitFailed
		}
		defer pidfile.Remove()
	}
	s, err := supervisor.New(cfg, supervisor.Options{Load: load})
	if err != nil {
		complain(err)
		if !errors.Is(err, supervisor.ErrBind) {
			return exitConfig
		}
		if _, why := cfg.Check(); why != nil { // it knows who has the address
			complainAll(os.Stderr, why)
		}
		return exitBind
	}
	switch err := s.Run(context.Background(), signals); {
	case err == nil:
		return exitOK
	case errors.Is(err, supervisor.ErrNotReady):
		complain(err)
		return exitNotReady
	case errors.Is(err, supervisor.ErrBind):
		complain(err)
		return exitBind
	default:
		complain(err)
		return exitFailed
	}
}

// complain writes an error for people, one line for each that was joined.
func complain(err error) { fmt.Fprintf(os.Stderr, "supervisor: %v\n", err) }
