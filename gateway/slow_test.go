package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// dialNarrow connects with a small receive buffer, so that little data is enough to stand in a slow
// reader's way.
func dialNarrow(t testing.TB, s *Server) *wire {
	t.Helper()
	conn := narrow(t, s.Addr().String())
	c := &wire{t, conn, bufio.NewReaderSize(conn, 512)}
	io.WriteString(c, handshake("GET /ws HTTP/1.1"))
	if resp := c.response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	return c
}

// narrow connects with a small receive buffer: the kernel's own would hide a slow reader for
// megabytes.
func narrow(t testing.TB, addr string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		return errors.Join(err, failed)
	}}
	conn, err := dialer.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testPatience))
	return conn
}

// flood is an Echo that answers "flood N" with N bytes in messages of 1000, whether or not anybody
// reads, and calls Send's connection narrow: the kernel's own buffers would hide a slow reader for
// megabytes.
type flood struct{ Echo }

func (flood) ForLoop(func(fn func()) bool) Handler { return flood{} }

func (flood) Open(c *Conn, _ *Request) {
	_ = unix.SetsockoptInt(c.fd.SysFD(), unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	c.Accept("")
}

func (flood) Message(c *Conn, op ws.OpCode, payload []byte) {
	var n int
	if _, err := fmt.Sscanf(string(payload[:min(len(payload), 20)]), "flood %d", &n); err != nil {
		c.Send(op, payload)
		return
	}
	for i := 0; i < n; i += 1000 {
		c.Send(op, []byte(fmt.Sprintf("%0996d", i/1000))) // with its header of four bytes, 1000
		c.flush()
	}
}

// queueOf looks at the queue of the only connection of a server with one loop.
func queueOf(s *Server) (queued, held int, high bool) {
	onLoops(s, func(w *worker) {
		if len(w.conns) == 1 && w.conns[0].out != nil {
			out := w.conns[0].out
			queued, held, high = out.queued(), cap(out.buf), out.high
		}
	})
	return queued, held, high
}

// A reader that stops has its replies queued up to MaxQueue and is cut off with the first that
// comes beyond.
func TestSlowConsumerOverflows(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxQueue: 20_000, MaxMessage: 1 << 20}, flood{})
	overflows, stalls, closed := counting(s, `sluice_slow_consumers_total{reason="overflow"}`), counting(s, `sluice_slow_consumers_total{reason="stall"}`), counting(s, `sluice_closes_total{code="1008"}`)
	c := dialNarrow(t, s)
	c.Write(text("flood 1000000"))
	await(t, "the slow reader is cut off", func() bool { return s.Connections() == 0 })
	if overflows() != 1 || stalls() != 0 || closed() != 1 {
		t.Errorf("got %d overflows, %d stalls, %d closes with 1008, want 1, 0, 1", overflows(), stalls(), closed())
	}
	// What the kernel had may have arrived, in order, and then comes the reset.
	for i := 0; ; i++ {
		got := c.next()
		if got == fmt.Sprintf("text %0996d", i) {
			continue
		}
		if !strings.HasPrefix(got, "error: ") {
			t.Errorf("behind %d replies: got %.40q, want a reset", i, got)
		}
		break
	}
	checkQuiet(t, s)
}

func TestQueueBound(t *testing.T) {
	const bound = 20_000
	for _, extra := range []int{-1, 0, 1} {
		s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxQueue: bound}, flood{})
		overflows := counting(s, `sluice_slow_consumers_total{reason="overflow"}`)
		c := dialNarrow(t, s)
		c.Write(text("flood 10000")) // fills the kernel's buffers, perhaps
		var queued int
		onLoops(s, func(w *worker) {
			conn := w.conns[0]
			for conn.out == nil {
				conn.Send(ws.OpBinary, make([]byte, 100))
			}
			// Up to the bound and a little less or more, to the byte.
			conn.write(make([]byte, bound+extra-conn.out.queued()))
			queued = conn.out.queued()
			conn.Send(ws.OpBinary, make([]byte, 100))
		})
		if queued != bound+extra {
			t.Fatalf("got %d bytes queued, want %d", queued, bound+extra)
		}
		onLoops(s, func(*worker) {})
		want := 1
		if extra < 0 {
			want = 0
		}
		if got := int(overflows()); got != want || s.Connections() != 1-want {
			t.Errorf("one more with %d of %d bytes queued: got %d overflows and %d connections, want %d and %d", queued, bound, got, s.Connections(), want, 1-want)
		}
	}
}

