package main

import (
	"net"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/worker"
	"supervisor/pkg/worker/fast"
)

// environment is what the commands read that serve or work. The lines about the log and about the database are migrate's, too.
const environment = logEnvironment +
	"  REDIS_URL          jobs, and uploads and results without DATABASE_URL: redis://[user:password@]host[:port][/db], rediss://…, unix:PATH;\n" +
	"                     clusters, Sentinels and certificates: docs/jobs.md\n" +
	"  TASK_BROKER_URL    another Redis for the jobs\n" +
	"  TASK_RESULT_BACKEND   another Redis for uploads and results, also with DATABASE_URL, or a PostgreSQL for the results of jobs\n" +
	databaseEnvironment +
	"  TASK_ARCHIVE       how long finished jobs stay in it, by default 720h; 0: they do not\n" +
	"  TASK_QUEUES        queues that POST /tasks may name: by default default; the first is where a job goes without a word\n" +
	"  SMTP_URL           takes mail: smtp://[user:password@]host[:587] with STARTTLS (?starttls=off: without), smtps://…[:465]\n" +
	"  MAIL_FROM          its sender, as in 'Photos <photos@example.org>'\n" +
	"  MAIL_ALLOW         domains that everybody may have mail sent to, with commas; by default only the operator may have any sent\n" +
	"  WEBHOOK_SECRET     signs webhooks: whsec_ and 24 to 64 bytes in base64; several with commas while one is replaced, the newest first\n" +
	"  WEBHOOK_HOSTS      hosts that everybody may have webhooks sent to, with commas; by default only the operator may have any sent\n" +
	"  APP_WEBHOOK_ALLOW  networks or addresses that are not public and may be sent webhooks nevertheless, as in 10.1.0.0/16\n" +
	"  REPORT_SCHEDULE    when runners make the report of imports, as in '0 6 * * 1'; by default only when the operator asks for it\n" +
	"  REPORT_TO          addresses that it is mailed to, with commas\n" +
	"  APP_MAX_WAITING    bytes of uploads that may wait for a runner, by default 1GiB; more are answered with 429\n" +
	"  ENABLE_BACKGROUND_TASKS   true or false; by default true exactly when there is a broker"

const logEnvironment = "  APP_LOG_FORMAT     json or console; by default console on a terminal, else json\n" +
	"  APP_LOG_LEVEL      debug, info (default), warn or error\n"

const databaseEnvironment = "  DATABASE_URL       uploads and results, jobs in transactions, and what became of them (app migrate makes the tables): postgres://[user:password@]host[:port]/database\n" +
	"  BACKEND_POOL_SIZE, BACKEND_MAX_OVERFLOW   connections of each process, in all 5 by default\n" +
	"  BACKEND_INSTANCES  supervisors that share the database, by default 1\n" +
	"  POSTGRES_MAX_CONNECTIONS   refuse to start if all processes may need more than these; by default the server is asked, and a log line warns\n"

const proxyEnvironment = "  APP_TRUSTED_PROXIES   as --trusted-proxies: whose X-Forwarded-… is believed; nobody's by default\n"

const accessEnvironment = "  ACCESS_LOG         a line per request: off (default), combined or json\n" +
	"  ACCESS_LOG_SAMPLE  the share of requests in it, by default 1; answers from 500 on always are\n" +
	"  ACCESS_LOG_FILE    where it goes, by default - for stdout; USR1 opens a file anew\n" +
	"  APP_TRACE_FROM     whose traceparent and X-Request-ID are taken: anyone (default) or proxies (APP_TRUSTED_PROXIES)\n"

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "answer HTTP requests",
		UsageText: "app serve [--addr HOST:PORT] [--trusted-proxies LIST]",
		Description: "Under the supervisor the sockets are inherited, and --addr has no effect.\n\n" +
			"Environment:\n" +
			"  APP_DEBUG=1        drills under /debug/: sleep, job, hang, panic, alloc, stream, echo\n" +
			accessEnvironment +
			"  APP_ADMIN_TOKEN    who sends Authorization: Bearer with it, or logs in at /admin/jobs, is the operator; at least 16 characters, by default nobody is\n" + proxyEnvironment + environment,
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
	go background.WatchRedis()
	return serveWith(config, background, addr, log)
}

// serveWith serves until the worker is told to stop.
func serveWith(config app.Config, background *app.Tasks, addr string, log *zap.Logger) error {
	this := worker.Join()
	facts := factsOf(this)
	log.Info("serving", zap.String("worker", facts.ID), zap.Int("pid", os.Getpid()), zap.Int("generation", facts.Generation),
		zap.Bool("supervised", this.Supervised()), zap.String("addr", addrOf(this, addr)), zap.Bool("debug", config.Debug), zap.Bool("tasks", config.Tasks),
		zap.Bool("database", background.HasDatabase()))
	access, err := config.OpenAccessLog(facts, log)
	if err != nil {
		return &failure{exitConfig, err}
	}
	defer access.Close(flushTime)
	this.OnReopen(access.Reopen)
	if err := fast.Serve(app.NewServer(config, facts, background, access, log), addr); err != nil {
		return bindFailure(err)
	}
	log.Info("stopped", zap.String("worker", facts.ID))
	return nil
}

// flushTime is what the last lines of the access log have at the end, when nobody reads them.
const flushTime = time.Second

// factsOf is what the application needs to know of its worker.
func factsOf(this *worker.Worker) app.Worker {
	facts := app.Standalone()
	facts.Pools = this.Pools()
	facts.Connections, facts.Draining = this.Connections, this.Draining
	facts.Label, facts.Overdue = this.Label, fast.Overdue
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
