package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// bytesOf reads wire bytes written as hex, with spaces where the reader wants them.
func bytesOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeHeader(t *testing.T) {
	mask := [4]byte{0x11, 0x22, 0x33, 0x44}
	for _, tc := range []struct {
		wire string
		want ws.Header
		n    int
		bad  bool
	}{
		{wire: ""},
		{wire: "81"},
		{"81 00", ws.Header{Fin: true, OpCode: ws.OpText}, 2, false},
		{"01 7d", ws.Header{OpCode: ws.OpText, Length: 125}, 2, false},
		{wire: "81 80"},
		{wire: "81 80 11 22 33"},
		{"81 80 11 22 33 44", ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Mask: mask}, 6, false},
		{"81 80 11 22 33 44 55", ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Mask: mask}, 6, false},
		{"00 80 11 22 33 44", ws.Header{OpCode: ws.OpContinuation, Masked: true, Mask: mask}, 6, false},
		{"f2 85 11 22 33 44", ws.Header{Fin: true, Rsv: 7, OpCode: ws.OpBinary, Masked: true, Mask: mask, Length: 5}, 6, false},
		{"c1 01", ws.Header{Fin: true, Rsv: 4, OpCode: ws.OpText, Length: 1}, 2, false},
		{"a9 01", ws.Header{Fin: true, Rsv: 2, OpCode: ws.OpPing, Length: 1}, 2, false},
		{"9a 01", ws.Header{Fin: true, Rsv: 1, OpCode: ws.OpPong, Length: 1}, 2, false},
		{"88 82 11 22 33 44", ws.Header{Fin: true, OpCode: ws.OpClose, Masked: true, Mask: mask, Length: 2}, 6, false},
		{"8f 00", ws.Header{Fin: true, OpCode: 0xf, Length: 0}, 2, false},

		{wire: "82 7e 00"},
		{"82 7e 00 7e", ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 126}, 4, false},
		{"82 7e ff ff", ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 65535}, 4, false},
		{wire: "82 fe 00 7e 11 22 33"},
		{"82 fe 00 7e 11 22 33 44", ws.Header{Fin: true, OpCode: ws.OpBinary, Masked: true, Mask: mask, Length: 126}, 8, false},
		{wire: "82 7e 00 7d", bad: true},
		{wire: "82 7e 00 00", bad: true},
		{wire: "82 fe 00 7d", bad: true}, // without waiting for the mask

		{wire: "82 7f 00 00 00 00 00 01 00"},
		{"82 7f 00 00 00 00 00 01 00 00", ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 65536}, 10, false},
		{"82 7f 7f ff ff ff ff ff ff ff", ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 1<<63 - 1}, 10, false},
		{"82 ff 00 00 00 00 00 01 00 00 11 22 33 44", ws.Header{Fin: true, OpCode: ws.OpBinary, Masked: true, Mask: mask, Length: 65536}, 14, false},
		{wire: "82 ff 00 00 00 00 00 01 00 00 11 22 33"},
		{wire: "82 7f 00 00 00 00 00 00 ff ff", bad: true},
		{wire: "82 7f 00 00 00 00 00 00 00 00", bad: true},
		{wire: "82 7f 80 00 00 00 00 00 00 00", bad: true},
		{wire: "82 7f ff ff ff ff ff ff ff ff", bad: true},
	} {
		h, n, err := decodeHeader(bytesOf(t, tc.wire))
		if n != tc.n || (err != nil) != tc.bad {
			t.Errorf("%s: got %d bytes, error %v, want %d, error: %v", tc.wire, n, err, tc.n, tc.bad)
		}
		if n > 0 && h != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.wire, h, tc.want)
		}
	}
}

func TestAppendFrameLengths(t *testing.T) {
	for _, tc := range []struct {
		length int
		header string
	}{
		{0, "82 00"}, {1, "82 01"}, {125, "82 7d"}, {126, "82 7e 00 7e"}, {65535, "82 7e ff ff"},
		{65536, "82 7f 00 00 00 00 00 01 00 00"}, {65537, "82 7f 00 00 00 00 00 01 00 01"},
	} {
		payload := bytes.Repeat([]byte("p"), tc.length)
		got := appendFrame([]byte("before"), ws.OpBinary, payload)
		want := append(append([]byte("before"), bytesOf(t, tc.header)...), payload...)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got header % x of %d, want %s and %d", tc.length, got[6:min(len(got), 16)], len(got), tc.header, len(want))
		}
		f, err := ws.ReadFrame(bytes.NewReader(got[6:]))
		if err != nil || !f.Header.Fin || f.Header.OpCode != ws.OpBinary || !bytes.Equal(f.Payload, payload) {
			t.Errorf("%d bytes: gobwas/ws reads %+v, %v", tc.length, f.Header, err)
		}
	}
}

