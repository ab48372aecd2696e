package tls13

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRFC8448 replays the application data and alerts of "Simple 1-RTT Handshake", section 3.
func TestRFC8448(t *testing.T) {
	client := unhex(t, `9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52
		87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5`)
	server := unhex(t, `a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32
		82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43`)
	clientData := unhex(t, `17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe
		82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a
		20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4`)
	serverData := unhex(t, `17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad
		36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb
		50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d`)
	clientAlert := unhex(t, `17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0
		e3`)
	serverAlert := unhex(t, `17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64
		a9`)

	var want []byte
	for i := range 50 {
		want = append(want, byte(i))
	}
	var k Keys
	l, err := New(AES128GCM, client, server, 1) // one record before: a ticket
	if err != nil {
		t.Fatal(err)
	}
	data, n, err := l.Open(&k, clientData)
	if err != nil || n != 72 || !bytes.Equal(data, want) {
		t.Errorf("Open: got %x, %d bytes, %v, want %x, 72, nil", data, n, err, want)
	}
	if got := l.Seal(&k, nil, want); !bytes.Equal(got, serverData) {
		t.Errorf("Seal: got %x, want %x", got, serverData)
	}
	if _, n, err := l.Open(&k, clientAlert); n != 24 || err != io.EOF {
		t.Errorf("Open of close_notify: got %d bytes, %v, want 24, EOF", n, err)
	}
	if got := l.SealAlert(&k, nil, CloseNotify); !bytes.Equal(got, serverAlert) {
		t.Errorf("SealAlert: got %x, want %x", got, serverAlert)
	}
}

func TestSize(t *testing.T) {
	// With what the gateway has beside it, a Layer fills 128 bytes, a size class of Go's.
	if got := unsafe.Sizeof(Layer{}); got > 104 {
		t.Errorf("a Layer has %d bytes, want at most 104", got)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tc := range []struct {
		suite          uint16
		client, server int
	}{
		{0x1304, 32, 32}, {0xc02f, 32, 32}, {AES128GCM, 31, 32}, {AES128GCM, 33, 32},
		{AES128GCM, 32, 48}, {AES256GCM, 32, 32}, {AES256GCM, 48, 47}, {ChaCha20Poly1305, 48, 48},
	} {
		client, server := make([]byte, tc.client), make([]byte, tc.server)
		if _, err := New(tc.suite, client, server, 0); err == nil {
			t.Errorf("New(%#x), secrets of %d and %d bytes: no error", tc.suite, tc.client, tc.server)
		}
	}
}

// records is how many each suite's exchange with crypto/tls has; SLUICE_TLS_RECORDS asks for more.
func records(t *testing.T) int {
	n := 20_000
	if s := os.Getenv("SLUICE_TLS_RECORDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("SLUICE_TLS_RECORDS: %v", err)
		}
	}
	return n
}

// TestExchange has crypto/tls's client and a Layer exchange records, of all sizes, with new keys
// every 1000 records or so.
func TestExchange(t *testing.T) {
	for _, suite := range suites {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			p := connect(t, suite, suite != AES256GCM)
			p.keys.RekeyAfter = 1000
			random := rand.New(rand.NewPCG(1, uint64(suite)))
			buf := make([]byte, 40_000)
			fill := func() []byte {
				b := buf[:1+random.IntN(200)]
				if random.IntN(500) == 0 {
					b = buf[:1+random.IntN(len(buf))]
				}
				for i := range b {
					b[i] = byte(random.Uint32())
				}
				return b
			}
			var carried, sealed []byte
			for i := 0; i < records(t); i += 2 {
				sent := bytes.Clone(fill())
				sealed = p.layer.Seal(p.keys, sealed[:0], sent)
				for rest := sealed; len(rest) > 0; {
					n := 1 + random.IntN(len(rest))
					p.clientWire.feed(rest[:n])
					rest = rest[n:]
				}
				got, end := drain(p.client)
				if end != nil || !bytes.Equal(got, sent) {
					t.Fatalf("%d: the client read %d bytes, %v, want %d", i, len(got), end, len(sent))
				}

				sent = bytes.Clone(fill())
				if _, err := p.client.Write(sent); err != nil {
					t.Fatal(err)
				}
				carried = append(carried, p.clientWire.sent.Bytes()...)
				p.clientWire.sent.Reset()
				got, carried, end = openAll(p.layer, p.keys, carried)
				if end != nil || !bytes.Equal(got, sent) || len(carried) != 0 {
					t.Fatalf("%d: Open gave %d bytes, %v, want %d", i, len(got), end, len(sent))
				}
			}
			// The client's count of our records reached the bound, as ours of its did.
			read, sent := p.layer.half[in].seq, p.layer.half[out].seq
			if read > 2*p.keys.RekeyAfter || sent > p.keys.RekeyAfter {
				t.Errorf("keys were not replaced: %d records in, %d out", read, sent)
			}
			p.clientWire.feed(p.layer.SealAlert(p.keys, nil, CloseNotify))
			if _, end := drain(p.client); end != io.EOF {
				t.Errorf("the client after close_notify: %v, want EOF", end)
			}
		})
	}
}

