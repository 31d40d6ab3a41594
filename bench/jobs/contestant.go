package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/hibiken/asynq"

	"supervisor/pkg/tasks"
)

// contestant is one library, with settings, and what was measured of it.
type contestant struct {
	name        string
	latencyOnly bool          // it differs from another one only when idle
	period      time.Duration // between the polls of an idle runner; 0: it is woken
	lanes       int           // pairs of producer and runner that take the latency with one runner side by side, each with a queue of its own

	dial func(socket string) (*producer, error)
	// work starts one runner, connected like a process of its own.
	work func(socket, queue string, concurrency int, handle func(payload []byte)) (stop func() error, err error)
	// ended is the Redis command whose answer is the number of jobs that ended well.
	ended func(queue string) string
	// verify compares the library's own books with the number of jobs.
	verify func(ctx context.Context, socket string, queues []string, jobs int) error

	drained                []float64 // jobs/s, lately
	lone, loneCrowd        series
	latency1, latencyCrowd []time.Duration
	idle1, idleCrowd       cost
}

// producer enqueues.
type producer struct {
	enqueue func(ctx context.Context, queue string, payload []byte) error
	batch   func(ctx context.Context, queue string, payloads [][]byte) error // nil: the library has none
	status  func(ctx context.Context, queue, id string) error
	page    func(ctx context.Context, queue string) ([]string, error) // the ids of the first 50 that wait
	close   func()
}

// alone gives the contestant a new server, and a producer that is connected to it.
func (c *contestant) alone(dir string, keeps persistence) (server *redisServer, p *producer, end func(), err error) {
	if server, err = startRedis(dir, keeps); err != nil {
		return nil, nil, nil, err
	}
	if p, err = c.dial(server.socket); err != nil {
		server.stop()
		return nil, nil, nil, err
	}
	return server, p, func() { p.close(); server.stop() }, nil
}

const jobName = "bench"

// result is what a handler leaves if results are kept.
var result = []byte("0123456789abcdef")

func contestants() []*contestant {
	lanes := 1
	if *samples >= 50 {
		lanes = 50
	}
	asynqs := func(c contestant) *contestant {
		c.dial, c.ended, c.verify = asynqDial, asynqEnded, asynqVerify
		c.work = func(socket, queue string, concurrency int, handle func([]byte)) (func() error, error) {
			return asynqWork(socket, queue, concurrency, c.period, handle)
		}
		return &c
	}
	return []*contestant{
		{name: "tasks", lanes: 1, dial: tasksDial, work: tasksWork, ended: tasksEnded, verify: tasksVerify},
		asynqs(contestant{name: "asynq", lanes: lanes, period: time.Second}), // its default
		asynqs(contestant{name: "asynq, TaskCheckInterval 10 ms", lanes: 1, period: 10 * time.Millisecond, latencyOnly: true}),
	}
}

// pkg/tasks

func tasksDial(socket string) (*producer, error) {
	client, err := tasks.Connect("unix://"+socket, tasks.Options{})
	if err != nil {
		return nil, err
	}
	return &producer{
		enqueue: func(ctx context.Context, queue string, payload []byte) error {
			_, err := client.Enqueue(ctx, jobName, payload, tasks.Queue(queue), tasks.Keep(*keep))
			return err
		},
		batch: func(ctx context.Context, queue string, payloads [][]byte) error {
			batch := make([]tasks.Task, len(payloads))
			for i, payload := range payloads {
				batch[i] = tasks.Task{Name: jobName, Payload: payload, Options: []tasks.Option{tasks.Queue(queue), tasks.Keep(*keep)}}
			}
			_, err := client.EnqueueBatch(ctx, batch)
			return err
		},
		status: func(ctx context.Context, _, id string) error {
			_, err := client.Status(ctx, id)
			return err
		},
		page: func(ctx context.Context, queue string) (ids []string, err error) {
			page, err := client.Inspector().Jobs(ctx, tasks.Filter{Queue: queue, State: tasks.Pending, Limit: pageSize})
			for _, job := range page.Jobs {
				ids = append(ids, job.ID)
			}
			return ids, err
		},
		close: client.Close,
	}, nil
}

