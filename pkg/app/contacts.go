package app

import (
	"embed"
	"errors"
	"io/fs"
	"mime"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/internal/migrate"
	"supervisor/pkg/tasks"
)

// Contacts travel between CSV and PostgreSQL: POST /imports stores an upload, a runner copies it into the table in one transaction; the job
// "export" copies the table into a result.

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations makes the application's own tables.
var Migrations = migrate.Set{Name: "app", Table: "app_migrations", Files: migrationsOf(migrationFiles)}

func migrationsOf(files embed.FS) fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return sub
}

const (
	importTask    = "import"
	exportTask    = "export"
	transferTime  = 10 * time.Minute // of one attempt
	maxCell       = 200              // characters
	errorsShown   = 5                // of the rows that are wrong
	maxTableBytes = maxUploadBytes   // of a CSV, in and out
)

// columns of an import, which its first line names in any order. email is required.
var columns = []string{"email", "name", "company"}

var transferOptions = []tasks.Option{tasks.Timeout(transferTime), tasks.MaxAttempts(5)}

func databaseOff() *problem {
	return newProblem(fasthttp.StatusServiceUnavailable, "database_off", "there is no database here: set DATABASE_URL, as in postgres://user:password@host:5432/database, and run app migrate")
}

// postImport takes a CSV: 202 as soon as it and its job are stored.
func (a *app) postImport(ctx *fasthttp.RequestCtx) error {
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if a.tasks == nil {
		return a.tasksOff()
	}
	if a.tasks.pool == nil {
		return databaseOff()
	}
	if kind, _, _ := mime.ParseMediaType(string(ctx.Request.Header.ContentType())); kind != "text/csv" {
		return newProblem(fasthttp.StatusUnsupportedMediaType, "not_csv", "Content-Type is %q: want text/csv (curl -H 'Content-Type: text/csv' --data-binary @contacts.csv)", kind)
	}
	upload := ctx.PostBody()
	if len(upload) > maxTableBytes {
		return newProblem(fasthttp.StatusRequestEntityTooLarge, "too_large", "an import may have at most %d bytes (%d MiB): send it in parts", maxTableBytes, maxTableBytes>>20)
	}
	if _, _, err := openTable(upload); err != nil {
		return err
	}
	limit, cancel := askingTime(ctx)
	defer cancel()
	id, err := a.tasks.enqueueUpload(limit, importTask, struct{}{}, upload, transferOptions...)
	if err != nil {
		return a.taskProblem(id, err)
	}
	accepted(ctx, id)
	return nil
}

// transferError says what the queue is to make of an error, and what its client may read.
func transferError(err error) error {
	var p *problem
	if errors.As(err, &p) { // the CSV's own fault, now and next time
		return &taskError{p, tasks.ErrSkipRetry}
	}
	if errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull) {
		return &taskError{newProblem(0, "store_unavailable", "Redis or PostgreSQL was away or full when the job ran, it will be tried again"), err}
	}
	return err
}
