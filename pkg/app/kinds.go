package app

import (
	"context"
	"encoding/json"

	"supervisor/pkg/tasks"
)

// kind is one sort of job. A runner's mux, what POST /tasks takes, and what /openapi.json says of it are made of the same table.
type kind struct {
	name  string
	about string
	// Of those that are open to clients by name; the others have an endpoint of their own.
	read    func(json.RawMessage) (arguments, error)
	options []tasks.Option // what a client may say comes after these
	schema  schema         // of the arguments

	upload   bool // what it works on lies in the store
	stored   bool // its result does
	operator bool // its result is for the operator only

	handle func(*tasks.Mux)
}

// arguments are what a client gave for a job.
type arguments interface {
	// check says what is wrong with them, with the field in it, or why this client may not ask for it.
	check(t *Tasks, byAdmin bool) error
}

func (k *kind) open() bool { return k.read != nil }

// closed is a kind that only the application itself enqueues.
func closed[A any](name string, do func(context.Context, A) ([]byte, error)) kind {
	return kind{name: name, handle: func(mux *tasks.Mux) { tasks.Kind[A](name).Handle(mux, do) }}
}

// opened is a kind that clients may ask for.
func opened[A arguments](name, about string, args schema, do func(context.Context, A) ([]byte, error), options ...tasks.Option) kind {
	k := closed(name, do)
	k.about, k.schema, k.options = about, args, options
	k.read = func(raw json.RawMessage) (arguments, error) {
		var args A
		err := decodeStrictly(raw, "args", &args)
		return args, err
	}
	return k
}

// inStore says that the result lies in the store, not with the job.
func (k kind) inStore() kind {
	k.stored = true
	return k
}

// onUpload says that what the job works on lies in the store, not with the job.
func (k kind) onUpload() kind {
	k.upload = true
	return k
}

// forOperator says that only the operator may read the result.
func (k kind) forOperator() kind {
	k.operator = true
	return k
}

// kinds is the table.
func (t *Tasks) kinds() []kind {
	list := []kind{
		closed(thumbnailTask, t.thumbnail).onUpload().inStore(),
		opened(mailTask, "Sends a mail (SMTP_URL).", mailSchema, t.mail, mailOptions...),
		opened(webhookTask, "Sends JSON to a URL, signed (WEBHOOK_SECRET).", webhookSchema, t.webhook, webhookOptions...),
		closed(importTask, t.importTable).onUpload(),
		opened(exportTask, "Makes a CSV of all contacts: for the operator.", object(nil), t.exportTable, transferOptions...).inStore().forOperator(),
		opened(reportTask, "Makes a CSV of what was imported: for the operator.", object(nil), t.makeReport, transferOptions...).inStore().forOperator(),
	}
	if t.debug {
		list = append(list, opened(drillTask, "Takes ms milliseconds.", drillSchema, drill))
	}
	return list
}

// kindOf gives the kind of that name; of another version's it knows nothing.
func (t *Tasks) kindOf(name string) kind {
	for _, k := range t.kinds() {
		if k.name == name {
			return k
		}
	}
	return kind{}
}

// Handlers gives what a runner of this application can do, by name.
func (t *Tasks) Handlers() *tasks.Mux {
	mux := tasks.NewMux()
	for _, k := range t.kinds() {
		k.handle(mux)
	}
	return mux
}
