package supervisor

import (
	"github.com/prometheus/client_golang/prometheus"

	"supervisor/pkg/scoreboard"
)

// family is all series of one name on /metrics.
type family struct {
	name   string
	kind   kind
	help   string // the unit, and what it means
	labels []string
	desc   *prometheus.Desc // nil: a worker's, which has labels of its own
}

// kind is what a family is.
type kind string

const (
	kindCounter   kind = "counter"
	kindGauge     kind = "gauge"
	kindHistogram kind = "histogram"
)

// The families that the supervisor makes, in the order of docs/metrics.md. Those of HTTP are made of the workers' scoreboards.
var (
	families []*family

	requests = define(kindCounter, "http_requests_total",
		`Requests that were answered; by method and route where the workers say so, else status is "ok" or "5xx".`, "service", "pool", "status")
	requestDuration = define(kindHistogram, "http_request_duration_seconds",
		"Seconds from the begin to the end of a request's handler.", "service", "pool")
	requestsInFlight = define(kindGauge, "http_requests_in_flight", "Requests whose handlers run now.", "service", "pool")
	requestBytes     = define(kindCounter, "http_request_bytes_total", "Bytes that were read from clients.", "service", "pool")
	responseBytes    = define(kindCounter, "http_response_bytes_total", "Bytes that were written to clients.", "service", "pool")
	requestsTimedOut = define(kindCounter, "http_requests_timed_out_total",
		"Requests that were ended because the pool's timeout was over.", "service", "pool")

	connections         = define(kindGauge, "backend_connections_active", "Client connections that are open now, by worker.", "service", "pool", "worker")
	connectionsAccepted = define(kindCounter, "backend_connections_total", "Client connections that were accepted.", "service", "pool")
	connectionsMoved    = define(kindCounter, "backend_connections_moved_total",
		"Client connections that a worker gave to another one when it was replaced; the client notices nothing.", "service", "pool")
	connectionsCut = define(kindCounter, "backend_connections_cut_total",
		"Client connections that were cut because a worker's time to leave was over.", "service", "pool")
	workerLinesLost = define(kindCounter, "backend_log_lines_lost_total", "Lines of output that a worker could not get rid of.", "service", "pool")

	buildInfo  = define(kindGauge, "supervisor_build_info", "Always 1: what this supervisor was built from.", "version", "goversion", "revision")
	generation = define(kindGauge, "supervisor_generation", "Number of the generation in force: reloads and self-upgrades count it up from 1.")
	isReady    = define(kindGauge, "supervisor_ready", "1 when /health/ready says so: each pool serves. Else 0.")
	isDraining = define(kindGauge, "supervisor_draining", "1 when the supervisor was told to stop, else 0.")
	degraded   = define(kindGauge, "supervisor_degraded",
		"How many things are not as they should be: crash loops, replacements that fail, a rollback that is not complete.")
	startedAt = define(kindGauge, "supervisor_start_time_seconds", "Unix time at which this service started; a self-upgrade does not change it.")

	workersByState = define(kindGauge, "supervisor_workers", "Worker processes, by state; backoff: slots that wait for their next try; drained: slots that were emptied by hand.", "pool", "state")
	workersDesired = define(kindGauge, "supervisor_workers_desired", "Workers that the pool should have.", "pool")
	workerRestarts = define(kindCounter, "supervisor_worker_restarts_total", "Workers that are gone, by the reason why.", "pool", "reason")
	workerUptime   = define(kindGauge, "supervisor_worker_uptime_seconds", "Seconds since the worker process was started.", "pool", "worker")
	workerCPU      = define(kindCounter, "supervisor_worker_cpu_seconds_total", "Seconds of CPU time that the worker process has used.", "pool", "worker")
	workerMemory   = define(kindGauge, "supervisor_worker_memory_bytes", "Resident memory of the worker process in bytes.", "pool", "worker")
	workerPSS      = define(kindGauge, "supervisor_worker_memory_pss_bytes",
		"Resident memory in bytes, where a page that n processes share counts for 1/n; some seconds old, since it is dear to measure.", "pool", "worker")
	workerFDs  = define(kindGauge, "supervisor_worker_open_fds", "Descriptors that the worker process has open.", "pool", "worker")
	workerBeat = define(kindGauge, "supervisor_worker_heartbeat_age_seconds", "Seconds since the worker's last sign of life.", "pool", "worker")
	workerBoot = define(kindHistogram, "supervisor_worker_boot_seconds",
		"Seconds from the start of a worker process until it was ready.", "pool")
	workerDrain = define(kindHistogram, "supervisor_worker_drain_seconds",
		"Seconds from the word to leave until the worker process was gone.", "pool")
	seriesDropped = define(kindCounter, "supervisor_worker_series_dropped_total",
		"Values that workers named and that are not shown: what is no name for Prometheus, or not theirs to give, or found no room.", "pool")

	reloads           = define(kindCounter, "supervisor_reloads_total", "Reloads, by how they ended; refused: nothing was begun.", "result")
	reloadDuration    = define(kindHistogram, "supervisor_reload_duration_seconds", "Seconds from the begin of a reload to its end, whatever it was.")
	lastReloadSuccess = define(kindGauge, "supervisor_last_reload_success", "1 when the last reload came to its end, or there was none; else 0.")
	upgrades          = define(kindCounter, "supervisor_upgrades_total", "Self-upgrades, by how they ended; refused: nothing was begun.", "result")

	queueLength = define(kindGauge, "supervisor_listen_queue_length",
		"Client connections that wait in the kernel to be accepted, over all slots of an address.", "pool", "listener")
	queueLimit = define(kindGauge, "supervisor_listen_queue_limit",
		"Client connections that may wait there; beyond that the kernel turns them away.", "pool", "listener")
	linesLost = define(kindCounter, "supervisor_log_lines_lost_total", "Lines of the logs that found no room: our own, and those of workers that their file did not take.")
)

