package observe

// What of the requests and of the supervisors the variables choose.
const (
	chosen   = `{service=~"$service",instance=~"$instance",pool=~"$pool"}`
	failing  = `{service=~"$service",instance=~"$instance",pool=~"$pool",status=~"5.."}`
	chosenQ  = `{service=~"$service",instance=~"$instance",queue=~"$queue"}`
	instance = `{instance=~"$instance"}`
)

// backend is what clients get.
func backend() dashboard {
	const (
		rate   = "rate(http_requests_total" + chosen + "[$__rate_interval])"
		took   = "rate(http_request_duration_seconds_bucket" + chosen + "[$__rate_interval])"
		errors = "(sum(rate(http_requests_total" + failing + "[$__rate_interval])) or 0 * sum(" + rate + ")) / (sum(" + rate + ") > 0)"
		p95    = "histogram_quantile(0.95, sum by (service, pool, le) (" + took + "))"
		// What lies between a quarter of a second and a whole one counts half.
		apdex = `(sum(rate(http_request_duration_seconds_bucket{service=~"$service",instance=~"$instance",pool=~"$pool",le="0.25"}[$__rate_interval]))` +
			` + sum(rate(http_request_duration_seconds_bucket{service=~"$service",instance=~"$instance",pool=~"$pool",le=~"1|1.0"}[$__rate_interval]))) / 2` +
			` / (sum(rate(http_request_duration_seconds_count` + chosen + `[$__rate_interval])) > 0)`
		class = `sum by (class) (label_replace(label_replace(` + rate + `, "class", "$1", "status", "(.*)"), "class", "${1}xx", "status", "([1-5]).."))`
	)
	routes := "while no worker names its routes: the supervisor's own counters know none"
	return dashboard{
		file: "backend", title: "Backend performance",
		about: "What clients get: requests, errors, latency, by service and route.",
		variables: []variable{
			{"service", "http_requests_total"}, {"instance", "supervisor_build_info"}, {"pool", "http_requests_total"},
		},
		rows: []row{
			{"Now", 4, []panel{
				{title: "Requests", about: "Requests answered per second.", kind: number, unit: "reqps", width: 4, queries: []query{{"sum(" + rate + ")", "requests"}}},
				{title: "Errors", about: "5xx among all answers. The alert HighErrorRate looks at it: above 5 % for 5 minutes.", kind: number, unit: "percentunit", width: 4,
					empty: "where nobody asks", queries: []query{{errors, "errors"}}},
				{title: "p95", about: "One request in twenty takes longer than this; of the slowest pool.", kind: number, unit: "s", width: 4,
					queries: []query{{"max(" + p95 + ")", "p95"}}},
				{title: "Apdex", about: "The share of requests within 0.25 s, and half of those within 1 s. 1 is perfect, below 0.7 people complain.", kind: number, unit: "percentunit", width: 4,
					empty: "for pools whose workers do not time their requests themselves: the supervisor's own buckets have no bound at 0.25 s", queries: []query{{apdex, "apdex"}}},
				{title: "In flight", about: "Requests whose handlers run now.", kind: number, unit: "short", width: 4,
					queries: []query{{"sum(http_requests_in_flight" + chosen + ")", "in flight"}}},
				{title: "Ready workers", about: "Workers that serve, among those that should.", kind: number, unit: "percentunit", width: 4,
					queries: []query{{`sum(supervisor_workers{instance=~"$instance",pool=~"$pool",state="ready"}) / sum(supervisor_workers_desired{instance=~"$instance",pool=~"$pool"})`, "ready"}}},
			}},
			{"Requests", 8, []panel{
				{title: "Requests by class of status", about: "Answers per second: 2xx, 4xx, 5xx; ok stands for all but 5xx where workers do not say more.", kind: series, unit: "reqps", width: 12, stacked: true,
					queries: []query{{class, "{{class}}"}}},
				{title: "Errors by status", about: "Answers of 4xx and 5xx per second: 503 is a dependency that is away or a drain, 504 a handler beyond `timeout`, 500 a bug.", kind: series, unit: "reqps", width: 12,
					empty: "while nothing fails", queries: []query{{`sum by (status) (rate(http_requests_total{service=~"$service",instance=~"$instance",pool=~"$pool",status=~"[45].."}[$__rate_interval]))`, "{{status}}"}}},
				{title: "Requests by route", about: "The ten busiest routes.", kind: series, unit: "reqps", width: 12,
					queries: []query{{"topk(10, sum by (method, route) (" + rate + "))", "{{method}} {{route}}"}}},
				{title: "Error ratio", about: "5xx among all answers, over 5 minutes, by service; as the alert HighErrorRate sees it.", kind: series, unit: "percentunit", width: 12,
					queries: []query{{`service:http_errors:ratio_rate5m{service=~"$service"}`, "{{service}}"}}},
			}},
			{"Latency", 8, []panel{
				{title: "Latency", about: "Half, 95 % and 99 % of the requests take at most this, by pool.", kind: series, unit: "s", width: 12, queries: []query{
					{"histogram_quantile(0.50, sum by (service, pool, le) (" + took + "))", "{{pool}} p50"},
					{p95, "{{pool}} p95"},
					{"histogram_quantile(0.99, sum by (service, pool, le) (" + took + "))", "{{pool}} p99"},
				}},
				{title: "Latency, all of it", about: "How many requests took how long. Two bands are two kinds of requests. Choose one pool: those of different programs may have different bounds.", kind: heatmap, unit: "s", width: 12,
					queries: []query{{"sum by (le) (increase(http_request_duration_seconds_bucket" + chosen + "[$__rate_interval]))", "{{le}}"}}},
				{title: "Slowest routes, p95", about: "The ten routes with the slowest twentieth of their requests, now.", kind: table, unit: "s", width: 12, empty: routes,
					queries: []query{{`topk(10, histogram_quantile(0.95, sum by (method, route, le) (rate(http_request_duration_seconds_bucket{service=~"$service",instance=~"$instance",pool=~"$pool",route!=""}[$__rate_interval]))) > 0)`, ""}}},
				{title: "In flight", about: "Requests whose handlers run, by instance. It rises before latency does.", kind: series, unit: "short", width: 12,
					queries: []query{{"sum by (instance) (http_requests_in_flight" + chosen + ")", "{{instance}}"}}},
				{title: "Timed out", about: "Requests that were answered with 504 because their handlers took longer than the pool's `timeout`.", kind: series, unit: "reqps", width: 12,
					queries: []query{{"sum by (instance, pool) (rate(http_requests_timed_out_total" + chosen + "[$__rate_interval]))", "{{instance}} {{pool}}"}}},
				{title: "Bytes", about: "What clients send and get, per second.", kind: series, unit: "Bps", width: 12, queries: []query{
					{"sum(rate(http_request_bytes_total" + chosen + "[$__rate_interval]))", "received"},
					{"sum(rate(http_response_bytes_total" + chosen + "[$__rate_interval]))", "sent"},
				}},
			}},
			{"Jobs", 8, []panel{
				{title: "Waiting jobs", about: "Jobs that are ready to run and have no runner yet, by queue. The dashboard Jobs has more.", kind: series, unit: "short", width: 8,
					queries: []query{{`service_queue:jobs_queue_length:max{service=~"$service"}`, "{{queue}}"}}},
				{title: "Oldest waiting job", about: "How long the oldest of them waits. The alert JobQueueLatencyHigh looks at it: above a minute for 5 minutes.", kind: series, unit: "s", width: 8,
					queries: []query{{`service_queue:jobs_queue_latency_seconds:max{service=~"$service"}`, "{{queue}}"}}},
				{title: "Jobs by how they ended", about: "Attempts per second; retried ones come again, failed ones are dead.", kind: series, unit: "ops", width: 8, stacked: true,
					queries: []query{{`sum by (status) (rate(jobs_processed_total{service=~"$service",instance=~"$instance"}[$__rate_interval]))`, "{{status}}"}}},
			}},
		},
	}
}
