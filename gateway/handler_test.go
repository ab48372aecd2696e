package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// ask is a connection to an app whose Open does nothing, up to the point where the app has been
// asked.
func (a *slowApp) ask(t testing.TB, s *Server, behind ...[]byte) (*wire, *Conn) {
	t.Helper()
	c := dial(t, s)
	c.Write(append([]byte(handshake(getChat, "X-Request-ID: asked")), bytes.Join(behind, nil)...))
	return c, <-a.opened
}

func TestPostFromOtherGoroutines(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{}, app)
	c := open101(t, s, "/ws")
	conn := <-app.opened
	const posters, each = 4, 250
	var wg sync.WaitGroup
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				conn.Post(func(c *Conn) { c.Send(ws.OpText, fmt.Appendf(nil, "%d %d", p, i)) })
			}
		})
	}
	var next [posters]int
	for range posters * each {
		got := c.next()
		var p, i int
		if _, err := fmt.Sscanf(got, "text %d %d", &p, &i); err != nil || i != next[p] {
			t.Fatalf("got %q, want each poster's messages in order", got)
		}
		next[p]++
	}
	wg.Wait()

	c.Close()
	await(t, "the connection is gone", func() bool { return s.Connections() == 0 })
	ran := make(chan struct{})
	if !conn.Post(func(*Conn) { close(ran) }) {
		t.Error("Post for a closed connection: got false, want true while its loop runs")
	}
	onLoops(s, func(*worker) {})
	select {
	case <-ran:
		t.Error("a function for a closed connection ran")
	default:
	}
	s.Close()
	if conn.Post(func(*Conn) {}) {
		t.Error("Post after Close: got true, want false")
	}
}

// All that a posted function sends leaves in one write.
func TestPostIsOneWrite(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{}, app)
	c := open101(t, s, "/ws")
	conn := <-app.opened
	conn.Post(func(c *Conn) {
		for range 10 {
			c.Send(ws.OpText, []byte("part"))
		}
		c.Close(1000, "")
	})
	p := make([]byte, 1000)
	if n, err := c.r.Read(p); n != 10*6+4 || err != nil {
		t.Errorf("got %d bytes in one read, %v, want all 64", n, err)
	}
}

func TestLateAccept(t *testing.T) {
	app := newSlowApp()
	app.holdOpen = true
	s := serve(t, Config{Loops: 1}, app)
	for _, tc := range []struct {
		name   string
		behind [][]byte
		want   []string
	}{
		{"nothing behind the request", nil, nil},
		{"frames behind it", [][]byte{text("a"), frame(true, ws.OpPing, "p"), text("b")}, []string{"text a", "pong p", "text b"}},
		{"half a frame behind it", [][]byte{text("half")[:7]}, nil},
		{"much behind it", [][]byte{bytes.Repeat(text("x"), 5000)}, slicesRepeat("text x", 5000)},
		{"close behind it", [][]byte{text("a"), closeFrame(1000, "")}, []string{"text a", "close 1000", "EOF"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, conn := app.ask(t, s, tc.behind...)
			conn.Post(func(c *Conn) {
				c.Accept("X-One: 1\r\nX-Two: 2\r\n")
				c.Accept("X-Twice: 1\r\n")
				c.Refuse(RefuseFull)
				c.Send(ws.OpText, []byte("welcome"))
			})
			resp := c.response()
			if h := resp.Header; resp.StatusCode != 101 || h.Get("X-One") != "1" || h.Get("X-Two") != "2" || h.Get("X-Twice") != "" ||
				h.Get("X-Request-Id") != "asked" || h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Fatalf("got %d %v", resp.StatusCode, h)
			}
			c.expect("text welcome")
			c.expect(tc.want...)
			if tc.behind == nil {
				onLoops(s, func(w *worker) {
					if conn.in != nil {
						t.Errorf("an open connection between messages holds %+v", conn.in)
					}
				})
			}
			c.Close()
			await(t, "it is gone", func() bool { return s.Connections() == 0 })
			checkQuiet(t, s)
		})
	}
}

func TestLateRefuse(t *testing.T) {
	app := newSlowApp()
	app.holdOpen = true
	s := serve(t, Config{}, app)
	for _, by := range []string{"Refuse", "Close"} {
		c, conn := app.ask(t, s, text("never read"))
		conn.Post(func(c *Conn) {
			if err := c.Send(ws.OpText, []byte("too early")); err == nil {
				t.Error("Send before Accept: got nil, want an error")
			}
			if by == "Refuse" {
				c.Refuse(RefuseUnavailable)
			} else {
				c.Close(1011, "there is no WebSocket yet to close")
			}
			c.Refuse(RefuseFull)
			c.Accept("")
		})
		resp, body := c.answer("GET")
		if resp.StatusCode != 503 || resp.Header.Get("X-Request-Id") != "asked" || !strings.HasPrefix(body, "sessions") {
			t.Errorf("%s: got %d %v %q, want 503 with the request's id", by, resp.StatusCode, resp.Header, body)
		}
		c.Close()
	}
	await(t, "all are gone", func() bool { return s.Connections() == 0 })
	if got := app.closed.Load(); got != 2 {
		t.Errorf("got %d calls of Closed, want 2", got)
	}
	checkQuiet(t, s)
}

