package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
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
		f, err := ws.ReadFrame(bytes.NewReader(appendFrame(nil, ws.OpClose, appendCloseBody(nil, tc.code, tc.reason))))
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

// FuzzClose: what parseClose accepts, appendCloseBody sends back the same, and gobwas/ws agrees on
// what is acceptable but for the codes that it does not know.
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
		again, err := ws.ReadFrame(bytes.NewReader(appendFrame(nil, ws.OpClose, appendCloseBody(nil, code, string(payload[2:])))))
		if err != nil || !bytes.Equal(again.Payload, payload) {
			t.Errorf("% x: got % x back, %v", payload, again.Payload, err)
		}
	})
}

// modelUTF8 says naively what validUTF8Prefix should: whether b can be continued to valid text (by
// up to three bytes), and how much of it is whole characters.
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

// canBecomeRune tries continuations. Which byte follows matters only for the second: the others are
// any of 80 to BF.
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

// FuzzUTF8: a text checked piece by piece, as fragments come, is judged as when it is checked
// whole.
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
