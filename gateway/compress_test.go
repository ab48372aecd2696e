package gateway

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway/deflate"
	"sluice/gateway/gatewaytest"
)

// compressing is a client that has agreed on compression.
type compressing struct {
	*gatewaytest.Client
	codec deflate.Codec
}

const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"

func openCompressing(t testing.TB, s *Server) *compressing {
	t.Helper()
	c := gatewaytest.Dial(t, s)
	io.WriteString(c, gatewaytest.Upgrade(get, offer))
	resp := c.Response()
	if got := resp.Header.Get("Sec-WebSocket-Extensions"); resp.StatusCode != 101 || got != deflate.Response {
		t.Fatalf("got %d, extensions %q", resp.StatusCode, got)
	}
	return &compressing{Client: c}
}

// frame is a masked frame; rsv is 4 for a compressed message.
func rsvFrame(fin bool, rsv byte, op ws.OpCode, payload []byte) []byte {
	f := ws.NewFrame(op, fin, payload)
	f.Header.Rsv = rsv
	return ws.MustCompileFrame(ws.MaskFrame(f))
}

// next reads a message, and says whether it was compressed.
func (c *compressing) next() (text string, compressed bool) {
	c.T.Helper()
	f, err := ws.ReadFrame(c.R)
	if err != nil {
		return err.Error(), false
	}
	if f.Header.Rsv == 0 {
		if f.Header.OpCode == ws.OpClose {
			code, reason := ws.ParseCloseFrameData(f.Payload)
			return strings.TrimSpace(fmt.Sprintf("close %d %s", code, reason)), false
		}
		return string(f.Payload), false
	}
	p, err := c.codec.Expand(f.Payload, 1<<20)
	if err != nil {
		c.T.Fatal(err)
	}
	return string(p), true
}

func (c *compressing) compressed(text string) []byte { return c.codec.Compress(nil, []byte(text)) }

// random is text that does not compress.
func random(n int) string {
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = 33 + byte(x%94)
	}
	return string(b)
}

func TestCompressedMessages(t *testing.T) {
	s := serve(t, Config{Compression: true, MaxMessage: 4096}, Echo{})
	c := openCompressing(t, s)
	for size, want := range map[int]bool{0: false, 10: false, 255: false, 256: true, 257: true, 4096: true} {
		text := strings.Repeat("a", size)
		for _, plain := range []bool{true, false} {
			if plain {
				c.Write(rsvFrame(true, 0, ws.OpText, []byte(text)))
			} else {
				c.Write(rsvFrame(true, rsv1, ws.OpText, c.compressed(text)))
			}
			if got, compressed := c.next(); got != text || compressed != want {
				t.Errorf("%d bytes: got %d, compressed %v, want %v", size, len(got), compressed, want)
			}
		}
	}
	// What compression would lengthen is sent as it is.
	noise := random(300)
	noiseBinary := []byte(noise)
	for i := range noiseBinary {
		noiseBinary[i] ^= byte(i * 37)
	}
	c.Write(rsvFrame(true, 0, ws.OpBinary, noiseBinary))
	if got, _ := c.next(); got != string(noiseBinary) {
		t.Errorf("noise comes back as %d other bytes", len(got))
	}
	// In fragments, of which the first has the mark, and with a Ping between.
	text := strings.Repeat("fragmented ", 100)
	z := c.compressed(text)
	c.Write(rsvFrame(false, rsv1, ws.OpText, z[:5]))
	c.Write(rsvFrame(true, 0, ws.OpPing, nil))
	c.Write(rsvFrame(false, 0, ws.OpContinuation, z[5:9]))
	c.Write(rsvFrame(true, 0, ws.OpContinuation, z[9:]))
	c.next() // the Pong
	if got, _ := c.next(); got != text {
		t.Errorf("fragments: got %q", got)
	}
	// Byte by byte, so that headers and payloads are cut anywhere.
	for _, b := range rsvFrame(true, rsv1, ws.OpText, z) {
		c.Write([]byte{b})
	}
	if got, _ := c.next(); got != text {
		t.Errorf("byte by byte: got %q", got)
	}
}

