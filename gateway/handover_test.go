package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway/tls13"
	"sluice/poller"
)

// movable is an Echo whose connections can move. Each knows how many messages it had.
type movable struct {
	Echo
	stuck func(n int) bool // such a connection cannot move
}

func (m movable) ForLoop(func(fn func()) bool) Handler { return m }

func (movable) Message(c *Conn, op ws.OpCode, payload []byte) {
	n, _ := c.Data.(int)
	c.Data = n + 1
	c.Send(op, fmt.Appendf(nil, "%d %s", n+1, payload))
}

func (m movable) CanMove(c *Conn, _ bool) bool {
	n, _ := c.Data.(int)
	return m.stuck == nil || !m.stuck(n)
}

func (movable) Pack(c *Conn, b []byte) []byte {
	n, _ := c.Data.(int)
	return append(b, byte(n))
}

func (movable) Unpack(c *Conn, state []byte) error {
	if len(state) != 1 {
		return fmt.Errorf("%d bytes of state", len(state))
	}
	c.Data = int(state[0])
	return nil
}

func (movable) Moved(*Conn)   {}
func (movable) Unmoved(*Conn) {}

// move has to take over what from has.
func move(t *testing.T, from, to *Server) (moved int) {
	t.Helper()
	return moveAll(t, from.Handover(false), to)
}

func moveAll(t *testing.T, h *Handover, to *Server) (moved int) {
	t.Helper()
	for {
		b, err := h.Next(context.Background())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		a := to.Adopt(dupFDs(t, b.FDs), b.States)
		b.Settle(a.Refused)
		a.Commit()
		moved += len(b.States) - len(a.Refused)
	}
	h.End(true)
	return moved
}

// dupFDs is what another process would receive.
func dupFDs(t *testing.T, fds []int) (copies []int) {
	t.Helper()
	for _, fd := range fds {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, fd)
	}
	return copies
}

// TestHandover: connections in every state that can travel go on where they were, whatever was in
// the middle.
func TestHandover(t *testing.T) {
	cfg := Config{Loops: 2, Heartbeat: time.Hour, MaxQueue: 1 << 20}
	from := serve(t, cfg, movable{})
	cfg.Loops = 3
	to := serve(t, cfg, movable{})

	idle := open101(t, from, "/ws")
	idle.Write(text("a"))
	idle.expect("text 1 a")

	asking := dial(t, from)
	whole := handshake(getChat)
	asking.Write([]byte(whole[:len(whole)/2]))

	inHeader := open101(t, from, "/ws")
	inHeader.Write(text("header")[:1])
	inFrame := open101(t, from, "/ws")
	long := text(strings.Repeat("frame", 1000))
	inFrame.Write(long[:3000])
	inFragments := open101(t, from, "/ws")
	inFragments.Write(frame(false, ws.OpText, "one "))
	inFragments.Write(frame(false, ws.OpContinuation, "t\xc3"))

	slow := dialNarrow(t, from)
	const replies = 300
	payload := strings.Repeat("x", 4000)
	go func() {
		for range replies {
			slow.Write(text(payload))
		}
	}()
	await(t, "the slow reader has a queue", func() (queued bool) {
		onLoops(from, func(w *worker) {
			for _, c := range w.conns {
				queued = queued || c.Queued() > 10_000
			}
		})
		return queued
	})
	await(t, "all have come", func() (all bool) {
		n := 0
		onLoops(from, func(w *worker) {
			for _, c := range w.conns {
				if c.in != nil {
					n++
				}
			}
		})
		return n >= 4
	})

	if n := move(t, from, to); n != 6 {
		t.Errorf("%d connections moved, want 6", n)
	}
	if from.Connections() != 0 || to.Connections() != 6 {
		t.Errorf("%d connections stay and %d have come, want 0 and 6", from.Connections(), to.Connections())
	}
	idle.Write(text("b"))
	idle.expect("text 2 b")
	asking.Write([]byte(whole[len(whole)/2:]))
	asking.response()
	asking.Write(text("c"))
	asking.expect("text 1 c")
	inHeader.Write(text("header")[1:])
	inHeader.expect("text 1 header")
	inFrame.Write(long[3000:])
	inFrame.expect("text 1 " + strings.Repeat("frame", 1000))
	inFragments.Write(frame(true, ws.OpContinuation, "\xa4il"))
	inFragments.expect("text 1 one täil")
	for i := range replies {
		slow.expect(fmt.Sprintf("text %d %s", i+1, payload))
	}
	if err := from.Drain(t.Context()); err != nil {
		t.Errorf("the old process drains: %v", err)
	}
	for s, want := range map[*Server]int64{from: 0, to: 6} {
		if n := s.metrics.connections.Load(); n != want {
			t.Errorf("sluice_connections is %d, want %d", n, want)
		}
	}
}

