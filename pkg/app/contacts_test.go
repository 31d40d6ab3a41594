package app

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"supervisor/internal/pgtest"
	"supervisor/pkg/tasks"
)

// TestMain ends what tests share.
func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.End()
	os.Exit(code)
}

// archive is a desk with a PostgreSQL.
type archive struct {
	*desk
	server *pgtest.Server // nil: it is shared with others
}

// serveContacts has a database of its own, serveContactsAlone a server that the test may stop.
func serveContacts(t *testing.T, more ...string) *archive {
	t.Helper()
	return &archive{desk: serveDatabase(t, pgtest.Database(t), more...)}
}

func serveContactsAlone(t *testing.T, more ...string) *archive {
	t.Helper()
	server := pgtest.RunT(t)
	return &archive{serveDatabase(t, server.URL(), more...), server}
}

func serveDatabase(t *testing.T, url string, more ...string) *desk {
	t.Helper()
	pool := migrated(t, url)
	if _, err := tasks.Migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	d := serveTasks(t, append([]string{"DATABASE_URL", url, "APP_ADMIN_TOKEN", testToken}, more...)...)
	d.pool = pool
	return d
}

func (a *archive) send(table string) answer {
	a.t.Helper()
	return a.do("POST", "/imports", "text/csv", []byte(table), bearer(testToken)...)
}

// imports sends a table, and gives the id of its job.
func (a *archive) imports(table string) string {
	a.t.Helper()
	got := a.send(table)
	if got.status != 202 {
		a.t.Fatalf("%d %s", got.status, got.body)
	}
	return got.json()["id"].(string)
}

func (a *archive) result(id string) answer {
	a.t.Helper()
	return a.get("/tasks/"+id+"/result", bearer(testToken)...)
}

func (a *archive) count() (n int) {
	a.t.Helper()
	if err := a.pool.QueryRow(context.Background(), `select count(*) from contacts`).Scan(&n); err != nil {
		a.t.Fatal(err)
	}
	return n
}

func TestContactsGoInAndOut(t *testing.T) {
	t.Parallel()
	a := serveContacts(t)
	a.work()
	many := &strings.Builder{}
	many.WriteString("\xef\xbb\xbfName,EMAIL\r\n") // as a spreadsheet writes it
	for i := range 5000 {
		fmt.Fprintf(many, "\"Nr. %d, \"\"the\"\" one\",c%d@example.org\r\n", i, i)
	}
	id := a.imports(many.String())
	a.await(id, "done")
	if got := a.result(id).json(); got["rows"] != 5000.0 || got["inserted"] != 5000.0 || got["updated"] != 0.0 {
		t.Errorf("%v", got)
	}
	id = a.imports("email,name,company\nC7@example.org,Ada,Lovelace & Co\nnew@example.org,,\n")
	a.await(id, "done")
	if got := a.result(id).json(); got["rows"] != 2.0 || got["inserted"] != 1.0 || got["updated"] != 1.0 || a.count() != 5001 {
		t.Errorf("%v", got)
	}
	if uploads := a.uploads(); len(uploads) > 0 {
		t.Errorf("uploads stay: %v", uploads)
	}

	id = a.ordered(`{"name": "export", "args": {}}`, bearer(testToken)...)
	a.await(id, "done")
	a.get("/tasks/"+id+"/result").fails(401, "unauthorized") // whoever guesses the id
	got := a.result(id)
	lines := strings.Split(strings.TrimSpace(string(got.body)), "\n")
	if got.header.Get("Content-Type") != "text/csv" || len(lines) != 5002 || lines[0] != "email,name,company,imported" {
		t.Fatalf("%v, %d lines, the first %q", got.header, len(lines), lines[0])
	}
	if !strings.Contains(string(got.body), "\nc7@example.org,Ada,Lovelace & Co,20") || !strings.Contains(string(got.body), "\nc8@example.org,\"Nr. 8, \"\"the\"\" one\",\"\",20") {
		t.Errorf("%.300s", got.body)
	}
}

