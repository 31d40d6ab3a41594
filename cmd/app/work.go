package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"supervisor/pkg/app"
	"supervisor/pkg/tasks"
	"supervisor/pkg/worker"
)

// redisPatience is how long a starting runner holds back its READY=1 for a Redis that does not answer.
const redisPatience = 3 * time.Second

func workCommand() *cli.Command {
	return &cli.Command{
		Name:      "work",
		Usage:     "do background jobs",
		UsageText: "app work [--queues NAMES] [--concurrency N] [--grace DURATION]",
		Description: "A pool of its own under the supervisor, without addresses. A stop takes at most the pool's graceful_timeout, by hand\n" +
			"at most --grace: jobs may finish for all but the last 9 s of it (almost half of it, if it is less than 18 s), the rest go\n" +
			"back to the front of their queue.\n\n" +
			"Environment:\n" +
			"  APP_DEBUG=1        does the jobs of /debug/job\n" + environment,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "queues", Value: "default", Usage: "serve these queues: `NAMES` with commas between them"},
			&cli.IntFlag{Name: "concurrency", Usage: "run up to `N` jobs at once; 0: twice the cores of this process"},
			&cli.DurationFlag{Name: "grace", Value: worker.StopTimeout, Usage: "`DURATION` that a stop may take without a supervisor; under one the pool's graceful_timeout counts"},
		},
		Action: func(c *cli.Context) error {
			options := tasks.RunnerOptions{Queues: strings.Split(c.String("queues"), ","), Concurrency: c.Int("concurrency")}
			switch {
			case options.Concurrency < 0:
				return usage("--concurrency %d: want 0 or more", options.Concurrency)
			case options.Concurrency == 0:
				options.Concurrency = 2 * runtime.GOMAXPROCS(0)
			}
			grace := c.Duration("grace")
			if grace <= 0 {
				return usage("--grace %s: want more than 0s", grace)
			}
			worker.Join().StopWithin(grace)
			return work(options)
		},
	}
}

func work(options tasks.RunnerOptions) error {
	config, log, err := setUp()
	if err != nil {
		return err
	}
	defer log.Sync()
	switch {
	case config.Broker == "":
		return &failure{exitConfig, errors.New("background tasks are off: a runner needs REDIS_URL or TASK_BROKER_URL, as in redis://127.0.0.1:6379")}
	case !config.Tasks:
		return &failure{exitConfig, errors.New("ENABLE_BACKGROUND_TASKS=false: a runner has nothing to do then")}
	}
	background, err := openTasks(config, log)
	if err != nil {
		return err
	}
	defer background.Close()
	this := worker.Join()
	if _, err := newRunner(this, background, options); err != nil { // a bad queue is bad usage, and no reason to say READY=1
		return usage("%w", err)
	}
	if err := awaitRedis(this, background, log); err != nil {
		return &failure{exitConfig, err}
	}
	return workWith(this, background, options, log)
}

// workWith runs jobs until the worker is told to stop.
func workWith(this *worker.Worker, background *app.Tasks, options tasks.RunnerOptions, log *zap.Logger) error {
	log.Info("working", zap.String("worker", factsOf(this).ID), zap.Int("pid", os.Getpid()), zap.Strings("queues", options.Queues),
		zap.Int("concurrency", options.Concurrency), zap.Bool("database", background.HasDatabase()))
	options.Meter = newMeter(this.Label, options.Concurrency)
	err := worker.RunReady(func(ctx context.Context) error {
		runner, err := newRunner(this, background, options) // each time anew: it runs once, and a drain may be taken back
		if err != nil {
			return err
		}
		ctx, fail := context.WithCancelCause(ctx)
		defer fail(nil)
		go background.KeepTidy(ctx)
		go reportReady(ctx, fail, this, background, runner, log)
		if this.ID().Slot == 0 {
			go reportQueues(ctx, this.Label, background.Inspector(), options.Queues)
		}
		err = runner.Run(ctx)
		if cause := context.Cause(ctx); errors.Is(cause, tasks.ErrDeaf) {
			err = errors.Join(cause, err)
		}
		n := runner.Counts()
		log.Info("runner stopped", zap.Int64("done", n.Done), zap.Int64("retried", n.Retried), zap.Int64("dead", n.Dead),
			zap.Int64("cancelled", n.Cancelled), zap.Int64("expired", n.Expired), zap.Int64("requeued", n.Requeued), zap.Int64("postponed", n.Postponed), zap.Error(err))
		return err
	})
	return err
}

