package main

import (
	"net"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/worker"
	"supervisor/pkg/worker/fast"
)

// environment is what every command reads.
const environment = "  APP_LOG_FORMAT     json or console; by default console on a terminal, else json\n" +
	"  APP_LOG_LEVEL      debug, info (default), warn or error\n" +
	"  APP_TRUSTED_PROXIES   as --trusted-proxies: whose X-Forwarded-… is believed; nobody's by default\n" +
	"  REDIS_URL          jobs, uploads and results: redis://[user:password@]host[:port][/db], rediss://…, unix:PATH\n" +
	"  TASK_BROKER_URL    another Redis for the jobs\n" +
	"  TASK_RESULT_BACKEND   another Redis for uploads and results\n" +
	"  APP_MAX_WAITING    bytes of uploads that may wait for a runner, by default 1GiB; more are answered with 429\n" +
	"  ENABLE_BACKGROUND_TASKS   true or false; by default true exactly when there is a broker"

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "answer HTTP requests",
		UsageText: "app serve [--addr HOST:PORT] [--trusted-proxies LIST]",
		Description: "Under the supervisor the sockets are inherited, and --addr has no effect.\n\n" +
			"Environment:\n" +
			"  APP_DEBUG=1        drills under /debug/: sleep, job, hang, panic, alloc, stream, echo\n" +
			"  APP_ACCESS_LOG=1   one JSON line per request on stdout\n" + environment,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "trusted-proxies", Usage: "believe X-Forwarded-For, -Proto and -Host of these peers: a `LIST` such as 10.0.0.0/8,::1,unix"},
			&cli.StringFlag{Name: "addr", Value: "127.0.0.1:8080", Usage: "listen on `HOST:PORT` when run without a supervisor"},
		},
		Action: func(c *cli.Context) error { return serve(c.String("addr"), c.String("trusted-proxies")) },
	}
}

func serve(addr, proxies string) error {
	if err := validAddr(addr); err != nil {
		return err
	}
	config, log, err := setUp()
	if err != nil {
		return err
	}
	if proxies != "" {
		if config.Proxies, err = app.ParseProxies(proxies); err != nil {
			return usage("--trusted-proxies: %w", err)
		}
	}
	defer log.Sync()
	background, err := openTasks(config, log)
	if err != nil {
		return err
	}
	defer background.Close()
	return serveWith(config, background, addr, log)
}

// serveWith serves until the worker is told to stop.
func serveWith(config app.Config, background *app.Tasks, addr string, log *zap.Logger) error {
	this := worker.Join()
	facts := factsOf(this)
	log.Info("serving", zap.String("worker", facts.ID), zap.Int("pid", os.Getpid()), zap.Int("generation", facts.Generation),
		zap.Bool("supervised", this.Supervised()), zap.String("addr", addrOf(this, addr)), zap.Bool("debug", config.Debug), zap.Bool("tasks", config.Tasks))
	if err := fast.Serve(app.NewServer(config, facts, background, log), addr); err != nil {
		return bindFailure(err)
	}
	log.Info("stopped", zap.String("worker", facts.ID))
	return nil
}

// factsOf is what the application needs to know of its worker.
func factsOf(this *worker.Worker) app.Worker {
	facts := app.Standalone()
	facts.Connections, facts.Draining = this.Connections, this.Draining
	if this.Supervised() {
		facts.ID, facts.Generation = this.ID().String(), this.Generation()
	}
	return facts
}

func addrOf(this *worker.Worker, addr string) string {
	if this.Supervised() {
		return "inherited"
	}
	return addr
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
