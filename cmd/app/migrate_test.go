package main

import (
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"supervisor/internal/pgtest"
)

func TestMigrate(t *testing.T) {
	server := pgtest.RunT(t)
	t.Setenv("DATABASE_URL", server.URL())
	if code, stdout, stderr := runApp("migrate", "--status"); code != exitOK || !strings.Contains(stdout, "00001_jobs.sql missing") || !strings.Contains(stdout, "100 − 3 reserved = 97") {
		t.Fatalf("status before: exit %d\n%s%s", code, stdout, stderr)
	}
	// As when two machines are deployed at once.
	var wg sync.WaitGroup
	var outs [3]string
	for i := range outs {
		wg.Go(func() {
			var out strings.Builder
			if err := migrateDatabase(t.Context(), false, &out); err != nil {
				t.Error(err)
			}
			outs[i] = out.String()
		})
	}
	wg.Wait()
	if all := strings.Join(outs[:], ""); strings.Count(all, "00001_jobs.sql applied") != 1 || strings.Count(all, "nothing to do") != 2 {
		t.Errorf("three at once:\n%s", all)
	}
	if code, stdout, _ := runApp("migrate", "--status"); code != exitOK || !strings.Contains(stdout, "00001_jobs.sql applied 2") {
		t.Errorf("status after: exit %d\n%s", code, stdout)
	}
	server.Stop()
	if code, _, stderr := runApp("migrate"); code != exitFailed || !strings.Contains(stderr, "the database does not answer") {
		t.Errorf("without a server: exit %d, %s", code, stderr)
	}
}

func TestMigrateWithoutADatabaseExits78(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	if code, _, stderr := runApp("migrate"); code != exitConfig || !strings.Contains(stderr, "DATABASE_URL is not set") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	t.Setenv("DATABASE_URL", "postgres://u:s3cret@h:port/d")
	if code, _, stderr := runApp("migrate"); code != exitConfig || !strings.Contains(stderr, "DATABASE_URL") || strings.Contains(stderr, "s3cret") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestTooSmallABudgetExits78(t *testing.T) {
	t.Setenv("REDIS_URL", "redis://127.0.0.1:1")
	t.Setenv("DATABASE_URL", "postgres://h/d")
	t.Setenv("POSTGRES_MAX_CONNECTIONS", "10")
	for _, command := range []string{"serve", "work", "dev"} {
		if code, _, stderr := runApp(command); code != exitConfig || !strings.Contains(stderr, "need 9 = 1 process × 5") {
			t.Errorf("%s: exit %d, %s", command, code, stderr)
		}
	}
}

func TestWorkRefusesADatabaseWithoutTables(t *testing.T) {
	t.Setenv("REDIS_URL", "redis://"+miniredis.RunT(t).Addr())
	t.Setenv("DATABASE_URL", pgtest.Database(t))
	if code, _, stderr := runApp("work"); code != exitConfig || !strings.Contains(stderr, "run app migrate") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
