package gateway

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// A message may take MessageTimeout from its first byte to its last, however its bytes trickle in.
func TestMessageTimeout(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MessageTimeout: time.Hour}, Echo{})
	for _, tc := range []struct {
		name string
		sent []byte
	}{
		{"in a header", text("hello")[:1]},
		{"in a payload", text("hello")[:8]},
		{"between fragments", frame(false, ws.OpText, "a")},
		{"in a control frame", frame(true, ws.OpPing, "x")[:3]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			timeouts := counting(s, `sluice_errors_total{reason="message_timeout"}`)
			c := open101(t, s, "/ws")
			c.Write(append(text("before"), tc.sent...))
			c.expect("text before")
			var in *input
			await(t, "the part has come", func() bool {
				onLoops(s, func(w *worker) { in = w.conns[0].in })
				return in != nil
			})
			onLoops(s, func(w *worker) {
				conn := w.conns[0]
				conn.in.since = w.loop.Now() - time.Hour + time.Millisecond
				conn.expire()
				if conn.state != open {
					t.Error("cut off a millisecond before the timeout")
				}
				conn.in.since = w.loop.Now() - time.Hour
				conn.expire()
			})
			c.expect("close 1008 message_timeout", "EOF")
			c.Close()
			await(t, "it is gone", func() bool { return s.Connections() == 0 })
			if timeouts() != 1 {
				t.Errorf("counted %d times, want once", timeouts())
			}
		})
	}
	checkQuiet(t, s)
}

// A message that is complete leaves no deadline behind, and the next one has the whole time.
func TestMessageTimeoutStartsAnew(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MessageTimeout: time.Hour}, Echo{})
	c := open101(t, s, "/ws")
	whole := fragmentsOf(ws.OpText, strings.Repeat("x", 300), 3)
	c.Write(whole[:100])
	await(t, "a part has come", func() (held bool) {
		onLoops(s, func(w *worker) { held = w.conns[0].in != nil })
		return held
	})
	onLoops(s, func(w *worker) { w.conns[0].in.since = 1 })
	c.Write(append(whole[100:], whole[:100]...))
	c.expect("text " + strings.Repeat("x", 300))
	onLoops(s, func(w *worker) {
		if since := w.conns[0].in.since; since <= 1 {
			t.Errorf("the second message began at %v, want its own time", since)
		}
	})
	c.Write(whole[100:])
	c.expect("text " + strings.Repeat("x", 300))
	onLoops(s, func(w *worker) {
		if w.conns[0].in != nil {
			t.Error("input is held between messages")
		}
	})
}

// One connection's turn ends after some thousand frames, whatever is behind them: later when it is
// the only one with so many.
func TestTurnIsBounded(t *testing.T) {
	const short, long = turnMessages + firstRead/6, aloneFactor * (turnMessages + firstRead/6)
	for _, tt := range []struct {
		clients     int
		least, most uint
	}{{1, short + 1, long}, {2, turnMessages, short}} {
		s := serve(t, Config{Loops: 1, Heartbeat: -1}, Echo{})
		clients := make([]*wire, tt.clients)
		for i := range clients {
			clients[i] = open101(t, s, "/ws")
			go io.Copy(io.Discard, clients[i].Conn)
		}
		longest := uint(0)
		onLoops(s, func(w *worker) { // one round
			for _, c := range clients {
				c.Write(bytes.Repeat(frame(true, ws.OpBinary, ""), 12_000))
			}
			w.longTurns = longTurns{last: tt.clients}
			for _, c := range w.conns {
				before := w.frameCount
				c.readable()
				longest = max(longest, w.frameCount-before)
			}
		})
		if longest < tt.least || longest > tt.most {
			t.Errorf("of %d connections one took %d frames in a turn, want %d to %d",
				tt.clients, longest, tt.least, tt.most)
		}
	}
}

// Two connections that have much to say both get short turns from the second round on, and the
// second one in the first.
func TestOnlyOneTurnIsLong(t *testing.T) {
	for _, tt := range []struct {
		turns longTurns
		alone bool
	}{
		{longTurns{now: 0, last: 0}, true},
		{longTurns{now: 0, last: 1}, true},
		{longTurns{now: 1, last: 0}, false},
		{longTurns{now: 1, last: 1}, false},
		{longTurns{now: 0, last: 2}, false},
	} {
		if alone := tt.turns.alone(); alone != tt.alone {
			t.Errorf("%+v: alone %v, want %v", tt.turns, alone, tt.alone)
		}
	}
}

// Connections that hold much give way when the loop's share is full, those that hold most first.
func TestBufferedBound(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxMessage: 64 << 10, MaxBuffered: 1 << 20}, Echo{})
	errors := counting(s, `sluice_errors_total{reason="memory"}`)
	small := open101(t, s, "/ws")
	hello := text("hello")
	small.Write(hello[:4])
	part := make([]byte, 8+60_000)
	copy(part, []byte{0x82, 0x80 | 126, 0xff, 0xff})
	const clients = 40 // of 64 KiB each
	for range clients {
		open101(t, s, "/ws").Write(part)
	}
	await(t, "some were cut", func() bool { return errors() > 0 })
	await(t, "the rest is held", func() bool {
		var held int
		onLoops(s, func(w *worker) { held = w.loop.Buffers.Held() })
		return held <= 1<<20 && held > 1<<19
	})
	small.Write(hello[4:])
	small.expect("text hello")
	if n := errors(); n >= clients {
		t.Errorf("%d of %d were cut, want only as many as must go", n, clients)
	}
}

