// Package app is the application that ships with the supervisor: a fasthttp service that turns photographs into thumbnails,
// at once or as background jobs. It is meant to be read, and to be the start of yours.
//
// A request goes server.go → routes.go → the handler of its file → an answer, or an error that errors.go turns into one.
// Where to change what:
//
//	config.go     what the environment may say
//	server.go     the fasthttp server: every limit on size and time
//	request.go    what names a request, and what is told of it at its end
//	httpmeter.go  the metrics of requests, on the scoreboard; enqueuemeter.go of jobs that are stored, databasemeter.go of the database's connections
//	routes.go     which path leads to which handler, and what the front page says about it
//	admin.go      what only the operator may do, who bears a token
//	decode.go     JSON of clients, read strictly
//	operations.go what each route takes and answers, as /openapi.json says it (openapi.go, components.go)
//	schema.go     the few words of JSON Schema that are used here
//	errors.go     the one shape of an error answer; panics
//	health.go     is this worker well, and is it ready
//	images.go     POST /images: the upload and the answer
//	tasks.go      background work: EnqueueTask, GetTaskStatus, CancelTask; nil when it is off
//	kinds.go      which jobs there are, and which of them clients may ask for
//	posttask.go   POST /tasks: a job by its name
//	mail.go       mail over SMTP as a job: MAIL_…, to whom, what to make of a server's answer
//	webhook.go    signed webhooks as a job: where to, what to make of a receiver's answer
//	contacts.go   contacts between CSV and PostgreSQL: POST /imports; importtable.go rows in, exporttable.go the job "export"
//	report.go     a CSV of what was imported, on a schedule and by mail
//	imagetask.go  a thumbnail as a job: accepted here, made by a runner
//	taskroutes.go /tasks/{id}: status, result, cancel
//	jobs.go       jobs as operators see them: on the command line, over HTTP, on the jobs page
//	jobspage.go   /admin/jobs, rendered from admin/; jobpage.go one job, jobsactions.go what is changed there, login.go session.go who may
//	jobroutes.go  lists of jobs, retries, queues and pauses, with the operator's token
//	store.go      where uploads and results lie meanwhile, and how many bytes of uploads may: store_redis.go, store_postgres.go
//	redis.go      the store's Redis: its URL, a connection that may not be there yet, errors
//	database.go   Postgres: its URL, the pool; budget.go whether its connections are enough for all processes
//	clientkeys.go what the Idempotency-Keys of clients stand for
//	forwarded.go  whose X-Forwarded-… is believed
//	memory.go     a Redis in this process, for development
//	thumbnail.go  bytes in, thumbnail out
//	exif.go       which way up a photograph is
//	jpeg.go       what a JPEG will cost, read before it is decoded
//	queue.go      how many images are worked on at once
//	page.go       the front page
//	debug.go      drills that hang, panic and eat memory, with APP_DEBUG=1
//	log.go        the operator's log; the access log is package accesslog
//
// The package knows nothing about the supervisor but the few facts in Worker. It builds wherever Go does.
package app