// What an export gives no spreadsheet takes for a formula, and an import of it changes nothing.
func TestExportIsNoProgramAndCanBeImported(t *testing.T) {
	t.Parallel()
	a := serveContacts(t)
	a.work()
	cells := []string{
		"=1+1", "+49 30 1", "-", "@SUM(1)", "'=1", "''=1", "'", "''", "'t Hooft", "O'Brien", "=\"a\"", "a=1", "Ada, \"Countess\"", "ä", "", "=HYPERLINK(\"http://x\",A1)",
	}
	var table bytes.Buffer
	w := csv.NewWriter(&table)
	_ = w.Write([]string{"email", "name", "company"})
	for i, cell := range cells { // as a stranger writes it: some apostrophes are part of the name
		_ = w.Write([]string{fmt.Sprintf("=%d@example.org", i), cell, "-" + cell})
	}
	w.Flush()
	a.await(a.imports(table.String()), "done")
	rows := func() (all string) {
		t.Helper()
		if err := a.pool.QueryRow(t.Context(), `select json_agg(c order by email)::text from (select email, name, company from contacts) c`).Scan(&all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := rows()
	id := a.ordered(`{"name": "export", "args": {}}`, bearer(testToken)...)
	a.await(id, "done")
	file := a.result(id).body
	records, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	if err != nil || len(records) != len(cells)+1 {
		t.Fatalf("%d rows, %v", len(records), err)
	}
	for _, record := range records {
		for _, cell := range record {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
				t.Errorf("%q is a formula", cell)
			}
		}
	}
	if _, err := a.pool.Exec(t.Context(), `truncate contacts`); err != nil {
		t.Fatal(err)
	}
	a.await(a.imports(string(file)), "done")
	if after := rows(); after != before {
		t.Errorf("was %s\nis  %s", before, after)
	}
}

func TestImportIsAllOrNothingAndNamesTheLines(t *testing.T) {
	t.Parallel()
	a := serveContacts(t)
	a.work()
	id := a.imports("email,name\na@example.org,A\nnot an address,B\n\"c@example.org\",\"two\nlines\"\nA@example.org,again\nd@example.org\ne@example.org," + strings.Repeat("e", maxCell+1) + "\nx\n")
	failure, _ := a.await(id, "dead")["error"].(map[string]any)
	message, _ := failure["message"].(string)
	for _, want := range []string{"wrong rows: 6", "line 3: ", "line 4: a cell", "line 6: a@example.org stands in line 2 already", "line 7: wrong number of fields", "line 8: a cell", "1 more"} {
		if failure["code"] != "bad_rows" || !strings.Contains(message, want) {
			t.Errorf("%v lacks %q", failure, want)
		}
	}
	if a.count() != 0 || len(a.uploads()) != 1 {
		t.Errorf("%d contacts, uploads %v", a.count(), a.uploads())
	}
	for table, code := range map[string]string{"": "not_csv", "name\nA\n": "bad_columns", "email,phone\n": "bad_columns", "email,email\n": "bad_columns", "\"email\n": "not_csv"} {
		a.send(table).fails(422, code)
	}
	a.do("POST", "/imports", "text/plain", []byte("email\n"), bearer(testToken)...).fails(415, "not_csv")
	a.do("POST", "/imports", "text/csv", []byte("email\n")).fails(401, "unauthorized")
	a.order(`{"name": "export", "args": {}}`).fails(403, "operators_only")
	a.order(`{"name": "import", "args": {}}`, bearer(testToken)...).refusesField(400, "bad_field", "name")
	noDatabase := serveTasks(t, "APP_ADMIN_TOKEN", testToken)
	noDatabase.do("POST", "/imports", "text/csv", []byte("email\n"), bearer(testToken)...).fails(503, "database_off", "DATABASE_URL")
	noDatabase.order(`{"name": "report", "args": {}}`, bearer(testToken)...).fails(503, "database_off")
}

// The job runs again after its transaction, as if its runner had been killed before it could tell: nothing happens twice, and its result is the
// first one's, whether the upload is still there or not.
func TestImportHappensOnceHoweverOftenItsJobRuns(t *testing.T) {
	a := serveContacts(t)
	for _, kept := range []bool{true, false} {
		table := fmt.Sprintf("email\nonce-%t@example.org\n", kept)
		id := a.imports(table)
		var results []string
		mux := tasks.NewMux()
		kind := tasks.Kind[struct{}](importTask)
		kind.Handle(mux, func(ctx context.Context, args struct{}) ([]byte, error) {
			result, err := a.tasks.importTable(ctx, args)
			results = append(results, string(result))
			if err != nil || len(results) > 1 {
				return result, err
			}
			if kept {
				if err := a.tasks.store.saveUpload(ctx, id, []byte(table)); err != nil {
					return nil, err
				}
			}
			return nil, tasks.Again(nil, time.Millisecond) // nobody hears that it is done
		})
		stop := a.workWith(mux)
		a.await(id, "done")
		stop()
		if len(results) != 2 || results[0] != results[1] || results[0] != `{"rows":1,"inserted":1,"updated":0}` {
			t.Errorf("%q", results)
		}
	}
	if a.count() != 2 {
		t.Errorf("%d contacts", a.count())
	}
}

func TestImportWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	a := serveContactsAlone(t, "TASK_ARCHIVE", "0")
	id := a.imports("email\nlate@example.org\n")
	a.server.Stop()
	a.send("email\nlater@example.org\n").fails(503, "store_unavailable", "PostgreSQL")
	a.work()
	status := a.await(id, "retrying")
	if failure, _ := status["error"].(map[string]any); failure["code"] != "store_unavailable" || status["postponed"] != 1.0 {
		t.Errorf("%v", status)
	}
	if err := a.server.Start(); err != nil {
		t.Fatal(err)
	}
	a.pool.Reset() // the test's own connections were to the server before
	if status := a.await(id, "done"); status["attempt"] != 1.0 || a.count() != 1 {
		t.Errorf("%v", status)
	}
}