// TestHandsOver moves a connection from Layer to Layer in the middle of everything.
func TestHandsOver(t *testing.T) {
	for _, suite := range suites {
		p := connect(t, suite, true)
		m := p.mirror(t)
		var mk Keys
		layer := p.layer
		for i := range 20 {
			sent := fmt.Appendf(nil, "message %d", i)
			var sealed []byte
			if i%3 == 1 {
				sealed = m.seal(&mk, sealed, typeHandshake, []byte{24, 0, 0, 1, 1})
				m.rekey(&mk, out)
			}
			sealed = m.Seal(&mk, sealed, sent)
			if i%5 == 4 {
				sealed = m.seal(&mk, sealed, typeHandshake, []byte{24, 0}) // cut here
			}
			got, rest, err := openAll(layer, p.keys, sealed)
			if err != nil || string(got) != string(sent) || len(rest) > 0 {
				t.Fatalf("%d: got %q, %d left, %v, want %q", i, got, len(rest), err, sent)
			}
			state := layer.AppendState(nil)
			if len(state) > StateSize {
				t.Errorf("a state of %d bytes, want at most %d", len(state), StateSize)
			}
			for n := range state {
				if _, _, err := Restore(state[:n]); err == nil {
					t.Fatalf("Restore took %d of %d bytes", n, len(state))
				}
			}
			layer.Wipe(p.keys)
			next, n, err := Restore(append(state, "more"...))
			if err != nil || n != len(state) {
				t.Fatalf("Restore: %d of %d bytes, %v", n, len(state), err)
			}
			layer = &next
			if i%5 == 4 {
				sealed = m.seal(&mk, nil, typeHandshake, []byte{0, 1, 0})
				m.rekey(&mk, out)
				if _, _, err := openAll(layer, p.keys, sealed); err != nil {
					t.Fatalf("%d: the rest of a KeyUpdate: %v", i, err)
				}
			}
			p.clientWire.feed(layer.Seal(p.keys, nil, sent))
			if got, end := drain(p.client); end != nil || string(got) != string(sent) {
				t.Fatalf("%d: the client read %q, %v, want %q", i, got, end, sent)
			}
		}
	}
}

// TestWipe looks for the secrets in what is left of a Layer.
func TestWipe(t *testing.T) {
	for _, suite := range suites {
		p := connect(t, suite, true)
		memory := unsafe.Slice((*byte)(unsafe.Pointer(p.layer)), unsafe.Sizeof(*p.layer))
		long := p.layer.long != nil
		if long {
			memory = unsafe.Slice((*byte)(unsafe.Pointer(p.layer.long)), unsafe.Sizeof(*p.layer.long))
		}
		if !bytes.Contains(memory, p.clientSecret) || !bytes.Contains(memory, p.serverSecret) {
			t.Fatal("the search does not find the secrets where they are")
		}
		old := bytes.Clone(p.clientSecret)
		m := p.mirror(t)
		update := m.seal(p.keys, nil, typeHandshake, []byte{24, 0, 0, 1, 1})
		if _, _, err := openAll(p.layer, p.keys, update); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(memory, old) {
			t.Error("the secret before a KeyUpdate is still there")
		}
		p.layer.Seal(p.keys, nil, []byte("x"))
		if bytes.Contains(memory, p.serverSecret) {
			t.Error("our secret before a KeyUpdate is still there")
		}
		p.layer.Wipe(p.keys)
		for _, h := range p.layer.half {
			if h != (half{}) {
				t.Errorf("a secret after Wipe: %x", h.secret)
			}
		}
		if long && slices.ContainsFunc(memory, func(b byte) bool { return b != 0 }) {
			t.Errorf("the secrets after Wipe: %x", memory)
		}
		m.Wipe(p.keys)
		for _, e := range p.keys.entries {
			if e.owner != nil || e.aead != nil || e.iv != ([ivSize]byte{}) {
				t.Errorf("keys after Wipe: %+v", e)
			}
		}
		if got := p.layer.Seal(p.keys, nil, []byte("x")); len(got) > 0 {
			t.Errorf("Seal after Wipe: %x", got)
		}
		if _, _, err := p.layer.Open(p.keys, []byte{typeData}); !errors.Is(err, ErrEnded) {
			t.Errorf("Open after Wipe: %v", err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, suite := range suites {
		p := connect(t, suite, false)
		m := p.mirror(t)
		plain := bytes.Repeat([]byte("x"), 64)
		buf := make([]byte, 0, 1024)
		if n := testing.AllocsPerRun(100, func() {
			sealed := m.Seal(p.keys, buf[:0], plain)
			if data, _, err := p.layer.Open(p.keys, sealed); err != nil || len(data) != 64 {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%#x: %v allocations for a record each way, want 0", suite, n)
		}
	}
}
