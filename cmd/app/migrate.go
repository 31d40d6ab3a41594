package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v2"

	"supervisor/internal/migrate"
	"supervisor/pkg/app"
	"supervisor/pkg/tasks"
)

// migrateTime is what the server has to answer; a migration itself may take longer.
const migrateTime = 10 * time.Second

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:      "migrate",
		Usage:     "bring the tables in DATABASE_URL up to this program",
		UsageText: "app migrate [--status]",
		Description: "Applies what is missing, each migration in a transaction, and says what. Again, or several at once: they do no harm, one\n" +
			"works and the others wait. As hooks of the first pool: before_start and before_reload = [\"app\", \"migrate\"]; a failure refuses the\n" +
			"start or the reload.\n" +
			"Connect to the server itself, not through a PgBouncer in transaction mode: the lock belongs to a session.\n\n" +
			"Environment:\n" + strings.TrimSuffix(logEnvironment+databaseEnvironment, "\n"),
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "status", Usage: "only say what was applied when, what is missing, and how many connections there are"},
		},
		Action: func(c *cli.Context) error { return migrateDatabase(c.Context, c.Bool("status"), c.App.Writer) },
	}
}

// migrations are those of all parts, in this order.
var migrations = []migrate.Set{tasks.Migrations, app.Migrations}

func migrateDatabase(ctx context.Context, onlyStatus bool, out io.Writer) error {
	config, err := app.ConfigFromEnv(os.Getenv)
	if err != nil {
		return &failure{exitConfig, err}
	}
	pool, err := app.OpenDatabase(config)
	if err != nil {
		return &failure{exitConfig, err}
	}
	defer pool.Close()
	ping, cancel := context.WithTimeout(ctx, migrateTime)
	defer cancel()
	if err := pool.Ping(ping); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	if onlyStatus {
		return migrationStatus(ctx, config, pool, out)
	}
	applied := 0
	for _, set := range migrations {
		steps, err := set.Up(ctx, pool)
		for _, s := range steps {
			fmt.Fprintf(out, "%s: %s applied in %s\n", s.Set, s.File, s.Took.Round(time.Millisecond))
		}
		if err != nil {
			return err
		}
		applied += len(steps)
	}
	if applied == 0 {
		fmt.Fprintln(out, "nothing to do: the tables are up to date")
	}
	return nil
}

func migrationStatus(ctx context.Context, config app.Config, pool *pgxpool.Pool, out io.Writer) error {
	for _, set := range migrations {
		steps, err := set.Status(ctx, pool)
		if err != nil {
			return err
		}
		for _, s := range steps {
			state := "missing"
			if !s.Applied.IsZero() {
				state = "applied " + s.Applied.UTC().Format(time.DateTime)
			}
			fmt.Fprintf(out, "%s: %s %s\n", s.Set, s.File, state)
		}
	}
	budget, err := app.BudgetOf(ctx, config, app.Standalone(), pool)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "connections: max_connections %d − %d reserved = %d\n", budget.Max, budget.Reserved, budget.Have())
	return nil
}
