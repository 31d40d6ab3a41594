// Command cmd runs a load test from a terminal. See scripts/load-test.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"supervisor/internal/loadtest"
)

const usage = `usage: load-test [flags] TARGET [flags]

TARGET is http://127.0.0.1:PORT/PATH or unix:/path, on this machine only. The default path is /debug/echo, which the
application answers with APP_DEBUG=1. For any other path: -check status -get.
Exit code: 0 if no request failed and no kept-alive connection was closed, 1 if one was, 64 for bad usage.

`

func main() {
	flags := flag.NewFlagSet("load-test", flag.ContinueOnError)
	var plan loadtest.Plan
	flags.IntVar(&plan.Mix.KeepAlive, "keep-alive", 50, "clients that send the next request right after the answer")
	flags.IntVar(&plan.Mix.Paused, "paused", 50, "clients that keep the connection and pause")
	flags.IntVar(&plan.Mix.OneShot, "one-shot", 20, "clients with one connection per request")
	flags.IntVar(&plan.Mix.Pipelined, "pipelined", 10, "clients that send four requests at once")
	flags.IntVar(&plan.Mix.Standard, "standard", 5, "clients of Go's net/http")
	flags.DurationVar(&plan.Duration, "duration", 10*time.Second, "how long, at most 1h")
	flags.Int64Var(&plan.Requests, "requests", 0, "stop after so many requests")
	flags.DurationVar(&plan.Timeout, "timeout", 10*time.Second, "of one request")
	flags.BoolVar(&plan.GetOnly, "get", false, "send no POST")
	flags.StringVar(&plan.WorkerHeader, "worker-header", "X-Worker", "answer header that names the worker")
	check := flags.String("check", "echo", "echo: compare nonce and body; status: only the status and the framing")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}

	// Flags may stand before and behind the target.
	err := flags.Parse(os.Args[1:])
	if err == nil && flags.NArg() > 0 {
		plan.Target = flags.Arg(0)
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case err == flag.ErrHelp:
		return
	case err != nil:
		os.Exit(64)
	case plan.Target == "" || flags.NArg() > 0:
		flags.Usage()
		os.Exit(64)
	}
	switch *check {
	case "echo":
	case "status":
		plan.Check = loadtest.CheckStatus
	default:
		fmt.Fprintf(os.Stderr, "load-test: -check %q: echo or status\n", *check)
		os.Exit(64)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	result, err := loadtest.Run(ctx, plan)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(64)
	}
	fmt.Print(result)
	if result.Err() != nil {
		os.Exit(1)
	}
}