// At the share nothing is cut; a byte beyond it costs who holds most.
func TestBufferedBoundToTheByte(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1}, Echo{})
	for _, tc := range []struct{ over, want int }{{-1, 1}, {0, 1}, {1, 0}} {
		c := open101(t, s, "/ws")
		c.Write(text("hello")[:4])
		await(t, "a part has come", func() (held bool) {
			onLoops(s, func(w *worker) { held = len(w.conns) == 1 && w.conns[0].in != nil })
			return held
		})
		onLoops(s, func(w *worker) {
			before := w.share
			w.share = w.loop.Buffers.Held() - tc.over
			w.shed()
			w.share = before
			left := 0
			for _, conn := range w.conns {
				if conn.state == open {
					left++
				}
			}
			if left != tc.want {
				t.Errorf("%d bytes over the share: %d connections left, want %d", tc.over, left, tc.want)
			}
		})
		c.Close()
		await(t, "it is gone", func() bool { return s.Connections() == 0 })
	}
	checkQuiet(t, s)
}

// A client that reads nothing is found, with heartbeats and without, although the kernel still
// takes its replies; one that reads slowly is spared TCP_USER_TIMEOUT.
func TestUnreadBytesInTheKernel(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, StallTimeout: time.Hour}, flood{})
	stalls := counting(s, `sluice_slow_consumers_total{reason="stall"}`)
	c := dialNarrow(t, s)
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		userTimeout := func() int {
			ms, err := unix.GetsockoptInt(conn.fd.SysFD(), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if err != nil {
				t.Error(err)
			}
			return ms
		}
		for conn.fd.Unacked() <= unreadSlack && conn.out == nil {
			conn.Send(ws.OpBinary, make([]byte, 500))
		}
		conn.dropOutput() // only the kernel holds anything
		if conn.flags&watched == 0 {
			t.Fatalf("not watched with %d bytes unacknowledged", conn.fd.Unacked())
		}
		expireWith := func(ago time.Duration, acked uint64) {
			w.stalls[conn] = stall{w.loop.Now() - ago, acked, w.stalls[conn].reads}
			conn.expire()
		}
		expireWith(time.Hour-time.Millisecond, conn.fd.Acked())
		if conn.state == broken {
			t.Error("cut off a millisecond before StallTimeout")
		}
		expireWith(time.Hour, 0)
		if conn.state == broken {
			t.Error("cut off though nobody had asked how much it has acknowledged")
		}
		if at := w.stalls[conn]; at.acked != conn.fd.Acked() || userTimeout() == 0 {
			t.Errorf("%+v at the first look, TCP_USER_TIMEOUT %d ms; want %d acknowledged, a timeout",
				at, userTimeout(), conn.fd.Acked())
		}
		expireWith(time.Hour, conn.fd.Acked()-1)
		if conn.state == broken {
			t.Error("cut off though the peer has acknowledged bytes since")
		}
		if ms := userTimeout(); ms != 0 {
			t.Errorf("TCP_USER_TIMEOUT of one that reads: %d ms, want none", ms)
		}
		expireWith(3*time.Hour-time.Millisecond, conn.fd.Acked())
		if conn.state == broken {
			t.Error("one that was seen to read was cut off before three times StallTimeout")
		}
		expireWith(3*time.Hour, conn.fd.Acked())
	})
	await(t, "it is gone", func() bool { return s.Connections() == 0 })
	if stalls() != 1 {
		t.Errorf("got %d stalls, want 1", stalls())
	}
	onLoops(s, func(w *worker) {
		if len(w.stalls) != 0 {
			t.Errorf("%d entries are left for connections that are gone", len(w.stalls))
		}
	})
	c.Close()
}

// The kernel is asked about unacknowledged bytes only when enough were written to matter.
func TestUnackedIsAnUpperBound(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: time.Hour}, Echo{})
	c := open101(t, s, "/ws")
	for range 40 {
		if _, err := c.Write(text(strings.Repeat("x", 300))); err != nil {
			t.Fatal(err)
		}
		c.next()
		onLoops(s, func(w *worker) {
			conn := w.conns[0]
			before := conn.unacked
			if n := conn.fd.Unacked(); int(before) < n {
				t.Errorf("%d bytes are not acknowledged, and at most %d should be", n, before)
			}
			if watches := conn.flags&watched != 0; watches != (before > unreadSlack) {
				t.Errorf("watched with %d bytes: %v", before, watches)
			}
			conn.watchUnread()
			if conn.unacked != before {
				t.Errorf("asked with %d bytes, though few or watched", before)
			}
			if conn.flags&watched != 0 {
				conn.judgeUnread()
				if conn.unacked > unreadSlack || conn.flags&watched != 0 {
					t.Errorf("%d bytes and flags %b after the look", conn.unacked, conn.flags)
				}
			}
		})
	}
	c.Close()
	await(t, "it is gone", func() bool { return s.Connections() == 0 })
}

// A Pong that a Ping of ours asked for is under no limit; one that nobody asked for is.
func TestPongsAskedForAreFree(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: time.Hour, MaxControl: 1}, Echo{})
	c := open101(t, s, "/ws")
	const beats = 50
	onLoops(s, func(w *worker) {
		for range beats {
			w.conns[0].heartbeat()
		}
	})
	for range beats {
		if got := c.next(); !strings.HasPrefix(got, `text {"ts"`) {
			t.Fatalf("got %q, want a heartbeat", got)
		}
		c.expect("ping")
	}
	c.Write(bytes.Repeat(frame(true, ws.OpPong, ""), beats))
	c.Write(text("still here"))
	c.expect("text still here")
	c.Write(bytes.Repeat(frame(true, ws.OpPong, ""), 4))
	c.expect("close 1008 control_rate", "EOF")
}
