package accesslog

import (
	"strconv"
	"time"
	"unicode/utf8"

	"supervisor/pkg/tracecontext"
)

// Bytes of a line's texts once they are escaped; the whole line stays below pipeChunk.
const (
	lineURI     = 1400
	lineReferer = 600
	lineAgent   = 600
	lineID      = 200
	lineMethod  = 48
	lineWorker  = 128
)

// formatter makes lines. Only used by the writer.
type formatter struct {
	json   bool
	tail   []byte // what all lines end with: the worker and its generation
	second int64  // the second that stamp tells
	stamp  []byte
	masked []byte
}

func newFormatter(o Options) *formatter {
	f := &formatter{json: o.Format == JSON}
	if o.Worker != "" {
		if f.json {
			f.tail = append(f.quote(append(f.tail, `,"worker":`...), []byte(o.Worker), lineWorker), `,"generation":`...)
		} else {
			f.tail = append(f.escape(append(f.tail, " worker="...), []byte(o.Worker), lineWorker), " gen="...)
		}
		f.tail = strconv.AppendInt(f.tail, int64(o.Generation), 10)
	}
	if f.json {
		f.tail = append(f.tail, '}')
	}
	f.tail = append(f.tail, '\n')
	return f
}

func (f *formatter) append(to []byte, r *record) []byte {
	if second := r.at / int64(time.Second); second != f.second || f.stamp == nil {
		f.second = second
		if f.json {
			f.stamp = time.Unix(second, 0).UTC().AppendFormat(f.stamp[:0], "2006-01-02T15:04:05")
		} else {
			f.stamp = time.Unix(second, 0).AppendFormat(f.stamp[:0], "02/Jan/2006:15:04:05 -0700")
		}
	}
	method, id, uri := r.text[:r.method], r.text[r.method:r.id], r.text[r.id:r.uri]
	referer, agent := r.text[r.uri:r.referer], r.text[r.referer:r.agent]
	if f.json {
		return f.object(to, r, method, id, uri, referer, agent)
	}
	return f.combined(to, r, method, id, uri, referer, agent)
}

// object is
//
//	{"time":"2026-03-01T12:00:00.000123Z","remote":"192.0.2.1","method":"GET","path":"/tasks?state=dead","status":200,"bytes":512,"ms":1.234,
//	 "referer":"…","user_agent":"curl/7.88.1","request_id":"00f067aa0ba902b7","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",
//	 "worker":"web.0.7","generation":3}
//
// on one line. bytes is null for a stream; referer, user_agent and trace_id are left out where there is none.
func (f *formatter) object(to []byte, r *record, method, id, uri, referer, agent []byte) []byte {
	to = append(append(to, `{"time":"`...), f.stamp...)
	to = append(to, '.')
	to = append(f.digits(to, r.at%int64(time.Second)/int64(time.Microsecond), 6), `Z","remote":"`...)
	to = append(r.appendAddress(to), `","method":`...)
	to = append(f.quote(to, method, lineMethod), `,"path":`...)
	to = append(f.quote(to, f.mask(uri, r.cut), lineURI), `,"status":`...)
	to = append(strconv.AppendUint(to, uint64(r.status), 10), `,"bytes":`...)
	if r.bytes < 0 {
		to = append(to, "null"...)
	} else {
		to = strconv.AppendInt(to, r.bytes, 10)
	}
	to = append(to, `,"ms":`...)
	to = f.fraction(to, r.took/int64(time.Microsecond))
	if len(referer) > 0 {
		to = f.quote(append(to, `,"referer":`...), f.mask(referer, false), lineReferer)
	}
	if len(agent) > 0 {
		to = f.quote(append(to, `,"user_agent":`...), agent, lineAgent)
	}
	if len(id) > 0 {
		to = f.quote(append(to, `,"request_id":`...), id, lineID)
	}
	if r.trace != (tracecontext.TraceID{}) {
		to = append(append(append(to, `,"trace_id":"`...), r.trace.String()...), '"')
	}
	return append(to, f.tail...)
}