// A reader that stops is cut off when it has taken nothing for StallTimeout, although its queue has
// room.
func TestSlowConsumerStalls(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, StallTimeout: 100 * time.Millisecond, MaxQueue: 1 << 20}, flood{})
	overflows, stalls := counting(s, `sluice_slow_consumers_total{reason="overflow"}`), counting(s, `sluice_slow_consumers_total{reason="stall"}`)
	c := dialNarrow(t, s)
	c.Write(text("flood 500000"))
	await(t, "the slow reader is cut off", func() bool { return s.Connections() == 0 })
	if overflows() != 0 || stalls() != 1 {
		t.Errorf("got %d overflows and %d stalls, want 0 and 1", overflows(), stalls())
	}
	checkQuiet(t, s)
}

// A reader that takes a little again and again is not stalled, however long the queue lasts: the
// time counts from the last byte taken.
func TestSlowConsumerThatTakesALittle(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, StallTimeout: time.Hour, MaxQueue: 1 << 20}, flood{})
	stalls := counting(s, `sluice_slow_consumers_total{reason="stall"}`)
	c := dialNarrow(t, s)
	c.Write(text("flood 300000"))
	c.expect(fmt.Sprintf("text %0996d", 0))
	var long, since time.Duration
	onLoops(s, func(w *worker) {
		long = w.loop.Now() - 59*time.Minute
		w.conns[0].out.since = long
	})
	for i := 1; since <= long; i++ {
		c.expect(fmt.Sprintf("text %0996d", i))
		onLoops(s, func(w *worker) { since = w.conns[0].out.since })
	}
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		conn.expire()
		if conn.state == broken {
			t.Error("a reader that has just taken bytes was cut off")
		}
		conn.out.since = w.loop.Now() - time.Hour + time.Millisecond
		conn.expire()
		if conn.state == broken {
			t.Error("a reader was cut off a millisecond before StallTimeout")
		}
		conn.out.since = w.loop.Now() - time.Hour
		conn.out.acked = 0
		conn.expire()
		if conn.state == broken {
			t.Error("a reader whose kernel has acknowledged bytes since was cut off")
		}
		ms, err := unix.GetsockoptInt(conn.fd.SysFD(), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || ms != 0 {
			t.Errorf("TCP_USER_TIMEOUT of one that reads: %d ms, %v, want none", ms, err)
		}
		conn.out.since = w.loop.Now() - 3*time.Hour + time.Millisecond
		conn.out.acked = conn.fd.Acked()
		conn.expire()
		if conn.state == broken {
			t.Error("a reader that was seen to read was cut off before three times StallTimeout")
		}
		conn.out.since = w.loop.Now() - 3*time.Hour
		conn.expire()
		if conn.state != broken {
			t.Error("a reader was not cut off at StallTimeout")
		}
		conn.expire()
	})
	await(t, "it is gone", func() bool { return s.Connections() == 0 })
	if stalls() != 1 {
		t.Errorf("got %d stalls, want 1", stalls())
	}
}

// From the high-water mark on nothing more is read from the client, so that what it sends stays
// with it: megabytes that are echoed to a client that does not read yet need no more room than the
// queue's. Then it reads, and all of it is there, in order.
func TestEchoThroughASlowReader(t *testing.T) {
	const total = 8 << 20
	cfg := Config{Loops: 1, Heartbeat: -1, StallTimeout: testPatience}
	s := serve(t, cfg, flood{})
	cfg = s.Config()
	overflows := counting(s, `sluice_slow_consumers_total{reason="overflow"}`)
	c, neighbour := dialNarrow(t, s), open101(t, s, "/ws")
	slow := s.Connections() - 1 // the first on the loop's list is the slow one

	random := rand.New(rand.NewPCG(1, 2))
	var sent bytes.Buffer // all payloads
	var wireBytes bytes.Buffer
	for sent.Len() < total {
		payload := make([]byte, random.IntN(3000))
		if random.IntN(50) == 0 {
			payload = make([]byte, random.IntN(60_000))
		}
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		sent.Write(payload)
		wireBytes.Write(frame(true, ws.OpBinary, string(payload)))
	}
	go c.Write(wireBytes.Bytes())

	state := func() (queued, held, carried int, high bool) {
		onLoops(s, func(w *worker) {
			conn := w.conns[slow-1]
			if conn.out != nil {
				queued, held, high = conn.out.queued(), cap(conn.out.buf), conn.out.high
			}
			if conn.in != nil {
				carried = cap(conn.in.raw) + cap(conn.in.message)
			}
		})
		return
	}
	await(t, "reading pauses at the high-water mark", func() bool { _, _, _, high := state(); return high })
	var received uint64
	for i := range 200 {
		neighbour.Write(text("alive"))
		neighbour.expect("text alive")
		queued, held, carried, high := state()
		if queued < cfg.MaxQueue/4 || !high || held > 4*cfg.MaxQueue || carried > 4*(64<<10) {
			t.Fatalf("while nobody reads: %d bytes queued in %d, %d carried, high %v; want no more than the bounds", queued, held, carried, high)
		}
		if i == 0 {
			received = uint64(carried)
		} else if uint64(carried) != received {
			t.Fatalf("got %d bytes carried, before %d: the client is still being read", carried, received)
		}
	}

	// Now it reads.
	var got bytes.Buffer
	c.SetDeadline(time.Now().Add(testPatience))
	for got.Len() < total {
		f, err := ws.ReadFrame(c.r)
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got.Len(), sent.Len(), err)
		}
		got.Write(f.Payload)
	}
	if !bytes.Equal(got.Bytes(), sent.Bytes()[:got.Len()]) {
		t.Error("the echo is not what was sent")
	}
	if overflows() != 0 {
		t.Errorf("got %d overflows, want 0", overflows())
	}
	c.Write(closeFrame(1000, ""))
	for {
		if got := c.next(); got == "EOF" {
			break
		}
	}
	c.Close()
	neighbour.Close()
	await(t, "both are gone", func() bool { return s.Connections() == 0 })
	checkQuiet(t, s)
}

