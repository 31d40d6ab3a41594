package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/worker"
)

// inMemory is what an operator must know of a MemoryRedis.
const inMemory = "in-memory Redis, for development: jobs, uploads and results end with this process"

func redisCommand() *cli.Command {
	return &cli.Command{
		Name:      "redis",
		Usage:     "be an in-memory Redis, for development",
		UsageText: "app redis [--addr unix:PATH or HOST:PORT]",
		Description: "Jobs, uploads and results end with this process. Under the supervisor it is a pool with replace = \"never\" and without bind.\n" +
			"There is no password: a socket has mode 0600, HOST should be 127.0.0.1.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Value: "unix:tmp/redis.sock", Usage: "listen on `unix:PATH` or HOST:PORT; REDIS_URL is the same, with redis:// before HOST:PORT"},
		},
		Action: func(c *cli.Context) error { return redis(c.String("addr")) },
	}
}

func redis(addr string) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok && path == "" {
		return usage("--addr %q: want unix:PATH", addr)
	} else if !ok {
		if err := validAddr(addr); err != nil {
			return err
		}
	}
	_, log, err := setUp()
	if err != nil {
		return err
	}
	defer log.Sync()
	worker.Join() // from here on TERM is a wish, not a death that would leave the socket behind
	memory, err := app.StartMemoryRedis(addr)
	if err != nil {
		return bindFailure(err)
	}
	defer memory.Close()
	log.Warn(inMemory, zap.String("url", memory.URL()))
	return worker.Run(func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
}