func tasksWork(socket, queue string, concurrency int, handle func([]byte)) (func() error, error) {
	client, err := tasks.Connect("unix://"+socket, tasks.Options{})
	if err != nil {
		return nil, err
	}
	mux := tasks.NewMux()
	mux.Handle(jobName, func(_ context.Context, job *tasks.Job) ([]byte, error) {
		handle(job.Payload)
		if *keep > 0 {
			return result, nil
		}
		return nil, nil
	})
	runner, err := tasks.NewRunner(client, mux, tasks.RunnerOptions{Queues: []string{queue}, Concurrency: concurrency})
	if err != nil {
		client.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	return func() error {
		cancel()
		defer client.Close()
		return <-ended
	}, nil
}

func tasksEnded(queue string) string { return "HGET {tasks:" + queue + ":0}:stat done" }

func tasksVerify(ctx context.Context, socket string, queues []string, jobs int) error {
	client, err := tasks.Connect("unix://"+socket, tasks.Options{})
	if err != nil {
		return err
	}
	defer client.Close()
	books, err := tasks.Verify(ctx, client, queues...)
	if err != nil {
		return err
	}
	if !books.Rest() || books.Accepted != int64(jobs) || books.Done != int64(jobs) || len(books.Problems) > 0 {
		return fmt.Errorf("books of %d jobs: %+v", jobs, books)
	}
	return nil
}

// asynq

func asynqRedis(socket string) asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Network: "unix", Addr: socket, PoolSize: *pool}
}

func asynqDial(socket string) (*producer, error) {
	client, inspector := asynq.NewClient(asynqRedis(socket)), asynq.NewInspector(asynqRedis(socket))
	return &producer{
		enqueue: func(ctx context.Context, queue string, payload []byte) error {
			options := []asynq.Option{asynq.Queue(queue)}
			if *keep > 0 {
				options = append(options, asynq.Retention(*keep))
			}
			_, err := client.EnqueueContext(ctx, asynq.NewTask(jobName, payload), options...)
			return err
		},
		status: func(_ context.Context, queue, id string) error {
			_, err := inspector.GetTaskInfo(queue, id)
			return err
		},
		page: func(_ context.Context, queue string) (ids []string, err error) {
			jobs, err := inspector.ListPendingTasks(queue, asynq.PageSize(pageSize))
			for _, job := range jobs {
				ids = append(ids, job.ID)
			}
			return ids, err
		},
		close: func() {
			client.Close()
			inspector.Close()
		},
	}, nil
}

func asynqWork(socket, queue string, concurrency int, check time.Duration, handle func([]byte)) (func() error, error) {
	server := asynq.NewServer(asynqRedis(socket), asynq.Config{
		Concurrency:       concurrency,
		Queues:            map[string]int{queue: 1},
		TaskCheckInterval: check,
		Logger:            silent{log.New(io.Discard, "", 0)},
		LogLevel:          asynq.FatalLevel,
	})
	mux := asynq.NewServeMux()
	mux.HandleFunc(jobName, func(_ context.Context, task *asynq.Task) error {
		handle(task.Payload())
		if *keep > 0 {
			_, err := task.ResultWriter().Write(result)
			return err
		}
		return nil
	})
	if err := server.Start(mux); err != nil {
		return nil, err
	}
	return func() error {
		server.Shutdown()
		return nil
	}, nil
}

func asynqEnded(queue string) string { return "GET asynq:{" + queue + "}:processed" }

func asynqVerify(_ context.Context, socket string, queues []string, jobs int) error {
	inspector := asynq.NewInspector(asynqRedis(socket))
	defer inspector.Close()
	left, done, processed, failed := 0, 0, 0, 0
	for _, queue := range queues {
		q, err := inspector.GetQueueInfo(queue)
		if err != nil {
			return err
		}
		left += q.Size - q.Completed
		done += q.Completed
		processed += q.ProcessedTotal
		failed += q.FailedTotal
	}
	if left != 0 || processed != jobs || failed != 0 || (*keep > 0 && done != jobs) {
		return fmt.Errorf("books of %d jobs: %d left, %d processed, %d completed, %d failed", jobs, left, processed, done, failed)
	}
	return nil
}

// silent is asynq's Logger; it prints at every start and stop.
type silent struct{ *log.Logger }

func (s silent) Debug(...any)      {}
func (s silent) Info(...any)       {}
func (s silent) Warn(...any)       {}
func (s silent) Error(...any)      {}
func (s silent) Fatal(args ...any) { panic(errors.New(fmt.Sprint(args...))) }
