// Package app is the application that ships with the supervisor: a fasthttp service that turns photographs into thumbnails,
// at once or as background jobs. It is meant to be read, and to be the start of yours.
//
// A request goes server.go → routes.go → the handler of its file → an answer, or an error that errors.go turns into one.
// Where to change what:
//
//	config.go     what the environment may say
//	server.go     the fasthttp server: every limit on size and time
//	routes.go     which path leads to which handler, and what the front page says about it
//	errors.go     the one shape of an error answer; panics
//	health.go     is this worker well, and is it ready
//	images.go     POST /images: the upload and the answer
//	tasks.go      background work: EnqueueTask, GetTaskStatus, CancelTask; nil when it is off
//	imagetask.go  a thumbnail as a job: accepted here, made by a runner
//	taskroutes.go /tasks/{id}: status, result, cancel
//	store.go      where uploads and results lie meanwhile, and how many bytes of uploads may
//	redis.go      the store's Redis: its URL, a connection that may not be there yet, errors
//	memory.go     a Redis in this process, for development
//	thumbnail.go  bytes in, thumbnail out
//	exif.go       which way up a photograph is
//	jpeg.go       what a JPEG will cost, read before it is decoded
//	queue.go      how many images are worked on at once
//	page.go       the front page
//	debug.go      drills that hang, panic and eat memory, with APP_DEBUG=1
//	log.go        the operator's log and the access log
//
// The package knows nothing about the supervisor but the few facts in Worker. It builds wherever Go does.
package app