// TestHandoverTakesTheUnservedFirst: a client whose request is not answered any more waits for one
// batch, wherever it is among the connections.
func TestHandoverTakesTheUnservedFirst(t *testing.T) {
	from := serve(t, Config{Loops: 1, Heartbeat: time.Hour}, movable{})
	to := serve(t, Config{Loops: 1, Heartbeat: time.Hour}, movable{})
	early := dial(t, from)
	await(t, "it has come", func() bool { return from.Connections() == 1 })
	for range poller.MaxCopy + 1 {
		open101(t, from, "/ws")
	}
	h := from.Handover(false)
	late := dial(t, from)
	await(t, "the last has come", func() bool { return from.Connections() == poller.MaxCopy+3 })
	b, err := h.Next(t.Context())
	if err != nil || len(b.FDs) != poller.MaxCopy {
		t.Fatalf("got %v, want a whole batch", err)
	}
	a := to.Adopt(dupFDs(t, b.FDs), b.States)
	b.Settle(a.Refused)
	a.Commit()
	for _, c := range []*wire{early, late} {
		c.Write([]byte(handshake(getChat)))
		c.response() // while most of the others are where they were
		c.Write(text("a"))
		c.expect("text 1 a")
	}
	if n := moveAll(t, h, to); n != 3 {
		t.Errorf("then %d moved, want 3", n)
	}
}

// TestAcceptBeside: who connects while connections move is served by the other process at once, and
// gets none of the places of those that are to come.
func TestAcceptBeside(t *testing.T) {
	from := serve(t, Config{Loops: 2}, movable{})
	var clients []*wire
	for range 3 {
		clients = append(clients, open101(t, from, "/ws"))
	}
	fds, err := from.ListenerFDs()
	if err != nil {
		t.Fatal(err)
	}
	var given []*poller.Listener
	for _, fd := range fds {
		ln, err := poller.InheritListener(fd)
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, ln)
	}
	to := serve(t, Config{Listeners: given, Loops: 3, MaxConns: 5, Hold: true}, movable{})
	h := from.Handover(true)
	to.AcceptBeside(3)
	for range 2 {
		clients = append(clients, open101(t, from, "/ws")) // the address of both
	}
	if n := to.Connections(); n != 2 {
		t.Errorf("%d clients came to the other process, want 2", n)
	}
	refused := func(when string) {
		t.Helper()
		c := dial(t, to)
		c.Write([]byte(handshake(getChat)))
		if got := c.response().StatusCode; got != 503 {
			t.Errorf("%s: a sixth client gets %d, want 503", when, got)
		}
		c.Close()
		await(t, "it has gone", func() bool { return to.taken() == 5 })
	}
	refused("before the others have come")
	if n := moveAll(t, h, to); n != 3 {
		t.Errorf("%d of 3 connections moved", n)
	}
	refused("when they have come")
	to.Accept()
	clients[0].Close()
	await(t, "the first has gone", func() bool { return to.Connections() == 4 })
	clients = append(clients[1:], open101(t, to, "/ws"))
	for _, c := range clients {
		c.Write(text("a"))
		c.expect("text 1 a")
	}
}

// TestHandoverThatFails: connections that were packed go on where they were, with all that came
// meanwhile, and new ones are accepted again.
func TestHandoverThatFails(t *testing.T) {
	from := serve(t, Config{Loops: 2, Heartbeat: time.Hour}, movable{})
	to := serve(t, Config{Loops: 1, Heartbeat: time.Hour}, movable{})
	var clients []*wire
	for range 10 {
		c := open101(t, from, "/ws")
		c.Write(text("a"))
		c.expect("text 1 a")
		clients = append(clients, c)
	}
	for _, adopt := range []bool{false, true} {
		h := from.Handover(false)
		waits := dial(t, from)
		waits.Write([]byte(handshake(getChat)))
		for {
			b, err := h.Next(t.Context())
			if err != nil {
				break
			}
			for _, c := range clients {
				c.Write(text("meanwhile"))
			}
			if adopt {
				to.Adopt(dupFDs(t, b.FDs), b.States).Discard()
			}
			b.Keep()
			break
		}
		h.End(false)
		waits.response()
		waits.Write(text("b"))
		waits.expect("text 1 b")
		waits.Close()
	}
	got := 0
	for _, c := range clients {
		c.Write(text("z"))
		for last := false; !last; got++ {
			last = strings.HasSuffix(c.next(), " z")
		}
	}
	if got < 10 || to.Connections() != 0 {
		t.Errorf("%d replies, %d connections adopted, want at least 10 and none", got, to.Connections())
	}
	await(t, "the clients that have left are gone", func() bool { return from.Connections() == 10 })
}