func TestAppendClose(t *testing.T) {
	long := strings.Repeat("é", 100)
	for _, tc := range []struct {
		code         ws.StatusCode
		reason, want string
	}{
		{1005, "", ""}, {1005, "ignored", ""}, {1000, "", "\x03\xe8"}, {1001, "bye", "\x03\xe9bye"},
		{1000, strings.Repeat("r", 123), "\x03\xe8" + strings.Repeat("r", 123)},
		{1000, strings.Repeat("r", 124), "\x03\xe8" + strings.Repeat("r", 123)},
		{1000, long, "\x03\xe8" + long[:122]}, // 61 whole characters; half of one is not text
	} {
		f, err := ws.ReadFrame(bytes.NewReader(appendClose(nil, tc.code, tc.reason)))
		if err != nil || f.Header.OpCode != ws.OpClose || string(f.Payload) != tc.want {
			t.Errorf("%d %q: got %+v %q, %v, want %q", tc.code, tc.reason, f.Header, f.Payload, err, tc.want)
		}
	}
}

// closeCodeValid is the table of RFC 6455, section 7.4, with what IANA has registered since.
func closeCodeValid(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

func TestParseCloseAllCodes(t *testing.T) {
	for code := range 1 << 16 {
		payload := append(binary.BigEndian.AppendUint16(nil, uint16(code)), "why"...)
		got, bad := parseClose(payload)
		if closeCodeValid(code) {
			if got != ws.StatusCode(code) || bad != 0 {
				t.Errorf("%d: got %d, failed with %d, want it accepted", code, got, bad)
			}
		} else if bad != ws.StatusProtocolError {
			t.Errorf("%d: got %d, failed with %d, want 1002", code, got, bad)
		}
	}
}

func TestParseClose(t *testing.T) {
	for _, tc := range []struct {
		wire      string
		code, bad ws.StatusCode
	}{
		{"", 1005, 0},
		{"03", 0, 1002},
		{"03 e8", 1000, 0},
		{"03 e8 6f 6b", 1000, 0},
		{"03 e8 c3 a9", 1000, 0},
		{"03 e8 c3", 0, 1007},          // cut in the middle of a character
		{"03 e8 ff", 0, 1007},          // never a character
		{"03 e8 ed a0 80", 0, 1007},    // a surrogate
		{"03 e8 c0 80", 0, 1007},       // overlong
		{"03 ed ff", 0, 1002},          // the code is judged first
		{"03 f4 6c 61 74 65", 1012, 0}, // service restart
	} {
		code, bad := parseClose(bytesOf(t, tc.wire))
		if bad != tc.bad || (bad == 0 && code != tc.code) {
			t.Errorf("% s: got %d, failed with %d, want %d, %d", tc.wire, code, bad, tc.code, tc.bad)
		}
	}
}

// FuzzClose: what parseClose accepts, appendClose sends back the same, and gobwas/ws agrees on what is acceptable but for the
// codes that it does not know.
func FuzzClose(f *testing.F) {
	f.Add([]byte{})                                        // no code
	f.Add([]byte{3})                                       // half a code
	f.Add([]byte{3, 0xe8, 'o', 'k'})                       // 1000 ok
	f.Add([]byte{3, 0xed})                                 // 1005, never on the wire
	f.Add([]byte{0x13, 0x88})                              // 5000
	f.Add([]byte{3, 0xf5, 0xe2, 0x82})                     // half a character
	f.Add(append([]byte{0xf, 0xa0}, make([]byte, 123)...)) // 4000, longest
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > ws.MaxControlFramePayloadSize {
			return // never gets that far
		}
		code, bad := parseClose(payload)
		if bad != 0 {
			if bad != ws.StatusProtocolError && bad != ws.StatusInvalidFramePayloadData {
				t.Fatalf("% x: failed with %d, want 1002 or 1007", payload, bad)
			}
			if len(payload) >= 2 {
				theirs, reason := ws.ParseCloseFrameData(payload)
				if ws.CheckCloseFrameData(theirs, reason) == nil && theirs < 5000 {
					t.Errorf("% x: failed with %d, gobwas/ws accepts it", payload, bad)
				}
			}
			return
		}
		if len(payload) == 0 {
			return
		}
		again, err := ws.ReadFrame(bytes.NewReader(appendClose(nil, code, string(payload[2:]))))
		if err != nil || !bytes.Equal(again.Payload, payload) {
			t.Errorf("% x: got % x back, %v", payload, again.Payload, err)
		}
	})
}

// modelUTF8 says naively what validUTF8Prefix should: whether b can be continued to valid text (by up to three bytes), and how
// much of it is whole characters.
func modelUTF8(b []byte) (n int, ok bool) {
	for n < len(b) {
		r, size := utf8.DecodeRune(b[n:])
		if r != utf8.RuneError || size > 1 {
			n += size
			continue
		}
		return n, canBecomeRune(b[n:])
	}
	return n, true
}

