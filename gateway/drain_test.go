package gateway

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// slowApp is an application whose answers come when the test says so, or never.
type slowApp struct {
	opened, left chan *Conn // connections that Open and Leave were called with
	holdLeave    bool       // do not answer Leave
	holdOpen     bool       // do not answer Open
	closed       atomic.Int64
}

func newSlowApp() *slowApp {
	return &slowApp{opened: make(chan *Conn, 1000), left: make(chan *Conn, 1000)}
}

func (a *slowApp) ForLoop(func(fn func()) bool) Handler { return a }

func (a *slowApp) Open(c *Conn, _ *Request) {
	a.opened <- c
	if !a.holdOpen {
		c.Accept("")
	}
}

func (a *slowApp) Message(c *Conn, op ws.OpCode, payload []byte) { c.Send(op, payload) }

func (a *slowApp) Leave(c *Conn, code ws.StatusCode) {
	a.left <- c
	if !a.holdLeave {
		c.Close(code, "")
	}
}

func (a *slowApp) Closed(*Conn) { a.closed.Add(1) }

// drain begins to drain s and returns what says how it ended.
func drain(t testing.TB, s *Server) chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- s.Drain(ctx) }()
	await(t, "the gateway drains", func() bool { return s.Ready() != nil })
	onLoops(s, func(*worker) {})
	return done
}

func ended(t testing.TB, done chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Drain: got %v, want nil", err)
		}
	case <-time.After(testPatience):
		t.Fatal("Drain does not return")
	}
}

func TestDrainWithoutConnections(t *testing.T) {
	s := serve(t, Config{}, nil)
	if err := s.Ready(); err != nil {
		t.Errorf("Ready: got %v, want nil", err)
	}
	ended(t, drain(t, s))
	if err := s.Ready(); err != errDraining {
		t.Errorf("Ready: got %v, want %v", err, errDraining)
	}
	ended(t, drain(t, s)) // again
	s.Close()
	ended(t, drain(t, s)) // and when it is over
}

// Peers that do not answer the Close are waited for CloseTimeout and no longer.
func TestDrainWithPeersThatDoNotAnswer(t *testing.T) {
	s := serve(t, Config{DrainSpread: 20 * time.Millisecond, CloseTimeout: 100 * time.Millisecond}, nil)
	var silent []*wire
	for range 10 {
		c := open101(t, s, "/ws")
		c.welcome(0, false)
		silent = append(silent, c)
	}
	done := drain(t, s)
	for _, c := range silent {
		c.expect(`text {"bye":true,"total":0}`, "close 1001", "EOF")
	}
	ended(t, done)
	checkQuiet(t, s)
}

// A peer that had CloseTimeout to answer is not given time for its FIN as well: drains must end.
func TestPeerThatDoesNotAnswerHasHadItsTime(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1}, Echo{})
	c := open101(t, s, "/ws")
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		conn.Close(1001, "")
		conn.deadline = w.loop.Now()
		conn.expire()
		if conn.state != closed {
			t.Errorf("got state %d, want closed", conn.state)
		}
	})
	c.expect("close 1001", "EOF")
	checkQuiet(t, s)
}

// Sockets in their handshake are told 503: those that sent nothing, those that sent a part.
func TestDrainWithHandshakes(t *testing.T) {
	s := serve(t, Config{DrainSpread: -1}, nil)
	n := counting(s, `sluice_handshakes_rejected_total{reason="draining"}`)
	var shaking []*wire
	for _, sent := range []string{"", "GET /ws", strings.TrimSuffix(handshake(getChat), "\r\n")} {
		c := dial(t, s)
		io.WriteString(c, sent)
		shaking = append(shaking, c)
	}
	await(t, "all are accepted", func() bool { return s.Connections() == len(shaking) })
	done := drain(t, s)
	for _, c := range shaking {
		resp, _ := c.answer("GET")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
		}
		c.Close()
	}
	ended(t, done)
	if int(n()) != len(shaking) {
		t.Errorf("got %d refused, want %d", n(), len(shaking))
	}
}

