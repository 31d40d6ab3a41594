package main

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
)

func serveCommand(badUsage cli.OnUsageErrorFunc) *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "answer HTTP requests",
		UsageText: "app serve [--addr HOST:PORT]",
		Description: "Under the supervisor the sockets are inherited, and --addr has no effect.\n\n" +
			"Environment:\n" +
			"  APP_DEBUG=1        drills under /debug/: sleep, hang, panic, alloc, stream, echo\n" +
			"  APP_ACCESS_LOG=1   one JSON line per request on stdout\n" +
			"  APP_LOG_FORMAT     json or console; by default console on a terminal, else json\n" +
			"  APP_LOG_LEVEL      debug, info (default), warn or error",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Value: "127.0.0.1:8080", Usage: "listen on `HOST:PORT` when run without a supervisor"},
		},
		HideHelpCommand: true,
		OnUsageError:    badUsage,
		Action: func(c *cli.Context) error {
			if c.Args().Present() { // flags after an argument would be taken for arguments, and ignored
				return usage("serve takes no arguments, but got %q", strings.Join(c.Args().Slice(), " "))
			}
			return serve(c.String("addr"))
		},
	}
}

func serve(addr string) error {
	if err := validAddr(addr); err != nil {
		return err
	}
	config, err := app.ConfigFromEnv(os.Getenv)
	if err != nil {
		return &failure{exitConfig, err}
	}
	log := config.NewLog(os.Stderr)
	defer log.Sync()
	worker := app.Standalone()
	server := app.NewServer(config, worker, log)
	log.Info("serving", zap.String("worker", worker.ID), zap.Int("pid", os.Getpid()), zap.Int("generation", worker.Generation),
		zap.String("addr", addr), zap.Bool("debug", config.Debug))
	err = server.ListenAndServe(addr)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "listen" {
		return &failure{exitBind, err}
	}
	if err == nil {
		log.Info("stopped", zap.String("worker", worker.ID))
	}
	return err
}

func validAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return usage("--addr %q: want HOST:PORT, as in 127.0.0.1:8080 or :8080", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return usage("--addr %q: port %q is not a number from 0 to 65535", addr, port)
	}
	return nil
}