// TestHandoverLeavesWhatCannotTravel: it goes on until the drain; what the other process refuses
// too.
func TestHandoverLeavesWhatCannotTravel(t *testing.T) {
	from := serve(t, Config{Loops: 1, Heartbeat: time.Hour, DrainSpread: -1},
		movable{stuck: func(n int) bool { return n == 2 }})
	to := serve(t, Config{Loops: 1, Heartbeat: time.Hour, MaxMessage: 1000}, movable{})
	clients := make([]*wire, 3)
	for i := range clients {
		clients[i] = open101(t, from, "/ws")
		for n := range i + 1 {
			clients[i].Write(text("a"))
			clients[i].expect(fmt.Sprintf("text %d a", n+1))
		}
	}
	tooLong := text(strings.Repeat("x", 2000))
	clients[2].Write(tooLong[:1500]) // a message that the other process does not take
	await(t, "it has come", func() (has bool) {
		onLoops(from, func(w *worker) { has = w.conns[2].in != nil })
		return has
	})
	h := from.Handover(false)
	h.until = time.Now() // do not wait for the one that is stuck
	b, err := h.Next(t.Context())
	if err != nil || len(b.FDs) != 2 {
		t.Fatalf("got %v, want two connections", err)
	}
	a := to.Adopt(dupFDs(t, b.FDs), b.States)
	if len(a.Refused) != 1 {
		t.Fatalf("%d were refused, want 1", len(a.Refused))
	}
	b.Settle(a.Refused)
	a.Commit()
	if _, err = h.Next(t.Context()); err != io.EOF {
		t.Errorf("then got %v, want io.EOF", err)
	}
	h.End(true)
	clients[2].Write(tooLong[1500:])
	clients[2].expect("text 4 " + strings.Repeat("x", 2000))
	clients[1].Write(text("b"))
	clients[1].expect("text 3 b")
	clients[0].Write(text("b"))
	clients[0].expect("text 2 b")
	go from.Drain(t.Context())
	for _, c := range clients[1:] {
		c.expect("close 1001")
		c.Write(closeFrame(1001, ""))
	}
	await(t, "the old process is empty", func() bool { return from.Connections() == 0 })
}

// FuzzUnpack: no bytes of another process crash this one or leave anything behind.
func FuzzUnpack(f *testing.F) {
	cfg := Config{Heartbeat: -1, MaxMessage: 1 << 16, TLS: newTLS(f, true), TLSListen: "127.0.0.1:0"}
	w, c, _ := byHand(f, cfg, movable{})
	f.Add(c.pack())
	c.in = &input{raw: []byte("raw"), message: []byte("mess"), op: ws.OpText, fragments: 1, remaining: 3}
	f.Add(c.pack())
	c.in = nil
	c.SetUser("somebody")
	c.EndAfter(time.Hour, 4401, "again", nil)
	f.Add(c.pack())
	for _, suite := range []uint16{tls13.AES128GCM, tls13.AES256GCM} {
		secret := make([]byte, map[uint16]int{tls13.AES128GCM: 32, tls13.AES256GCM: 48}[suite])
		layer, err := tls13.New(suite, secret, secret, 1)
		if err != nil {
			f.Fatal(err)
		}
		c.makeRare().transport = &tlsCompactLayer{pending{[]byte{23, 3, 3}}, layer}
		c.flags |= layered
		f.Add(c.pack())
	}
	c.startTLS()
	c.tlsHandshake().in = []byte{22, 3}
	c.state = handshaking
	f.Add(c.pack())
	c.state, c.rare.transport, c.flags = open, nil, c.flags&^layered
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	held := w.loop.Buffers.Held()
	f.Fuzz(func(t *testing.T, b []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		if c, err := w.adopt(pair[0], b); err == nil {
			again := c.pack()
			c.forget(0)
			if len(again) == 0 {
				t.Error("an adopted connection packs to nothing")
			}
		}
		if n := w.loop.Buffers.Held(); n != held || len(w.conns) != 1 {
			t.Errorf("%d bytes and %d connections are held, want %d and 1", n, len(w.conns), held)
		}
	})
}
