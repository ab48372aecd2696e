package tls13

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

// forge makes records that no honest peer sends.
type forge struct {
	*Layer
	k   Keys
	out []byte
}

func (f *forge) record(kind byte, content []byte) { f.out = f.seal(&f.k, f.out, kind, content) }
func (f *forge) update(request byte) {
	f.record(typeHandshake, []byte{24, 0, 0, 1, request})
	f.rekey(&f.k, out)
}

// last is the record made last, from its header on.
func (f *forge) mark() (start int) { return len(f.out) }

// TestRefuses has records that must end the connection, each behind one that is delivered and ahead
// of one that must not be.
func TestRefuses(t *testing.T) {
	full := make([]byte, MaxPlaintext)
	for _, tc := range []struct {
		name string
		make func(f *forge)
		want error
	}{
		{"bad tag", func(f *forge) {
			f.record(typeData, []byte("evil"))
			f.out[len(f.out)-1] ^= 1
		}, BadRecordMAC},
		{"bad ciphertext", func(f *forge) {
			f.record(typeData, []byte("evil"))
			f.out[len(f.out)-18] ^= 0x80
		}, BadRecordMAC},
		{"replayed", func(f *forge) { f.out = append(f.out, f.out...) }, BadRecordMAC},
		{"skipped", func(f *forge) {
			f.half[out].seq++
			f.record(typeData, []byte("evil"))
		}, BadRecordMAC},
		{"length changed", func(f *forge) {
			n := f.mark()
			f.record(typeData, []byte("evil!"))
			f.out[n+4]--
			f.out = f.out[:len(f.out)-1]
		}, BadRecordMAC},
		{"old key after KeyUpdate", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 1, 0})
			f.record(typeData, []byte("evil"))
		}, BadRecordMAC},
		{"length 0", func(f *forge) { f.out = append(f.out, typeData, 3, 3, 0, 0) }, BadRecordMAC},
		{"length 15", func(f *forge) {
			f.out = append(append(f.out, typeData, 3, 3, 0, 15), full[:15]...)
		}, BadRecordMAC},
		{"length 16, forged", func(f *forge) {
			f.out = append(append(f.out, typeData, 3, 3, 0, 16), full[:16]...)
		}, BadRecordMAC},
		{"plaintext 2^14+1", func(f *forge) {
			f.record(typeData, make([]byte, MaxPlaintext+1))
		}, RecordOverflow},
		{"padded to 2^14+2", func(f *forge) {
			f.record(typeData, append([]byte("evil\x17"), make([]byte, MaxPlaintext-3)...))
		}, RecordOverflow},
		{"ciphertext 2^14+257", func(f *forge) {
			f.out = append(f.out, typeData, 3, 3, 0x41, 0x01)
		}, RecordOverflow},
		{"only padding", func(f *forge) { f.record(0, full[:100]) }, UnexpectedMessage},
		{"nothing inside", func(f *forge) {
			l, k := f.Layer, &f.k
			k.header = [headerSize]byte{typeData, 3, 3, 0, tagSize}
			aead := k.get(l, out)
			f.out = append(f.out, k.header[:]...)
			f.out = aead.Seal(f.out, k.nonce[:], nil, k.header[:])
		}, UnexpectedMessage},
		{"inner type 20", func(f *forge) { f.record(20, []byte{1}) }, UnexpectedMessage},
		{"inner type 24", func(f *forge) { f.record(24, []byte("evil")) }, UnexpectedMessage},
		{"change_cipher_spec", func(f *forge) {
			f.out = append(f.out, 20, 3, 3, 0, 1, 1)
		}, UnexpectedMessage},
		{"alert in the clear", func(f *forge) {
			f.out = append(f.out, 21, 3, 3, 0, 2, 1, 0)
		}, UnexpectedMessage},
		{"handshake in the clear", func(f *forge) {
			f.out = append(f.out, 22, 3, 3, 0, 5, 24, 0, 0, 1, 0)
		}, UnexpectedMessage},
		{"plain HTTP", func(f *forge) {
			f.out = append(f.out, "GET / HTTP/1.1\r\n\r\n"...)
		}, UnexpectedMessage},
		{"version 0x0301", func(f *forge) {
			n := f.mark()
			f.record(typeData, []byte("evil"))
			f.out[n+2] = 1
		}, ProtocolVersion},
		{"version 0x0203", func(f *forge) {
			n := f.mark()
			f.record(typeData, []byte("evil"))
			f.out[n+1] = 2
		}, ProtocolVersion},
		{"empty handshake", func(f *forge) { f.record(typeHandshake, nil) }, UnexpectedMessage},
		{"empty alert", func(f *forge) { f.record(typeAlert, nil) }, UnexpectedMessage},
		{"half an alert", func(f *forge) { f.record(typeAlert, []byte{1}) }, UnexpectedMessage},
		{"two alerts", func(f *forge) {
			f.record(typeAlert, []byte{1, 90, 1, 0})
		}, UnexpectedMessage},
		{"fatal alert", func(f *forge) { f.record(typeAlert, []byte{2, 80}) }, RemoteAlert(80)},
		{"fatal alert as warning", func(f *forge) {
			f.record(typeAlert, []byte{1, 10})
		}, RemoteAlert(10)},
		{"close_notify", func(f *forge) { f.record(typeAlert, []byte{1, 0}) }, io.EOF},
		{"close_notify as fatal", func(f *forge) { f.record(typeAlert, []byte{2, 0}) }, io.EOF},
		{"KeyUpdate of 2", func(f *forge) { f.update(2) }, IllegalParameter},
		{"KeyUpdate of length 0", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 0})
		}, DecodeError},
		{"KeyUpdate of length 2", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 2, 0, 0})
		}, DecodeError},
		{"KeyUpdate of 2^23", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0x80, 0, 0})
		}, DecodeError},
		{"two KeyUpdates in one", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 1, 0, 24, 0, 0, 1, 0})
		}, UnexpectedMessage},
		{"KeyUpdate and a byte", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 1, 0, 24})
		}, UnexpectedMessage},
		{"data inside a KeyUpdate", func(f *forge) {
			f.record(typeHandshake, []byte{24, 0, 0, 1})
			f.record(typeData, []byte("evil"))
		}, UnexpectedMessage},
		{"alert inside a KeyUpdate", func(f *forge) {
			f.record(typeHandshake, []byte{24})
			f.record(typeAlert, []byte{1, 90})
		}, UnexpectedMessage},
		{"ticket", func(f *forge) {
			f.record(typeHandshake, []byte{4, 0, 0, 9})
		}, UnexpectedMessage},
		{"ClientHello", func(f *forge) {
			f.record(typeHandshake, []byte{1, 0, 2, 0})
		}, UnexpectedMessage},
		{"certificate", func(f *forge) {
			f.record(typeHandshake, []byte{11, 0, 0, 4, 0, 0, 0, 0})
		}, UnexpectedMessage},
		{"17 empty records", func(f *forge) {
			for range maxUseless + 1 {
				f.record(typeData, nil)
			}
		}, UnexpectedMessage},
		{"17 user_canceled", func(f *forge) {
			for range maxUseless + 1 {
				f.record(typeAlert, []byte{1, 90})
			}
		}, UnexpectedMessage},
		{"17 KeyUpdates", func(f *forge) {
			for range maxUseless + 1 {
				f.update(1)
			}
		}, UnexpectedMessage},
		{"17 of all kinds", func(f *forge) {
			for i := range maxUseless + 1 {
				switch i % 3 {
				case 0:
					f.record(typeData, nil)
				case 1:
					f.update(0)
				case 2:
					f.record(typeAlert, []byte{1, 90})
				}
			}
		}, UnexpectedMessage},
	} {
		for _, suite := range suites {
			p := connect1(t, suite)
			f := &forge{Layer: p.mirror(t)}
			f.record(typeData, []byte("good"))
			tc.make(f)
			f.record(typeData, []byte("evil"))
			data, rest, err := openAll(p.layer, p.keys, f.out)
			if string(data) != "good" || !errors.Is(err, tc.want) {
				t.Errorf("%s: got %q, %v, want \"good\", %v", tc.name, data, err, tc.want)
			}
			data, _, err = openAll(p.layer, p.keys, rest)
			if len(data) > 0 || !errors.Is(err, ErrEnded) {
				t.Errorf("%s: afterwards: got %q, %v, want ErrEnded", tc.name, data, err)
			}
		}
	}
}