func TestHandlerTimeouts(t *testing.T) {
	app := newSlowApp()
	app.holdOpen, app.holdLeave = true, true
	s := serve(t, Config{CloseTimeout: testPatience}, app)
	n := counting(s, `sluice_handshakes_rejected_total{reason="handler"}`)

	c, conn := app.ask(t, s)
	overdue(s)
	if resp, _ := c.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-Request-Id") != "asked" {
		t.Errorf("no answer to Open: got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
	if n() != 1 {
		t.Errorf("got %d refused, want 1", n())
	}
	conn.Post(func(c *Conn) { c.Accept("") }) // too late: nothing happens

	c, conn = app.ask(t, s)
	conn.Post(func(c *Conn) { c.Accept("") })
	c.response()
	c.Write(closeFrame(3000, ""))
	<-app.left
	overdue(s)
	c.expect("close 3000", "EOF")
	conn.Post(func(c *Conn) { c.Send(ws.OpText, []byte("too late")); c.Close(1000, "") })
}

// What comes behind a Close while the Handler looks for its last words is not looked at.
func TestDataBehindCloseWhileTheHandlerThinks(t *testing.T) {
	app := newSlowApp()
	app.holdLeave = true
	s := serve(t, Config{}, app)
	for _, behind := range [][]byte{text("data"), frame(true, ws.OpPing, "p"), []byte("\x81\x00"), text("\xff"), closeFrame(1005, ""), text("half")[:5]} {
		c := open101(t, s, "/ws")
		c.Write(append(closeFrame(1000, ""), behind...))
		conn := <-app.left
		c.Write(behind)
		conn.Post(func(c *Conn) {
			c.Send(ws.OpText, []byte("last words"))
			c.Close(1000, "")
		})
		c.expect("text last words", "close 1000", "EOF")
	}
}

// The Close of a peer may cross a drain's, and is the answer to it then.
func TestPeerClosesWhileAskedForLastWords(t *testing.T) {
	app := newSlowApp()
	app.holdLeave = true
	s := serve(t, Config{DrainSpread: -1}, app)
	c := open101(t, s, "/ws")
	done := drain(t, s)
	conn := <-app.left
	c.Write(closeFrame(1000, ""))
	await(t, "the peer's Close is seen", func() (seen bool) {
		onLoops(s, func(w *worker) {
			if len(w.conns) > 0 {
				seen = w.conns[0].peerCode != 0
			}
		})
		return seen
	})
	conn.Post(func(c *Conn) { c.Close(1001, "") })
	c.expect("close 1001", "EOF")
	c.Close()
	ended(t, done)
	if len(app.left) != 0 {
		t.Errorf("Leave was called %d times more, want once in all", len(app.left))
	}
}

// While reading is paused, what had been read already is kept back too; then it comes in order,
// before what comes later.
func TestPauseAndResumeReading(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{}, pauseEach{app})
	c := open101(t, s, "/ws")
	conn := <-app.opened
	var sent []byte
	for i := range 100 {
		sent = append(sent, text(fmt.Sprint(i))...)
		sent = append(sent, fragmentsOf(ws.OpText, strings.Repeat(fmt.Sprint(i%10), 300), 3)...)
	}
	half := len(sent) / 2
	c.Write(sent[:half])
	c.expect("text 0")
	c.Write(sent[half:])
	onLoops(s, func(w *worker) {})
	for i := range 100 {
		if i > 0 {
			c.expect("text " + fmt.Sprint(i))
		}
		conn.Post(func(c *Conn) { c.ResumeReading(); c.ResumeReading() })
		c.expect("text " + strings.Repeat(fmt.Sprint(i%10), 300))
		conn.Post(func(c *Conn) { c.ResumeReading() })
	}
	c.Write(closeFrame(1000, ""))
	c.expect("close 1000", "EOF")
}

// pauseEach pauses reading after each message.
type pauseEach struct{ *slowApp }

func (a pauseEach) ForLoop(func(fn func()) bool) Handler { return a }

func (a pauseEach) Message(c *Conn, op ws.OpCode, payload []byte) {
	c.Send(op, payload)
	c.PauseReading()
}

// A peer that leaves while its connection is paused is noticed all the same.
func TestPeerLeavesWhilePaused(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{Heartbeat: -1}, pauseEach{app})
	for _, reset := range []bool{false, true} {
		c := open101(t, s, "/ws")
		<-app.opened
		c.Write(append(text("a"), bytes.Repeat(text("b"), 1000)...))
		c.expect("text a")
		if reset {
			c.Conn.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
		await(t, "the connection is gone", func() bool { return s.Connections() == 0 })
	}
	if got := app.closed.Load(); got != 2 {
		t.Errorf("got %d calls of Closed, want 2", got)
	}
	checkQuiet(t, s)
}

