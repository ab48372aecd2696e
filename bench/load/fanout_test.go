package load

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// topicServer publishes what is posted to it to the connections that have named the topic.
type topicServer struct {
	// fate, when set, says what the n-th publication (from 1) becomes for one connection; nil ends
	// it.
	fate func(n int, body []byte) [][]byte
	// status, when set, refuses publications.
	status func(n int) int

	mu     sync.Mutex
	conns  map[net.Conn]string
	counts map[string]int
	serve  sync.WaitGroup
}

func (s *topicServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	topic := r.URL.Query().Get("topic")
	if r.Method == http.MethodPost {
		s.publish(w, r, topic)
		return
	}
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.conns[conn] = topic
	s.mu.Unlock()
	s.serve.Go(func() {
		defer conn.Close()
		_ = wsutil.WriteServerText(conn, []byte("a greeting"))
		for {
			if _, _, err := wsutil.ReadClientData(conn); err != nil {
				break
			}
		}
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	})
}

func (s *topicServer) publish(w http.ResponseWriter, r *http.Request, topic string) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Authorization") != "Bearer secret" {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[topic]++
	n := s.counts[topic]
	if s.status != nil && s.status(n) != http.StatusOK {
		w.WriteHeader(s.status(n))
		return
	}
	for conn, its := range s.conns {
		if its != topic {
			continue
		}
		messages := [][]byte{body}
		if s.fate != nil {
			if messages = s.fate(n, body); messages == nil {
				conn.Close()
			}
		}
		for _, m := range messages {
			_ = wsutil.WriteServerText(conn, m)
		}
	}
}

// fanoutRun is a run of 20 clients in 4 topics, 50 publications.
func fanoutRun(t *testing.T, s *topicServer) *Result {
	t.Helper()
	s.conns, s.counts = map[net.Conn]string{}, map[string]int{}
	web := httptest.NewServer(s)
	t.Cleanup(func() { web.Close(); s.serve.Wait() })
	r, err := Run(t.Context(), Spec{Targets: []string{"ws" + web.URL[len("http"):] + "/ws"}, Scenario: Fanout, Conns: 20, Topics: 4,
		Rate: 100, Duration: 500 * time.Millisecond, Payload: 120, Publish: web.URL + "/publish", PublishKey: "secret",
		Timeout: time.Second, AllowBehind: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFanout(t *testing.T) {
	gap := []byte(`{"type":"gap","topic":"x","missed":0}`)
	wrong := func(body []byte) []byte { // the filler is not what was published
		return append(append([]byte(nil), body[:len(body)-1]...), '!')
	}
	third := func(body []byte) []byte { return append([]byte("0000000000000003"), body[16:]...) }
	future := func(body []byte) []byte { return append([]byte("00000000000fffff"), body[16:]...) }
	// Topics have 13, 13, 12 and 12 publications, for five subscribers each.
	for _, tc := range []struct {
		name   string
		server *topicServer
		check  func(n *Counters) (got, want int64)
		ok     bool
	}{
		{"honest", &topicServer{}, func(n *Counters) (int64, int64) { return n.Replies, 250 }, true},
		{"a gap, told", &topicServer{fate: func(n int, body []byte) [][]byte {
			if n == 5 {
				return [][]byte{gap}
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Missing*1000 + n.Gaps, 20*1000 + 20 }, false},
		{"the last is lost", &topicServer{fate: func(n int, body []byte) [][]byte {
			if n >= 12 {
				return [][]byte{}
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Missing, 30 }, false},
		{"one comes twice", &topicServer{fate: func(n int, body []byte) [][]byte {
			if n == 3 {
				return [][]byte{body, body}
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Duplicated, 20 }, false},
		{"out of order", &topicServer{fate: func(n int, body []byte) [][]byte {
			switch n {
			case 3:
				return [][]byte{}
			case 4:
				return [][]byte{body, third(body)}
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Reordered*1000 + n.Missing, 20 * 1000 }, false},
		{"corrupt", &topicServer{fate: func(n int, body []byte) [][]byte { return [][]byte{wrong(body)} }},
			func(n *Counters) (int64, int64) { return n.Corrupt, 250 }, false},
		{"never published", &topicServer{fate: func(n int, body []byte) [][]byte {
			if n == 1 {
				return [][]byte{body, future(body)}
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Overcount, 20 }, false},
		{"connections end", &topicServer{fate: func(n int, body []byte) [][]byte {
			if n == 7 {
				return nil
			}
			return [][]byte{body}
		}}, func(n *Counters) (int64, int64) { return n.Unanswered*1000 + n.Lost, (250-6*20)*1000 + 20 }, false},
		{"refused", &topicServer{status: func(n int) int {
			if n == 2 {
				return http.StatusTooManyRequests
			}
			return http.StatusOK
		}}, func(n *Counters) (int64, int64) { return n.Missing, 20 }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := fanoutRun(t, tc.server)
			n := &r.Counters
			if got, want := tc.check(n); got != want {
				t.Errorf("got %d, want %d: %+v %v", got, want, *n, r.Failures)
			}
			if r.OK() != tc.ok {
				t.Errorf("failures: %q", r.Failures)
			}
			if n.Sent != 250 || n.Sent != n.Replies+n.Missing+n.Unanswered {
				t.Errorf("the counts do not add up: %+v", *n)
			}
			if r.Message.Count != n.Replies || r.Published+total(r.PublishErrors) != 50 {
				t.Errorf("%d latencies, %d publications, %v", r.Message.Count, r.Published, r.PublishErrors)
			}
		})
	}
}

func total(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func FuzzPublication(f *testing.F) {
	filler := payloadOf(&Spec{Payload: 40})
	f.Add(appendPublication(nil, 1, 2*time.Second, filler)) // a publication
	f.Add(filler)                                           // its filler alone
	f.Add([]byte(`{"type":"gap"}`))                         // something else
	f.Fuzz(func(t *testing.T, p []byte) {
		seq, due, ok := readPublication(p, filler)
		if ok && string(appendPublication(nil, seq, due, filler)) != string(p) {
			t.Fatalf("%q: read as %d %d", p, seq, due)
		}
	})
}