// combined is
//
//	192.0.2.1 - - [01/Mar/2026:12:00:00 +0000] "GET /tasks?state=dead HTTP/1.1" 200 512 "-" "curl/7.88.1" rt=0.001234 id=00f0… trace=4bf9… worker=web.0.7 gen=3
func (f *formatter) combined(to []byte, r *record, method, id, uri, referer, agent []byte) []byte {
	to = append(r.appendAddress(to), " - - ["...)
	to = append(append(to, f.stamp...), `] "`...)
	if len(uri) > 0 {
		to = append(f.escape(to, method, lineMethod), ' ')
		to = f.escape(to, f.mask(uri, r.cut), lineURI)
		if r.http10 {
			to = append(to, " HTTP/1.0"...)
		} else {
			to = append(to, " HTTP/1.1"...)
		}
	} else {
		to = append(to, '-')
	}
	to = append(strconv.AppendUint(append(to, `" `...), uint64(r.status), 10), ' ')
	if r.bytes < 0 {
		to = append(to, '-')
	} else {
		to = strconv.AppendInt(to, r.bytes, 10)
	}
	to = f.field(append(to, ` "`...), f.mask(referer, false), lineReferer)
	to = f.field(append(to, `" "`...), agent, lineAgent)
	micros := max(r.took/int64(time.Microsecond), 0)
	to = append(strconv.AppendInt(append(to, `" rt=`...), micros/1_000_000, 10), '.')
	to = f.field(append(f.digits(to, micros%1_000_000, 6), " id="...), id, lineID)
	to = append(to, " trace="...)
	if r.trace == (tracecontext.TraceID{}) {
		to = append(to, '-')
	} else {
		to = append(to, r.trace.String()...)
	}
	return append(to, f.tail...)
}

// field is a text, or - without one.
func (f *formatter) field(to, text []byte, most int) []byte {
	if len(text) == 0 {
		return append(to, '-')
	}
	return f.escape(to, text, most)
}

func (r *record) appendAddress(to []byte) []byte {
	switch r.kind {
	case noAddress:
		return append(to, '-')
	case addressUnix:
		return append(to, "unix:"...)
	}
	return r.address().AppendTo(to)
}

// mask is the text to log of a URL, valid until the next call. A cut one says so.
func (f *formatter) mask(uri []byte, cut bool) []byte {
	f.masked = appendMasked(f.masked[:0], uri)
	if cut {
		f.masked = append(f.masked, ellipsis...)
	}
	return f.masked
}

const ellipsis = "..."

const hexDigits = "0123456789abcdef"

// escape writes what is not printable ASCII as \xHH, quotes and backslashes as nginx does. At most so many bytes.
func (f *formatter) escape(to, text []byte, most int) []byte {
	most += len(to) - len(ellipsis)
	for _, c := range text {
		if len(to)+4 > most {
			return append(to, ellipsis...)
		}
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			to = append(to, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		} else {
			to = append(to, c)
		}
	}
	return to
}

// quote writes a JSON string of ASCII only: no control character, and nothing that turns the direction of text or hides it, reaches a terminal.
// Bytes that are no UTF-8 become U+FFFD. At most so many bytes.
func (f *formatter) quote(to, text []byte, most int) []byte {
	most += len(to) - len(ellipsis)
	to = append(to, '"')
	for len(text) > 0 {
		if len(to)+13 > most {
			to = append(to, ellipsis...)
			break
		}
		c := text[0]
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c >= ' ' && c <= '~':
			to = append(to, c)
		default:
			r, n := utf8.DecodeRune(text)
			text = text[n:]
			if r > 0xffff {
				r -= 0x10000
				to = f.unit(f.unit(to, 0xd800+r>>10), 0xdc00+r&0x3ff)
			} else {
				to = f.unit(to, r)
			}
			continue
		}
		text = text[1:]
	}
	return append(to, '"')
}

func (f *formatter) unit(to []byte, r rune) []byte {
	return append(to, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// fraction writes thousandths.
func (f *formatter) fraction(to []byte, n int64) []byte {
	n = max(n, 0)
	return f.digits(append(strconv.AppendInt(to, n/1000, 10), '.'), n%1000, 3)
}

// digits writes a number with leading zeros.
func (f *formatter) digits(to []byte, n int64, width int) []byte {
	from := len(to)
	to = append(to, "000000"[:width]...)
	for at := len(to) - 1; at >= from; at-- {
		to[at] = '0' + byte(n%10)
		n /= 10
	}
	return to
}
