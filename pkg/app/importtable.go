package app

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// What an import does with a CSV: its rows are looked at, all of them, then copied in one transaction.

// cellOf gives what a cell of a CSV says: without the apostrophe that an export put before what looks like a formula.
func cellOf(cell string) string {
	cell = strings.TrimSpace(cell)
	if rest := strings.TrimLeft(cell, "'"); len(rest) < len(cell) && rest != "" && strings.IndexByte(formulas, rest[0]) >= 0 {
		cell = cell[1:]
	}
	return strings.TrimSpace(cell)
}

// exported is the column of an export that an import passes over.
const exported = "imported"

// openTable reads a CSV's first line: order[i] is which of the columns stands at place i, -1 for none of them.
func openTable(table []byte) (rows *csv.Reader, order []int, err error) {
	rows = csv.NewReader(bytes.NewReader(bytes.TrimPrefix(table, []byte("\xef\xbb\xbf"))))
	rows.ReuseRecord = true
	head, err := rows.Read()
	if err != nil {
		return nil, nil, newProblem(fasthttp.StatusUnprocessableEntity, "not_csv", "the first line cannot be read as CSV: want the names of its columns, as in email,name,company")
	}
	for _, name := range head {
		name = strings.ToLower(strings.TrimSpace(name))
		i := slices.Index(columns, name)
		if i < 0 && name != exported || slices.Contains(order, i) {
			return nil, nil, newProblem(fasthttp.StatusUnprocessableEntity, "bad_columns", "the first line names %.100q: want each of %q at most once", name, columns)
		}
		order = append(order, i)
	}
	if !slices.Contains(order, 0) {
		return nil, nil, newProblem(fasthttp.StatusUnprocessableEntity, "bad_columns", "the first line does not name email: want email, and any of %q", columns[1:])
	}
	return rows, order, nil
}

// readTable reads all of a CSV. What is wrong with its rows is one problem that names the lines.
func readTable(table []byte) (contacts [][]any, err error) {
	rows, order, err := openTable(table)
	if err != nil {
		return nil, err
	}
	var wrong []string
	count := 0
	refuse := func(line int, why string) {
		if count++; count <= errorsShown {
			wrong = append(wrong, fmt.Sprintf("line %d: %s", line, why))
		}
	}
	lines := map[string]int{} // of an address
	for {
		cells, err := rows.Read()
		if err == io.EOF {
			break
		}
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			refuse(broken.Line, broken.Err.Error())
			if !errors.Is(err, csv.ErrFieldCount) {
				break // where the next row begins is anybody's guess
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		line, _ := rows.FieldPos(0)
		contact := []any{"", "", ""}
		for i, cell := range cells {
			if order[i] >= 0 {
				contact[order[i]] = cellOf(cell)
			}
		}
		email := strings.ToLower(contact[0].(string))
		contact[0] = email
		address, bad := netmail.ParseAddress(email)
		switch {
		case bad != nil || address.Address != email || len(email) > maxAddress:
			refuse(line, fmt.Sprintf("%.60q is not a mail address", email))
		case lines[email] > 0:
			refuse(line, fmt.Sprintf("%s stands in line %d already", email, lines[email]))
		case slices.ContainsFunc(contact, func(v any) bool {
			s := v.(string)
			return !utf8.ValidString(s) || !oneLine(s) || utf8.RuneCountInString(s) > maxCell && s != email
		}):
			refuse(line, fmt.Sprintf("a cell has more than %d characters, a line's end, or is not UTF-8", maxCell))
		default:
			lines[email] = line
			contacts = append(contacts, contact)
		}
	}
	if count > 0 {
		more := ""
		if count > len(wrong) {
			more = fmt.Sprintf("; and %d more", count-len(wrong))
		}
		return nil, newProblem(fasthttp.StatusUnprocessableEntity, "bad_rows", "nothing was imported, wrong rows: %d: %s%s", count, strings.Join(wrong, "; "), more)
	}
	return contacts, nil
}

// imported is the result of an import.
type imported struct {
	Rows     int `json:"rows"`
	Inserted int `json:"inserted"`
	Updated  int `json:"updated"`
}

// importTable is the handler: all rows or none, and once, however often it runs.
func (t *Tasks) importTable(ctx context.Context, _ struct{}) (_ []byte, err error) {
	job := tasks.FromContext(ctx)
	err = errors.New("the handler panicked")
	defer func() {
		if err == nil {
			t.store.dropUpload(ctx, job.ID)
		} else {
			t.endUpload(ctx, job, err)
		}
	}()
	done, err := t.copyIn(ctx, job)
	if err != nil {
		err = transferError(err)
		return nil, err
	}
	result, err := json.Marshal(done)
	return result, err
}

func (t *Tasks) copyIn(ctx context.Context, job *tasks.Job) (done imported, err error) {
	if t.pool == nil { // who took the upload had one
		return done, elsewhere()
	}
	upload, err := t.store.upload(ctx, job.ID)
	if errors.Is(err, errNotStored) { // a run that committed and then was killed has deleted it
		done, err = importOf(ctx, t.pool, job.ID)
		if errors.Is(err, pgx.ErrNoRows) {
			return done, newProblem(fasthttp.StatusGone, "upload_expired", "the CSV is not there any more, it is kept for %s: send it again", hours(uploadTTL))
		}
		return done, tasks.PostgresFault(err)
	}
	if err != nil {
		return done, err
	}
	job.Progress(5, "reading")
	contacts, err := readTable(upload)
	if err != nil {
		return done, err
	}
	err = pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error {
		first, err := tasks.Once(ctx, tx, job, importTask)
		if err != nil {
			return err
		}
		if !first {
			done, err = importOf(ctx, tx, job.ID)
			return err
		}
		if _, err := tx.Exec(ctx, `create temporary table incoming (email text, name text, company text) on commit drop`); err != nil {
			return err
		}
		copied := 0
		source := pgx.CopyFromFunc(func() ([]any, error) {
			if copied == len(contacts) {
				return nil, nil
			}
			copied++
			if copied%1000 == 0 {
				job.Progress(10+70*copied/len(contacts), fmt.Sprintf("%d of %d rows", copied, len(contacts)))
			}
			return contacts[copied-1], nil
		})
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"incoming"}, columns, source); err != nil {
			return err
		}
		job.Progress(85, "merging")
		// In order: two imports with the same addresses wait for each other, not each for the other. xmax tells a row that was there
		// from one that is new.
		err = tx.QueryRow(ctx, `with merged as (
			insert into contacts (email, name, company) select email, name, company from incoming order by email
			on conflict (email) do update set name = excluded.name, company = excluded.company, imported = excluded.imported
			returning xmax = 0 as fresh)
			select count(*), count(*) filter (where fresh) from merged`).Scan(&done.Rows, &done.Inserted)
		if err != nil {
			return err
		}
		done.Updated = done.Rows - done.Inserted
		_, err = tx.Exec(ctx, `insert into contacts_imports (job, rows, inserted) values ($1, $2, $3)`, job.ID, done.Rows, done.Inserted)
		return err
	})
	return done, tasks.PostgresFault(err)
}

// importOf is what a job's import did when it was committed.
func importOf(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, job string) (done imported, err error) {
	err = db.QueryRow(ctx, `select rows, inserted, rows - inserted from contacts_imports where job = $1`, job).Scan(&done.Rows, &done.Inserted, &done.Updated)
	return done, err
}
