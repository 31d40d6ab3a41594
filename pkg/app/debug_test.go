package app

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSleepTakesItsTime(t *testing.T) {
	s := serve(t, Config{Debug: true})
	start := time.Now()
	if got := s.get("/debug/sleep?ms=50"); got.status != 200 || got.json()["slept_ms"] != 50.0 || time.Since(start) < 50*time.Millisecond {
		t.Errorf("%d %s after %v", got.status, got.body, time.Since(start))
	}
	for _, ms := range []string{"-1", "600001", "soon", "1e3"} {
		s.get("/debug/sleep?ms="+ms).fails(400, "bad_request", "0 to 600000")
	}
}

func TestHangHoldsOneRequestOnly(t *testing.T) {
	s := serve(t, Config{Debug: true})
	client := http.Client{Timeout: 50 * time.Millisecond}
	if _, err := client.Get("http://" + s.addr + "/debug/hang"); err == nil {
		t.Error("/debug/hang answered")
	}
	if got := s.get("/health"); got.status != 200 {
		t.Errorf("health is %d", got.status)
	}
}

func TestAllocKeepsWhatItTook(t *testing.T) {
	s := serve(t, Config{Debug: true})
	before := s.get("/debug/alloc?mb=0").json()["holds_mb"].(float64)
	s.get("/debug/alloc?mb=2")
	if got := s.get("/debug/alloc?mb=1").json()["holds_mb"]; got != before+3 {
		t.Errorf("holds %v MB, want %v", got, before+3)
	}
	s.get("/debug/alloc?mb=4097").fails(400, "bad_request", "0 to 4096")
}

func TestStreamTicksAsItGoes(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{Debug: true})
	start := time.Now()
	response, err := http.Get("http://" + s.addr + "/debug/stream?seconds=2")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type is %q", got)
	}
	var events []string
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events = append(events, data)
			if len(events) == 1 && time.Since(start) > 900*time.Millisecond {
				t.Error("the first event was held back")
			}
		}
	}
	if len(events) != 2 || events[1] != `{"tick":2,"of":2,"worker_id":"web.0.1"}` {
		t.Errorf("events: %q", events)
	}
	s.get("/debug/stream?seconds=never").fails(400, "bad_request", "seconds=never")
}

func TestEchoGivesBackEveryByte(t *testing.T) {
	s := serve(t, Config{Debug: true})
	for _, size := range []int{0, 1, 4095, 70_000, 3 << 20} {
		body := make([]byte, size)
		source := rand.New(rand.NewPCG(1, uint64(size)))
		for i := range body {
			body[i] = byte(source.Uint32())
		}
		sum := sha256.Sum256(body)
		digest := hex.EncodeToString(sum[:])
		whole := s.do("PUT", "/debug/echo?body=1&nonce=n42", "", body)
		if whole.status != 200 || !bytes.Equal(whole.body, body) || whole.header.Get("X-Nonce") != "n42" || whole.header.Get("X-Worker") != "web.0.1" {
			t.Errorf("%d bytes: %d, %d bytes, %v", size, whole.status, len(whole.body), whole.header)
		}
		short := s.post("/debug/echo", body).json()
		if short["method"] != "POST" || short["length"] != float64(size) || short["sha256"] != digest {
			t.Errorf("%d bytes: %v", size, short)
		}
	}
	split := s.get("/debug/echo?nonce=a%0d%0aX-Evil:%201")
	if split.status != 200 || split.header.Get("X-Evil") != "" {
		t.Errorf("a nonce became a header: %v", split.header)
	}
}
