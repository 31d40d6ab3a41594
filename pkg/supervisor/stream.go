package supervisor

import (
	"encoding/json"
	"net/http"
	"time"

	"supervisor/pkg/control"
)

// maxStreams bounds the clients that follow something, so that they leave connections for those who want to change something.
const maxStreams = 64

// stream answers with JSON, a line each, as long as produce goes on: until it fails, or ends with the supervisor. send without lines writes an empty one: it shows that we live. A
// client that takes nothing for answerTimeout is given up.
func (s *Supervisor) stream(w http.ResponseWriter, r *http.Request, produce func(send func(lines ...any) error) error) {
	defer s.streams.Add(-1)
	if s.streams.Add(1) > maxStreams {
		fail(w, http.StatusServiceUnavailable, "%d clients follow already", maxStreams)
		return
	}
	defer hold(r)()
	to := http.NewResponseController(w)
	to.SetReadDeadline(time.Time{}) // it has nothing more to say
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	err := produce(func(lines ...any) error {
		to.SetWriteDeadline(time.Now().Add(answerTimeout))
		for _, line := range lines {
			if err := encoder.Encode(line); err != nil {
				return err
			}
		}
		if len(lines) == 0 {
			if _, err := w.Write([]byte("\n")); err != nil {
				return err
			}
		}
		return to.Flush()
	})
	if err != nil {
		return // the client is gone
	}
	ended := control.EndedStop // the loop is over: what it knew may be read
	if s.handedOver {
		ended = control.EndedUpgrade
	}
	w.Header().Set(http.TrailerPrefix+control.TrailerEnded, ended)
}
