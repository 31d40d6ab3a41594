package observe

// jobs is what queues hold and runners do.
func jobs() dashboard {
	const (
		queue = `{service=~"$service",queue=~"$queue"}` // what a queue holds is the same whoever tells
		ended = "rate(jobs_processed_total" + chosenQ + "[$__rate_interval])"
		took  = "rate(jobs_duration_seconds_bucket" + chosenQ + "[$__rate_interval])"
		start = "rate(jobs_start_latency_seconds_bucket" + chosenQ + "[$__rate_interval])"
		done  = "rate(jobs_done_latency_seconds_bucket" + chosenQ + "[$__rate_interval])"
	)
	return dashboard{
		file: "jobs", title: "Jobs",
		about: "What queues hold, how long jobs wait and take, how they end, and who runs them.",
		variables: []variable{
			{"service", "jobs_slots"}, {"instance", "supervisor_build_info"}, {"queue", "jobs_queue_length"},
		},
		rows: []row{
			{"Now", 4, []panel{
				{title: "Waiting", about: "Jobs that are ready to run and have no runner yet.", kind: number, unit: "short", width: 4,
					queries: []query{{"sum(service_queue:jobs_queue_length:max" + queue + ")", "waiting"}}},
				{title: "Oldest", about: "How long the oldest of them waits.", kind: number, unit: "s", width: 4,
					queries: []query{{"max(service_queue:jobs_queue_latency_seconds:max" + queue + ")", "oldest"}}},
				{title: "In progress", about: "Jobs that run now.", kind: number, unit: "short", width: 4,
					queries: []query{{`sum(jobs_in_progress` + chosenQ + `) or 0 * sum(jobs_slots{service=~"$service",instance=~"$instance"})`, "in progress"}}},
				{title: "Runners", about: "Of the queue that has the fewest. The alert JobRunnerDown looks at it: none for 2 minutes.", kind: number, unit: "short", width: 4,
					queries: []query{{"min(max by (service, queue) (jobs_runners" + queue + "))", "runners"}}},
				{title: "Failures", about: "Attempts that failed, among those that ended, over 15 minutes, of the worst queue. The alert JobFailureRateHigh looks at it: above 10 % for 5 minutes.", kind: number, unit: "percentunit", width: 4,
					empty: "where nothing ran", queries: []query{{"max(service_queue:jobs_failures:ratio_rate15m" + queue + ")", "failures"}}},
				{title: "Dead", about: "Jobs that failed for good and wait for somebody: retry or purge them.", kind: number, unit: "short", width: 4,
					queries: []query{{"sum(service_queue:jobs_dead:max" + queue + ")", "dead"}}},
			}},
			{"Queues", 8, []panel{
				{title: "Waiting by queue", about: "Jobs that are ready to run. The alert JobQueueBacklogGrowing looks at it: above 1,000, and growing.", kind: series, unit: "short", width: 8,
					queries: []query{{"service_queue:jobs_queue_length:max" + queue, "{{queue}}"}}},
				{title: "Oldest by queue", about: "How long the oldest waiting job waits. The alert JobQueueLatencyHigh looks at it: above a minute for 5 minutes.", kind: series, unit: "s", width: 8,
					queries: []query{{"service_queue:jobs_queue_latency_seconds:max" + queue, "{{queue}}"}}},
				{title: "Scheduled and dead", about: "Jobs that wait for their time or their next attempt, and those that failed for good.", kind: series, unit: "short", width: 8, queries: []query{
					{"max by (service, queue) (jobs_scheduled" + queue + ")", "{{queue}} scheduled"},
					{"service_queue:jobs_dead:max" + queue, "{{queue}} dead"},
				}},
				{title: "In and out", about: "Jobs per second that are stored and that are done with. What comes in faster than it goes out waits.", kind: series, unit: "ops", width: 8, queries: []query{
					{"sum(rate(jobs_enqueued_total" + chosenQ + "[$__rate_interval]))", "enqueued"},
					{`sum(rate(jobs_processed_total{service=~"$service",instance=~"$instance",queue=~"$queue",status!~"retried|postponed|requeued"}[$__rate_interval]))`, "ended"},
				}},
				{title: "Paused", about: "1: somebody paused the queue, and nothing in it begins.", kind: timeline, unit: "short", width: 8, shows: map[int]string{0: "paused: no", 1: "paused"},
					queries: []query{{"max by (service, queue) (jobs_paused" + queue + ")", "{{queue}}"}}},
				{title: "Start and done, p95", about: "From the enqueue to the first begin, and to the end of a job that succeeded. The delay of a delayed job is in them.", kind: series, unit: "s", width: 8, queries: []query{
					{"histogram_quantile(0.95, sum by (queue, le) (" + start + "))", "{{queue}} start"},
					{"histogram_quantile(0.95, sum by (queue, le) (" + done + "))", "{{queue}} done"},
				}},
			}},
			{"Attempts", 8, []panel{
				{title: "How they end", about: "Attempts per second. retried and postponed ones come again, failed ones are dead, requeued ones went back because their runner stopped.", kind: series, unit: "ops", width: 8, stacked: true,
					queries: []query{{"sum by (status) (" + ended + ")", "{{status}}"}}},
				{title: "By task", about: "The ten tasks with the most attempts per second.", kind: series, unit: "ops", width: 8,
					queries: []query{{"topk(10, sum by (queue, task) (" + ended + "))", "{{task}} ({{queue}})"}}},
				{title: "Failures by queue", about: "Attempts that failed, retried or not, among those that ended, over 15 minutes.", kind: series, unit: "percentunit", width: 8,
					queries: []query{{"service_queue:jobs_failures:ratio_rate15m" + queue, "{{queue}}"}}},
				{title: "Duration", about: "Half, 95 % and 99 % of the attempts take at most this.", kind: series, unit: "s", width: 8, queries: []query{
					{"histogram_quantile(0.50, sum by (le) (" + took + "))", "p50"},
					{"histogram_quantile(0.95, sum by (le) (" + took + "))", "p95"},
					{"histogram_quantile(0.99, sum by (le) (" + took + "))", "p99"},
				}},
				{title: "Slowest tasks, p95", about: "The ten tasks with the slowest twentieth of their attempts, now.", kind: table, unit: "s", width: 8,
					queries: []query{{"topk(10, histogram_quantile(0.95, sum by (queue, task, le) (" + took + ")) > 0)", ""}}},
				{title: "Where the time goes", about: "Seconds of handlers per second, by task: how many slots each task keeps busy on average.", kind: series, unit: "short", width: 8, stacked: true,
					queries: []query{{"topk(10, sum by (queue, task) (rate(jobs_duration_seconds_sum" + chosenQ + "[$__rate_interval])))", "{{task}} ({{queue}})"}}},
			}},
			{"Runners", 8, []panel{
				{title: "Runners by queue", about: "Processes that work it off, on all machines.", kind: series, unit: "short", width: 8,
					queries: []query{{"max by (service, queue) (jobs_runners" + queue + ")", "{{queue}}"}}},
				{title: "Slots", about: "Jobs that run, and how many could. With all slots busy and jobs waiting more runners (or slots) help.", kind: series, unit: "short", width: 8, queries: []query{
					{"sum by (instance) (jobs_in_progress" + chosenQ + ")", "{{instance}} in progress"},
					{`sum by (instance) (jobs_slots{service=~"$service",instance=~"$instance"})`, "{{instance}} slots"},
				}},
				{title: "Claims and crashes", about: "Jobs that runners took per second, and those that were taken back from dead runners.", kind: series, unit: "ops", width: 8,
					empty: "for crashes, while no runner dies", queries: []query{
						{"sum by (queue) (rate(jobs_claimed_total" + chosenQ + "[$__rate_interval]))", "{{queue}} claimed"},
						{"sum by (queue) (rate(jobs_crashed_total" + chosenQ + "[$__rate_interval]))", "{{queue}} taken back"},
					}},
				{title: "Claims come through", about: "Whether each runner reaches Redis and can claim. The alert JobClaimsFail looks at it: none of a pool for 2 minutes.", kind: timeline, unit: "short", width: 12, shows: map[int]string{1: "yes", 0: "no"},
					queries: []query{{`job_runner_up{service=~"$service",instance=~"$instance"}`, "{{instance}} {{worker}}"}}},
				{title: "Redis answers", about: "Whether the runner that looks at the queues gets an answer. While it does not, the figures of the queues are those of before.", kind: timeline, unit: "short", width: 12, shows: map[int]string{1: "yes", 0: "no"},
					queries: []query{{`max by (instance, pool) (jobs_broker_up{service=~"$service",instance=~"$instance"})`, "{{instance}} {{pool}}"}}},
			}},
		},
	}
}
