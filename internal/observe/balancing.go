package observe

// balancing is how instances, and the workers of each, share the work.
func balancing() dashboard {
	const (
		served = `{service=~"$service",instance=~"$instance"}`
		rate   = "sum by (instance) (rate(http_requests_total" + served + "[$__rate_interval]))"
	)
	upDown, yesNo := map[int]string{1: "up", 0: "down"}, map[int]string{1: "ready", 0: "not ready"}
	return dashboard{
		file: "balancing", title: "Load balancing",
		about: "How the load balancer spreads requests over the instances, and the kernel over the workers of each.",
		variables: []variable{
			{"service", "http_requests_total"}, {"instance", "supervisor_build_info"},
		},
		rows: []row{
			{"Now", 4, []panel{
				{title: "Instances up", about: "Supervisors that answer Prometheus. The alert BackendInstancesBelowMinimum compares it with backend:instances:minimum (recording.yml).", kind: number, unit: "short", width: 6,
					queries: []query{{`sum(up{job="backend",instance=~"$instance"})`, "up"}}},
				{title: "Instances ready", about: "Those that a load balancer may send clients to.", kind: number, unit: "short", width: 6,
					queries: []query{{"sum(supervisor_ready" + instance + ")", "ready"}}},
				{title: "Imbalance", about: "How far the busiest instance is above the average. The alert LoadImbalance looks at it: above 50 % for 10 minutes.", kind: number, unit: "percentunit", width: 6,
					queries: []query{{`max(service:lb_imbalance:ratio{service=~"$service"})`, "imbalance"}}},
				{title: "Connections", about: "Client connections that are open, idle ones included.", kind: number, unit: "short", width: 6,
					queries: []query{{"sum(backend_connections_active" + served + ")", "open"}}},
			}},
			{"Shares", 8, []panel{
				{title: "Requests by instance", about: "Answers per second.", kind: series, unit: "reqps", width: 12, stacked: true, queries: []query{{rate, "{{instance}}"}}},
				{title: "Share", about: "Of each instance among all requests, now.", kind: pie, unit: "reqps", width: 6, queries: []query{{rate, "{{instance}}"}}},
				{title: "Imbalance", about: "How far the busiest instance is above the average, by service: 0 % is even, 100 % is twice its share.", kind: series, unit: "percentunit", width: 6,
					queries: []query{{`service:lb_imbalance:ratio{service=~"$service"}`, "{{service}}"}}},
				{title: "Connections by instance", about: "Open client connections.", kind: series, unit: "short", width: 8,
					queries: []query{{"sum by (instance) (backend_connections_active" + served + ")", "{{instance}}"}}},
				{title: "New connections", about: "Accepted per second. A load balancer that keeps connections alive makes far fewer of them than there are requests.", kind: series, unit: "cps", width: 8,
					queries: []query{{"sum by (instance) (rate(backend_connections_total" + served + "[$__rate_interval]))", "{{instance}}"}}},
				{title: "Connections by worker", about: "Open client connections of each worker: the kernel spreads new ones evenly, long-lived ones stay where they are.", kind: series, unit: "short", width: 8,
					queries: []query{{"backend_connections_active" + served, "{{instance}} {{worker}}"}}},
			}},
			{"Health", 8, []panel{
				{title: "Up", about: "Whether Prometheus reaches each supervisor.", kind: timeline, unit: "short", width: 12, shows: upDown,
					queries: []query{{`up{job="backend",instance=~"$instance"}`, "{{instance}}"}}},
				{title: "Ready", about: "Whether a load balancer may send clients to it (/health/ready).", kind: timeline, unit: "short", width: 12, shows: yesNo,
					queries: []query{{"supervisor_ready" + instance, "{{instance}}"}}},
				{title: "Latency by instance, p95", about: "One request in twenty takes longer than this. One instance that is slower than the others is a sick machine.", kind: series, unit: "s", width: 8,
					queries: []query{{"max by (instance) (histogram_quantile(0.95, sum by (instance, pool, le) (rate(http_request_duration_seconds_bucket" + served + "[$__rate_interval]))))", "{{instance}}"}}},
				{title: "Errors by instance", about: "5xx per second.", kind: series, unit: "reqps", width: 8,
					queries: []query{{`sum by (instance) (rate(http_requests_total{service=~"$service",instance=~"$instance",status=~"5.."}[$__rate_interval])) or 0 * ` + rate, "{{instance}}"}}},
				{title: "In flight by instance", about: "Requests whose handlers run.", kind: series, unit: "short", width: 8,
					queries: []query{{"sum by (instance) (http_requests_in_flight" + served + ")", "{{instance}}"}}},
			}},
			{"Connections while workers are replaced", 8, []panel{
				{title: "Moved", about: "Idle connections that went from a leaving worker to one that stays, per second; their clients notice nothing.", kind: series, unit: "cps", width: 8,
					queries: []query{{"sum by (instance) (rate(backend_connections_moved_total" + served + "[$__rate_interval]))", "{{instance}}"}}},
				{title: "Cut", about: "Connections that were shut by force at the end of a drain, per second: a client lost something.", kind: series, unit: "cps", width: 8,
					queries: []query{{"sum by (instance) (rate(backend_connections_cut_total" + served + "[$__rate_interval]))", "{{instance}}"}}},
				{title: "Draining", about: "Supervisors that stop, and workers that leave.", kind: series, unit: "short", width: 8, queries: []query{
					{"supervisor_draining" + instance, "{{instance}} stops"},
					{`sum by (instance, pool) (supervisor_workers{instance=~"$instance",state="draining"})`, "{{instance}} {{pool}} workers"},
				}},
			}},
		},
	}
}
