package tasks

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A job is one Redis string: a header of fixed width, the handler's name, the extra (extra.go; most jobs have none), the payload (later the
// result), and after a failure the last error. Fixed width lets a script change the state with one SETRANGE and never decode a payload; decimal digits
// let people read it with redis-cli. The scripts know these places too: lua/record.lua.
//
//	 0     1  version: 3
//	 1     1  state: p waits or runs (where the id lies tells which), d done, x dead, c cancelled, e expired
//	 2     1  priority
//	 3     1  o: the id's key is the caller's own; g: generated
//	 4     3  attempts that ended in failure, or with the end
//	 7     3  attempts allowed
//	10     2  crashes: runners that died with it
//	12     9  timeout of one attempt, ms; 0 none
//	21    13  enqueued, unix ms of the caller's clock
//	34    13  start of the last run that ended or was sent back, unix ms of Redis' clock
//	47    13  finished, unix ms of the runner's or Redis' clock
//	60     8  keep the result, seconds; 0 the default
//	68     3  length of the name
//	71     8  length of the payload or result
//	79     4  postponed: how often it went back because something was away or full
//	83    13  expires: is not to begin after it, unix ms; 0 never
//	96    13  deadline: no attempt goes on or begins after it, unix ms; 0 none
//	109    6  length of the extra
//	115    1  u: the extra names a unique key that the job's end releases; else a space
const headerSize = 116

const (
	statePending   = 'p'
	stateDone      = 'd'
	stateDead      = 'x'
	stateCancelled = 'c'
	stateExpired   = 'e'

	recordVersion = '3'
	maxAttempts   = 999
	maxPayload    = 10 << 20 // bytes; an input that is larger belongs into a store, its name into the payload
	maxErrorText  = 4 << 10  // bytes of an error (with the stack of a panic) that are kept
)

var errBadRecord = errors.New("not a job record")

// record is a job as Redis keeps it.
type record struct {
	state     byte
	priority  int
	own       bool // the key came from the caller
	attempt   int
	max       int
	crashes   int
	timeout   time.Duration
	enqueued  int64 // these three: unix ms, 0 not yet
	started   int64
	finished  int64
	keep      time.Duration
	postponed int
	expires   int64 // these two: unix ms, 0 none
	deadline  int64
	holds     bool // its end releases a unique key
	name      string
	extra     []byte
	extraSize int    // these two in bytes; also set when only the header was read
	size      int    // of the payload
	payload   []byte // result when done
	failure   string // the last error
}

func (r *record) terminal() bool { return r.state != statePending }

// late reports whether the job should not begin any more. One that has begun has not waited in vain.
func (r *record) late(now int64) bool { return r.expires > 0 && now > r.expires && !r.begun() }

// begun reports whether the job's handler has begun, as far as its record knows: a runner that died may have been about to.
func (r *record) begun() bool { return r.attempt+r.crashes > 0 || r.started > 0 }

// overdue reports whether the job's deadline has come.
func (r *record) overdue(now int64) bool { return r.deadline > 0 && now >= r.deadline }

// errorAt is where the text of the last error begins.
func (r *record) errorAt() int { return headerSize + len(r.name) + r.extraSize + r.size }

// header returns the fixed part. Numbers that do not fit are cut to the largest that does.
func (r *record) header() []byte {
	b := make([]byte, 0, headerSize+len(r.name)+len(r.extra)+len(r.payload))
	own := byte('g')
	if r.own {
		own = 'o'
	}
	b = append(b, recordVersion, r.state, '0'+byte(r.priority), own)
	b = digits(b, int64(r.attempt), 3)
	b = digits(b, int64(r.max), 3)
	b = digits(b, int64(r.crashes), 2)
	b = digits(b, r.timeout.Milliseconds(), 9)
	b = digits(b, r.enqueued, 13)
	b = digits(b, r.started, 13)
	b = digits(b, r.finished, 13)
	b = digits(b, int64(r.keep/time.Second), 8)
	b = digits(b, int64(len(r.name)), 3)
	b = digits(b, int64(r.size), 8)
	b = digits(b, int64(r.postponed), 4)
	b = digits(b, r.expires, 13)
	b = digits(b, r.deadline, 13)
	b = digits(b, int64(r.extraSize), 6)
	if r.holds {
		return append(b, 'u')
	}
	return append(b, ' ')
}