func newRunner(this *worker.Worker, background *app.Tasks, options tasks.RunnerOptions) (*tasks.Runner, error) {
	mux := background.Handlers()
	options.Schedule = background.Schedule()
	mux.Use(counting(this))
	options.StopBy = func() time.Time {
		if by := this.Deadline(); !by.IsZero() {
			return by.Add(-lastBreath(time.Until(by)))
		}
		return time.Time{}
	}
	return background.NewRunner(mux, options)
}

// lastBreath is what a process may need on a busy machine between its runner's end and its own, of the time that a stop has.
func lastBreath(all time.Duration) time.Duration { return min(all/10, time.Second) }

// counting shows each job on the scoreboard, where the pool's max_requests counts them.
func counting(this *worker.Worker) tasks.Middleware {
	return func(next tasks.Handler) tasks.Handler {
		return func(ctx context.Context, job *tasks.Job) (result []byte, err error) {
			end := this.Job()
			failed := true // also by a panic
			defer func() { end(failed) }()
			result, err = next(ctx, job)
			failed = err != nil
			return result, err
		}
	}
}

// claimPatience is how long a starting runner may be without a completed claim while Redis answers: then it fails, and a reload with it.
const claimPatience = 10 * time.Second

// reportReady says READY=1 when a first claim has come through, and from then on whether claims do. While Redis is away a runner is ready
// without: see awaitRedis.
func reportReady(ctx context.Context, fail context.CancelCauseFunc, this *worker.Worker, background *app.Tasks, runner *tasks.Runner, log *zap.Logger) {
	up, began, said := this.Label("job_runner_up"), time.Now(), false
	defer up.Set(0)
	was := false
	for pause := 50 * time.Millisecond; ; {
		is := runner.Ready()
		if is != was {
			was = is
			if is {
				up.Set(1)
				this.Status("claims jobs")
			} else {
				up.Set(0)
				this.Status("cannot claim jobs")
			}
		}
		switch {
		case said:
		case is:
			said, pause = true, time.Second
			this.Ready()
		case this.Uptime() > redisPatience && background.Check(ctx) != nil:
			said, pause = true, time.Second
			log.Warn("no claim has come through: this runner is ready, and works as soon as redis does")
			this.Ready()
		case time.Since(began) > claimPatience:
			fail(fmt.Errorf("%w: not one claim within %s", tasks.ErrDeaf, claimPatience))
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// awaitRedis holds back the runner, and READY=1, until Redis answers, but not for long. A runner that waits for ever would make the supervisor give up
// at boot, and fail every reload while Redis is away, also the one that repairs it; a runner that works nowhere harms nobody, and
// begins by itself when Redis is back. What Redis refuses for good (a wrong password) is an error: then a reload fails, and the old
// runners stay.
func awaitRedis(this *worker.Worker, background *app.Tasks, log *zap.Logger) error {
	deadline := time.Now().Add(redisPatience)
	for tries := 0; ; tries++ {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err := background.Check(ctx)
		cancel()
		switch {
		case err == nil:
			return nil
		case app.IsRefusal(err):
			return fmt.Errorf("redis or postgres refuses this runner, see REDIS_URL, TASK_BROKER_URL and DATABASE_URL: %w", err)
		case !time.Now().Before(deadline):
			log.Warn("redis, or postgres, does not answer: this runner is ready, and works as soon as it does", zap.Error(err))
			return nil
		case tries == 0:
			log.Warn("redis, or postgres, does not answer: trying again", zap.Duration("for", redisPatience), zap.Error(err))
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-this.Done(): // told to stop already
			return nil
		}
	}
}