// TestCompressionIsOffered only where both want it.
func TestCompressionIsAgreedOn(t *testing.T) {
	for _, test := range []struct {
		on          bool
		offer, want string
	}{
		{false, offer, ""}, {true, "", ""}, {true, offer, deflate.Response},
		{true, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n", ""},
		{true, "Sec-WebSocket-Extensions: x\r\nsec-websocket-extensions: permessage-deflate\r\n", deflate.Response},
	} {
		s := serve(t, Config{Compression: test.on}, Echo{})
		c := gatewaytest.Dial(t, s)
		io.WriteString(c, gatewaytest.Upgrade(get, test.offer))
		if got := c.Response().Header.Get("Sec-WebSocket-Extensions"); got != test.want {
			t.Errorf("%v, %q: got %q, want %q", test.on, test.offer, got, test.want)
		}
		text := strings.Repeat("a", 1000)
		c.Write(gatewaytest.Text(text))
		f, err := ws.ReadFrame(c.R)
		if err != nil || (f.Header.Rsv != 0) != (test.want != "") {
			t.Errorf("%v, %q: header %+v, error %v", test.on, test.offer, f.Header, err)
		}
		// Without agreement the mark is a protocol error.
		if test.want == "" {
			c.Write(rsvFrame(true, rsv1, ws.OpText, []byte("x")))
			c.Expect("close 1002 protocol")
		}
	}
}

func TestBadCompressedMessages(t *testing.T) {
	const most = 4096
	s := serve(t, Config{Compression: true, MaxMessage: most}, Echo{})
	var codec deflate.Codec
	bomb := func(n int) []byte { return codec.Compress(nil, make([]byte, n)) }
	for _, test := range []struct {
		name   string
		frames [][]byte
		want   string
	}{
		{"at the limit", [][]byte{rsvFrame(true, rsv1, ws.OpBinary, bomb(most))}, ""},
		{"below the limit", [][]byte{rsvFrame(true, rsv1, ws.OpBinary, bomb(most-1))}, ""},
		{"beyond the limit", [][]byte{rsvFrame(true, rsv1, ws.OpBinary, bomb(most+1))}, "close 1009 message_size"},
		{"a bomb", [][]byte{rsvFrame(true, rsv1, ws.OpBinary, bomb(3<<20))}, "close 1009 message_size"},
		{"a bomb in fragments", [][]byte{rsvFrame(false, rsv1, ws.OpBinary, bomb(2 << 20)[:100]),
			rsvFrame(true, 0, ws.OpContinuation, bomb(2 << 20)[100:])}, "close 1009 message_size"},
		{"not DEFLATE", [][]byte{rsvFrame(true, rsv1, ws.OpBinary, []byte("\xff\xff"))}, "close 1007 deflate"},
		{"not UTF-8", [][]byte{rsvFrame(true, rsv1, ws.OpText, codec.Compress(nil, []byte("a\xff")))}, "close 1007 utf8"},
		{"mark on a Ping", [][]byte{rsvFrame(true, rsv1, ws.OpPing, nil)}, "close 1002 protocol"},
		{"mark on a later fragment", [][]byte{rsvFrame(false, rsv1, ws.OpText, []byte{1}), rsvFrame(true, rsv1, ws.OpContinuation, nil)}, "close 1002 protocol"},
		{"another reserved bit", [][]byte{rsvFrame(true, rsv1|2, ws.OpText, nil)}, "close 1002 protocol"},
		{"only the other one", [][]byte{rsvFrame(true, 1, ws.OpText, nil)}, "close 1002 protocol"},
	} {
		c := openCompressing(t, s)
		for _, f := range test.frames {
			c.Write(f)
		}
		if got, _ := c.next(); test.want == "" && strings.HasPrefix(got, "close") || test.want != "" && got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestManyInflatedMessages: what inflates to more than a turn's worth is handled in turns, and
// nothing of it is lost, also when the client ends its side at once.
func TestManyInflatedMessages(t *testing.T) {
	s := serve(t, Config{Loops: 1, Compression: true, MaxQueue: 64 << 20}, lengthApp{})
	c := openCompressing(t, s)
	z := rsvFrame(true, rsv1, ws.OpBinary, c.codec.Compress(nil, make([]byte, 64<<10)))
	const n = 300 // 19 MiB
	go func() {
		for range n {
			c.Write(z)
		}
		gatewaytest.CloseWrite(c.Client)
	}()
	for i := range n {
		if got := c.Next(); got != "text 65536" {
			t.Fatalf("message %d: got %q", i, got)
		}
	}
}

// lengthApp answers each message with its length.
type lengthApp struct{ Echo }

func (a lengthApp) ForLoop(func(fn func()) bool) Handler { return a }

func (lengthApp) Message(c *Conn, _ ws.OpCode, payload []byte) {
	c.Send(ws.OpText, []byte(fmt.Sprint(len(payload))))
}

// frameApp answers every message with one Frame that all connections share.
type frameApp struct {
	Echo
	frame Frame
}

func (a *frameApp) ForLoop(func(fn func()) bool) Handler { return a }

func (a *frameApp) Message(c *Conn, _ ws.OpCode, _ []byte) { c.SendFrame(a.frame) }

// TestFrameIsCompressedOnce for all loops and connections, and goes out plain where compression was
// not agreed on.
func TestFrameIsCompressedOnce(t *testing.T) {
	text := strings.Repeat("broadcast ", 100)
	app := &frameApp{frame: NewFrame(ws.OpText, []byte(text))}
	s := serve(t, Config{Loops: 2, Compression: true}, app)
	var made *[]byte
	for range 8 {
		c := openCompressing(t, s)
		c.Write(gatewaytest.Text("?"))
		got, compressed := c.next()
		if got != text || !compressed {
			t.Fatalf("got %d bytes, compressed %v", len(got), compressed)
		}
		if p := app.frame.compressed.encoded.Load(); made != nil && p != made {
			t.Fatal("it was compressed again")
		} else {
			made = p
		}
		plain := gatewaytest.Open(t, s, get)
		plain.Write(gatewaytest.Text("?"))
		plain.Expect("text " + text)
	}
	short := NewFrame(ws.OpText, []byte("short"))
	if got := short.forDeflate(s.workers[0]); string(got) != "\x81\x05short" {
		t.Errorf("a short one: got %q", got)
	}
}

// TestCompressionHoldsNothing: a connection that has used it holds what one without it does.
func TestCompressionHoldsNothing(t *testing.T) {
	w, c, fd := byHand(t, Config{Compression: true}, Echo{})
	c.flags |= deflates
	var codec deflate.Codec
	message := rsvFrame(true, rsv1, ws.OpText, codec.Compress(nil, []byte(strings.Repeat("x", 2000))))
	unix.Write(fd, message)
	c.readable()
	receive(t, fd)
	if c.in != nil || c.out != nil || c.rare != nil || w.loop.Buffers.Held() != 0 {
		t.Errorf("held: input %v, output %v, rare %v, %d bytes of buffers", c.in, c.out, c.rare, w.loop.Buffers.Held())
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 1000
	for range n {
		unix.Write(fd, message)
		c.readable()
		receive(t, fd)
	}
	runtime.ReadMemStats(&after)
	// receive allocates its buffer, the codec a few words.
	if perMessage := float64(after.Mallocs-before.Mallocs) / n; perMessage > 3 {
		t.Errorf("got %.1f allocations a message", perMessage)
	}
}

// jsonMessage is a JSON message of n bytes.
func jsonMessage(n int) []byte {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"id":%d,"user":"user-%d","room":"lobby","text":"message number %d"},`, i*7919, i*31%1000, i)
	}
	return []byte(b.String()[:n])
}

// BenchmarkEcho512 is a message of 512 bytes through a connection: read, decoded, echoed, written.
func BenchmarkEcho512(b *testing.B) {
	payload := jsonMessage(512)
	var codec deflate.Codec
	for _, test := range []struct {
		name  string
		flags connFlags
		frame []byte
	}{
		{"plain", 0, rsvFrame(true, 0, ws.OpText, payload)},
		{"compressed", deflates, rsvFrame(true, rsv1, ws.OpText, codec.Compress(nil, payload))},
	} {
		b.Run(test.name, func(b *testing.B) {
			_, c, fd := byHand(b, Config{Compression: true}, Echo{})
			c.flags |= test.flags
			answer := make([]byte, 4096)
			wire := 0
			for b.Loop() {
				unix.Write(fd, test.frame)
				c.readable()
				wire, _ = unix.Read(fd, answer)
			}
			b.ReportMetric(float64(wire), "B/answer")
		})
	}
}
