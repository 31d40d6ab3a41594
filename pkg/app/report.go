package app

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"
	"time"

	"supervisor/pkg/tasks"
)

// The report: what was imported on each of the last 31 days, as CSV. On a schedule (REPORT_SCHEDULE), or asked for by the operator as the
// job "report"; its result is the job's, and is mailed to REPORT_TO if that is set.

const (
	reportTask = "report"
	mailOf     = "mail-of-" // begins the key of a report's mail
)

const reportStatement = `select imported::date as day, count(*) as imports, sum(rows) as rows, sum(inserted) as new_contacts
	from contacts_imports where imported > now() - interval '31 days' group by 1 order by 1`

// Report is what the environment says of it.
type Report struct {
	Schedule string // REPORT_SCHEDULE, as cron has it; "": only when asked for
	To       string // REPORT_TO: addresses, with commas
}

func parseReport(getenv func(string) string) (Report, error) {
	r := Report{getenv("REPORT_SCHEDULE"), getenv("REPORT_TO")}
	for _, to := range words(r.To) {
		if address, err := netmail.ParseAddress(to); err != nil || address.Address != to {
			return r, fmt.Errorf("REPORT_TO: %q is not a mail address: want ada@example.org, more with commas", to)
		}
	}
	if r.To != "" && getenv("SMTP_URL") == "" {
		return r, errors.New("REPORT_TO is set, but nothing sends mail: set SMTP_URL and MAIL_FROM")
	}
	if r.Schedule != "" && getenv("DATABASE_URL") == "" {
		return r, errors.New("REPORT_SCHEDULE is set, but there is no database to report on: set DATABASE_URL")
	}
	return r, nil
}

// makeReport is the handler.
func (t *Tasks) makeReport(ctx context.Context, _ noArgs) ([]byte, error) {
	table, err := t.copyOut(ctx, reportStatement)
	if err != nil {
		return nil, transferError(err)
	}
	job := tasks.FromContext(ctx)
	if to := words(t.report.To); len(to) > 0 {
		// A job of its own, with a key made of this one's: a report that runs twice is mailed once.
		_, key, _ := strings.Cut(job.ID, ".")
		_, key, _ = strings.Cut(key, ".")
		mail := mailArgs{To: to, Subject: "Imports until " + job.Enqueued.UTC().Format(time.DateOnly), Text: string(table)}
		options := append([]tasks.Option{tasks.Key(mailOf + key), tasks.Keep(recordTTL)}, mailOptions...)
		if _, err := t.EnqueueTask(ctx, mailTask, mail, options...); err != nil {
			return nil, err
		}
	}
	if err := t.store.saveResult(ctx, job.ID, &product{contentType: csvType, body: table}); err != nil {
		return nil, transferError(err)
	}
	return nil, nil
}

// Schedule gives what a runner enqueues by the clock.
func (t *Tasks) Schedule() []tasks.Periodic {
	if t.report.Schedule == "" {
		return nil
	}
	task := tasks.Task{Name: reportTask, Payload: []byte("{}"), Options: append([]tasks.Option{tasks.Keep(recordTTL)}, transferOptions...)}
	return []tasks.Periodic{{Name: reportTask, Spec: t.report.Schedule, Task: task}}
}
