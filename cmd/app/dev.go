package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/operator"
	"supervisor/pkg/tasks"
	"supervisor/pkg/worker"
)

func devCommand() *cli.Command {
	return &cli.Command{
		Name:      "dev",
		Usage:     "serve, work and an in-memory Redis in one process",
		UsageText: "app dev [--addr HOST:PORT]",
		Description: "For development: nothing else is needed. With REDIS_URL set it uses that Redis.\n\n" +
			"Environment:\n" +
			"  APP_DEBUG=1        drills under /debug/\n" +
			accessEnvironment + proxyEnvironment + environment,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Value: "127.0.0.1:8080", Usage: "listen on `HOST:PORT`"},
		},
		Action: func(c *cli.Context) error { return dev(c.String("addr")) },
	}
}

func dev(addr string) error {
	if err := validAddr(addr); err != nil {
		return err
	}
	config, log, err := setUp()
	if err != nil {
		return err
	}
	defer log.Sync()
	this := worker.Join()
	if config.AdminToken == "" {
		config.AdminToken = operator.Token(rand.Text()) // for who reads this log: a known one would open the jobs to every page in the same browser
		log.Info("the jobs page", zap.String("url", "http://"+addr+"/admin/jobs"), zap.String("token", string(config.AdminToken)))
	}
	if config.Broker == "" {
		dir, err := os.MkdirTemp("", "app-") // 0700
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		memory, err := app.StartMemoryRedis("unix:" + filepath.Join(dir, "redis.sock"))
		if err != nil {
			return err
		}
		defer memory.Close()
		log.Warn(inMemory)
		config.Tasks, config.Broker, config.Store = true, memory.URL(), memory.URL()
	}
	background, err := openTasks(config, log)
	if err != nil {
		return err
	}
	if background == nil {
		return serveWith(config, nil, addr, log)
	}
	defer background.Close()

	// Both are told to stop at once: what the last requests enqueue waits in Redis.
	worked, served := make(chan error, 1), make(chan error, 1)
	options := tasks.RunnerOptions{Queues: []string{"default"}, Concurrency: 2 * runtime.GOMAXPROCS(0)}
	go func() { worked <- workWith(this, background, options, log) }()
	go func() { served <- serveWith(config, background, addr, log) }()
	select {
	case err := <-served:
		if err != nil {
			return err // the address is taken, for instance: there is nothing to wait for
		}
		return <-worked
	case err := <-worked:
		if err != nil {
			return err
		}
		return <-served
	}
}
