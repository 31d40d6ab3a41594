package tasks

import (
	"embed"
	"io/fs"

	"supervisor/internal/migrate"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations makes the tables that Postgres needs, in the first schema of the connection's search_path.
var Migrations = migrate.Set{Name: "jobs", Table: "tasks_migrations", Files: must(fs.Sub(migrationFiles, "migrations"))}

func must(files fs.FS, err error) fs.FS {
	if err != nil {
		panic(err) // the files are part of the program
	}
	return files
}
