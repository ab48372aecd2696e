package baseline

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// service is what the libraries share: sessions, frames and limits. It is kept
// small on purpose, so that a measurement is one of the library and of its
// goroutines, and not of this file.
type service struct {
	Options

	mu       sync.Mutex
	sessions map[uuid.UUID]*session
	peers    map[peer]struct{} // open connections, to be told goodbye
}

// session is one identity's counter.
type session struct {
	total     atomic.Uint64
	conns     int       // guarded by service.mu
	idleSince time.Time // guarded by service.mu; when conns fell to 0
}

// peer is an open connection as the service sees it.
type peer interface {
	goAway() // sends Close 1001 and closes; any goroutine
}

func newService(o Options) *service {
	return &service{Options: o, sessions: make(map[uuid.UUID]*session), peers: make(map[peer]struct{})}
}

// slot is a connection's place in a session. Its methods are for the goroutine
// that reads the connection, but for heartbeat, which any goroutine may call.
type slot struct {
	svc     *service
	session *session
	id      uuid.UUID
	resumed bool
	scratch [32]byte // the reply being written; its reader's only
}

// errBadSession is what a malformed session_id gets, with status 400.
const errBadSession = "session_id must be a UUID of 36 characters; leave it out to start a new session\n"

// enter takes a slot for a handshake that asked for session query, or for a new
// session when query is "". It is false when query is not a UUID.
func (s *service) enter(query string) (*slot, bool) {
	t := &slot{svc: s}
	if query == "" {
		t.id = uuid.New()
	} else {
		id, err := uuid.Parse(query)
		if err != nil || len(query) != 36 {
			return nil, false
		}
		t.id = id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.session, t.resumed = s.sessions[t.id], true
	if t.session == nil {
		t.session, t.resumed = new(session), false
		s.sessions[t.id] = t.session
	}
	t.session.conns++
	return t, true
}

// open makes p one of the connections that are told goodbye.
func (t *slot) open(p peer) {
	t.svc.mu.Lock()
	defer t.svc.mu.Unlock()
	t.svc.peers[p] = struct{}{}
}

// leave gives the slot back; p may be nil when open was not reached. A session
// that never counted is forgotten at once, as Sluice does.
func (t *slot) leave(p peer) {
	s := t.svc
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
	t.session.conns--
	if t.session.conns > 0 {
		return
	}
	if t.session.total.Load() == 0 {
		delete(s.sessions, t.id)
		return
	}
	t.session.idleSince = time.Now()
}

// welcome is the first frame of the counting service, and nil for echo.
func (t *slot) welcome() []byte {
	if t.svc.App != Count {
		return nil
	}
	b := append(make([]byte, 0, 96), `{"session_id":"`...)
	b = append(b, t.id.String()...)
	b = append(b, `","count":`...)
	b = strconv.AppendUint(b, t.session.total.Load(), 10)
	b = append(b, `,"resumed":`...)
	return append(strconv.AppendBool(b, t.resumed), '}')
}

// count adds one message and returns the reply, valid until the next call.
func (t *slot) count() []byte {
	b := append(t.scratch[:0], `{"count":`...)
	b = strconv.AppendUint(b, t.session.total.Add(1), 10)
	return append(b, '}')
}

// heartbeat is the frame that goes with a Ping.
func (t *slot) heartbeat() []byte {
	b := append(make([]byte, 0, 40), `{"ts":"`...)
	b = time.Now().UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, `"}`...)
}

// patience is how long a peer may be silent: two and a half heartbeats.
func (s *service) patience() time.Duration { return s.Heartbeat * 5 / 2 }

// firstBeat spreads the phases, so that connections that came together do not
// all beat together.
func (s *service) firstBeat() time.Duration { return 1 + rand.N(s.Heartbeat) }

// beatEvery runs beat once a heartbeat until it fails, without a goroutine in
// between. The result stops it; a beat that is running is not waited for.
func (s *service) beatEvery(beat func() error) (stop func()) {
	if s.Heartbeat < 0 {
		return func() {}
	}
	var t *time.Timer
	t = time.AfterFunc(math.MaxInt64, func() {
		if beat() == nil {
			t.Reset(s.Heartbeat)
		}
	})
	t.Reset(s.firstBeat()) // only now: beat needs t
	return func() { t.Stop() }
}

// sweep forgets sessions that nobody resumed in time.
func (s *service) sweep(ctx context.Context) {
	every := time.NewTicker(min(time.Minute, s.SessionTTL))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			s.mu.Lock()
			for id, x := range s.sessions {
				if x.conns == 0 && now.Sub(x.idleSince) >= s.SessionTTL {
					delete(s.sessions, id)
				}
			}
			s.mu.Unlock()
		}
	}
}

func (s *service) sayGoodbye() {
	s.mu.Lock()
	peers := make([]peer, 0, len(s.peers))
	for p := range s.peers {
		peers = append(peers, p)
	}
	s.mu.Unlock()
	for _, p := range peers {
		p.goAway()
	}
}

// isChat tells the WebSocket endpoint's paths.
func isChat(path string) bool { return path == "/ws/chat/" || path == "/ws" || path == "/ws/chat" }

// mux is the HTTP side for the libraries that sit on net/http.
func (s *service) mux(chat func(w http.ResponseWriter, r *http.Request, t *slot)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case isChat(r.URL.Path):
			query := ""
			if r.URL.RawQuery != "" {
				query = r.URL.Query().Get("session_id")
			}
			t, ok := s.enter(query)
			if !ok {
				http.Error(w, errBadSession, http.StatusBadRequest)
				return
			}
			chat(w, r, t)
		case r.URL.Path == "/healthz":
			w.Write([]byte("ok\n"))
		case r.URL.Path == "/stats":
			w.Header().Set("Content-Type", "application/json")
			w.Write(s.stats())
		default:
			http.NotFound(w, r)
		}
	})
}

// httpServer is what every library on net/http is run by.
func httpServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
}