// Connections that the kernel has completed and nobody has accepted yet are told 503 too, and not
// reset, however many.
func TestDrainWithABacklog(t *testing.T) {
	const waiting = 200 // more than the acceptor takes in one go
	s := serve(t, Config{DrainSpread: -1, Loops: 1}, nil)
	blocked, goOn := make(chan struct{}), make(chan struct{})
	s.workers[0].loop.Post(func() {
		close(blocked)
		<-goOn
	})
	<-blocked
	var clients []*wire
	for range waiting {
		clients = append(clients, dial(t, s))
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	go func() { done <- s.Drain(ctx) }()
	await(t, "the gateway drains", func() bool { return s.Ready() != nil })
	// Everything that is posted runs in one round: with the drain in front of the acceptor's own
	// turn, it is the drain that takes them.
	close(goOn)
	for _, c := range clients {
		if resp, _ := c.answer("GET"); resp.StatusCode != 503 {
			t.Fatalf("got %d, want 503", resp.StatusCode)
		}
		c.Close()
	}
	ended(t, done)
}

// A Handler that answers Open while the gateway drains gets its connection opened, told and closed.
func TestDrainWhileTheHandlerThinks(t *testing.T) {
	app := newSlowApp()
	app.holdOpen = true
	s := serve(t, Config{DrainSpread: -1}, app)
	c := dial(t, s)
	io.WriteString(c, handshake(getChat))
	conn := <-app.opened
	done := drain(t, s)
	conn.Post(func(c *Conn) { c.Accept("") })
	if resp := c.response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	c.expect("close 1001")
	c.Write(closeFrame(1001, ""))
	c.expect("EOF")
	c.Close()
	ended(t, done)
	if app.closed.Load() != 1 {
		t.Errorf("got %d calls of Closed, want 1", app.closed.Load())
	}
}

// A Handler that never answers keeps a drain no longer than its timeouts.
func TestDrainWithAHandlerThatNeverAnswers(t *testing.T) {
	app := newSlowApp()
	app.holdOpen = true
	s := serve(t, Config{DrainSpread: -1}, app)
	c := dial(t, s)
	io.WriteString(c, handshake(getChat))
	<-app.opened
	done := drain(t, s)
	overdue(s)
	if resp, _ := c.answer("GET"); resp.StatusCode != 503 {
		t.Errorf("got %d, want 503", resp.StatusCode)
	}
	c.Close()
	ended(t, done)
}

func TestDrainWithLastWordsThatDoNotCome(t *testing.T) {
	app := newSlowApp()
	app.holdLeave = true
	s := serve(t, Config{DrainSpread: -1, CloseTimeout: testPatience}, app)
	c := open101(t, s, "/ws")
	done := drain(t, s)
	<-app.left
	overdue(s)
	c.expect("close 1001")
	c.Write(closeFrame(1001, ""))
	c.expect("EOF")
	c.Close()
	ended(t, done)
}

// A slow reader is told what there is time to tell it, and does not keep the others or the drain
// waiting.
func TestDrainWithASlowReader(t *testing.T) {
	s := serve(t, Config{DrainSpread: -1, Loops: 1, CloseTimeout: testPatience}, flood{})
	slow, quick := dialNarrow(t, s), open101(t, s, "/ws")
	slow.Write(text("flood 40000"))
	quick.Write(text("a"))
	quick.expect("text a")
	done := drain(t, s)
	quick.expect("close 1001")
	quick.Write(closeFrame(1001, ""))
	quick.expect("EOF")
	quick.Close()
	await(t, "the slow one is cut off when its time is up", func() bool { overdue(s); return s.Connections() == 0 })
	ended(t, done)
	checkQuiet(t, s)
}

// The turns to leave are spread over DrainSpread.
func TestDrainIsSpread(t *testing.T) {
	const spread, n = time.Hour, 200
	s := serve(t, Config{DrainSpread: spread, Loops: 1}, Echo{})
	for range n {
		open101(t, s, "/ws")
	}
	drain(t, s)
	var early int
	onLoops(s, func(w *worker) {
		for _, c := range w.conns {
			in := c.deadline - w.loop.Now()
			if in > spread {
				t.Errorf("a turn to leave in %v, want within %v", in, spread)
			}
			if in < spread/2 {
				early++
			}
		}
	})
	if early < n/4 || early > n*3/4 {
		t.Errorf("got %d of %d turns in the first half, want about half", early, n)
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	s := serve(t, Config{DrainSpread: time.Hour}, nil)
	open101(t, s, "/ws")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.Drain(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 connections left") {
		t.Errorf("got %v, want that it was canceled with 1 connection left", err)
	}
}

// Close ends at once what a drain still waits for, and the drain with it.
func TestCloseWhileDraining(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{DrainSpread: time.Hour}, app)
	const n = 20
	for range n {
		open101(t, s, "/ws")
	}
	done := drain(t, s)
	s.Close()
	ended(t, done)
	if s.Connections() != 0 || app.closed.Load() != n {
		t.Errorf("got %d connections and %d calls of Closed, want 0 and %d", s.Connections(), app.closed.Load(), n)
	}
}

// Drain and Close at the same time: whatever the order in which they reach the loops, both return.
func TestDrainAndCloseTogether(t *testing.T) {
	for range 100 {
		s := serve(t, Config{}, Echo{})
		done := make(chan error, 1)
		go func() { done <- s.Drain(context.Background()) }()
		s.Close()
		ended(t, done)
	}
}

func TestCloseWithoutStart(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0", Loops: 2}, Echo{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != errStarting {
		t.Errorf("Ready: got %v, want %v", err, errStarting)
	}
	if err := s.Drain(context.Background()); err != nil {
		t.Errorf("Drain: got %v, want nil: there is nothing to drain", err)
	}
	s.Close()
	s.Close()
	if err := s.Drain(context.Background()); err != nil {
		t.Errorf("Drain after Close: got %v, want nil", err)
	}
	if err := s.Start(); err == nil {
		t.Error("Start after Close: got nil, want an error")
	}
	// The port is free again.
	again, err := New(Config{Listen: s.Addr().String(), Loops: 1}, Echo{})
	if err != nil {
		t.Fatalf("listen where a closed server did: %v", err)
	}
	again.Close()
}

