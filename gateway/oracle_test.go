package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// oracleLimits are those of the connections that the fuzzed streams are fed to.
var oracleLimits = Config{Heartbeat: -1, MaxMessage: 2000, MaxFragments: 5, MaxControl: 7, Loops: 1}

// oracle says what a connection should make of a stream of client bytes, with gobwas/ws' reader
// over the whole of it: the frames that are sent back by an echo, ending in "close …" or, when the
// stream just ends, without.
func oracle(stream []byte) (replies []string) {
	r := bytes.NewReader(stream)
	var (
		state     = ws.StateServerSide
		op        ws.OpCode
		message   []byte
		fragments int
		controls  int
	)
	reasons := map[ws.StatusCode]string{1002: "protocol", 1007: "utf8", 1008: "control_rate", 1009: "message_size"}
	fail := func(code ws.StatusCode) []string {
		return append(replies, fmt.Sprintf("close %d %s", code, reasons[code]))
	}
	for {
		before := stream[len(stream)-r.Len():]
		h, err := ws.ReadHeader(r)
		switch {
		case errors.Is(err, ws.ErrHeaderLengthMSB):
			return fail(1002)
		case err != nil:
			// Of a header that is cut only a length that is all there and wrong can be told.
			if len(before) >= 4 && before[1]&0x7f == 126 && binary.BigEndian.Uint16(before[2:]) < 126 {
				return fail(1002)
			}
			if len(before) >= 10 && before[1]&0x7f == 127 {
				if n := binary.BigEndian.Uint64(before[2:]); n < 65536 || n>>63 != 0 {
					return fail(1002)
				}
			}
			return replies
		case before[1]&0x7f == 126 && h.Length < 126, before[1]&0x7f == 127 && h.Length < 65536:
			return fail(1002) // gobwas/ws does not check that
		case ws.CheckHeader(h, state) != nil:
			return fail(1002)
		}
		if h.OpCode.IsControl() {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(r, payload); err != nil {
				return replies
			}
			ws.Cipher(payload, h.Mask, 0)
			if h.OpCode == ws.OpClose {
				switch code, bad := parseClose(payload); {
				case bad != 0:
					return append(replies, fmt.Sprintf("close %d close_frame", bad))
				case code == ws.StatusNoStatusRcvd:
					return append(replies, "close")
				default:
					return append(replies, fmt.Sprintf("close %d", code))
				}
			}
			if controls++; controls > oracleLimits.MaxControl {
				return fail(1008)
			}
			if h.OpCode == ws.OpPing {
				replies = append(replies, strings.TrimSpace("pong "+string(payload)))
			}
			continue
		}
		if h.OpCode != ws.OpContinuation {
			op, message, fragments = h.OpCode, nil, 0
		}
		if h.Length > int64(oracleLimits.MaxMessage-len(message)) {
			return fail(1009)
		}
		if fragments++; fragments > oracleLimits.MaxFragments {
			return append(replies, "close 1009 fragments")
		}
		payload := make([]byte, h.Length)
		n, _ := io.ReadFull(r, payload)
		payload = payload[:n]
		ws.Cipher(payload, h.Mask, 0)
		message = append(message, payload...)
		if op == ws.OpText {
			if valid, ok := modelUTF8(message); !ok || (h.Fin && n == int(h.Length) && valid < len(message)) {
				return fail(1007)
			}
		}
		if n < int(h.Length) {
			return replies
		}
		if state = ws.StateServerSide; !h.Fin {
			state |= ws.StateFragmented
			continue
		}
		name := "text "
		if op == ws.OpBinary {
			name = "binary "
		}
		replies = append(replies, name+string(message))
	}
}

// stream makes wire bytes from fuzzed ones: mostly frames that are almost right, which random bytes
// hardly ever are.
func stream(random *rand.Rand, junk []byte) (b []byte) {
	for range 1 + random.IntN(8) {
		op := []ws.OpCode{ws.OpText, ws.OpText, ws.OpBinary, ws.OpContinuation, ws.OpContinuation, ws.OpPing, ws.OpPong, ws.OpClose}[random.IntN(8)]
		payload := []byte("κόσμε 𝄞 plain")
		if random.IntN(4) == 0 {
			payload = bytes.Repeat(payload, random.IntN(100))
		}
		payload = payload[:random.IntN(len(payload)+1)]
		if random.IntN(6) == 0 && len(junk) > 0 {
			payload = junk[:random.IntN(len(junk)+1)]
		}
		if op == ws.OpClose && random.IntN(4) > 0 {
			payload = ws.NewCloseFrameBody(1000, "")
		}
		if op.IsControl() && len(payload) > 125 {
			payload = payload[:125]
		}
		f := ws.MaskFrame(ws.NewFrame(op, random.IntN(3) > 0 || op.IsControl(), bytes.Clone(payload)))
		wire := ws.MustCompileFrame(f)
		if random.IntN(24) == 0 {
			wire[random.IntN(min(len(wire), 14))] ^= 1 << random.IntN(8)
		}
		b = append(b, wire...)
	}
	if random.IntN(4) == 0 {
		b = append(b, junk...)
	}
	if random.IntN(4) == 0 {
		b = b[:random.IntN(len(b)+1)]
	}
	return b
}

// FuzzDecodeFrames: whatever pieces a stream comes in, a connection makes of it what gobwas/ws
// makes of the whole.
func FuzzDecodeFrames(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, []byte("\xed\xa0\x80 not text"))
	}
	f.Add(uint64(100), []byte{0x88, 0x02, 3, 0xe8})                                                    // not masked
	f.Add(uint64(101), []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}) // exabytes announced
	f.Add(uint64(102), []byte{0x81, 0xfe, 0, 5})                                                       // length not minimal
	s := serve(f, oracleLimits, Echo{})
	f.Fuzz(func(t *testing.T, seed uint64, junk []byte) {
		checkStream(t, s, seed, junk)
	})
}

func checkStream(t *testing.T, s *Server, seed uint64, junk []byte) {
	if len(junk) > 4096 {
		return
	}
	random := rand.New(rand.NewPCG(seed, 1))
	b := stream(random, junk)
	want := oracle(b)
	c := dial(t, s)
	defer c.Close()
	io.WriteString(c, handshake(getChat))
	if resp := c.response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	for rest := b; len(rest) > 0; {
		n := 1 + random.IntN(min(len(rest), []int{2, 20, 5000}[random.IntN(3)]))
		if _, err := c.Write(rest[:n]); err != nil {
			break // the gateway has heard enough
		}
		rest = rest[n:]
	}
	// The stream's end has the gateway end the connection when it has not failed it.
	c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if len(want) == 0 || !strings.HasPrefix(want[len(want)-1], "close") {
		want = append(want, "close") // the end of the stream, without a Close
	}
	for i, w := range append(want, "EOF") {
		got := c.next()
		if strings.HasPrefix(w, "close 1008") && got != w {
			return // a second began between two of the control frames; the oracle has no clock
		}
		if got != w {
			t.Fatalf("seed %d: reply %d: got %.100q, want %.100q\nstream (%d bytes) % .100x", seed, i, got, w, len(b), b)
		}
	}
}

func TestStreamsLikeTheOracle(t *testing.T) {
	s := serve(t, oracleLimits, Echo{})
	for seed := range uint64(400) {
		checkStream(t, s, 1000+seed, []byte("\xc3\x28junk\xf0\x9d"))
	}
}
