package gateway

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/goleak"

	"sluice/gateway/gatewaytest"
	"sluice/sessions"
)

// Count is the counting service, which most of these tests run. counting_test.go sets it: here it
// cannot be imported, since it imports this package.
var Count func(store sessions.Store) App

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
		app = Count(memory(t))
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

const testPatience = gatewaytest.Patience

// wire is a client that sees every byte.
type wire struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

// frames is the same client, for what gatewaytest does.
func (c *wire) frames() *gatewaytest.Client {
	return &gatewaytest.Client{T: c.t, Conn: c.Conn, R: c.r}
}

func dial(t testing.TB, s *Server) *wire {
	t.Helper()
	c := gatewaytest.Dial(t, s)
	return &wire{t, c.Conn, c.R}
}

func open101(t testing.TB, s *Server, target string) *wire {
	t.Helper()
	c := gatewaytest.Open(t, s, target)
	return &wire{t, c.Conn, c.R}
}

func upgradeRequest(target string, extra ...string) string {
	return gatewaytest.Upgrade(target, extra...)
}

func frame(fin bool, op ws.OpCode, payload string) []byte {
	return gatewaytest.Frame(fin, op, payload)
}

func text(s string) []byte { return gatewaytest.Text(s) }

func closeFrame(code ws.StatusCode, reason string) []byte {
	return gatewaytest.CloseFrame(code, reason)
}

func (c *wire) response() *http.Response {
	c.t.Helper()
	return c.frames().Response()
}

func (c *wire) next() string {
	c.t.Helper()
	return c.frames().Next()
}

func (c *wire) expect(want ...string) {
	c.t.Helper()
	c.frames().Expect(want...)
}

func (c *wire) welcome(count int, resumed bool) string {
	c.t.Helper()
	return c.frames().Welcome(count, resumed)
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
