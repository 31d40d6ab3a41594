package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cloudflare/tableflip"

	"supervisor/internal/devmode"
	"supervisor/pkg/config"
	"supervisor/pkg/holder"
	"supervisor/pkg/supervisor"
)

// Exit codes: sysexits.h where it has one. Never 2, which is Go's panic.
const (
	exitOK       = 0
	exitFailed   = 1  // failed while running
	exitUsage    = 64 // bad flags or arguments
	exitBind     = 69 // an address could not be bound, or another supervisor has the pidfile
	exitNotReady = 75 // no worker became ready
	exitConfig   = 78 // bad configuration
)

// run is the supervisor's life: pidfile, addresses, workers, until it is stopped. load is asked again at every SIGHUP.
func run(load func() (*config.Config, error)) (int, error) {
	signals := supervisor.Signals()
	holder.Listening()
	inherited, err := inherit()
	if err != nil {
		return exitFailed, err
	}
	cfg, err := inherited.Config(load)
	if err != nil {
		inherited.Fail(err)
		return exitConfig, err
	}
	dev, err := develop(cfg)
	if err != nil {
		inherited.Fail(err)
		return exitFailed, err
	}
	if dev != nil && !inherited.Continues() {
		if !firstBuild(dev, signals) {
			return exitOK, nil
		}
		if cfg, err = load(); err != nil { // it may have changed meanwhile
			return exitConfig, err
		}
	}
	return serve(cfg, load, inherited, signals, dev), nil
}

// serve gives the exit code. dev is nil without --reload.
func serve(cfg *config.Config, load func() (*config.Config, error), inherited *supervisor.Inheritance, signals <-chan os.Signal, dev *devmode.Mode) int {
	s, err := supervisor.New(cfg, supervisor.Options{Load: load, Version: buildVersion(), Inherited: inherited})
	if err != nil {
		inherited.Fail(err)
		complain(err)
		if errors.Is(err, supervisor.ErrRunning) {
			return exitBind
		}
		if !errors.Is(err, supervisor.ErrBind) {
			return exitConfig
		}
		if _, why := cfg.Check(); why != nil { // it knows who has the address
			complainAll(os.Stderr, why)
		}
		return exitBind
	}
	defer reloadOnChange(dev, s)()
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

// successorLimit is for a successor that nobody finds to end it: how long one may be silent, pkg/supervisor judges.
const successorLimit = time.Hour

// inherit finds what a supervisor before us left, and gets ready for the one after us.
func inherit() (*supervisor.Inheritance, error) {
	flip, err := tableflip.New(tableflip.Options{UpgradeTimeout: successorLimit})
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

// complain writes an error for people, one line for each that was joined.
func complain(err error) { fmt.Fprintf(os.Stderr, "supervisor: %v\n", err) }
