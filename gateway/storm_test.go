package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// strict is an application that checks what is called when: once a connection, in order, on one
// loop, never one inside another.
type strict struct {
	t            testing.TB
	open, closed *atomic.Int64
	random       *rand.Rand
	inside       string
	alive        map[*Conn]string
}

type strictApp struct {
	t            testing.TB
	open, closed atomic.Int64
	loops        atomic.Uint64
}

func (a *strictApp) ForLoop(func(fn func()) bool) Handler {
	return &strict{t: a.t, open: &a.open, closed: &a.closed, random: rand.New(rand.NewPCG(7, a.loops.Add(1))), alive: make(map[*Conn]string)}
}

func (h *strict) enter(call string, c *Conn, want ...string) (leave func()) {
	if h.inside != "" {
		h.t.Errorf("%s was called inside %s", call, h.inside)
	}
	state, ok := h.alive[c]
	if !ok {
		state = "unknown"
	}
	if !strings.Contains(strings.Join(want, ","), state) {
		h.t.Errorf("%s was called for a connection that is %s", call, state)
	}
	h.inside = call
	return func() { h.inside = "" }
}

func (h *strict) Open(c *Conn, _ *Request) {
	defer h.enter("Open", c, "unknown")()
	h.open.Add(1)
	h.alive[c] = "open"
	switch h.random.IntN(6) {
	case 0:
		c.Refuse(RefuseUnavailable)
	case 1: // late
		go c.Post(func(c *Conn) { c.Accept(""); c.Send(ws.OpText, []byte("late")) })
	case 2: // never
	default:
		c.Accept("")
	}
}

func (h *strict) Message(c *Conn, op ws.OpCode, payload []byte) {
	defer h.enter("Message", c, "open")()
	c.Send(op, payload)
	switch h.random.IntN(30) {
	case 0:
		c.Close(1000, "")
		h.alive[c] = "closing"
	case 1:
		c.PauseReading()
		go c.Post(func(c *Conn) { c.ResumeReading() })
	case 2:
		for range 100 {
			c.Send(ws.OpBinary, make([]byte, 1000))
		}
	}
}

func (h *strict) Leave(c *Conn, code ws.StatusCode) {
	defer h.enter("Leave", c, "open")()
	h.alive[c] = "leaving"
	switch h.random.IntN(3) {
	case 0:
		go c.Post(func(c *Conn) { c.Send(ws.OpText, []byte("bye")); c.Close(code, "") })
	case 1: // never
	default:
		c.Close(code, "")
	}
}

func (h *strict) Closed(c *Conn) {
	defer h.enter("Closed", c, "open", "leaving", "closing")()
	h.closed.Add(1)
	delete(h.alive, c)
}

// misbehave is one client of the storm.
func misbehave(s *Server, random *rand.Rand) error {
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testPatience))
	if random.IntN(3) == 0 {
		conn.(*net.TCPConn).SetLinger(0) // Close is a reset
	}
	request := []byte(handshake(getChat))
	switch random.IntN(6) {
	case 0: // nothing, or half a handshake
		conn.Write(request[:random.IntN(len(request))])
		return nil
	case 1: // garbage
		for range random.IntN(4) {
			junk := make([]byte, random.IntN(4000))
			for i := range junk {
				junk[i] = byte(random.Uint32())
			}
			conn.Write(junk)
		}
		return nil
	}
	sent := append(request, stream(random, []byte("junk\xff"))...)
	if random.IntN(2) == 0 {
		sent = append(request, bytes.Repeat(text("hello"), random.IntN(2000))...)
	}
	for len(sent) > 0 {
		n := 1 + random.IntN(len(sent))
		if _, err := conn.Write(sent[:n]); err != nil {
			return nil
		}
		sent = sent[n:]
		if random.IntN(4) == 0 {
			conn.Read(make([]byte, random.IntN(2000)))
		}
	}
	switch random.IntN(4) {
	case 0: // leaves without a word
	case 1:
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	case 2:
		conn.Write(closeFrame(1000, ""))
		io.Copy(io.Discard, conn)
	case 3:
		conn.Read(make([]byte, 10))
	}
	return nil
}

// Whatever clients do, each Open is followed by one Closed, and nothing is left of them.
func TestStormOfClientsThatMisbehave(t *testing.T) {
	app := &strictApp{t: t}
	s := serve(t, Config{
		HandshakeTimeout: 100 * time.Millisecond, CloseTimeout: 100 * time.Millisecond, StallTimeout: 100 * time.Millisecond,
		Heartbeat: 50 * time.Millisecond, MaxMessage: 4000, DrainSpread: 50 * time.Millisecond,
	}, app)
	const clients, each = 16, 40
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(i)))
			for range each {
				if err := misbehave(s, random); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	acceptAll(s)
	await(t, "all connections are gone", func() bool { return s.Connections() == 0 })
	if open, closed := app.open.Load(), app.closed.Load(); open != closed || open < clients*each/16 {
		t.Errorf("got %d calls of Open and %d of Closed, want as many, and not just a few", open, closed)
	}
	if got := s.metrics.connections.Load(); got != 0 {
		t.Errorf("sluice_connections: got %d left, want 0", got)
	}
	checkQuiet(t, s)
	onLoops(s, func(w *worker) {
		if h := w.handler.(*strict); len(h.alive) > 0 {
			t.Errorf("the Handler still has %d connections", len(h.alive))
		}
	})
}

// A drain, and then a Close, in the middle of the storm.
func TestDrainAndCloseInAStorm(t *testing.T) {
	for _, wait := range []bool{true, false} {
		app := &strictApp{t: t}
		s := serve(t, Config{
			HandshakeTimeout: 100 * time.Millisecond, CloseTimeout: 100 * time.Millisecond, StallTimeout: 100 * time.Millisecond,
			Heartbeat: 50 * time.Millisecond, DrainSpread: 50 * time.Millisecond,
		}, app)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(4, uint64(i)))
				for {
					select {
					case <-stop:
						return
					default:
						misbehave(s, random) // after the drain: connection refused
						runtime.Gosched()
					}
				}
			})
		}
		await(t, "the storm is on", func() bool { return app.open.Load() > 50 })
		done := drain(t, s)
		if wait {
			ended(t, done)
		}
		s.Close()
		close(stop)
		wg.Wait()
		if open, closed := app.open.Load(), app.closed.Load(); open != closed || s.Connections() != 0 {
			t.Errorf("got %d calls of Open and %d of Closed, %d connections; want as many, and none", open, closed, s.Connections())
		}
	}
}
