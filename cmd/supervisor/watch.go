package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"supervisor/internal/devmode"
	"supervisor/pkg/config"
	"supervisor/pkg/holder"
	"supervisor/pkg/sdnotify"
	"supervisor/pkg/supervisor"
)

// develop begins to watch files for --reload; nil: nobody asked for that.
func develop(cfg *config.Config) (*devmode.Mode, error) {
	if !cfg.Dev.Reload {
		return nil, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("--reload: %w", err)
	}
	builds := [][]string{cfg.Dev.Build}
	if len(cfg.Dev.Build) == 0 {
		if builds, err = devmode.Builds(dir, programs(cfg)); err != nil {
			return nil, fmt.Errorf("--reload: %w", err)
		}
	}
	dev, err := devmode.New(devmode.Options{
		Dir: dir, Watch: append(cfg.Dev.Watch, cfg.Dev.Extra...), Ignore: cfg.Dev.Ignore, Files: cfg.Files(), Build: builds, Out: os.Stderr,
	})
	if err != nil {
		return nil, fmt.Errorf("--reload: %w", err)
	}
	fmt.Fprintf(os.Stderr, "supervisor: --reload: %s\n", dev.Describe())
	if os.Getenv(holder.EnvPID) != "" || os.Getenv(sdnotify.EnvSocket) != "" {
		fmt.Fprintln(os.Stderr, "supervisor: --reload is for development: here, under systemd or in a container, whoever changes a file replaces all workers")
	}
	return dev, nil
}

// programs gives what the pools execute.
func programs(cfg *config.Config) []string {
	var paths []string
	for _, p := range cfg.Pools {
		for _, path := range p.CommandPaths(p.Command[0]) {
			if p.Chdir != "" && !filepath.IsAbs(path) {
				path = filepath.Join(p.Chdir, path)
			}
			paths = append(paths, path)
		}
	}
	return paths
}

// firstBuild reports whether to go on: until it has succeeded nothing starts.
func firstBuild(dev *devmode.Mode, signals <-chan os.Signal) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	built := make(chan error, 1)
	go func() { built <- dev.First(ctx) }()
	for {
		select {
		case err := <-built:
			return err == nil
		case sig := <-signals:
			switch sig {
			case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
				cancel() // what it has begun ends first
			}
		}
	}
}

// reloadOnChange lets dev ask for reloads, and gives a function that ends it.
func reloadOnChange(dev *devmode.Mode, s *supervisor.Supervisor) (end func()) {
	if dev == nil {
		return func() {}
	}
	dev.Reload = func(verdict func(bool, string)) {
		s.Reload("files have changed", func(v supervisor.Verdict) { verdict(v.OK, v.Text) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dev.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
		dev.Close()
	}
}
