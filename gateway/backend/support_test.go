package backend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sluice/gateway"
	"sluice/gateway/topics"
)

const testPatience = 20 * time.Second

func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(testPatience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", testPatience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// service is a backend in this process. It notes what it is sent, and answers as told.
type service struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request, body string) // nil: accept, and echo with grip

	mu       sync.Mutex
	requests []seen
	changed  chan struct{}
}

type seen struct {
	id     string
	body   string
	header http.Header
	path   string
	host   string
}

func newService(t testing.TB,
	answer func(w http.ResponseWriter, r *http.Request, body string)) *service {
	t.Helper()
	b := &service{answer: answer, changed: make(chan struct{}, 1)}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	return b
}

func (b *service) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.mu.Lock()
	b.requests = append(b.requests,
		seen{r.Header.Get("Connection-Id"), string(body), r.Header.Clone(), r.RequestURI, r.Host})
	b.mu.Unlock()
	if b.answer != nil {
		b.answer(w, r, string(body))
		return
	}
	echo(w, string(body))
}

// echo accepts a connection and sends back what comes, as a GRIP backend does.
func echo(w http.ResponseWriter, body string, more ...string) {
	var out []byte
	if strings.HasPrefix(body, "OPEN\r\n") {
		w.Header().Set("Sec-WebSocket-Extensions", "grip")
		out = appendEvent(out, eventOpen, nil)
	}
	_ = eachEvent([]byte(body), func(e event) bool {
		switch e.kind {
		case eventText, eventBinary:
			out = appendEvent(out, e.kind, append([]byte(messagePrefix), e.content...))
		case eventClose:
			out = appendEvent(out, eventClose, e.content)
		}
		return true
	})
	for _, m := range more {
		out = appendEvent(out, eventText, []byte(m))
	}
	w.Header().Set("Content-Type", contentType)
	w.Write(out)
}

func (b *service) seen() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]seen(nil), b.requests...)
}

// bodies are what was sent, separated by |, with CRLF as a space.
func (b *service) bodies() string {
	var all []string
	for _, r := range b.seen() {
		all = append(all, strings.TrimSpace(strings.ReplaceAll(r.body, "\r\n", " ")))
	}
	return strings.Join(all, "|")
}

// edge is a gateway with an App.
type edge struct {
	*gateway.Server
	app *App
	hub *topics.Hub
	url string

	patience time.Duration // for what the backend is still to be told when the test ends
}

func newEdge(t testing.TB, cfg Config, routes ...string) *edge {
	t.Helper()
	return newEdgeWith(t, gateway.Config{Loops: 1}, cfg, routes...)
}

func newEdgeWith(t testing.TB, g gateway.Config, cfg Config, routes ...string) *edge {
	t.Helper()
	for _, text := range routes {
		r, err := ParseRoute(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Routes = append(cfg.Routes, r)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	hub, err := topics.New(topics.Config{
		Logger: cfg.Logger, History: []topics.HistoryRule{{Pattern: "kept*", Size: 10, TTL: time.Hour}},
	})
	if err != nil {
		t.Fatal(err)
	}
	app, err := New(cfg, hub)
	if err != nil {
		t.Fatal(err)
	}
	g.Listen, g.Logger, g.AnyPath, g.PingOnly = "127.0.0.1:0", cfg.Logger, true, true
	s, err := gateway.New(g, app)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	e := &edge{Server: s, app: app, hub: hub, url: "ws://" + s.Addr().String(), patience: testPatience}
	t.Cleanup(func() {
		s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), e.patience)
		defer cancel()
		app.Shutdown(ctx)
		if n := app.running.Load(); n != 0 {
			t.Errorf("%d requests are still running", n)
		}
	})
	return e
}

// client is a WebSocket client that fails its test.
type client struct {
	*websocket.Conn
	t testing.TB
}

func (e *edge) dial(t testing.TB, path string, header ...string) *client {
	t.Helper()
	c, _, err := e.tryDial(path, header...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return &client{c, t}
}

func (e *edge) tryDial(path string, header ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	return websocket.Dial(ctx, e.url+path, &websocket.DialOptions{HTTPHeader: h, HTTPClient: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
}

func (c *client) send(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatalf("send %q: %v", text, err)
	}
}

// next is the next message, or how the connection ended: "closed 1000 reason".
func (c *client) next() string {
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	kind, p, err := c.Read(ctx)
	if err != nil {
		var end websocket.CloseError
		if status := websocket.CloseStatus(err); status >= 0 {
			if ok := asClose(err, &end); ok && end.Reason != "" {
				return fmt.Sprintf("closed %d %s", status, end.Reason)
			}
			return fmt.Sprintf("closed %d", status)
		}
		return "broken: " + err.Error()
	}
	if kind == websocket.MessageBinary {
		return "binary " + string(p)
	}
	return string(p)
}

func (c *client) want(messages ...string) {
	c.t.Helper()
	for _, want := range messages {
		if got := c.next(); got != want {
			c.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// newUnstarted is a server of which only the URL is used.
func newUnstarted(url string) *httptest.Server { return &httptest.Server{URL: url} }

// rawGet asks for a WebSocket with a path as it is, which clients would clean.
func rawGet(t testing.TB, e *edge, path string) (string, int, error) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+
		"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		path)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), res.StatusCode, err
}
