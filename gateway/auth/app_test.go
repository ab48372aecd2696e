package auth

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"sluice/gateway"
	"sluice/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tellApp answers every message with the user and what it has seen of the request.
type tellApp struct {
	gateway.Echo
	opened, closed *sync.Map // of connections
}

func (a tellApp) ForLoop(func(fn func()) bool) gateway.Handler { return a }

func (a tellApp) Open(c *gateway.Conn, r *gateway.Request) {
	a.opened.Store(c, true)
	var headers []string
	for name, value := range r.Headers {
		switch strings.ToLower(string(name)) {
		case "authorization", "cookie", "sec-websocket-protocol":
			headers = append(headers, string(name)+": "+string(value))
		}
	}
	c.Data = fmt.Sprintf("%s %s?%s %s", c.User(), r.Path, r.Query, strings.Join(headers, "; "))
	c.Accept("")
}

func (a tellApp) Message(c *gateway.Conn, op ws.OpCode, _ []byte) {
	c.Send(op, []byte(c.Data.(string)))
}

func (a tellApp) Closed(c *gateway.Conn) {
	if _, was := a.opened.Load(c); !was {
		panic("Closed for a connection that the application has not seen")
	}
	a.closed.Store(c, true)
}

// lock is a bytes.Buffer for two goroutines.
type lock struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lock) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *lock) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// start runs a gateway with cfg in front of tellApp; log has all that it logs.
func start(t *testing.T, cfg Config) (s *gateway.Server, log *lock) {
	t.Helper()
	a, err := New(cfg, tellApp{opened: new(sync.Map), closed: new(sync.Map)})
	if err != nil {
		t.Fatal(err)
	}
	log = new(lock)
	s, err = gateway.New(gateway.Config{Listen: "127.0.0.1:0", Heartbeat: -1, HandshakeTimeout: gatewaytest.Patience,
		Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); a.Close() })
	return s, log
}

