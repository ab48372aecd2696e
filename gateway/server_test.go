package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/goleak"

	"sluice/sessions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak alone waits for less than half a second,
// which is too little on a loaded machine.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(20 * time.Second); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

// serve starts a gateway for one test, without heartbeats unless it asks for them.
func serve(t testing.TB, cfg Config, app App) *Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = -1 // the default's first comes at a random time, and now and then within the test
	}
	def(&cfg.HandshakeTimeout, testPatience)
	if app == nil {
		app = Count{Store: memory(t)}
	}
	s, err := New(cfg, app)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func memory(t testing.TB) sessions.Store {
	store := sessions.NewMemory(sessions.MemoryConfig{})
	t.Cleanup(func() { store.Close(context.Background()) })
	return store
}

// patience bounds every wait in these tests. It is long because a loaded machine is slow, and never waited out otherwise.
const testPatience = time.Minute

// wire is a client that sees every byte.
type wire struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, s *Server) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testPatience))
	return &wire{t, conn, bufio.NewReader(conn)}
}

func upgradeRequest(target string, extra ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: gateway.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + strings.Join(extra, "") + "\r\n"
}

// response reads an HTTP response head.
func (c *wire) response() *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	return resp
}

// open connects and upgrades.
func open101(t testing.TB, s *Server, target string) *wire {
	t.Helper()
	c := dial(t, s)
	io.WriteString(c, upgradeRequest(target))
	if resp := c.response(); resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %d and accept %q", resp.StatusCode, resp.Header.Get("Sec-WebSocket-Accept"))
	}
	return c
}

// frame is a masked client frame.
func frame(fin bool, op ws.OpCode, payload string) []byte {
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload))))
}

func text(s string) []byte { return frame(true, ws.OpText, s) }

func closeFrame(code ws.StatusCode, reason string) []byte {
	return frame(true, ws.OpClose, string(ws.NewCloseFrameBody(code, reason)))
}

// next reads one server frame and describes it: "text {…}", "close 1000 reason", "ping", "EOF".
func (c *wire) next() string {
	c.t.Helper()
	f, err := ws.ReadFrame(c.r)
	switch {
	case err == io.EOF:
		return "EOF"
	case err != nil:
		return "error: " + err.Error()
	}
	if f.Header.Masked || !f.Header.Fin || f.Header.Rsv != 0 {
		c.t.Fatalf("server frame with header %+v", f.Header)
	}
	switch f.Header.OpCode {
	case ws.OpClose:
		if len(f.Payload) < 2 {
			return "close"
		}
		return strings.TrimSpace(fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(f.Payload), f.Payload[2:]))
	case ws.OpPing:
		return strings.TrimSpace("ping " + string(f.Payload))
	case ws.OpPong:
		return strings.TrimSpace("pong " + string(f.Payload))
	case ws.OpBinary:
		return "binary " + string(f.Payload)
	}
	return "text " + string(f.Payload)
}

func (c *wire) expect(want ...string) {
	c.t.Helper()
	for i, w := range want {
		if got := c.next(); got != w {
			c.t.Fatalf("frame %d: got %q, want %q", i, got, w)
		}
	}
}

var welcomePattern = regexp.MustCompile(`^text \{"session_id":"([0-9a-f-]{36})","count":(\d+),"resumed":(true|false)\}$`)

// welcome reads the first frame and returns the session id.
func (c *wire) welcome(count int, resumed bool) string {
	c.t.Helper()
	got := c.next()
	m := welcomePattern.FindStringSubmatch(got)
	if m == nil || m[2] != fmt.Sprint(count) || m[3] != fmt.Sprint(resumed) {
		c.t.Fatalf("got %q, want a welcome with count %d, resumed %v", got, count, resumed)
	}
	return m[1]
}

func TestCountAndResume(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := open101(t, s, "/ws/chat/")
	id := c.welcome(0, false)
	c.Write(append(text("a"), text("b")...))
	c.Write(frame(true, ws.OpBinary, "c"))
	c.expect(`text {"count":1}`, `text {"count":2}`, `text {"count":3}`)
	c.Write(closeFrame(1000, "done"))
	c.expect(`text {"bye":true,"total":3}`, "close 1000", "EOF")

	c = open101(t, s, "/ws?session_id="+id)
	if got := c.welcome(3, true); got != id {
		t.Errorf("resumed %s, asked for %s", got, id)
	}
	c.Write(text("d"))
	c.expect(`text {"count":4}`)
}

func TestDrainTellsEveryone(t *testing.T) {
	s := serve(t, Config{DrainSpread: 100 * time.Millisecond}, nil)
	var clients []*wire
	for range 20 {
		c := open101(t, s, "/ws/chat/")
		c.welcome(0, false)
		c.Write(text("x"))
		c.expect(`text {"count":1}`)
		clients = append(clients, c)
	}
	shaking := dial(t, s)
	io.WriteString(shaking, "GET /ws HTTP/1.1\r\n")
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	done := make(chan error, 1)
	await(t, "all are accepted", func() bool { return s.Connections() == 21 })
	go func() { done <- s.Drain(ctx) }()
	for _, c := range clients {
		c.expect(`text {"bye":true,"total":1}`, "close 1001")
		c.Write(closeFrame(1001, ""))
		c.expect("EOF")
		c.Close()
	}
	if resp := shaking.response(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("unfinished handshake: got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
	shaking.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// deaf is an App whose handler stops reading with the first message.
type deaf struct{ Echo }

func (d deaf) ForLoop(func(fn func()) bool) Handler        { return d }
func (deaf) Open(c *Conn, r *Request)                      { immortal{}.Open(c, r) } // until its first message
func (deaf) Message(c *Conn, op ws.OpCode, payload []byte) { c.PauseReading() }

func TestPeerThatIsNotListenedToIsNotDead(t *testing.T) {
	const interval = 100 * time.Millisecond
	s := serve(t, Config{Heartbeat: interval}, deaf{})
	c := open101(t, s, "/ws")
	c.Write(text("x"))
	for range 20 { // heartbeats go on for far longer than 2.5 intervals, though no Pong is read
		if got := c.next(); !strings.HasPrefix(got, `text {"ts":`) && got != "ping" {
			t.Fatalf("got %q, want heartbeats", got)
		}
	}
}
