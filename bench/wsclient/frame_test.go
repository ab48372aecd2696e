package wsclient

import (
	"bytes"
	"errors"
	"testing"

	"github.com/gobwas/ws"
)

func TestDecodeFrame(t *testing.T) {
	const limit = 70_000
	long := func(head []byte, n int) []byte { return append(head, make([]byte, n)...) }
	for _, tc := range []struct {
		name    string
		in      []byte
		payload int
		err     error // any error when errAny
	}{
		{"text", []byte{0x81, 2, 'h', 'i'}, 2, nil},
		{"empty", []byte{0x82, 0}, 0, nil},
		{"125", long([]byte{0x81, 125}, 125), 125, nil},
		{"126", long([]byte{0x81, 126, 0, 126}, 126), 126, nil},
		{"65535", long([]byte{0x81, 126, 0xff, 0xff}, 65535), 65535, nil},
		{"65536", long([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}, 65536), 65536, nil},
		{"limit", long([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70}, limit), limit, nil},
		{"limit+1, not even there", []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x71}, 0, errAny},
		{"2^64-1", []byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, 0, errAny},
		{"125 in two bytes", []byte{0x81, 126, 0, 125}, 0, ErrNotMinimal},
		{"65535 in eight bytes", []byte{0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255}, 0, ErrNotMinimal},
		{"masked", []byte{0x81, 0x80, 0, 0, 0, 0}, 0, ErrMasked},
		{"RSV1", []byte{0xc1, 0}, 0, ErrReserved},
		{"RSV3", []byte{0x91, 0}, 0, ErrReserved},
		{"opcode 3", []byte{0x83, 0}, 0, ErrOpCode},
		{"opcode 11", []byte{0x8b, 0}, 0, ErrOpCode},
		{"ping of 125", long([]byte{0x89, 125}, 125), 125, nil},
		{"ping of 126", []byte{0x89, 126, 0, 126}, 0, ErrControl},
		{"ping in fragments", []byte{0x09, 0}, 0, ErrControl},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, used, err := DecodeFrame(tc.in, limit)
			switch {
			case tc.err == errAny && err == nil, tc.err != errAny && !errors.Is(err, tc.err):
				t.Fatalf("error %v, want %v", err, tc.err)
			case err == nil && (used != len(tc.in) || len(f.Payload) != tc.payload):
				t.Fatalf("used %d with a payload of %d, want %d with %d", used, len(f.Payload), len(tc.in), tc.payload)
			case err != nil:
				return
			}
			for n := range len(tc.in) {
				if _, used, err := DecodeFrame(tc.in[:n], limit); used != 0 || err != nil {
					t.Fatalf("the first %d bytes: used %d, error %v; want neither", n, used, err)
				}
			}
		})
	}
}

var errAny = errors.New("any error")

func FuzzDecodeFrame(f *testing.F) {
	f.Add([]byte{0x81, 2, 'h', 'i'}, 1)                                 // a whole frame
	f.Add([]byte{0x01, 1, 'a', 0x89, 0, 0x80, 1, 'b'}, 2)               // fragments around a ping
	f.Add([]byte{0x88, 2, 3, 0xe8}, 3)                                  // Close 1000
	f.Add([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, 9) // the longest length there is
	f.Add([]byte{0x81, 126, 0, 125}, 1)                                 // not the shortest form
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		const limit = 1 << 16
		whole, used, err := DecodeFrame(b, limit)
		if used < 0 || used > len(b) || len(whole.Payload) > limit || (err != nil && used != 0) {
			t.Fatalf("used %d of %d, payload %d, error %v", used, len(b), len(whole.Payload), err)
		}
		// A part never yields another answer than the whole: the same frame, the same verdict, or
		// "more".
		part, n, perr := DecodeFrame(b[:min(max(cut, 0), len(b))], limit)
		if n != 0 && (n != used || part.Op != whole.Op || !bytes.Equal(part.Payload, whole.Payload)) {
			t.Fatalf("a part gave %d bytes and %v, the whole %d and %v", n, part, used, whole)
		}
		if perr != nil && err == nil {
			t.Fatalf("a part is an error (%v), the whole is not", perr)
		}
		if used > 0 {
			again := ws.MustCompileFrame(ws.NewFrame(whole.Op, whole.Fin, whole.Payload))
			if !bytes.Equal(again, b[:used]) {
				t.Fatalf("gobwas/ws writes the frame as %x, it was %x", again, b[:used])
			}
		}
	})
}

func TestAppendFrameIsReadByOthers(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte{'p'}, n)
		b := AppendFrame([]byte("before"), ws.OpText, payload, [4]byte{1, 2, 3, 4})[len("before"):]
		f, err := ws.ReadFrame(bytes.NewReader(b))
		if err != nil || !f.Header.Masked || !f.Header.Fin || f.Header.OpCode != ws.OpText {
			t.Fatalf("%d bytes: header %+v, error %v", n, f.Header, err)
		}
		if f = ws.UnmaskFrame(f); !bytes.Equal(f.Payload, payload) {
			t.Errorf("%d bytes: the payload does not come out as it went in", n)
		}
	}
}
