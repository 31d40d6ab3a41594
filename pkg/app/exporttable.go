package app

import (
	"bytes"
	"context"
	"errors"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// Tables as CSV.

// noArgs are those of a job that needs none, and that only the operator may ask for.
type noArgs struct{}

func (noArgs) check(t *Tasks, byAdmin bool) error {
	switch {
	case t.pool == nil:
		return databaseOff()
	case !byAdmin:
		return newProblem(fasthttp.StatusForbidden, "operators_only", "only the operator may ask for this: send the token of APP_ADMIN_TOKEN")
	}
	return nil
}

// exportTable is the handler of the job "export".
func (t *Tasks) exportTable(ctx context.Context, _ noArgs) ([]byte, error) {
	table, err := t.copyOut(ctx, "select "+escaped("email")+", "+escaped("name")+", "+escaped("company")+", imported from contacts order by contacts.email")
	if err == nil {
		err = t.store.saveResult(ctx, tasks.FromContext(ctx).ID, &product{contentType: csvType, body: table})
	}
	if err != nil {
		return nil, transferError(err)
	}
	return nil, nil
}

const csvType = "text/csv"

// formulas are what makes a spreadsheet take a cell for a formula, if it begins with one: it may send the table to a stranger or start a
// program, and whose contact it is has written it. Such a cell gets an apostrophe before it, and so does one that has some before it already;
// an import takes one away (cellOf), so that what was exported is the same when it comes back.
const formulas = "=+@\t\r-"

func escaped(column string) string {
	return "regexp_replace(" + column + `, '^''*[=+@\t\r-]', '''\&') as ` + column
}

// copyOut gives what a statement selects, as CSV.
func (t *Tasks) copyOut(ctx context.Context, statement string) ([]byte, error) {
	if t.pool == nil {
		return nil, databaseOff()
	}
	conn, err := t.pool.Acquire(ctx)
	if err != nil {
		return nil, tasks.PostgresFault(err)
	}
	defer conn.Release()
	table := &boundedBuffer{limit: maxTableBytes}
	if _, err := conn.Conn().PgConn().CopyTo(ctx, table, "copy ("+statement+") to stdout with (format csv, header)"); err != nil {
		if table.full {
			return nil, newProblem(fasthttp.StatusUnprocessableEntity, "too_large", "the table has more than %d MiB as CSV", maxTableBytes>>20)
		}
		return nil, tasks.PostgresFault(err)
	}
	return table.Bytes(), nil
}

// boundedBuffer refuses what is more than its limit.
type boundedBuffer struct {
	bytes.Buffer
	limit int
	full  bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		b.full = true
		return 0, errors.New("too large")
	}
	return b.Buffer.Write(p)
}
