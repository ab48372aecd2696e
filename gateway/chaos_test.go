package gateway

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// chaos is a Handler that does anything with any of its loop's connections, in every callback, and
// notes what must not be: a call after Closed, a second Open, Leave or Closed, a Message after
// Leave, a state that comes back.
type chaos struct {
	t      *testing.T
	random *rand.Rand
	conns  []*Conn // that Open was called with, in whatever state
	did    [9]int
}

// chaosLife is what has been called for one connection.
type chaosLife struct {
	left, closed bool
	reached      state
}

func (h *chaos) ForLoop(func(fn func()) bool) Handler { return h }

func (h *chaos) Open(c *Conn, r *Request) {
	if c.Data != nil {
		h.t.Error("Open is called twice")
	}
	c.Data = new(chaosLife)
	if h.conns = append(h.conns, c); len(h.conns) > 64 { // the dead among them stay for a while
		h.conns = h.conns[1:]
	}
	if h.random.IntN(4) > 0 {
		c.Accept("")
	}
	h.act()
}

func (h *chaos) Message(c *Conn, op ws.OpCode, payload []byte) {
	if l := h.alive(c, "Message"); l.left {
		h.t.Error("Message after Leave")
	}
	c.Send(op, payload)
	h.act()
}

func (h *chaos) Leave(c *Conn, code ws.StatusCode) {
	l := h.alive(c, "Leave")
	if l.left {
		h.t.Error("Leave is called twice")
	}
	l.left = true
	h.act()
	if h.random.IntN(4) > 0 {
		c.Close(code, "")
	}
}

func (h *chaos) Closed(c *Conn) {
	h.alive(c, "Closed").closed = true
	h.act()
}

func (h *chaos) Wake(c *Conn) {
	h.alive(c, "Wake")
	h.act()
}

func (h *chaos) alive(c *Conn, what string) *chaosLife {
	l := c.Data.(*chaosLife)
	if l.closed {
		h.t.Errorf("%s after Closed", what)
	}
	return l
}

// act calls up to three methods on connections drawn at random.
func (h *chaos) act() {
	for range h.random.IntN(4) {
		c := h.conns[h.random.IntN(len(h.conns))]
		do := h.random.IntN(len(h.did))
		h.did[do]++
		switch do {
		case 0:
			c.Accept("X-Late: 1\r\n")
		case 1:
			c.Refuse(RefuseFull)
		case 2:
			c.Close(1000, "chaos")
		case 3:
			c.Send(ws.OpText, []byte("to whom it may concern"))
		case 4:
			c.Send(ws.OpBinary, make([]byte, flushAt+1))
		case 5:
			c.PauseReading()
		case 6:
			c.ResumeReading()
		case 7:
			c.WakeAfter(time.Duration(h.random.IntN(3)) * time.Millisecond)
		case 8:
			c.Post(func(*Conn) { h.act() })
		}
		l := c.Data.(*chaosLife)
		if c.state < l.reached {
			h.t.Errorf("call %d: state %d comes back after %d", do, c.state, l.reached)
		}
		l.reached = c.state
	}
}

// Whatever a Handler does with its connections, from whichever callback: each ends once, and leaves
// nothing behind.
func TestAnyCallAtAnyTime(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	h := &chaos{t: t, random: rand.New(rand.NewPCG(seed, 0))}
	const brief = 20 * time.Millisecond // what is never answered is to be over soon
	s := serve(t, Config{Loops: 1, Heartbeat: brief, HandshakeTimeout: brief, CloseTimeout: brief, StallTimeout: brief, MaxQueue: 64 << 10}, h)
	var clients sync.WaitGroup
	for i := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(i+1)))
		clients.Go(func() {
			for range 50 {
				chaosClient(s, random)
			}
		})
	}
	clients.Wait()
	await(t, "all connections are gone", func() bool { return s.Connections() == 0 })
	checkQuiet(t, s)
	onLoops(s, func(*worker) {
		for do, times := range h.did {
			if times == 0 {
				t.Errorf("call %d was never made", do)
			}
		}
		for _, c := range h.conns {
			if !c.Data.(*chaosLife).closed {
				t.Error("a connection that is gone was not Closed")
			}
		}
	})
}

// chaosClient is one connection: a handshake, frames right behind it, and one of the ways to end.
func chaosClient(s *Server, random *rand.Rand) {
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testPatience))
	io.WriteString(conn, upgradeRequest("/ws"))
	for range random.IntN(20) {
		conn.Write([][]byte{text("hello"), text("half")[:5], frame(false, ws.OpText, "part"), frame(true, ws.OpPing, "p"),
			frame(true, ws.OpContinuation, "rest"), text("again")}[random.IntN(6)])
	}
	// Not for ever: a connection that is paused for good stays as long as its peer.
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	switch random.IntN(4) {
	case 0:
		conn.Write(closeFrame(1000, ""))
		io.Copy(io.Discard, conn)
	case 1:
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	case 2:
		conn.(*net.TCPConn).SetLinger(0)
	case 3:
		io.Copy(io.Discard, conn)
	}
}