// A reader that keeps up with what it is sent, and never catches up, keeps its queue, but not what
// was sent from it.
func TestQueueOfAReaderThatNeverCatchesUp(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1}, flood{})
	c := dialNarrow(t, s)
	for conn, most := (*Conn)(nil), 0; ; {
		onLoops(s, func(w *worker) {
			conn = w.conns[0]
			for conn.out == nil || conn.out.queued() < 8000 {
				conn.Send(ws.OpBinary, make([]byte, 1000))
				most += 1000
			}
			if held := cap(conn.out.buf); held > 64<<10 {
				t.Errorf("after %d bytes: %d bytes queued in a buffer of %d", most, conn.out.queued(), held)
			}
		})
		if t.Failed() || most > 4<<20 {
			return
		}
		if got := c.next(); len(got) != len("binary ")+1000 {
			t.Fatalf("got %.40q of %d bytes", got, len(got))
		}
	}
}

// Last words to a slow reader are delivered, not reset away: the replies that wait and then the
// Close.
func TestSlowReaderGetsItsLastWords(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxQueue: 400_000, CloseTimeout: testPatience}, flood{})
	for _, tc := range []struct {
		name string
		sent []byte
		last string
	}{
		{"its own close", closeFrame(1000, ""), "close 1000"},
		{"a failure", text("\xff"), "close 1007 utf8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dialNarrow(t, s)
			c.Write(append(text("flood 200000"), tc.sent...))
			await(t, "the queue is high", func() bool { _, _, high := queueOf(s); return high })
			// The Close is behind the high-water mark, so it is seen when the queue has been read.
			for i := range 200 {
				c.expect(fmt.Sprintf("text %0996d", i))
			}
			c.expect(tc.last, "EOF")
			c.Close()
			await(t, "it is gone", func() bool { return s.Connections() == 0 })
			checkQuiet(t, s)
		})
	}
}

// The time for the peer's FIN begins with ours: before it, a slow reader has CloseTimeout for what
// is queued.
func TestLingeringWaitsForTheQueue(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxQueue: 1 << 20, CloseTimeout: testPatience}, flood{})
	c := dialNarrow(t, s)
	c.Write(text("flood 30000"))
	c.expect(fmt.Sprintf("text %0996d", 0))
	var queued int
	var left time.Duration
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		for conn.out == nil {
			conn.Send(ws.OpBinary, make([]byte, 1000))
		}
		conn.peerCode = 1000 // as if the peer's Close had come
		conn.Close(1000, "")
		queued, left = conn.out.queued(), conn.deadline-w.loop.Now()
		if conn.state != flushing {
			t.Errorf("got state %d, want it flushing, without FIN", conn.state)
		}
	})
	if queued == 0 || left <= lingerTime {
		t.Errorf("with %d bytes queued: got %v to send them, want CloseTimeout", queued, left)
	}
	for got := ""; got != "close 1000"; {
		if got = c.next(); strings.HasPrefix(got, "error") || got == "EOF" {
			t.Fatalf("got %q, want close 1000", got)
		}
	}
	c.expect("EOF")
	onLoops(s, func(w *worker) {
		if conn := w.conns[0]; conn.deadline-w.loop.Now() > lingerTime {
			t.Errorf("with FIN sent: got %v of patience left, want at most %v", conn.deadline-w.loop.Now(), lingerTime)
		}
	})
}