func TestReportIsMadeByTheClockAndMailed(t *testing.T) {
	t.Parallel()
	office := openPostOffice(t, false)
	a := serveContacts(t, "REPORT_SCHEDULE", "@every 1s", "REPORT_TO", "boss@example.org",
		"SMTP_URL", fmt.Sprintf("smtp://127.0.0.1:%d?starttls=off", office.port), "MAIL_FROM", "app@example.org")
	a.work()
	id := a.imports("email\na@example.org\nb@example.org\n")
	a.await(id, "done")
	line := time.Now().UTC().Format(time.DateOnly) + ",1,2,2"
	for deadline := time.Now().Add(30 * time.Second); ; {
		mail := office.next()
		if mail.To[0] != "boss@example.org" || !strings.Contains(mail.Data, "day,imports,rows,new_contacts") {
			t.Fatalf("%+v", mail)
		}
		if strings.Contains(mail.Data, line) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no report has %q: %s", line, mail.Data)
		}
	}
	id = a.ordered(`{"name": "report", "args": {}, "key": "by-hand"}`, bearer(testToken)...)
	a.await(id, "done")
	if got := a.result(id); string(got.body) != "day,imports,rows,new_contacts\n"+line+"\n" {
		t.Errorf("%s", got.body)
	}
	if mails := a.get("/tasks/default.0.mail-of-key:by-hand"); mails.status != 200 {
		t.Errorf("its mail is %s", mails.body)
	}
}

func TestReportSettingsAreChecked(t *testing.T) {
	for _, c := range [][]string{
		{"REPORT_TO", "nobody", "REPORT_TO"},
		{"REPORT_TO", "a@example.org", "SMTP_URL"},
		{"REPORT_SCHEDULE", "@daily", "DATABASE_URL"},
	} {
		if _, err := ConfigFromEnv(env(c[0], c[1])); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte("email,name\na@example.org,A\n"))
	f.Add([]byte("\xef\xbb\xbfcompany,email\r\n\"x\"\"\",a@b\r\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		contacts, err := readTable(table)
		var p *problem
		if err != nil && !errors.As(err, &p) {
			t.Fatalf("%v", err)
		}
		for _, c := range contacts {
			for _, cell := range c {
				if s := cell.(string); !oneLine(s) || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
					t.Fatalf("%q", c)
				}
			}
		}
	})
}
