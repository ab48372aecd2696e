// Package service is a service to put behind a gateway: it speaks plain HTTP with
// application/websocket-events (GRIP's WebSocket-over-HTTP), with net/http and nothing else. It
// echoes what clients say, so that the load generator can check it, and subscribes them to the
// topic that their handshake names in ?topic=.
package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const contentType = "application/websocket-events"

// Service is the handler. Any goroutine.
type Service struct {
	// Heard, if set, is called with each event of each request, in order, before it is answered.
	Heard func(connection, kind string, content []byte)
	// Delay is how long each answer takes, as those of a service that has work to do.
	Delay time.Duration

	mu    sync.Mutex
	stats Stats
}

// Event is what WriteEvents writes of one event.
type Event struct {
	Connection string `json:"connection"`
	Kind       string `json:"event"`
	Content    []byte `json:"content,omitempty"` // base64
}

// WriteEvents has each event written to w, as a line of JSON, before its request is answered: when
// the process is killed, w has all that it has answered.
func (s *Service) WriteEvents(w io.Writer) {
	var mu sync.Mutex
	e := json.NewEncoder(w)
	s.Heard = func(connection, kind string, content []byte) {
		mu.Lock()
		defer mu.Unlock()
		_ = e.Encode(Event{connection, kind, content}) // who does not read has no interest
	}
}

// Stats is what the service has been asked, as GET /stats tells.
type Stats struct {
	Requests  int64 `json:"requests"`
	Opened    int64 `json:"opened"`
	Messages  int64 `json:"messages"`  // TEXT and BINARY
	Closed    int64 `json:"closed"`    // CLOSE and DISCONNECT
	Malformed int64 `json:"malformed"` // requests that are none
	// Batches counts the requests with messages by how many they had, up to 1, 2, 4, 8, … of them.
	Batches [16]int64 `json:"batches"`
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == "/stats" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Stats())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err == nil {
		err = s.answer(w, r, body)
	}
	if err != nil {
		s.mu.Lock()
		s.stats.Malformed++
		s.mu.Unlock()
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// Stats is a copy of the counts.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// answer answers the events of one request.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, body []byte) error {
	topics, connection := r.URL.Query()["topic"], r.Header.Get("Connection-Id")
	var out []byte
	opened, closed, messages := 0, 0, 0
	for len(body) > 0 {
		kind, content, rest, err := nextEvent(body)
		if err != nil {
			return err
		}
		body = rest
		if s.Heard != nil {
			s.Heard(connection, kind, content)
		}
		switch kind {
		case "OPEN":
			opened++
			out = append(out, "OPEN\r\n"...)
			for _, topic := range topics {
				control, _ := json.Marshal(map[string]string{"type": "subscribe", "channel": topic}) // strings
				out = appendEvent(out, "TEXT", "c:", control)
			}
		case "TEXT", "BINARY":
			messages++
			out = appendEvent(out, kind, "m:", content)
		case "CLOSE":
			closed++
			out = appendEvent(out, "CLOSE", "", content)
		case "DISCONNECT":
			closed++
		}
	}
	s.count(opened, closed, messages)
	if s.Delay > 0 {
		select {
		case <-time.After(s.Delay):
		case <-r.Context().Done(): // the gateway has given up
		}
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Sec-WebSocket-Extensions", "grip")
	_, err := w.Write(out)
	_ = err // the gateway has gone: it says so to its client
	return nil
}

func (s *Service) count(opened, closed, messages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Requests++
	s.stats.Opened += int64(opened)
	s.stats.Closed += int64(closed)
	s.stats.Messages += int64(messages)
	if messages > 0 {
		class := 0
		for most := 1; most < messages && class < len(s.stats.Batches)-1; most *= 2 {
			class++
		}
		s.stats.Batches[class]++
	}
}

// nextEvent reads "KIND\r\n" or "KIND HEX\r\n", HEX bytes and "\r\n".
func nextEvent(b []byte) (kind string, content, rest []byte, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok {
		return "", nil, nil, fmt.Errorf("an event without an end of line: %.40q", b)
	}
	name, size, sized := bytes.Cut(line, []byte(" "))
	if !sized {
		return string(name), nil, rest, nil
	}
	n, err := strconv.ParseUint(string(size), 16, 31)
	if err != nil || uint64(len(rest)) < n+2 || string(rest[n:n+2]) != "\r\n" {
		return "", nil, nil, fmt.Errorf("event %.40q is longer or shorter than it says", line)
	}
	return string(name), rest[:n], rest[n+2:], nil
}

func appendEvent(b []byte, kind, prefix string, content []byte) []byte {
	b = fmt.Appendf(b, "%s %x\r\n%s", kind, len(prefix)+len(content), prefix)
	b = append(b, content...)
	return append(b, "\r\n"...)
}
