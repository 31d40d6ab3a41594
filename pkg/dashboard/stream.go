package dashboard

import (
	"bytes"
	"net/http"
	"time"
)

// live is GET /live?frame=NAME: what is new since a frame, and then whatever comes, as server-sent events.
func (d *Dashboard) live(w http.ResponseWriter, r *http.Request, session string) {
	if r.Method == http.MethodHead {
		return
	}
	s, err := d.hub.join(r.Context(), session, r.URL.Query().Get("frame"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer d.hub.leave(s)
	if d.opts.Hold != nil {
		defer d.opts.Hold(r)()
	}
	to := http.NewResponseController(w)
	to.SetReadDeadline(time.Time{}) // it has nothing more to say
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				return
			}
			if !d.holds(session) {
				e, ok = event{name: "over", data: []byte("{}")}, false
			}
			to.SetWriteDeadline(time.Now().Add(answerTime))
			if _, err := w.Write(e.encode()); err != nil || to.Flush() != nil || !ok {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// encode writes the event as it goes over the wire. JSON has no line ends in it.
func (e event) encode() []byte {
	var out bytes.Buffer
	if e.name != "" {
		out.WriteString("event: " + e.name + "\n")
	}
	if e.id != "" {
		out.WriteString("id: " + e.id + "\n")
	}
	out.WriteString("data: ")
	out.Write(e.data)
	out.WriteString("\n\n")
	return out.Bytes()
}