func keysFor(t testing.TB, alg Algorithm, texts ...string) *Keys {
	t.Helper()
	k, err := ParseKeys(alg, texts...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// live makes claims that are valid now.
func live(changes ...any) jwt.MapClaims {
	return claims(append([]any{"exp", time.Now().Add(time.Hour).Unix()}, changes...)...)
}

// ask sends a handshake and returns the status, what the application says, and the answer's
// headers.
func ask(t *testing.T, s *gateway.Server, target string, headers ...string) (code int, said string, h http.Header) {
	t.Helper()
	c := gatewaytest.Dial(t, s)
	defer c.Close()
	io.WriteString(c, gatewaytest.Upgrade(target, headers...))
	resp := c.Response()
	if resp.StatusCode == 101 {
		c.Write(gatewaytest.Text("?"))
		said, _ = strings.CutPrefix(c.Next(), "text ")
	}
	return resp.StatusCode, said, resp.Header
}

func TestWhereTokensAre(t *testing.T) {
	token := sign(jwt.SigningMethodHS256, []byte(secret), live())
	other := sign(jwt.SigningMethodHS256, []byte(secret), live("sub", "mallory"))
	s, log := start(t, Config{Algorithm: HS256, Keys: keysFor(t, HS256, secret), Cookie: "jwt"})
	for _, test := range []struct {
		name, target string
		headers      []string
		code         int
		said         string
		protocol     string
	}{
		{"Authorization", "/ws", []string{"Authorization: Bearer " + token + "\r\n"}, 101, "alice /ws? Authorization: Bearer " + token, ""},
		{"in any case", "/ws", []string{"authorization: bearer " + token + "\r\n"}, 101, "alice /ws? authorization: bearer " + token, ""},
		{"query", "/ws?a=1&token=" + token + "&b=2", nil, 101, "alice /ws?a=1&b=2 ", ""},
		{"query alone", "/ws?token=" + token, nil, 101, "alice /ws? ", ""},
		{"protocol", "/ws", []string{"Sec-WebSocket-Protocol: chat, bearer." + token + "\r\n"}, 101, "alice /ws? Sec-WebSocket-Protocol: chat", "chat"},
		{"protocol alone", "/ws", []string{"Sec-WebSocket-Protocol: bearer." + token + "\r\n"}, 101, "alice /ws? ", "bearer." + token},
		{"protocol, two lines", "/ws", []string{"Sec-WebSocket-Protocol: bearer." + token + "\r\n", "Sec-WebSocket-Protocol: a, b\r\n"}, 101, "alice /ws? Sec-WebSocket-Protocol: a, b", "a"},
		{"cookie", "/ws", []string{"Cookie: x=1; jwt=" + token + "; y=2\r\n"}, 101, "alice /ws? Cookie: x=1; jwt=" + token + "; y=2", ""},
		{"the more explicit place counts", "/ws?token=" + other, []string{"Authorization: Bearer " + token + "\r\n", "Cookie: jwt=" + other + "\r\n"}, 101,
			"alice /ws? Authorization: Bearer " + token + "; Cookie: jwt=" + other, ""},
		{"an invalid one there is not made up for", "/ws?token=" + token, []string{"Authorization: Bearer x\r\n"}, 401, "", ""},
		{"nowhere", "/ws", nil, 401, "", ""},
		{"another scheme", "/ws", []string{"Authorization: Basic YTpi\r\n"}, 401, "", ""},
		{"another cookie", "/ws", []string{"Cookie: JWT=" + token + "\r\n"}, 401, "", ""},
		{"two in the query", "/ws?token=" + token + "&token=" + other, nil, 401, "", ""},
		{"two headers", "/ws", []string{"Authorization: Bearer " + token + "\r\n", "Authorization: Bearer " + other + "\r\n"}, 401, "", ""},
		{"two cookies", "/ws", []string{"Cookie: jwt=" + token + "; jwt=" + other + "\r\n"}, 401, "", ""},
		{"two protocols", "/ws", []string{"Sec-WebSocket-Protocol: bearer." + token + ", bearer." + other + "\r\n"}, 401, "", ""},
		{"expired", "/ws?token=" + sign(jwt.SigningMethodHS256, []byte(secret), live("exp", 1)), nil, 401, "", ""},
		{"cookie of another site's page", "/ws", []string{"Cookie: jwt=" + token + "\r\n", "Origin: https://evil.example\r\n"}, 403, "", ""},
	} {
		code, said, h := ask(t, s, test.target, test.headers...)
		if code != test.code || said != test.said || h.Get("Sec-WebSocket-Protocol") != test.protocol {
			t.Errorf("%s: got %d, %q, protocol %q; want %d, %q, %q", test.name, code, said, h.Get("Sec-WebSocket-Protocol"),
				test.code, test.said, test.protocol)
		}
		if challenge := h.Get("WWW-Authenticate"); (code == 401) != strings.HasPrefix(challenge, "Bearer ") {
			t.Errorf("%s: %d with WWW-Authenticate %q", test.name, code, challenge)
		}
	}
	if text := log.String(); strings.Contains(text, token) || strings.Contains(text, other) || strings.Contains(text, secret) || text == "" {
		t.Errorf("a token is in the log: %s", text)
	}
}

// TestOffTheLoop: elliptic curves are checked elsewhere, and the outcome is the same.
func TestOffTheLoop(t *testing.T) {
	s, _ := start(t, Config{Algorithm: ES256, Keys: keysFor(t, ES256, ecPair().public), Verifiers: 2})
	good := sign(jwt.SigningMethodES256, ecPair().private, live())
	bad := sign(jwt.SigningMethodES256, newEC().private, live())
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			token, want := good, 101
			if i%4 == 0 {
				token, want = bad, 401
			}
			code, said, _ := ask(t, s, "/ws?x=1&token="+token)
			if code != want || code == 101 && said != "alice /ws?x=1 " {
				t.Errorf("got %d, %q, want %d", code, said, want)
			}
		})
	}
	all.Wait()
}

// TestTooManyTokensWait: the queue is bounded, and beyond it there is 503 with Retry-After. A
// client that leaves while its token is checked harms nothing.
func TestTooManyTokensWait(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	cfg := Config{Algorithm: ES256, Keys: keysFor(t, ES256, ecPair().public), Verifiers: 1, MaxWaiting: 2}
	cfg.now = func() time.Time { entered <- struct{}{}; <-release; return time.Now() }
	s, _ := start(t, cfg)
	request := gatewaytest.Upgrade("/ws?token=" + sign(jwt.SigningMethodES256, ecPair().private, live()))
	open := func() *gatewaytest.Client {
		c := gatewaytest.Dial(t, s)
		io.WriteString(c, request)
		return c
	}
	first := open()
	<-entered // the one that is being checked does not wait
	gone, second := open(), open()
	gatewaytest.Await(t, "more than two wait", func() bool {
		c := open()
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		line, _ := c.R.ReadString('\n')
		if line == "" {
			return false // it is one of the two
		}
		rest, _ := io.ReadAll(c.R)
		return strings.HasPrefix(line, "HTTP/1.1 503") && strings.Contains(string(rest), "Retry-After: 1\r\n")
	})
	gone.Close()
	close(release)
	for i, c := range []*gatewaytest.Client{first, second} {
		if code := c.Response().StatusCode; code != 101 && !(i == 1 && code == 503) {
			t.Errorf("client %d: got %d", i, code)
		}
	}
}

func TestConnectionEndsWithItsToken(t *testing.T) {
	s, _ := start(t, Config{Algorithm: HS256, Keys: keysFor(t, HS256, secret)})
	before := expirations.Get()
	expires := time.Now().Add(3 * time.Second).Truncate(time.Second)
	c := gatewaytest.Open(t, s, "/ws?token="+sign(jwt.SigningMethodHS256, []byte(secret), live("exp", expires.Unix())))
	c.Expect("close 3000 token expired")
	if late := time.Since(expires); late > gatewaytest.Patience/2 {
		t.Errorf("it has ended %v after its token", late)
	}
	c.Write(gatewaytest.CloseFrame(3000, ""))
	c.Expect("EOF")
	if n := expirations.Get() - before; n != 1 {
		t.Errorf("counted %d", n)
	}
}

