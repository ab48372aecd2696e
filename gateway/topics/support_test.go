package topics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway"
)

// app is an application whose clients say what to do in words: "sub NAME", "unsub NAME", "from NAME
// POSITION", "pub NAME TEXT", "burst NAME N", "names", and "say TEXT", which it sends back.
type app struct {
	hub *Hub
}

type handler struct{ topics *Loop }

func (a app) ForLoop(post func(fn func()) bool) gateway.Handler {
	return &handler{a.hub.ForLoop(post)}
}

func (h *handler) Open(c *gateway.Conn, _ *gateway.Request) { c.Accept("") }

func (h *handler) Message(c *gateway.Conn, _ ws.OpCode, payload []byte) {
	words := strings.SplitN(string(payload), " ", 3)
	for len(words) < 3 {
		words = append(words, "")
	}
	var err error
	switch words[0] {
	case "sub":
		if err = h.topics.Subscribe(c, words[1]); err == nil {
			say(c, "subscribed "+words[1])
		}
	case "unsub":
		h.topics.Unsubscribe(c, words[1])
		say(c, "unsubscribed "+words[1])
	case "from":
		var since Position
		if words[2] != "" {
			if since, err = ParsePosition(words[2]); err != nil {
				break
			}
		}
		err = h.topics.SubscribeFrom(c, words[1], since, func(r Recovery) {
			say(c, fmt.Sprintf("from %s %v %d", r.Position, r.Recovered, r.Messages))
		})
	case "pub":
		if err = h.topics.Publish(c, words[1], Message{Payload: []byte(words[2])}); err == nil {
			say(c, "published")
		}
	case "burst":
		n, _ := strconv.Atoi(words[2])
		for i := range n {
			if err = h.topics.Publish(c, words[1], Message{Payload: fmt.Appendf(nil, "%d", i)}); err != nil {
				break
			}
		}
	case "names":
		say(c, strings.Join(h.topics.Subscribed(c), ","))
	case "say":
		say(c, words[1])
	}
	if err != nil {
		say(c, "error "+err.Error())
	}
}

func say(c *gateway.Conn, text string) { _ = c.Send(ws.OpText, []byte(text)) }

func (h *handler) Leave(c *gateway.Conn, code ws.StatusCode) { c.Close(code, "") }
func (h *handler) Closed(c *gateway.Conn)                    { h.topics.DropAll(c) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// start runs a gateway with topics until the test ends.
func start(t testing.TB, cfg Config, gw gateway.Config) (*Hub, *gateway.Server) {
	t.Helper()
	cfg.Logger = quiet
	hub, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	gw.Listen, gw.Logger, gw.DrainSpread = "127.0.0.1:0", quiet, -1
	if gw.Loops == 0 {
		gw.Loops = 2
	}
	if gw.Heartbeat == 0 {
		gw.Heartbeat = -1
	}
	s, err := gateway.New(gw, app{hub})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
	})
	return hub, s
}

// client is a WebSocket client with deadlines.
type client struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

const patience = 20 * time.Second

func dial(t testing.TB, s *gateway.Server) *client {
	t.Helper()
	return dialWith(t, s, ws.Dialer{})
}

// dialNarrow is dial with so small a buffer that little is enough to fill the way to a client that
// does not read.
func dialNarrow(t testing.TB, s *gateway.Server) *client {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		})
		return errors.Join(err, failed)
	}}
	return dialWith(t, s, ws.Dialer{NetDial: d.DialContext})
}

// narrow is a gateway with one loop.
var narrow = gateway.Config{Loops: 1}

func dialWith(t testing.TB, s *gateway.Server, d ws.Dialer) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, in, _, err := d.Dial(ctx, "ws://"+s.Addr().String()+"/ws")
	if err != nil {
		t.Fatal(err)
	}
	if in == nil {
		in = bufio.NewReader(conn)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, in}
}

// do sends a command.
func (c *client) do(format string, args ...any) {
	c.t.Helper()
	f := ws.MaskFrameInPlace(ws.NewTextFrame(fmt.Appendf(nil, format, args...)))
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := ws.WriteFrame(c.conn, f); err != nil {
		c.t.Fatal(err)
	}
}

// frame reads the next frame that is not a Ping.
func (c *client) frame() (ws.OpCode, string) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		f, err := ws.ReadFrame(c.in)
		if err != nil {
			c.t.Fatalf("read: %v", err)
		}
		if f.Header.OpCode != ws.OpPing {
			return f.Header.OpCode, string(f.Payload)
		}
	}
}

// want reads messages and compares them.
func (c *client) want(messages ...string) {
	c.t.Helper()
	for _, m := range messages {
		if op, got := c.frame(); op != ws.OpText || got != m {
			c.t.Fatalf("got opcode %d %.200q, want the text %.200q", op, got, m)
		}
	}
}

// sub subscribes and waits for the answer.
func (c *client) sub(names ...string) *client {
	c.t.Helper()
	for _, n := range names {
		c.do("sub %s", n)
		c.want("subscribed " + n)
	}
	return c
}

// onLoop runs fn on the loop of a Hub that has one loop.
func onLoop(h *Hub, fn func(l *Loop)) {
	done := make(chan struct{})
	l := h.loops[0]
	l.post(func() { fn(l); close(done) })
	<-done
}

// eventually polls for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come: %s", what)
		}
	}
}

func publish(t testing.TB, h *Hub, name, text string) {
	t.Helper()
	if err := h.Publish(name, Message{Payload: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}
