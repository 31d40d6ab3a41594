package observe

// infrastructure is what the processes do with the machine.
func infrastructure() dashboard {
	const (
		pool  = `{instance=~"$instance",pool=~"$pool"}`
		boot  = "rate(supervisor_worker_boot_seconds_bucket" + pool + "[$__rate_interval])"
		drain = "rate(supervisor_worker_drain_seconds_bucket" + pool + "[$__rate_interval])"
	)
	noDatabase := "where no worker uses PostgreSQL"
	return dashboard{
		file: "infrastructure", title: "Infrastructure",
		about: "Workers, what they use of the machine, what changed, and their connections to the database.",
		variables: []variable{
			{"service", "http_requests_total"}, {"instance", "supervisor_build_info"}, {"pool", "supervisor_workers_desired"},
		},
		rows: []row{
			{"Workers", 8, []panel{
				{title: "Workers by state", about: "All processes. While a reload runs there are old ones that drain beside the new ones; `backoff` is a slot whose worker died young, `drained` one that was emptied by hand.", kind: series, unit: "short", width: 8, stacked: true,
					queries: []query{{"sum by (state) (supervisor_workers" + pool + ")", "{{state}}"}}},
				{title: "Ready and desired", about: "Workers that serve, and how many there should be, by pool.", kind: series, unit: "short", width: 8, queries: []query{
					{`sum by (instance, pool) (supervisor_workers{instance=~"$instance",pool=~"$pool",state="ready"})`, "{{instance}} {{pool}} ready"},
					{"sum by (instance, pool) (supervisor_workers_desired" + pool + ")", "{{instance}} {{pool}} desired"},
				}},
				{title: "Workers that left, by reason", about: "crash, exit, oom, timeout, heartbeat, boot_timeout are faults; the others were asked for.", kind: series, unit: "short", width: 8,
					queries: []query{{"sum by (pool, reason) (increase(supervisor_worker_restarts_total" + pool + "[$__rate_interval]))", "{{pool}} {{reason}}"}}},
				{title: "Age of workers", about: "Seconds since each was started: a saw where a limit recycles them.", kind: series, unit: "s", width: 8,
					queries: []query{{"supervisor_worker_uptime_seconds" + pool, "{{instance}} {{worker}}"}}},
				{title: "Last sign of life", about: "Age of each worker's heartbeat. The worker is killed when it reaches `heartbeat_timeout`.", kind: series, unit: "s", width: 8,
					queries: []query{{"supervisor_worker_heartbeat_age_seconds" + pool, "{{instance}} {{worker}}"}}},
				{title: "Boot and drain, p95", about: "How long workers take until they are ready, and to leave. Both bound how long a reload takes.", kind: series, unit: "s", width: 8,
					empty: "while no worker comes or goes",
					queries: []query{
						{"histogram_quantile(0.95, sum by (pool, le) (" + boot + ")) > 0", "{{pool}} boot"},
						{"histogram_quantile(0.95, sum by (pool, le) (" + drain + ")) > 0", "{{pool}} drain"},
					}},
			}},
			{"What workers use", 8, []panel{
				{title: "CPU by worker", about: "Cores: 100 % is one core.", kind: series, unit: "percentunit", width: 8, stacked: true,
					queries: []query{{"rate(supervisor_worker_cpu_seconds_total" + pool + "[$__rate_interval])", "{{instance}} {{worker}}"}}},
				{title: "Memory by worker", about: "Resident memory, shared pages included; `max_memory` looks at it.", kind: series, unit: "bytes", width: 8,
					queries: []query{{"supervisor_worker_memory_bytes" + pool, "{{instance}} {{worker}}"}}},
				{title: "Memory of pools", about: "Proportional memory: pages that processes share count once in all, so that this is what the pool costs the machine.", kind: series, unit: "bytes", width: 8, stacked: true,
					queries: []query{{"sum by (instance, pool) (supervisor_worker_memory_pss_bytes" + pool + ")", "{{instance}} {{pool}}"}}},
				{title: "Descriptors by worker", about: "Open files and connections of each worker; its limit is `rlimit_nofile`.", kind: series, unit: "short", width: 8,
					queries: []query{{"supervisor_worker_open_fds" + pool, "{{instance}} {{worker}}"}}},
				{title: "Waiting to be accepted", about: "How full the queue of each listener is. The alert ListenQueueFilling looks at it: above half for a minute.", kind: series, unit: "percentunit", width: 8,
					queries: []query{{"max by (instance, pool, listener) (supervisor_listen_queue_length" + pool + " / supervisor_listen_queue_limit" + pool + ")", "{{instance}} {{listener}}"}}},
				{title: "Lost", about: "Log lines that nobody took, and metrics of workers that could not be understood.", kind: series, unit: "cps", width: 8, queries: []query{
					{"sum by (instance) (rate(supervisor_log_lines_lost_total" + instance + "[$__rate_interval]))", "{{instance}} log lines"},
					{"sum by (instance) (rate(backend_log_lines_lost_total" + pool + "[$__rate_interval]))", "{{instance}} log lines of workers"},
					{"sum by (instance) (rate(access_log_lost_total" + pool + "[$__rate_interval]))", "{{instance}} lines of the access log"},
					{"sum by (instance) (rate(supervisor_worker_series_dropped_total" + instance + "[$__rate_interval]))", "{{instance}} metrics"},
				}},
			}},
			{"What the supervisor uses", 8, []panel{
				{title: "CPU", about: "Of the supervisor itself, in cores: a fraction of a percent.", kind: series, unit: "percentunit", width: 6,
					queries: []query{{`rate(process_cpu_seconds_total{job="backend",instance=~"$instance"}[$__rate_interval])`, "{{instance}}"}}},
				{title: "Memory", about: "Resident memory of the supervisor itself.", kind: series, unit: "bytes", width: 6,
					queries: []query{{`process_resident_memory_bytes{job="backend",instance=~"$instance"}`, "{{instance}}"}}},
				{title: "Goroutines", about: "Of the supervisor. They follow the number of workers; steady growth is a leak.", kind: series, unit: "short", width: 6,
					queries: []query{{`go_goroutines{job="backend",instance=~"$instance"}`, "{{instance}}"}}},
				{title: "GC pause", about: "The longest pause of the supervisor's garbage collector among its last ones.", kind: series, unit: "s", width: 6,
					queries: []query{{`go_gc_duration_seconds{job="backend",instance=~"$instance",quantile=~"1|1.0"}`, "{{instance}}"}}},
				{title: "Descriptors", about: "Open descriptors of the supervisor: listeners, and a handful for each worker.", kind: series, unit: "short", width: 6,
					queries: []query{{`process_open_fds{job="backend",instance=~"$instance"}`, "{{instance}}"}}},
				{title: "Network", about: "What the machine (or the container) receives and sends on all interfaces, per second.", kind: series, unit: "Bps", width: 6, queries: []query{
					{`rate(process_network_receive_bytes_total{job="backend",instance=~"$instance"}[$__rate_interval])`, "{{instance}} received"},
					{`rate(process_network_transmit_bytes_total{job="backend",instance=~"$instance"}[$__rate_interval])`, "{{instance}} sent"},
				}},
				{title: "Age", about: "How long the service runs; reloads and self-upgrades do not end it.", kind: series, unit: "s", width: 6,
					queries: []query{{"time() - supervisor_start_time_seconds" + instance, "{{instance}}"}}},
				{title: "Versions", about: "Which supervisor runs where.", kind: table, unit: "short", width: 6,
					queries: []query{{"sum by (instance, version, revision, goversion) (supervisor_build_info" + instance + ")", ""}}},
			}},
			{"Changes", 8, []panel{
				{title: "Generation", about: "Goes up by one with each reload and each self-upgrade.", kind: series, unit: "short", width: 6,
					queries: []query{{"supervisor_generation" + instance, "{{instance}}"}}},
				{title: "Reloads", about: "By how they ended. One that failed changed nothing.", kind: series, unit: "short", width: 6,
					queries: []query{{"sum by (instance, result) (increase(supervisor_reloads_total" + instance + "[$__rate_interval]))", "{{instance}} {{result}}"}}},
				{title: "Self-upgrades", about: "By how they ended. One that failed changed nothing.", kind: series, unit: "short", width: 6,
					queries: []query{{"sum by (instance, result) (increase(supervisor_upgrades_total" + instance + "[$__rate_interval]))", "{{instance}} {{result}}"}}},
				{title: "Duration of reloads", about: "From the signal to the verdict, on average.", kind: series, unit: "s", width: 6, empty: "while nothing is reloaded",
					queries: []query{{"rate(supervisor_reload_duration_seconds_sum" + instance + "[$__rate_interval]) / (rate(supervisor_reload_duration_seconds_count" + instance + "[$__rate_interval]) > 0)", "{{instance}}"}}},
			}},
			{"Database", 8, []panel{
				{title: "Connections in use", about: "Of the pools of all workers together, and what they may open at most.", kind: series, unit: "short", width: 6, empty: noDatabase, queries: []query{
					{"sum by (state) (db_pool_connections" + chosen + ")", "{{state}}"},
					{"sum(db_pool_max_connections" + chosen + ")", "at most"},
				}},
				{title: "Budget", about: "What all workers may open, among what the server gives. The alert DBConnectionBudgetExceeded looks at it: above 90 % for 5 minutes.", kind: series, unit: "percentunit", width: 6, empty: noDatabase,
					queries: []query{{`sum by (service) (db_pool_max_connections{service=~"$service"}) / max by (service) (db_server_max_connections{service=~"$service"})`, "{{service}}"}}},
				{title: "Wait for a connection, p95", about: "How long handlers and jobs wait for a connection of their pool.", kind: series, unit: "s", width: 6, empty: noDatabase,
					queries: []query{{"histogram_quantile(0.95, sum by (pool, le) (rate(db_pool_acquire_duration_seconds_bucket" + chosen + "[$__rate_interval])))", "{{pool}}"}}},
				{title: "No connection in time", about: "Handlers and jobs that gave up waiting for one, per second.", kind: series, unit: "cps", width: 6, empty: noDatabase,
					queries: []query{{"sum by (pool) (rate(db_pool_acquire_timeouts_total" + chosen + "[$__rate_interval]))", "{{pool}}"}}},
			}},
		},
	}
}