func define(k kind, name, help string, labels ...string) *family {
	f := &family{name: name, kind: k, help: help, labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
	families = append(families, f)
	return f
}

// Upper bounds in seconds, without +Inf.
var (
	latencyBounds  = boundsOf(scoreboard.Buckets-1, func(i int) float64 { return scoreboard.BucketBound(i).Seconds() })
	durationLimits = boundsOf(len(durationBounds), func(i int) float64 { return durationBounds[i].Seconds() })
)

func boundsOf(n int, bound func(int) float64) []float64 {
	bounds := make([]float64, n)
	for i := range bounds {
		bounds[i] = bound(i)
	}
	return bounds
}

// workerFamilies are what our own programs name. What another program names is shown, too, without words about it.
var workerFamilies = []*family{
	{name: requests.name, kind: kindCounter, help: requests.help, labels: []string{"service", "pool", "method", "route", "status"}},
	{name: requestDuration.name, kind: kindHistogram, help: requestDuration.help, labels: []string{"service", "pool", "method", "route"}},
	ofWorkers(kindCounter, "access_log_lost_total", "Lines of the application's access log that found no room."),
	ofWorkers(kindCounter, "jobs_enqueued_total", "Jobs that were enqueued.", "queue", "task"),
	ofWorkers(kindCounter, "jobs_claimed_total", "Jobs that a runner has taken from a queue.", "queue"),
	ofWorkers(kindCounter, "jobs_processed_total",
		"Claims of jobs that have ended: succeeded, failed (for good), retried, postponed, requeued, cancelled or expired.", "queue", "task", "status"),
	ofWorkers(kindCounter, "jobs_crashed_total", "Jobs that were taken from a runner that died.", "queue"),
	ofWorkers(kindHistogram, "jobs_duration_seconds", "Seconds that a job's handler took.", "queue", "task"),
	ofWorkers(kindHistogram, "jobs_start_latency_seconds", "Seconds from the enqueue of a job until its handler began.", "queue"),
	ofWorkers(kindHistogram, "jobs_done_latency_seconds", "Seconds from the enqueue of a job until it had succeeded.", "queue"),
	ofWorkers(kindGauge, "jobs_slots", "Jobs that this runner may run at once.", "worker"),
	ofWorkers(kindGauge, "jobs_in_progress", "Jobs that run now, by runner.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_queue_length", "Jobs that wait to be run; take the max, not the sum: it is the queue's.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_queue_latency_seconds", "Seconds that the oldest job waits already; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_running", "Jobs that any runner runs now; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_scheduled", "Jobs that wait for their time; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_dead", "Jobs that have failed for good and are kept to be looked at; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_paused", "1 when the queue is paused, else 0; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_runners", "Runners that are alive, of all machines; take the max.", "worker", "queue"),
	ofWorkers(kindGauge, "jobs_broker_up", "1 when Redis answered the runner that looks at the queues, else 0; take the max.", "worker"),
	ofWorkers(kindGauge, "job_runner_up", "1 when this runner's claims come through, else 0.", "worker"),
	ofWorkers(kindGauge, "db_pool_connections", "Connections of this process to the database, by state.", "worker", "state"),
	ofWorkers(kindGauge, "db_pool_max_connections", "Connections to the database that this process may have.", "worker"),
	ofWorkers(kindHistogram, "db_pool_acquire_duration_seconds", "Seconds that were waited for a connection to the database."),
	ofWorkers(kindCounter, "db_pool_acquire_timeouts_total", "Waits for a connection to the database that were given up."),
	ofWorkers(kindGauge, "db_server_max_connections", "Connections that the database server takes from everybody; take the max.", "worker"),
}

func ofWorkers(k kind, name, help string, labels ...string) *family {
	return &family{name: name, kind: k, help: help, labels: append([]string{"service", "pool"}, labels...)}
}

// helpOf gives the words about a family that workers name.
func helpOf(name string) string {
	for _, f := range workerFamilies {
		if f.name == name {
			return f.help
		}
	}
	return "Named by the pool's workers: see their program."
}
