package deflate

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestOffered(t *testing.T) {
	for value, want := range map[string]bool{
		"":                   false,
		"permessage-deflate": true,
		"permessage-deflate; client_max_window_bits":                                                  true, // Chromium, Firefox, Node's ws
		"permessage-deflate; client_max_window_bits=15":                                               true,
		"permessage-deflate; client_max_window_bits=8; server_no_context_takeover":                    true,
		`permessage-deflate; client_max_window_bits="10"`:                                             true,
		"permessage-deflate; server_max_window_bits=15":                                               true,
		"permessage-deflate; server_max_window_bits=14":                                               false,
		"permessage-deflate; server_max_window_bits=8":                                                false,
		"permessage-deflate; server_max_window_bits":                                                  false,
		"permessage-deflate; server_max_window_bits=14, permessage-deflate":                           true,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=9": false,
		"permessage-deflate; client_max_window_bits=7":                                                false,
		"permessage-deflate; client_max_window_bits=16":                                               false,
		"permessage-deflate; client_max_window_bits=08":                                               false,
		"permessage-deflate; client_max_window_bits; client_max_window_bits":                          false,
		"permessage-deflate; server_no_context_takeover=1":                                            false,
		"permessage-deflate; client_no_context_takeover; client_no_context_takeover":                  false,
		"permessage-deflate; unknown":                                                                 false,
		"permessage-deflate; unknown, permessage-deflate; client_max_window_bits":                     true,
		"x-webkit-deflate-frame":                                                                      false,
		"x-webkit-deflate-frame, permessage-deflate":                                                  true,
		"permessage-deflate, permessage-deflate; server_max_window_bits=9":                            true,
		"foo; permessage-deflate":                                                                     false,
		"permessage-deflate; ,":                                                                       false,
	} {
		if got := Offered([]byte(value)); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	if !Offered([]byte("foo"), []byte("permessage-deflate")) {
		t.Error("an offer in a second line is not found")
	}
}

// message is a JSON message of about n bytes.
func message(n int) []byte {
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"id":%d,"user":"user-%d","room":"lobby","text":"message number %d","at":"2026-11-25T20:%02d:00Z"},`,
			r.IntN(1e9), r.IntN(1000), i, i%60)
	}
	return b.Bytes()[:n]
}

// inflate is another implementation, the standard library's.
func inflate(t *testing.T, compressed []byte) []byte {
	t.Helper()
	r := stdflate.NewReader(io.MultiReader(bytes.NewReader(compressed), strings.NewReader(tail+end)))
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("the standard library cannot read it: %v", err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	var c Codec
	noise := make([]byte, 70_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, payload := range [][]byte{nil, {0}, []byte("Hello"), message(512), message(5000), message(100_000), noise, make([]byte, 1<<20)} {
		compressed := c.Compress([]byte("kept"), payload)
		if string(compressed[:4]) != "kept" {
			t.Fatal("what was there is gone")
		}
		if got := inflate(t, compressed[4:]); !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: the standard library reads %d other ones", len(payload), len(got))
		}
		if got, err := c.Expand(compressed[4:], len(payload)); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: got %d, error %v", len(payload), len(got), err)
		}
	}
}

// TestSamplesOfTheRFC are those of RFC 7692, section 7.2.3.
func TestSamplesOfTheRFC(t *testing.T) {
	var c Codec
	for name, sample := range map[string]string{
		"one block":      "\xf2\x48\xcd\xc9\xc9\x07\x00",
		"no compression": "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
		"BFINAL":         "\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
		"two blocks":     "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
	} {
		if got, err := c.Expand([]byte(sample), 5); err != nil || string(got) != "Hello" {
			t.Errorf("%s: got %q, error %v", name, got, err)
		}
	}
	if got, err := c.Expand([]byte{0}, 0); err != nil || len(got) != 0 {
		t.Errorf("empty: got %q, error %v", got, err)
	}
}

func TestExpandAtItsLimit(t *testing.T) {
	var c Codec
	const limit = 64 << 10
	for _, test := range []struct {
		size int
		want error
	}{{limit - 1, nil}, {limit, nil}, {limit + 1, ErrTooBig}, {100 << 20, ErrTooBig}} {
		bomb := new(Codec).Compress(nil, make([]byte, test.size))
		got, err := c.Expand(bomb, limit)
		if !errors.Is(err, test.want) || (err == nil && len(got) != test.size) {
			t.Errorf("%d bytes: got %d, error %v, want %v", test.size, len(got), err, test.want)
		}
		if cap(c.expanded) > 2*limit {
			t.Errorf("%d bytes: %d bytes of memory were taken for %d compressed ones", test.size, cap(c.expanded), len(bomb))
		}
	}
	for _, bad := range []string{"\xff", "\x06", "garbage", "\xf2\x48\xcd"} {
		if _, err := c.Expand([]byte(bad), limit); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: error %v, want %v", bad, err, ErrCorrupt)
		}
	}
	if got, err := c.Expand([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), 5); err != nil || string(got) != "Hello" {
		t.Errorf("after errors: got %q, error %v", got, err)
	}
}

// TestNoAllocations: in the steady state a message costs none.
func TestNoAllocations(t *testing.T) {
	var c Codec
	payload := message(512)
	dst := make([]byte, 0, 4096)
	compressed := c.Compress(nil, payload)
	if _, err := c.Expand(compressed, 1<<16); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		c.Compress(dst, payload)
		_, _ = c.Expand(compressed, 1<<16)
	}); n != 0 {
		t.Errorf("got %v allocations a message", n)
	}
}

// FuzzExpand: no input takes more than its limit, and what the standard library reads is read the
// same.
func FuzzExpand(f *testing.F) {
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), 5)                 // "Hello"
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), 5)             // with BFINAL
	f.Add([]byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), 4) // one byte too many
	f.Add(new(Codec).Compress(nil, make([]byte, 1<<20)), 1000)       // a bomb
	f.Add([]byte("\xff"), 10)                                        // a block of no type
	var c Codec
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = min(max(limit, 0), 1<<16)
		got, err := c.Expand(b, limit)
		if len(got) > limit {
			t.Fatalf("%d bytes beyond the limit of %d", len(got), limit)
		}
		std := stdflate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader(tail+end)))
		want, stdErr := io.ReadAll(io.LimitReader(std, int64(limit)+1))
		switch {
		case len(want) > limit:
			if err == nil {
				t.Fatal("too long for the standard library, not for us")
			}
		case (stdErr == nil) != (err == nil) || (err == nil && !bytes.Equal(got, want)):
			t.Fatalf("got %d bytes, error %v; the standard library %d bytes, error %v", len(got), err, len(want), stdErr)
		}
	})
}

// FuzzOffered must return.
func FuzzOffered(f *testing.F) {
	f.Add([]byte("permessage-deflate; client_max_window_bits"))           // what browsers send
	f.Add([]byte(`permessage-deflate; server_max_window_bits="15", x;y`)) // a quoted value, a second offer
	f.Fuzz(func(t *testing.T, b []byte) {
		if Offered(b) && !bytes.Contains(b, []byte("permessage-deflate")) {
			t.Fatalf("%q is taken for an offer", b)
		}
	})
}

func BenchmarkCompress512(b *testing.B) {
	var c Codec
	payload := message(512)
	dst := make([]byte, 0, 4096)
	var n int
	for b.Loop() {
		n = len(c.Compress(dst, payload))
	}
	b.ReportMetric(float64(n), "B/message")
}

func BenchmarkExpand512(b *testing.B) {
	var c Codec
	compressed := c.Compress(nil, message(512))
	for b.Loop() {
		if _, err := c.Expand(compressed, 1<<16); err != nil {
			b.Fatal(err)
		}
	}
}
