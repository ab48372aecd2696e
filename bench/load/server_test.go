package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/gobwas/ws"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak
// alone waits for less than half a second, which is too little on a loaded machine.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(20 * time.Second); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

// patience is how long a run may take that is over in seconds on an idle machine.
const patience = 2 * time.Minute

// server is a small counting server that can be told to misbehave.
type server struct {
	url       string
	noWelcome bool
	noID      bool // tells nobody the session's id

	// onConn, when set, may answer instead of the handshake: it returns true when it has. Attempts
	// count from 1.
	onConn func(c net.Conn, attempt int64) bool
	// onOpen, when set, is called on a goroutine of its own for every connection.
	onOpen func(p *peer)
	// onMessage answers one message, the n-th of the connection; the default counts.
	onMessage func(p *peer, n int, payload []byte)
	// onReturn, when set, changes the total that a session comes back with.
	onReturn func(total uint64) uint64

	ln       net.Listener
	attempts atomic.Int64
	begun    atomic.Int64 // messages whose first frame was not their last
	wg       sync.WaitGroup
	mu       sync.Mutex
	totals   map[string]uint64
	open     map[net.Conn]bool
}

// peer is one connection of the server.
type peer struct {
	net.Conn
	s    *server
	id   string
	mu   sync.Mutex  // of writes
	over atomic.Bool // has sent Close: nothing is read any more
	done chan struct{}
}

func (s *server) start(t *testing.T) *server {
	t.Helper()
	if s.ln == nil {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.ln = ln
	}
	s.url = "ws://" + s.ln.Addr().String() + "/ws/chat/"
	s.totals, s.open = map[string]uint64{}, map[net.Conn]bool{}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			c, err := s.ln.Accept()
			if err != nil {
				return
			}
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				s.serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = s.ln.Close()
		s.mu.Lock()
		for c := range s.open {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *server) serve(c net.Conn) {
	s.mu.Lock()
	s.open[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
		_ = c.Close()
	}()
	if s.onConn != nil && s.onConn(c, s.attempts.Add(1)) {
		return
	}
	p := &peer{Conn: c, s: s, done: make(chan struct{})}
	defer close(p.done)
	resumed := false
	u := ws.Upgrader{
		Protocol: func(b []byte) bool { return string(b) == "counting" },
		OnRequest: func(uri []byte) error {
			if parsed, err := url.ParseRequestURI(string(uri)); err == nil {
				p.id = parsed.Query().Get("session_id")
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			s.mu.Lock()
			_, resumed = s.totals[p.id]
			s.mu.Unlock()
			if p.id == "" {
				p.id = uuid.NewString()
			}
			if s.noID {
				return nil, nil
			}
			return ws.HandshakeHeaderString("X-Session-Id: " + p.id + "\r\n"), nil
		},
	}
	if _, err := u.Upgrade(c); err != nil {
		return
	}
	if resumed && s.onReturn != nil {
		s.mu.Lock()
		s.totals[p.id] = s.onReturn(s.totals[p.id])
		s.mu.Unlock()
	}
	if !s.noWelcome {
		p.text(fmt.Sprintf(`{"session_id":"%s","count":%d,"resumed":%t}`, p.id, p.total(0), resumed))
	}
	if s.onOpen != nil {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.onOpen(p)
		}()
	}
	p.read()
}

func (p *peer) read() {
	var begun []byte // of a message in fragments
	for n := 1; ; {
		f, err := ws.ReadFrame(p.Conn)
		if err != nil {
			return
		}
		if !f.Header.Masked {
			p.close(1002)
			return
		}
		f = ws.UnmaskFrameInPlace(f)
		switch f.Header.OpCode {
		case ws.OpClose:
			p.text(fmt.Sprintf(`{"bye":true,"total":%d}`, p.total(0)))
			p.frame(ws.NewCloseFrame(f.Payload))
			return
		case ws.OpText, ws.OpBinary, ws.OpContinuation:
			if (f.Header.OpCode == ws.OpContinuation) != (begun != nil) {
				p.close(1002)
				return
			}
			if !f.Header.Fin {
				p.s.begun.Add(1)
				begun = append(make([]byte, 0, 1), f.Payload...)
				continue
			}
			f.Payload, begun = append(begun, f.Payload...), nil
			if p.s.onMessage != nil {
				p.s.onMessage(p, n, f.Payload)
			} else {
				p.reply(p.total(1))
			}
			n++
		}
		if p.over.Load() { // what is unread at the end would make it a reset
			_ = p.Conn.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.Copy(io.Discard, p.Conn)
			return
		}
	}
}

// closeAll has the server send Close to everybody.
func (s *server) closeAll(code ws.StatusCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_, _ = c.Write(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, ""))))
	}
}

// total adds to the session's total and returns it.
func (p *peer) total(add uint64) uint64 {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	n := p.s.totals[p.id] + add
	if n > 0 {
		p.s.totals[p.id] = n
	}
	return n
}

func (p *peer) reply(n uint64) { p.text(fmt.Sprintf(`{"count":%d}`, n)) }
func (p *peer) text(s string)  { p.frame(ws.NewTextFrame([]byte(s))) }
func (p *peer) close(code int) {
	p.over.Store(true)
	p.frame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), "")))
}
func (p *peer) frame(f ws.Frame)    { p.bytes(ws.MustCompileFrame(f)) }
func echo(p *peer, _ int, b []byte) { p.text(string(b)) }

func (p *peer) bytes(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.Conn.Write(b)
}

// load runs spec against s with what the tests have in common, and fails the test when the run
// cannot be made.
func load(t *testing.T, spec Spec, servers ...*server) *Result {
	t.Helper()
	for _, s := range servers {
		spec.Targets = append(spec.Targets, s.url)
	}
	spec.Conns = cmp.Or(spec.Conns, 20)
	spec.Duration = cmp.Or(spec.Duration, 200*time.Millisecond)
	spec.AllowBehind = true // the machine is loaded; TestBehind is about the schedule
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := Run(ctx, spec)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if !r.Complete {
		t.Errorf("the run is not complete: %+v", r.Counters)
	}
	return r
}

// wantOK fails the test when the run found something wrong.
func wantOK(t *testing.T, r *Result) {
	t.Helper()
	if !r.OK() {
		t.Errorf("failures %q, want none; counters %+v", r.Failures, r.Counters)
	}
}

// wantFailure fails the test unless one sentence, and no other, was said with text in it.
func wantFailure(t *testing.T, r *Result, text string) {
	t.Helper()
	if len(r.Failures) != 1 || !strings.Contains(r.Failures[0], text) {
		t.Errorf("failures %q, want one with %q", r.Failures, text)
	}
}

func want(t *testing.T, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %d, want %d", what, got, want)
	}
}

// tlsListener listens with the certificate that net/http/httptest brings.
func tlsListener(t *testing.T) net.Listener {
	t.Helper()
	h := httptest.NewUnstartedServer(nil)
	h.StartTLS()
	cert := h.TLS.Certificates[0]
	h.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
