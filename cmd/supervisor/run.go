package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cloudflare/tableflip"

	"supervisor/pkg/config"
	"supervisor/pkg/holder"
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
	holder.Listening()
	inherited, err := inherit(cfg)
	if err != nil {
		complain(err)
		return exitFailed
	}
	s, err := supervisor.New(cfg, supervisor.Options{Load: load, Inherited: inherited})
	if err != nil {
		inherited.Fail(err)
		complain(err)
		if errors.Is(err, supervisor.ErrPIDFile) {
			return exitFailed
		}
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

// upgradePatience is how long a new supervisor may take for a self-upgrade, besides the boot_timeout of each pool.
const upgradePatience = 20 * time.Second

// inherit finds what a supervisor before us left, and gets ready for the one after us.
func inherit(cfg *config.Config) (*supervisor.Inheritance, error) {
	patience := upgradePatience
	for _, p := range cfg.Pools {
		patience += p.BootTimeout // the pools start one after the other
	}
	flip, err := tableflip.New(tableflip.Options{UpgradeTimeout: patience})
	if err != nil {
		return nil, fmt.Errorf("self-upgrade: %w", err)
	}
	if !flip.HasParent() {
		if err := flip.Ready(); err != nil {
			return nil, fmt.Errorf("self-upgrade: %w", err)
		}
	}
	return supervisor.Inherit(flip)
}

// inForce gives the configuration of a supervisor that was killed, in place of one that cannot be loaded because of why.
func inForce(why error, stderr io.Writer) (*config.Config, error) {
	cfg, ok := supervisor.ConfigInForce()
	if !ok {
		return nil, why
	}
	complainAll(stderr, why)
	complain(errors.New("the supervisor before us was killed: going on with the configuration that was in force; mend the file, then reload"))
	return cfg, nil
}

// isSuccessor reports whether another supervisor started us to take over.
func isSuccessor() bool { return os.Getenv("TABLEFLIP_HAS_PARENT_7DIU3") != "" }

// tellPredecessor tells it why we cannot.
func tellPredecessor(why error) {
	if !isSuccessor() {
		return
	}
	if in, err := inherit(&config.Config{}); err == nil {
		in.Fail(why)
	}
}

// complain writes an error for people, one line for each that was joined.
func complain(err error) { fmt.Fprintf(os.Stderr, "supervisor: %v\n", err) }
