package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// wireOf joins what a client sends.
func wireOf(pieces ...[]byte) []byte { return bytes.Join(pieces, nil) }

// masked is a client frame with a header as given, for headers that no library would write. The
// payload is masked with zeros.
func masked(t testing.TB, header, payload string) []byte {
	return wireOf(bytesOf(t, header), make([]byte, 4), []byte(payload))
}

// fragmentsOf cuts s into n fragments with each the same length, the last with the rest.
func fragmentsOf(op ws.OpCode, s string, n int) (b []byte) {
	size := len(s) / n
	for i := range n {
		piece := s[i*size : (i+1)*size]
		if i == n-1 {
			piece = s[i*size:]
		}
		if i > 0 {
			op = ws.OpContinuation
		}
		b = append(b, frame(i == n-1, op, piece)...)
	}
	return b
}

func TestFrames(t *testing.T) {
	s := serve(t, Config{MaxMessage: 1000, MaxFragments: 128}, Echo{})
	exactly, long := strings.Repeat("x", 1000), strings.Repeat("p", 125)
	ping := func(s string) []byte { return frame(true, ws.OpPing, s) }
	for _, tc := range []struct {
		name string
		sent []byte
		want []string
	}{
		{"text", text("hello"), []string{"text hello"}},
		{"empty text", text(""), []string{"text "}},
		{"binary", frame(true, ws.OpBinary, "\xff\x00"), []string{"binary \xff\x00"}},
		{"many in one segment", bytes.Repeat(text("a"), 100), slicesRepeat("text a", 100)},
		{"two fragments", fragmentsOf(ws.OpText, "hello", 2), []string{"text hello"}},
		{"empty fragments", wireOf(frame(false, ws.OpText, ""), frame(false, 0, ""), frame(true, 0, "")), []string{"text "}},
		{"a character over three fragments", wireOf(frame(false, ws.OpText, "\xe2"), frame(false, 0, "\x82"), frame(true, 0, "\xac")), []string{"text €"}},
		{"pings between fragments", wireOf(ping("0"), frame(false, ws.OpText, "a"), ping("1"), frame(false, 0, "b"), ping("2"), frame(true, 0, "c"), ping("3")),
			[]string{"pong 0", "pong 1", "pong 2", "text abc", "pong 3"}},
		{"close between fragments", wireOf(frame(false, ws.OpText, "a"), closeFrame(1000, ""), frame(true, 0, "b")), []string{"close 1000", "EOF"}},
		{"ping, empty", ping(""), []string{"pong"}},
		{"ping of 125 bytes", ping(long), []string{"pong " + long}},
		{"ping of 126 bytes", masked(t, "89 fe 00 7e", long+"p"), []string{"close 1002 protocol", "EOF"}},
		{"pong nobody asked for", wireOf(frame(true, ws.OpPong, "x"), text("a")), []string{"text a"}},

		{"message of 999 bytes", text(exactly[1:]), []string{"text " + exactly[1:]}},
		{"message of 1000 bytes", text(exactly), []string{"text " + exactly}},
		{"message of 1001 bytes", text(exactly + "x"), []string{"close 1009 message_size", "EOF"}},
		{"1001 bytes announced", masked(t, "81 fe 03 e9", ""), []string{"close 1009 message_size", "EOF"}},
		{"exabytes announced", masked(t, "82 ff 7f ff ff ff ff ff ff ff", ""), []string{"close 1009 message_size", "EOF"}},
		{"999 bytes in fragments", fragmentsOf(ws.OpText, exactly[1:], 7), []string{"text " + exactly[1:]}},
		{"1000 bytes in fragments", fragmentsOf(ws.OpText, exactly, 7), []string{"text " + exactly}},
		{"1001 bytes in fragments", fragmentsOf(ws.OpText, exactly+"x", 7), []string{"close 1009 message_size", "EOF"}},
		{"the sum would overflow", wireOf(frame(false, ws.OpBinary, "x"), masked(t, "80 ff 7f ff ff ff ff ff ff ff", "")), []string{"close 1009 message_size", "EOF"}},
		{"127 fragments", fragmentsOf(ws.OpBinary, exactly, 127), []string{"binary " + exactly}},
		{"128 fragments", fragmentsOf(ws.OpBinary, exactly, 128), []string{"binary " + exactly}},
		{"129 fragments", fragmentsOf(ws.OpBinary, exactly, 129), []string{"close 1009 fragments", "EOF"}},
		{"129 empty fragments", wireOf(frame(false, ws.OpText, ""), bytes.Repeat(frame(false, 0, ""), 128)), []string{"close 1009 fragments", "EOF"}},
		{"fragments are counted for each message", wireOf(fragmentsOf(ws.OpBinary, exactly, 128), fragmentsOf(ws.OpBinary, exactly, 128)),
			[]string{"binary " + exactly, "binary " + exactly}},

		{"not masked", []byte("\x81\x05hello"), []string{"close 1002 protocol", "EOF"}},
		{"not masked, empty", []byte("\x81\x00"), []string{"close 1002 protocol", "EOF"}},
		{"RSV1", masked(t, "c1 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"RSV2", masked(t, "a1 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"RSV3", masked(t, "91 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"RSV1 on a continuation", wireOf(frame(false, ws.OpText, "a"), masked(t, "c0 80", "")), []string{"close 1002 protocol", "EOF"}},
		{"RSV1 on a ping", masked(t, "c9 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"opcode 3", masked(t, "83 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"opcode 7", masked(t, "87 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"opcode b", masked(t, "8b 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"opcode f", masked(t, "8f 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"ping in fragments", masked(t, "09 80", ""), []string{"close 1002 protocol", "EOF"}},
		{"close in fragments", masked(t, "08 82", "\x03\xe8"), []string{"close 1002 protocol", "EOF"}},
		{"continuation of nothing", frame(true, 0, "x"), []string{"close 1002 protocol", "EOF"}},
		{"continuation of what is complete", wireOf(text("a"), frame(true, 0, "b")), []string{"text a", "close 1002 protocol", "EOF"}},
		{"a new message inside another", wireOf(frame(false, ws.OpText, "a"), text("b")), []string{"close 1002 protocol", "EOF"}},
		{"16 bits for 125", masked(t, "81 fe 00 7d", long), []string{"close 1002 protocol", "EOF"}},
		{"64 bits for 126", masked(t, "81 ff 00 00 00 00 00 00 00 7e", long+"x"), []string{"close 1002 protocol", "EOF"}},
		{"top bit of the length", masked(t, "81 ff 80 00 00 00 00 00 00 00", ""), []string{"close 1002 protocol", "EOF"}},
		{"what came before is answered", wireOf(text("a"), text("b"), []byte("\x81\x00")), []string{"text a", "text b", "close 1002 protocol", "EOF"}},
		{"what comes behind is not", wireOf([]byte("\x81\x00"), text("a")), []string{"close 1002 protocol", "EOF"}},

		{"text that is not UTF-8", text("a\xff"), []string{"close 1007 utf8", "EOF"}},
		{"text cut in a character", text("a\xe2\x82"), []string{"close 1007 utf8", "EOF"}},
		{"a surrogate", text("\xed\xa0\x80"), []string{"close 1007 utf8", "EOF"}},
		{"fragments cut in a character", wireOf(frame(false, ws.OpText, "a\xe2"), frame(true, 0, "\x82")), []string{"close 1007 utf8", "EOF"}},
		{"a bad byte in the first fragment", frame(false, ws.OpText, "a\xff"), []string{"close 1007 utf8", "EOF"}},
		{"a bad continuation byte in the next", wireOf(frame(false, ws.OpText, "\xe2"), frame(false, 0, "a")), []string{"close 1007 utf8", "EOF"}},
		{"a bad byte in a frame of which the rest is to come", text("\xff" + long)[:20], []string{"close 1007 utf8", "EOF"}},
		{"any bytes in fragmented binary", wireOf(frame(false, ws.OpBinary, "\xff"), frame(true, 0, "\xfe")), []string{"binary \xff\xfe"}},

		{"close", closeFrame(1000, "done"), []string{"close 1000", "EOF"}},
		{"close, going away", closeFrame(1001, ""), []string{"close 1001", "EOF"}},
		{"close, application's code", closeFrame(4999, ""), []string{"close 4999", "EOF"}},
		{"close without a code", frame(true, ws.OpClose, ""), []string{"close", "EOF"}},
		{"close with half a code", frame(true, ws.OpClose, "\x03"), []string{"close 1002 close_frame", "EOF"}},
		{"close with 1005", closeFrame(1005, ""), []string{"close 1002 close_frame", "EOF"}},
		{"close with 999", closeFrame(999, ""), []string{"close 1002 close_frame", "EOF"}},
		{"close with 5000", closeFrame(5000, ""), []string{"close 1002 close_frame", "EOF"}},
		{"close with a bad reason", closeFrame(1000, "\xff"), []string{"close 1007 close_frame", "EOF"}},
		{"data behind close", wireOf(text("a"), closeFrame(1000, ""), text("b"), frame(true, ws.OpPing, ""), closeFrame(1000, "")),
			[]string{"text a", "close 1000", "EOF"}},
		{"nonsense behind close", wireOf(closeFrame(1000, ""), []byte("GET / HTTP/1.1\r\n\r\n")), []string{"close 1000", "EOF"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := open101(t, s, "/ws")
			c.Write(tc.sent)
			c.expect(tc.want...)
		})
	}
}

func slicesRepeat(s string, n int) (all []string) {
	for range n {
		all = append(all, s)
	}
	return all
}

// Everything above again, one byte at a time: a message, a control frame and their headers cut
// wherever they can be.
func TestFramesOneByteAtATime(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	c := open101(t, s, "/ws")
	sent := wireOf(text("first"), frame(false, ws.OpText, "κό"), frame(true, ws.OpPing, "here"), frame(true, 0, "σμε"),
		frame(true, ws.OpBinary, strings.Repeat("b", 300)), closeFrame(1000, "done"))
	for i := range sent {
		c.Write(sent[i : i+1])
	}
	c.expect("text first", "pong here", "text κόσμε", "binary "+strings.Repeat("b", 300), "close 1000", "EOF")
}

// Whatever the read buffer's size, messages larger than it or cut by its end come out whole.
func TestMessagesAcrossReadBuffers(t *testing.T) {
	s := serve(t, Config{MaxMessage: 1 << 20, MaxQueue: 8 << 20}, Echo{})
	c := open101(t, s, "/ws")
	sizes := []int{65_279, 65_280, 65_281, 65_535, 65_536, 65_537, 131_072, 1 << 20, 1, 0, 200_000}
	go func() {
		for i, size := range sizes {
			c.Write(frame(true, ws.OpBinary, strings.Repeat(string(rune('a'+i)), size)))
		}
	}()
	for i, size := range sizes {
		if got, want := c.next(), "binary "+strings.Repeat(string(rune('a'+i)), size); got != want {
			t.Fatalf("message of %d bytes: got %d bytes %.20q", size, len(got), got)
		}
	}
}

func TestControlFrameRate(t *testing.T) {
	pings := func(n int, op ws.OpCode) []byte { return bytes.Repeat(frame(true, op, ""), n) }
	for _, tc := range []struct {
		name string
		sent []byte
		want []string
	}{
		{"19 pings", pings(19, ws.OpPing), append(slicesRepeat("pong", 19), "text end")},
		{"20 pings", pings(20, ws.OpPing), append(slicesRepeat("pong", 20), "text end")},
		{"21 pings", pings(21, ws.OpPing), append(slicesRepeat("pong", 20), "close 1008 control_rate", "EOF")},
		{"20 pongs", pings(20, ws.OpPong), []string{"text end"}},
		{"21 pongs", pings(21, ws.OpPong), []string{"close 1008 control_rate", "EOF"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, Config{Heartbeat: -1}, Echo{})
			c := open101(t, s, "/ws")
			// One segment is one readable event, and the loop has one time for it.
			c.Write(append(tc.sent, text("end")...))
			c.expect(tc.want...)
		})
	}
	t.Run("the next second counts anew", func(t *testing.T) {
		s := serve(t, Config{Heartbeat: -1, MaxControl: 1, Loops: 1}, Echo{})
		c := open101(t, s, "/ws")
		for range 2 {
			c.Write(frame(true, ws.OpPing, ""))
			c.expect("pong")
			second := func() (n int64) {
				onLoops(s, func(w *worker) { n = int64(w.loop.Now() / time.Second) })
				return n
			}
			for now := second(); second() == now; {
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}

// closer is an application that closes with a code of its own when it is told to.
type closer struct{ Echo }

func (closer) ForLoop(func(fn func()) bool) Handler { return closer{} }

func (closer) Message(c *Conn, op ws.OpCode, payload []byte) {
	if string(payload) == "close" {
		c.Send(ws.OpText, []byte("last"))
		c.Close(4000, "enough")
		if err := c.Send(ws.OpText, []byte("too late")); err == nil {
			panic("Send after Close: got nil, want an error")
		}
		c.Close(4001, "again")
		return
	}
	c.Send(op, payload)
}

func TestCloseFromOurSide(t *testing.T) {
	s := serve(t, Config{CloseTimeout: testPatience}, closer{})
	t.Run("answered", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(wireOf(text("close"), text("ignored"), frame(true, ws.OpPing, "ignored")))
		c.expect("text last", "close 4000 enough")
		c.Write(wireOf(text("still ignored"), closeFrame(4000, "")))
		c.expect("EOF")
	})
	t.Run("with another code", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(text("close"))
		c.expect("text last", "close 4000 enough")
		c.Write(closeFrame(1000, ""))
		c.expect("EOF")
	})
	t.Run("not answered", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(text("close"))
		c.expect("text last", "close 4000 enough")
		overdue(s)
		c.expect("EOF")
	})
	t.Run("answered with nonsense", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(text("close"))
		c.expect("text last", "close 4000 enough")
		c.Write([]byte("\x81\x00"))
		c.expect("EOF")
	})
	t.Run("crossing the peer's", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(wireOf(text("close"), closeFrame(1000, "")))
		c.expect("text last", "close 4000 enough", "EOF")
	})
	t.Run("with an empty frame", func(t *testing.T) {
		c := open101(t, s, "/ws")
		c.Write(text("close"))
		c.expect("text last", "close 4000 enough")
		c.Write(frame(true, ws.OpClose, ""))
		c.expect("EOF")
	})
	await(t, "all are gone", func() bool { return s.Connections() == 0 })
}

// The code of the Close frame is what sluice_closes_total counts, and a client cannot add to its
// series.
func TestCloseCodesAreCounted(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	for _, tc := range []struct {
		label string
		sent  []byte
	}{
		{"1000", closeFrame(1000, "")}, {"1001", closeFrame(1001, "")}, {"1005", frame(true, ws.OpClose, "")},
		{"1014", closeFrame(1014, "")}, {"other", closeFrame(3000, "")}, {"other", closeFrame(4999, "")},
		{"1002", []byte("\x81\x00")}, {"1007", text("\xff")}, {"1009", masked(t, "82 ff 00 00 00 00 00 02 00 00", "")}, {"1006", nil},
	} {
		n := counting(s, fmt.Sprintf(`sluice_closes_total{code=%q}`, tc.label))
		c := open101(t, s, "/ws")
		c.Write(tc.sent)
		if tc.sent != nil {
			for c.next() != "EOF" {
			}
		}
		c.Close()
		await(t, "the connection is gone", func() bool { return s.Connections() == 0 })
		if n() != 1 {
			t.Errorf("% x: got %d closes with code %s, want 1", tc.sent, n(), tc.label)
		}
	}
}

func TestPeersThatVanish(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	for _, sent := range [][]byte{nil, text("a"), text("half a frame")[:5], frame(false, ws.OpText, "half a message"), []byte("\x81\x00")} {
		for _, reset := range []bool{false, true} {
			c := open101(t, s, "/ws")
			c.Write(sent)
			if reset {
				c.Conn.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}
	await(t, "all are gone", func() bool { return s.Connections() == 0 })
	checkQuiet(t, s)
}

// A peer that ends its own side still gets what it asked for before.
func TestHalfClose(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	for _, tc := range []struct {
		sent []byte
		want []string
	}{
		{wireOf(text("a"), text("b")), []string{"text a", "text b", "close", "EOF"}},
		{wireOf(text("a"), text("half")[:4]), []string{"text a", "close", "EOF"}},
		{wireOf(text("a"), closeFrame(1000, "")), []string{"text a", "close 1000", "EOF"}},
	} {
		c := open101(t, s, "/ws")
		c.Write(tc.sent)
		c.Conn.(*net.TCPConn).CloseWrite()
		c.expect(tc.want...)
	}
	t.Run("behind the request", func(t *testing.T) {
		c := dial(t, s)
		io.WriteString(c, handshake(getChat))
		c.Write(text("a"))
		c.Conn.(*net.TCPConn).CloseWrite()
		if resp := c.response(); resp.StatusCode != 101 {
			t.Fatalf("got %d, want 101", resp.StatusCode)
		}
		c.expect("text a", "close", "EOF")
	})
	t.Run("instead of a request", func(t *testing.T) {
		c := dial(t, s)
		c.Conn.(*net.TCPConn).CloseWrite()
		c.expect("EOF")
	})
}

// A peer that failed is not listened to, and not reset either: it has to read why it failed.
func TestFailedPeerThatGoesOnTalking(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	c := open101(t, s, "/ws")
	c.Write([]byte("\x81\x00"))
	for range 64 {
		if _, err := c.Write(make([]byte, 16<<10)); err != nil {
			t.Fatalf("write behind a failure: %v, want it taken and ignored", err)
		}
	}
	c.expect("close 1002 protocol", "EOF")
}
