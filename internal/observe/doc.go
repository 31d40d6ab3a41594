// Package observe is the source of the dashboards in etc/grafana, and holds them and the rules in etc/prometheus to what there is: its tests
// run the real Prometheus against a loaded system, and every expression must return data.
//
// A dashboard is written down here once, as rows of panels with their queries; what Grafana wants beside (identifiers, places, units, the
// style of a graph) is the same for all and comes from dashboard.go. After a change:
//
//	go generate ./internal/observe
//
// Panels say what may be chosen through these variables of Grafana, which are regular expressions:
//
//	$service   label service of everything that a worker counts
//	$instance  label instance: one supervisor
//	$pool      label pool
//	$queue     label queue, of jobs
package observe

//go:generate go run ./cmd ../../etc/grafana/dashboards
