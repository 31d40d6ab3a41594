package worker_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"supervisor/pkg/worker"
)

func ExampleServe() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	log.Fatal(worker.Serve(&http.Server{Handler: mux}, ":8080"))
}

func ExampleRun() {
	err := worker.Run(func(ctx context.Context) error {
		for ctx.Err() == nil {
			time.Sleep(time.Second) // one job
		}
		return nil // nothing new was begun
	})
	log.Fatal(err)
}

func ExampleNoDeadline() {
	http.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
		worker.NoDeadline(r.Context()) // its first byte comes after minutes
		time.Sleep(time.Minute)
		fmt.Fprintln(w, "the report")
	})
}

func ExampleWorker_Label() {
	uploads := worker.Join().Label("uploads_total")
	http.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) { uploads.Add(1) })
}