// encode returns the whole record without an error text.
func (r *record) encode() []byte {
	r.extraSize, r.size = len(r.extra), len(r.payload)
	return append(append(append(r.header(), r.name...), r.extra...), r.payload...)
}

// decodeHeader reads the fixed part and the name; b may end anywhere after these.
func decodeHeader(b []byte) (record, error) {
	var r record
	if len(b) < headerSize || b[0] != recordVersion {
		return r, fmt.Errorf("%.20q: %w", b, errBadRecord)
	}
	bad := false
	number := func(from, width int) (n int64) {
		for _, c := range b[from : from+width] {
			bad = bad || c < '0' || c > '9'
			n = n*10 + int64(c-'0')
		}
		return n
	}
	r.state, r.own = b[1], b[3] == 'o'
	r.priority = int(number(2, 1))
	r.attempt = int(number(4, 3))
	r.max = int(number(7, 3))
	r.crashes = int(number(10, 2))
	r.timeout = time.Duration(number(12, 9)) * time.Millisecond
	r.enqueued, r.started, r.finished = number(21, 13), number(34, 13), number(47, 13)
	r.keep = time.Duration(number(60, 8)) * time.Second
	name := int(number(68, 3))
	r.size = int(number(71, 8))
	r.postponed = int(number(79, 4))
	r.expires, r.deadline = number(83, 13), number(96, 13)
	r.extraSize, r.holds = int(number(109, 6)), b[115] == 'u'
	switch r.state {
	case statePending, stateDone, stateDead, stateCancelled, stateExpired:
	default:
		bad = true
	}
	if bad || r.priority >= priorities || len(b) < headerSize+name {
		return record{}, fmt.Errorf("%.80q: %w", b, errBadRecord)
	}
	r.name = string(b[headerSize : headerSize+name])
	return r, nil
}

// decode reads a whole record. Extra and payload share b's memory.
func decode(b []byte) (record, error) {
	r, err := decodeHeader(b)
	if err != nil {
		return r, err
	}
	end := r.errorAt()
	if len(b) < end {
		return record{}, fmt.Errorf("%d bytes of %d: %w", len(b), end, errBadRecord)
	}
	at := headerSize + len(r.name)
	r.extra = b[at : at+r.extraSize : at+r.extraSize]
	r.payload = b[at+r.extraSize : end : end]
	r.failure = decodeError(b[end:])
	return r, nil
}

// An error text is its length in four digits, then the text: a shorter one written over a longer one needs no cutting.
func encodeError(text string) string {
	text = cut(text, maxErrorText)
	return fmt.Sprintf("%04d", len(text)) + text
}

func decodeError(b []byte) string {
	if len(b) < 4 {
		return ""
	}
	n, err := strconv.Atoi(string(b[:4]))
	if err != nil || n < 0 || len(b) < 4+n {
		return ""
	}
	return string(b[4 : 4+n])
}

// digits appends n with leading zeros in exactly width digits.
func digits(b []byte, n int64, width int) []byte {
	const none, most = "0000000000000", "9999999999999"
	if n <= 0 {
		return append(b, none[:width]...)
	}
	b = append(b, none[:width]...)
	for i := len(b) - 1; n > 0; i-- {
		if i < len(b)-width {
			return append(b[:len(b)-width], most[:width]...)
		}
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return b
}

// How long a record outlives its job, so that a repeated enqueue of the same id finds it, and so that people can look.
const (
	keepGenerated = 60 * time.Second    // nobody repeats an id that was never theirs for longer than a call may take
	keepOwn       = 10 * time.Minute    // the caller's own ids: retries of a request, of a relay
	keepResult    = time.Hour           // a result that nobody set a time for
	keepDead      = 30 * 24 * time.Hour // a person must look at it
)

// keepFor returns how long a job's record lives after its end.
func (r *record) keepFor(hasResult bool) time.Duration {
	least := keepGenerated
	if r.own {
		least = keepOwn
	}
	if r.keep > 0 {
		return max(r.keep, least)
	}
	if hasResult {
		return keepResult
	}
	return least
}

func milliseconds(t time.Time) int64 { return t.UnixMilli() }

// moment is the inverse of milliseconds, the zero time for 0.
func moment(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