// canBecomeRune tries continuations. Which byte follows matters only for the second: the others are any of 80 to BF.
func canBecomeRune(b []byte) bool {
	if len(b) >= utf8.UTFMax {
		return false
	}
	for _, second := range []byte{0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf} {
		candidate := append([]byte(nil), b...)
		if len(candidate) == 1 {
			candidate = append(candidate, second)
		}
		for len(candidate) <= utf8.UTFMax {
			if utf8.Valid(candidate) && utf8.RuneCount(candidate) == 1 {
				return true
			}
			candidate = append(candidate, 0x80)
		}
	}
	return false
}

func TestUTF8PrefixExhaustively(t *testing.T) {
	check := func(b []byte) {
		n, ok := validUTF8Prefix(b)
		want, wantOK := modelUTF8(b)
		if ok != wantOK || (ok && n != want) {
			t.Fatalf("% x: got %d %v, want %d %v", b, n, ok, want, wantOK)
		}
	}
	check(nil)
	for i := range 1 << 16 { // all of one and two bytes
		check([]byte{byte(i)})
		check([]byte{byte(i >> 8), byte(i)})
	}
	// Of three and four bytes, those on the edges of the ranges of Unicode's table 3-7.
	edges := []byte{0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff}
	for _, a := range edges {
		for _, b := range edges {
			for _, c := range edges {
				check([]byte{a, b, c})
				for _, d := range edges {
					check([]byte{a, b, c, d})
					check([]byte{'x', a, b, c, d})
				}
			}
		}
	}
}

// FuzzUTF8: a text checked piece by piece, as fragments come, is judged as when it is checked whole.
func FuzzUTF8(f *testing.F) {
	f.Add([]byte("plain"), uint64(1))
	f.Add([]byte("κόσμε €𝄞"), uint64(2))             // two, three and four bytes
	f.Add([]byte("a\xed\xa0\x80"), uint64(3))        // a surrogate
	f.Add([]byte("\xf4\x90\x80\x80"), uint64(4))     // beyond U+10FFFF
	f.Add([]byte("\xf0\x9d\x84"), uint64(5))         // cut
	f.Add([]byte("\xe2\x82\xe2\x82\xac"), uint64(6)) // cut in the middle
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		if len(b) > 512 {
			return // the model is slow
		}
		random := rand.New(rand.NewPCG(seed, 0))
		valid, ok := 0, true
		for end := 0; end < len(b) && ok; {
			end += 1 + random.IntN(len(b)-end)
			var n int
			n, ok = validUTF8Prefix(b[valid:end])
			if want, wantOK := modelUTF8(b[:end]); ok != wantOK || (ok && valid+n != want) {
				t.Fatalf("% x of % x: got %d %v, want %d %v", b[:end], b, valid+n, ok, want, wantOK)
			}
			if ok {
				valid += n
			}
		}
		if got := ok && valid == len(b); got != utf8.Valid(b) {
			t.Errorf("% x in pieces: got %v, want %v", b, got, !got)
		}
	})
}

// oracleLimits are those of the connections that the fuzzed streams are fed to.
var oracleLimits = Config{Heartbeat: -1, MaxMessage: 2000, MaxFragments: 5, MaxControl: 7, Loops: 1}

// oracle says what a connection should make of a stream of client bytes, with gobwas/ws' reader over the whole of it: the
// frames that are sent back by an echo, ending in "close …" or, when the stream just ends, without.
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
		if fragments++; fragments > oracleLimits.MaxFragments || h.Length > int64(oracleLimits.MaxMessage-len(message)) {
			return fail(1009)
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

// stream makes wire bytes from fuzzed ones: mostly frames that are almost right, which random bytes hardly ever are.
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

// FuzzDecodeHeader: at every cut, decodeHeader wants more or says what gobwas/ws says.
func FuzzDecodeHeader(f *testing.F) {
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4})                         // a small frame
	f.Add([]byte{0x82, 0xfe, 0, 126, 1, 2, 3, 4})                 // 16 bits of length
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}) // 64 bits
	f.Add([]byte{0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0})          // the bit that must be 0
	f.Add([]byte{0x82, 0x7e, 0, 5})                               // not minimal
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := ws.ReadHeader(bytes.NewReader(b))
		h, n, err := decodeHeader(b)
		switch {
		case err != nil:
			if wantErr == nil && (want.Length >= 126 && b[1]&0x7f == 126 || want.Length >= 65536) {
				t.Fatalf("% x: got %v, gobwas/ws reads %+v", b, err, want)
			}
			return
		case n == 0:
			if wantErr == nil {
				t.Fatalf("% x: wants more, gobwas/ws reads %+v", b, want)
			}
			return
		case wantErr != nil || h != want || n != ws.HeaderSize(h):
			t.Fatalf("% x: got %+v in %d bytes, gobwas/ws reads %+v, %v", b, h, n, want, wantErr)
		}
		for cut := range n {
			if _, early, err := decodeHeader(b[:cut]); early != 0 || err != nil {
				t.Fatalf("% x cut at %d: got %d bytes, %v, want more", b[:n], cut, early, err)
			}
		}
	})
}

// FuzzDecodeFrames: whatever pieces a stream comes in, a connection makes of it what gobwas/ws makes of the whole.
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