func TestStartTwice(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	if err := s.Start(); err == nil {
		t.Error("got nil, want an error")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Loops: -1}, "Loops"}, {Config{MaxConns: -1}, "MaxConns"}, {Config{MaxMessage: 124}, "MaxMessage"}, {Config{MaxFragments: -1}, "MaxFragments"},
		{Config{MaxQueue: 1023}, "MaxQueue"}, {Config{MaxControl: 256}, "MaxControl"}, {Config{MaxHandshake: 255}, "MaxHandshake"},
		{Config{MaxHeaders: 7}, "MaxHeaders"}, {Config{Heartbeat: time.Millisecond}, "Heartbeat"}, {Config{HandshakeTimeout: -1}, "HandshakeTimeout"},
		{Config{CloseTimeout: -1}, "CloseTimeout"}, {Config{StallTimeout: -1}, "StallTimeout"}, {Config{Listen: "nowhere:x"}, "listen"},
		{Config{Heartbeat: longest + 1}, "Heartbeat"}, {Config{HandshakeTimeout: longest + 1}, "HandshakeTimeout"}, {Config{DrainSpread: longest + 1}, "DrainSpread"},
	} {
		def(&tc.cfg.Listen, "127.0.0.1:0")
		s, err := New(tc.cfg, Echo{})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error that names it", tc.want, err)
		}
	}
}

// With the longest of all durations nothing is due at once.
func TestLongestDurations(t *testing.T) {
	s := serve(t, Config{Heartbeat: longest, HandshakeTimeout: longest, CloseTimeout: longest, StallTimeout: longest}, Echo{})
	c := open101(t, s, "/ws")
	c.Write(text("still here"))
	c.expect("text still here")
}