// waker counts its Wakes with a message each.
type waker struct{ Echo }

func (waker) ForLoop(func(fn func()) bool) Handler { return waker{} }

func (waker) Open(c *Conn, _ *Request) {
	c.WakeAfter(time.Millisecond) // before Accept: it counts from here, and comes when the connection is open
	c.Accept("")
}

func (waker) Message(c *Conn, _ ws.OpCode, payload []byte) {
	d, err := time.ParseDuration(string(payload))
	if err != nil {
		panic(err)
	}
	c.WakeAfter(d)
	c.Send(ws.OpText, []byte("set"))
}

func (waker) Wake(c *Conn) { c.Send(ws.OpText, []byte("awake")) }

func TestWakeAfter(t *testing.T) {
	for _, heartbeat := range []time.Duration{-1, time.Hour} {
		s := serve(t, Config{Heartbeat: heartbeat, Loops: 1}, waker{})
		c := open101(t, s, "/ws")
		c.expect("text awake")
		began := time.Now()
		c.Write(text("50ms"))
		c.expect("text set", "text awake")
		if took := time.Since(began); took < 50*time.Millisecond {
			t.Errorf("heartbeat %v: woken after %v, want no earlier than 50ms", heartbeat, took)
		}
		// The second replaces the first, and none cancels: only the last one wakes.
		c.Write(wireOf(text("1ms"), text("1h")))
		c.expect("text set", "text set")
		c.Write(wireOf(text("1ms"), text("0s")))
		c.expect("text set", "text set")
		c.Write(text("20ms"))
		c.expect("text set", "text awake")
		c.Write(text("1h"))
		c.expect("text set")
		onLoops(s, func(w *worker) {
			if in := w.conns[0].wakeAt - w.loop.Now(); in < 50*time.Minute {
				t.Errorf("heartbeat %v: next wake in %v, want an hour", heartbeat, in)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	request := head(getChat, hostLine, "X-Token:  one two \t", "x-token: second", "X-Empty:", "Cookie: a=b: c")
	var r Request
	if refusal := parseRequest([]byte(request), 64, &r); refusal != nil {
		t.Fatal(refusal.text)
	}
	for name, want := range map[string]string{"X-Token": "one two", "x-TOKEN": "one two", "Cookie": "a=b: c", "Host": "gateway.test", "X-Empty": ""} {
		if got, found := r.Header(name); string(got) != want || !found {
			t.Errorf("%s: got %q, %v, want %q", name, got, found, want)
		}
	}
	for _, name := range []string{"", "X", "X-Toke", "X-Token:", "GET /ws/chat/ HTTP/1.1", "a=b"} {
		if got, found := r.Header(name); found {
			t.Errorf("%q: got %q, want none", name, got)
		}
	}
	var none Request
	if _, found := none.Header("Host"); found {
		t.Error("found a header in no request")
	}
}

func TestPaths(t *testing.T) {
	s := serve(t, Config{Paths: []string{"/a", "/b/c"}}, Echo{})
	open101(t, s, "/a")
	open101(t, s, "/b/c?d")
	c := dial(t, s)
	io.WriteString(c, upgradeRequest("/ws"))
	if resp, body := c.answer("GET"); resp.StatusCode != 404 || !strings.Contains(body, "/a, /b/c") {
		t.Errorf("got %d %q, want 404 that names the paths", resp.StatusCode, body)
	}
	for _, bad := range []string{"", "ws", "/readyz", "/healthz", "/ws?a"} {
		if s, err := New(Config{Listen: "127.0.0.1:0", Paths: []string{bad}}, Echo{}); err == nil {
			s.Close()
			t.Errorf("path %q: got nil, want an error", bad)
		}
	}
}

func TestOwnRefusal(t *testing.T) {
	s := serve(t, Config{}, refuser{NewRefusal(429, "slow down", "Retry-After: 9\r\n")})
	n := counting(s, `sluice_handshakes_rejected_total{reason="application"}`)
	c := dial(t, s)
	io.WriteString(c, upgradeRequest("/ws"))
	if resp, body := c.answer("GET"); resp.StatusCode != 429 || body != "slow down\n" || resp.Header.Get("Retry-After") != "9" {
		t.Errorf("got %d %q %v, want 429, its text and its header", resp.StatusCode, body, resp.Header)
	}
	if n() != 1 {
		t.Errorf("got %d counted, want 1", n())
	}
	for _, status := range []int{0, 101, 299, 600} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("status %d: no panic", status)
				}
			}()
			NewRefusal(status, "", "")
		}()
	}
}

// refuser is an application that wants nobody.
type refuser struct{ with *Refusal }

func (r refuser) ForLoop(func(fn func()) bool) Handler { return r }
func (r refuser) Open(c *Conn, _ *Request)             { c.Refuse(r.with) }
func (r refuser) Message(*Conn, ws.OpCode, []byte)     {}
func (r refuser) Leave(c *Conn, code ws.StatusCode)    { c.Close(code, "") }
func (r refuser) Closed(*Conn)                         {}
