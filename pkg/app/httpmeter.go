package app

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"supervisor/pkg/scoreboard"
)

// The metrics of requests, on the scoreboard, from where the supervisor makes http_requests_total{method,route,status} and
// http_request_duration_seconds{method,route}. Routes are templates, never paths: what no route takes is "other", as are methods that nobody uses.

// routeIndex is a place in the table of routes; otherRoute is none of them.
type routeIndex int

const otherRoute routeIndex = 0

// mostSeries bounds what requests take of the scoreboard's table, which other metrics share. Each status, each bucket that was hit and each sum is one:
// all routes, with three statuses and four buckets each, take some 300. What comes when all are taken is counted with route and method "other", so
// that totals stay right.
const mostSeries = 400

// durationBounds are the buckets' bounds. The last bucket has none.
var durationBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

var meterMethods = [...]string{"other", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// statusIndex gives a status its place; 0 for those that no standard has, nobody sends them.
var statusIndex = func() (index [600]uint8) {
	for i, code := range meterStatuses[1:] {
		index[code] = uint8(i + 1)
	}
	return index
}()

var meterStatuses = [...]int{
	0, 100, 101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
	421, 422, 423, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511,
}

// httpMeter counts requests. A nil one counts nothing.
type httpMeter struct {
	// Set once.
	label  func(name string) scoreboard.Label
	routes []string                                         // templates
	series [][len(meterMethods)]atomic.Pointer[routeSeries] // by route and method, made when first used
	other  *routeSeries                                     // complete from the start

	mu   sync.Mutex // guards what follows
	left int        // series that may still be made
}

// routeSeries are those of one route and method. A cell that is nil was not needed yet.
type routeSeries struct {
	method, route string
	statuses      [len(meterStatuses)]cell
	buckets       [len(durationBounds) + 1]cell
	sum           cell
}

type cell = atomic.Pointer[scoreboard.Label]

// newHTTPMeter makes the meter for routes of these templates; the index of the first is 1. Without label there is none.
func newHTTPMeter(label func(name string) scoreboard.Label, routes []string) *httpMeter {
	if label == nil {
		return nil
	}
	m := &httpMeter{label: label, routes: append([]string{"other"}, routes...), left: mostSeries}
	m.series = make([][len(meterMethods)]atomic.Pointer[routeSeries], len(m.routes))
	m.other = m.of(otherRoute, 0)
	m.cell(&m.other.statuses[0], m.other.countName, 0)
	for i := range m.other.buckets { // so that the supervisor knows all bounds
		m.cell(&m.other.buckets[i], m.other.bucketName, i)
	}
	m.cell(&m.other.sum, m.other.sumName, 0)
	return m
}

// observe counts an answer.
func (m *httpMeter) observe(route routeIndex, method []byte, status int, took time.Duration) {
	if m == nil {
		return
	}
	s, i, b := m.of(route, methodIndex(method)), statusOf(status), bucketOf(took)
	m.add(&s.statuses[i], &m.other.statuses[0], s.countName, int(i), 1)
	m.add(&s.buckets[b], &m.other.buckets[b], s.bucketName, b, 1)
	m.add(&s.sum, &m.other.sum, s.sumName, 0, max(took.Microseconds(), 0))
}

// count counts an answer to a request that could not be read: it has no duration.
func (m *httpMeter) count(status int) {
	if m == nil {
		return
	}
	i := statusOf(status)
	m.add(&m.other.statuses[i], &m.other.statuses[0], m.other.countName, int(i), 1)
}

// add adds to a cell, or where it has no room to that of the series other.
func (m *httpMeter) add(c, otherwise *cell, name func(i int) string, i int, n int64) {
	l := c.Load()
	if l == nil {
		if l = m.cell(c, name, i); l == nil {
			l = otherwise.Load()
		}
	}
	l.Add(n)
}

// cell makes a cell, unless there is no room.
func (m *httpMeter) cell(c *cell, name func(i int) string, i int) *scoreboard.Label {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Load() == nil && m.left > 0 {
		m.left--
		label := m.label(name(i))
		c.Store(&label)
	}
	return c.Load()
}

func (m *httpMeter) of(route routeIndex, method int) *routeSeries {
	at := &m.series[route][method]
	s := at.Load()
	if s == nil {
		at.CompareAndSwap(nil, &routeSeries{method: meterMethods[method], route: m.routes[route]})
		s = at.Load()
	}
	return s
}

func (s *routeSeries) countName(i int) string {
	status := "other"
	if i > 0 {
		status = strconv.Itoa(meterStatuses[i])
	}
	return fmt.Sprintf("http_requests_total{method=%q,route=%q,status=%q}", s.method, s.route, status)
}

func (s *routeSeries) bucketName(i int) string {
	return fmt.Sprintf("http_request_duration_seconds_bucket{method=%q,route=%q,le=%q}", s.method, s.route, boundName(i))
}

// boundName is the bound of a bucket as Prometheus writes it.
func boundName(i int) string {
	if i == len(durationBounds) {
		return "+Inf"
	}
	return strconv.FormatFloat(durationBounds[i].Seconds(), 'g', -1, 64)
}

func (s *routeSeries) sumName(int) string {
	return fmt.Sprintf("http_request_duration_seconds_sum{method=%q,route=%q}", s.method, s.route)
}

func methodIndex(method []byte) int {
	for i, name := range meterMethods[1:] {
		if string(method) == name {
			return i + 1
		}
	}
	return 0
}

func statusOf(status int) uint8 {
	if status < 0 || status >= len(statusIndex) {
		return 0
	}
	return statusIndex[status]
}

func bucketOf(took time.Duration) int {
	for i, bound := range durationBounds {
		if took <= bound {
			return i
		}
	}
	return len(durationBounds)
}