// connect1 makes the three ends without a handshake: the secrets are given.
func connect1(t testing.TB, suite uint16) *pair {
	t.Helper()
	size := 32
	if suite == AES256GCM {
		size = 48
	}
	p := &pair{keys: new(Keys), clientSecret: bytes.Repeat([]byte("c"), size),
		serverSecret: bytes.Repeat([]byte("s"), size)}
	l, err := New(suite, p.clientSecret, p.serverSecret, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.layer = &l
	return p
}

// TestTakes has what an honest peer may send, and what lies just inside of a limit.
func TestTakes(t *testing.T) {
	full := make([]byte, MaxPlaintext)
	for _, tc := range []struct {
		name string
		make func(f *forge)
		want int // bytes of data
	}{
		{"2^14-1", func(f *forge) { f.record(typeData, full[1:]) }, MaxPlaintext - 1},
		{"2^14", func(f *forge) { f.record(typeData, full) }, MaxPlaintext},
		{"padding", func(f *forge) { f.record(0, append([]byte("four\x17"), full[:100]...)) }, 4},
		{"padded to 2^14+1", func(f *forge) {
			f.record(0, append([]byte("four\x17"), full[:MaxPlaintext-5]...))
		}, 4},
		{"padded empty record", func(f *forge) { f.record(0, []byte{typeData, 0, 0}) }, 0},
		{"16 empty records, twice", func(f *forge) {
			for range 2 {
				for range maxUseless {
					f.record(typeData, nil)
				}
				f.record(typeData, []byte("x"))
			}
		}, 2},
		{"16 KeyUpdates, twice", func(f *forge) {
			for range 2 {
				for range maxUseless {
					f.update(1)
				}
				f.record(typeData, []byte("x"))
			}
		}, 2},
		{"KeyUpdate byte by byte", func(f *forge) {
			for _, b := range []byte{24, 0, 0, 1, 0} {
				f.record(typeHandshake, []byte{b})
			}
			f.rekey(&f.k, out)
			f.record(typeData, []byte("four"))
		}, 4},
		{"KeyUpdate in two, padded", func(f *forge) {
			f.record(0, append([]byte{24, 0, typeHandshake}, full[:10]...))
			f.record(0, append([]byte{0, 1, 1, typeHandshake}, full[:10]...))
			f.rekey(&f.k, out)
			f.record(typeData, []byte("four"))
		}, 4},
		{"user_canceled", func(f *forge) {
			f.record(typeAlert, []byte{1, 90})
			f.record(typeData, []byte("x"))
		}, 1},
	} {
		for _, suite := range suites {
			p := connect1(t, suite)
			f := &forge{Layer: p.mirror(t)}
			tc.make(f)
			// Whole, and byte by byte, of which no part of a record may change anything.
			data, rest, err := openAll(p.layer, p.keys, slices.Clone(f.out))
			if len(data) != tc.want || err != nil || len(rest) > 0 {
				t.Errorf("%s: got %d bytes, %v, %d left, want %d", tc.name, len(data), err,
					len(rest), tc.want)
			}
			q := connect1(t, suite)
			var got int
			var carried []byte
			for i, b := range f.out {
				carried = append(carried, b)
				if len(carried) > 100 && i%997 != 0 && i != len(f.out)-1 {
					continue // too many steps for the long ones
				}
				data, carried, err = openAll(q.layer, q.keys, carried)
				if err != nil {
					t.Fatalf("%s: byte %d: %v", tc.name, i, err)
				}
				got += len(data)
			}
			if got != tc.want || len(carried) > 0 {
				t.Errorf("%s: in pieces: got %d bytes, %d left, want %d", tc.name, got,
					len(carried), tc.want)
			}
		}
	}
}

// TestTruncated cuts a record at every byte: nothing of it is delivered, and the end of the stream
// there is no close_notify.
func TestTruncated(t *testing.T) {
	p := connect1(t, AES128GCM)
	f := &forge{Layer: p.mirror(t)}
	f.record(typeData, []byte("evil"))
	for n := range f.out {
		data, took, err := p.layer.Open(p.keys, f.out[:n])
		if len(data) > 0 || took > 0 || err != nil {
			t.Errorf("%d bytes of a record: got %q, took %d, %v", n, data, took, err)
		}
	}
}

// TestAnswersKeyUpdate checks when ours follows, and how often.
func TestAnswersKeyUpdate(t *testing.T) {
	p := connect1(t, AES256GCM)
	f := &forge{Layer: p.mirror(t)}
	count := func() (updates int) {
		before := bytes.Clone(f.secret(in))
		sealed := p.layer.Seal(p.keys, nil, []byte("x"))
		if data, _, err := openAll(f.Layer, &f.k, sealed); string(data) != "x" || err != nil {
			t.Fatalf("got %q, %v", data, err)
		}
		if !bytes.Equal(before, f.secret(in)) {
			updates = 1
		}
		if want := len("x") + Overhead + updates*(5+Overhead); len(sealed) != want {
			t.Errorf("%d bytes sent, want %d", len(sealed), want)
		}
		return updates
	}
	for _, tc := range []struct{ silent, asking, want int }{
		{0, 0, 0}, {1, 0, 0}, {0, 1, 1}, {2, 5, 1},
	} {
		for range tc.silent {
			f.update(0)
		}
		for range tc.asking {
			f.update(1)
		}
		if _, _, err := openAll(p.layer, p.keys, f.out); err != nil {
			t.Fatal(err)
		}
		f.out = nil
		if got := count() + count(); got != tc.want {
			t.Errorf("%+v: %d KeyUpdates of ours", tc, got)
		}
		f.record(typeData, []byte("x")) // the count of useless records starts anew
	}
}

// TestRekeys checks our own KeyUpdate at its limit, and that we ask for the peer's at the same.
func TestRekeys(t *testing.T) {
	const limit = 10
	for sent := uint64(limit - 1); sent <= limit+1; sent++ {
		p := connect1(t, ChaCha20Poly1305)
		p.keys.RekeyAfter = limit
		p.layer.half[out].seq = sent
		sealed := p.layer.Seal(p.keys, nil, []byte("x"))
		if got, want := len(sealed) > 1+Overhead, sent >= limit; got != want {
			t.Errorf("after %d records: KeyUpdate %v, want %v", sent, got, want)
		}
	}
	for got := uint64(limit - 1); got <= limit+1; got++ {
		p := connect1(t, AES128GCM)
		p.keys.RekeyAfter = limit
		m := p.mirror(t)
		var k Keys
		p.layer.half[in].seq = got
		for i := range 3 {
			sealed := p.layer.Seal(p.keys, nil, []byte("x"))
			if update := len(sealed) > 1+Overhead; update != (got >= limit && i == 0) {
				t.Errorf("after %d records of the peer, %d of ours: asked %v", got, i, update)
			}
			if _, _, err := openAll(m, &k, sealed); err != nil {
				t.Fatal(err)
			}
		}
		if asked := m.flags&owing != 0; asked != (got >= limit) {
			t.Errorf("after %d records of the peer: it was asked %v", got, asked)
		}
	}
}

// TestMute checks that nothing follows our last alert.
func TestMute(t *testing.T) {
	p := connect1(t, AES128GCM)
	p.layer.SealAlert(p.keys, nil, UnexpectedMessage)
	if got := p.layer.Seal(p.keys, nil, []byte("x")); len(got) > 0 {
		t.Errorf("data after an alert: %x", got)
	}
	if got := p.layer.SealAlert(p.keys, nil, CloseNotify); len(got) > 0 {
		t.Errorf("an alert after an alert: %x", got)
	}
}
