package tasks

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// extra is what few jobs have: a part of the record that scripts carry and never read. A job without any of it has none: no byte, no
// work. Each field is a letter, the length as an unsigned varint, and the bytes; a reader passes over letters that it does not know.
type extra struct {
	unique  string // u: scope and unique key
	scope   Scope
	next    *next         // n: what is enqueued when this job is done
	parent  string        // p: the id of the job whose end enqueued this one
	own     int           // o: so many bytes of the payload are the job's own, those behind it are its parent's result
	split   bool          // there is an own
	backoff time.Duration // b: the wait after the first failure, and the longest; 0: the runner's
	longest time.Duration
	trace   string // t: for whom the job is done: traceparent, and behind a space tracestate
}

// maxExtra bounds it: six digits in the header.
const maxExtra = 512 << 10

func (x *extra) encode() []byte {
	var b []byte
	field := func(letter byte, value string) {
		b = append(b, letter)
		b = binary.AppendUvarint(b, uint64(len(value)))
		b = append(b, value...)
	}
	if x.unique != "" {
		field('u', x.scope.encode()+":"+x.unique)
	}
	if x.next != nil {
		field('n', x.next.encode())
	}
	if x.parent != "" {
		field('p', x.parent)
	}
	if x.split {
		field('o', strconv.Itoa(x.own))
	}
	if x.backoff > 0 {
		field('b', ms(max(x.backoff, time.Millisecond))+"/"+ms(max(x.longest, time.Millisecond)))
	}
	if x.trace != "" {
		field('t', x.trace)
	}
	return b
}

func decodeExtra(b []byte) (x extra, err error) {
	for len(b) > 0 {
		letter := b[0]
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return extra{}, fmt.Errorf("extra %.20q: %w", b, errBadRecord)
		}
		value := string(b[1+n : 1+n+int(size)])
		b = b[1+n+int(size):]
		ok := true
		switch letter {
		case 'u':
			var scope string
			if scope, x.unique, ok = strings.Cut(value, ":"); ok {
				x.scope, ok = decodeScope(scope)
				ok = ok && x.unique != ""
			}
		case 'n':
			x.next, ok = decodeNext(value)
		case 'p':
			x.parent = value
		case 'o':
			x.own, err = strconv.Atoi(value)
			x.split = true
			ok = err == nil && x.own >= 0
		case 't':
			x.trace = value
		case 'b':
			first, longest, _ := strings.Cut(value, "/")
			var errs [2]error
			x.backoff, errs[0] = decodeMS(first)
			x.longest, errs[1] = decodeMS(longest)
			ok = errs[0] == nil && errs[1] == nil && x.backoff > 0 && x.longest >= x.backoff
		}
		if !ok {
			return extra{}, fmt.Errorf("extra %c %.20q: %w", letter, value, errBadRecord)
		}
	}
	return x, nil
}

func decodeMS(text string) (time.Duration, error) {
	n, err := strconv.ParseUint(text, 10, 40)
	return time.Duration(n) * time.Millisecond, err
}