// TestEndsAreSpread: never after the token's end, and not all at once.
func TestEndsAreSpread(t *testing.T) {
	at := make(map[time.Duration]bool)
	handler := &spreadApp{}
	a, err := New(Config{Algorithm: HS256, Keys: keysFor(t, HS256, secret)}, handler)
	if err != nil {
		t.Fatal(err)
	}
	s, err := gateway.New(gateway.Config{Listen: "127.0.0.1:0", Heartbeat: -1, Loops: 1, Logger: slog.New(slog.DiscardHandler)}, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer s.Close()
	token := sign(jwt.SigningMethodHS256, []byte(secret), live())
	for range 20 {
		gatewaytest.Open(t, s, "/ws?token="+token)
	}
	for _, left := range handler.seen() {
		if left > time.Hour || left < 58*time.Minute {
			t.Errorf("ends in %v, want within a minute before the hour", left)
		}
		at[left.Round(time.Second)] = true
	}
	if len(at) < 5 {
		t.Errorf("twenty connections end at %d times", len(at))
	}
}

type spreadApp struct {
	gateway.Echo
	mu   sync.Mutex
	left []time.Duration
}

func (a *spreadApp) ForLoop(func(fn func()) bool) gateway.Handler { return a }

func (a *spreadApp) Open(c *gateway.Conn, _ *gateway.Request) {
	d, _, _ := c.EndsAfter()
	a.mu.Lock()
	a.left = append(a.left, d)
	a.mu.Unlock()
	c.Accept("")
}

func (a *spreadApp) seen() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

// TestWithoutKeys: while no keys have been read nobody gets in, and nobody is told that the token
// is wrong.
func TestWithoutKeys(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	r, err := NewRemote(RemoteConfig{URL: down.URL, Algorithm: ES256, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, _ := start(t, Config{Algorithm: ES256, Remote: r})
	code, _, h := ask(t, s, "/ws?token="+sign(jwt.SigningMethodES256, ecPair().private, live()))
	if code != 503 || h.Get("Retry-After") == "" {
		t.Errorf("got %d, Retry-After %q", code, h.Get("Retry-After"))
	}
}

func TestNewInsists(t *testing.T) {
	k := keysFor(t, HS256, secret)
	for _, cfg := range []Config{{}, {Algorithm: HS256}, {Algorithm: "none", Keys: k}, {Algorithm: "HS512", Keys: k}, {Algorithm: HS256, Keys: k, Remote: &Remote{}}} {
		if _, err := New(cfg, gateway.Echo{}); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// movingApp is an Echo whose connections can move.
type movingApp struct{ gateway.Echo }

func (a movingApp) ForLoop(func(fn func()) bool) gateway.Handler { return a }
func (movingApp) CanMove(*gateway.Conn, bool) bool               { return true }
func (movingApp) Pack(_ *gateway.Conn, b []byte) []byte          { return append(b, "packed"...) }
func (movingApp) Moved(*gateway.Conn)                            {}
func (movingApp) Unpack(c *gateway.Conn, state []byte) (err error) {
	c.Data = string(state)
	return nil
}
func (movingApp) Unmoved(*gateway.Conn) {}

// fixedApp is an application whose connections cannot move.
type fixedApp struct{ gateway.App }

func (a fixedApp) ForLoop(wake func(fn func()) bool) gateway.Handler {
	return struct{ gateway.Handler }{a.App.ForLoop(wake)}
}

// TestConnectionsMoveIfTheApplicationsDo, but not while their token is being checked.
func TestConnectionsMoveIfTheApplicationsDo(t *testing.T) {
	cfg := Config{Algorithm: HS256, Keys: keysFor(t, HS256, secret)}
	fixed, err := New(cfg, fixedApp{gateway.Echo{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, can := fixed.ForLoop(nil).(gateway.Mover); can {
		t.Error("connections of an application that cannot move can")
	}
	moving, err := New(cfg, movingApp{})
	if err != nil {
		t.Fatal(err)
	}
	m, can := moving.ForLoop(nil).(gateway.Mover)
	if !can {
		t.Fatal("connections of an application that can move cannot")
	}
	if m.CanMove(&gateway.Conn{Data: stranger{}}, false) || !m.CanMove(&gateway.Conn{}, false) {
		t.Error("what moves is not what has been let in")
	}
	var c gateway.Conn
	if err := m.Unpack(&c, m.Pack(&c, nil)); err != nil || c.Data != "packed" {
		t.Errorf("got %v, %v", c.Data, err)
	}
}
