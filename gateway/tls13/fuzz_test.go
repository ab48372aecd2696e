package tls13

import (
	"bytes"
	"io"
	"slices"
	"testing"
)

// script turns fuzz input into what a client sends: honest records, and records that must end the
// connection. It leaves out where the Layer differs from crypto/tls on purpose (see the package's
// comment): change_cipher_spec, and content that is empty to the last byte.
type script struct {
	forge
	in []byte
}

func (s *script) next() (b byte) {
	if len(s.in) > 0 {
		b, s.in = s.in[0], s.in[1:]
	}
	return b
}

func (s *script) text(n int) []byte {
	return bytes.Repeat([]byte{'a' + byte(s.half[out].seq%26)}, n)
}

func (s *script) step() {
	start := len(s.out)
	switch op := s.next(); op % 26 {
	case 0:
		s.record(typeData, s.text(int(s.next())))
	case 1:
		s.record(typeData, s.text(int(s.next())<<6))
	case 2: // padded
		s.record(0, append(append(s.text(int(s.next())), typeData), make([]byte, int(s.next()))...))
	case 3:
		s.update(0)
	case 4:
		s.update(1)
	case 5: // in two records
		message := []byte{24, 0, 0, 1, s.next() & 1}
		cut := 1 + int(s.next())%4
		s.record(typeHandshake, message[:cut])
		s.record(typeHandshake, message[cut:])
		s.rekey(&s.k, out)
	case 6:
		s.record(typeData, nil)
	case 7:
		s.record(typeAlert, []byte{1, userCanceled})
	case 8:
		s.record(typeAlert, []byte{1, 0})
	case 9:
		s.record(typeAlert, []byte{2, s.next()})
	case 10: // any bit of a record but its length, which would only wait for more
		s.record(typeData, s.text(int(s.next())))
		record := s.out[start:]
		at := int(s.next()) % (len(record) - 2)
		if at >= 3 {
			at += 2
		}
		record[at] ^= 1 << (s.next() % 8)
		if record[0] == 20 {
			record[0] = 21
		}
	case 11: // again
		s.record(typeData, s.text(int(s.next())))
		s.out = append(s.out, s.out[start:]...)
	case 12:
		s.half[out].seq += uint64(s.next())
	case 13:
		s.record(typeData, make([]byte, MaxPlaintext+int(s.next())%3))
	case 14: // 0 is padding and 20 differs on purpose
		if kind := s.next(); kind != 0 && kind != 20 {
			s.record(kind, s.text(int(s.next())))
		}
	case 15:
		s.record(typeHandshake, []byte{24, 0, 0, 1, s.next()})
		s.rekey(&s.k, out)
	case 16:
		s.record(typeHandshake, []byte{24, 0, 0, 1, 0, 24, 0, 0, 1, 0}[:1+int(s.next())%10])
	case 17:
		s.out = append(s.out, typeData, 3, 3, 0, s.next()%16)
	case 18: // cut off
		s.record(typeData, s.text(int(s.next())))
		s.out = s.out[:len(s.out)-1-int(s.next())%20]
	case 19:
		s.record(0, make([]byte, 1+int(s.next())))
	case 20: // a length out of bounds
		s.out = append(s.out, typeData, 3, 3, 0x41+s.next()%8, 1+s.next()%255)
	case 21: // another message, whole
		s.record(typeHandshake, []byte{s.next(), 0, 0, 2, 1, 1})
	case 22:
		s.record(typeHandshake, nil)
	case 23:
		s.record(typeAlert, s.text(int(s.next())%5))
	case 24: // full and padded to the brim
		n := int(s.next()) << 6
		s.record(0, append(append(s.text(n), typeData), make([]byte, MaxPlaintext-n)...))
	case 25: // keys swapped: the record after an update under the old key
		old := *s.Layer
		old.slot = [2]uint16{}
		s.update(0)
		var k Keys
		s.out = old.seal(&k, s.out, typeData, s.text(int(s.next())))
		old.Wipe(&k)
	}
}

// FuzzAgainstCryptoTLS sends the same bytes, cut anywhere, to crypto/tls's server and to a Layer
// with its secrets. Both must deliver the same data and end in the same way; what the Layer sends
// meanwhile must reach crypto/tls's client.
func FuzzAgainstCryptoTLS(f *testing.F) {
	// suite, cuts, and then operations with their arguments.
	f.Add([]byte{0, 200, 0, 5, 1, 20, 3, 0, 7, 4, 0, 9})               // data and both KeyUpdates
	f.Add([]byte{1, 3, 2, 5, 9, 5, 1, 2, 0, 3, 5, 0, 4, 0, 1})         // padding, cut KeyUpdates
	f.Add([]byte{2, 90, 6, 6, 7, 0, 1, 8, 0, 1})                       // useless, close_notify
	f.Add([]byte{0, 50, 0, 5, 9, 40, 0, 5})                            // a fatal alert
	f.Add([]byte{0, 50, 0, 5, 10, 9, 30, 1, 0, 5})                     // a bad tag
	f.Add([]byte{1, 50, 11, 3, 0, 4})                                  // replayed
	f.Add([]byte{2, 50, 0, 3, 12, 1, 0, 4})                            // skipped
	f.Add([]byte{0, 255, 13, 0, 13, 1})                                // the longest, one longer
	f.Add([]byte{0, 77, 14, 99, 3})                                    // a wrong type
	f.Add([]byte{0, 1, 0, 3, 15, 2})                                   // a bad KeyUpdate
	f.Add([]byte{1, 9, 16, 6, 0, 1})                                   // two in one record
	f.Add([]byte{0, 30, 16, 3, 0, 1})                                  // data inside a message
	f.Add([]byte{0, 30, 17, 0})                                        // length 0
	f.Add([]byte{2, 60, 18, 9, 3, 0, 4})                               // cut off
	f.Add([]byte{0, 60, 19, 30, 20, 0, 0})                             // only padding
	f.Add([]byte{0, 60, 20, 0, 0})                                     // too long
	f.Add([]byte{0, 60, 21, 4})                                        // a ticket
	f.Add([]byte{0, 60, 22})                                           // an empty fragment
	f.Add([]byte{0, 60, 23, 2})                                        // a strange alert
	f.Add([]byte{0, 255, 24, 0, 24, 255, 0, 1})                        // padded to the brim
	f.Add([]byte{1, 60, 25, 5})                                        // the old key
	f.Add(append([]byte{0, 60}, bytes.Repeat([]byte{4}, 20)...))       // a flood of KeyUpdates
	f.Add(append([]byte{0, 60}, bytes.Repeat([]byte{6}, 20)...))       // and of empty records
	f.Add(append([]byte{0, 60}, bytes.Repeat([]byte{4, 0, 1}, 20)...)) // which data makes harmless
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 200 {
			return
		}
		s := &script{in: input}
		p := connect(t, suites[int(s.next())%len(suites)], true)
		s.Layer = p.mirror(t)
		cuts := int(s.next())
		for len(s.in) > 0 {
			s.step()
		}
		// Now both have come to the end of what they made of it: one of them may have waited for
		// the end of a message that the other had refused.
		s.record(typeData, []byte("end"))

		var wantEnd, gotEnd error
		var want, got, carried []byte
		for i, rest := 0, slices.Clone(s.out); len(rest) > 0; i++ {
			n := min(len(rest), 1+(cuts*(i+1)*(i+7))%(4*cuts+2))
			if i > 500 {
				n = len(rest)
			}
			if wantEnd == nil {
				p.serverWire.feed(rest[:n])
				var data []byte
				data, wantEnd = drain(p.server)
				want = append(want, data...)
			}
			if gotEnd == nil {
				var data []byte
				carried = append(carried, rest[:n]...)
				data, carried, gotEnd = openAll(p.layer, p.keys, carried)
				got = append(got, data...)
				if gotEnd == nil && len(carried) > MaxRecord {
					t.Fatalf("%d bytes wait for the end of a record", len(carried))
				}
			}
			rest = rest[n:]
			// Replies go out all the while, with the KeyUpdates that they owe.
			if i%8 == 0 {
				p.clientWire.feed(p.layer.Seal(p.keys, nil, []byte("reply")))
				if data, end := drain(p.client); string(data) != "reply" || end != nil {
					t.Fatalf("the client read %q, %v", data, end)
				}
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("delivered %d bytes, crypto/tls %d:\n%.60q\n%.60q", len(got), len(want),
				got, want)
		}
		if kind(gotEnd) != kind(wantEnd) {
			t.Fatalf("ended with %v, crypto/tls with %v", gotEnd, wantEnd)
		}
		if alert, ok := gotEnd.(Alert); ok {
			p.clientWire.feed(p.layer.SealAlert(p.keys, nil, alert))
			if _, end := drain(p.client); end == nil || end == io.EOF {
				t.Fatalf("the client after alert %d: %v", alert, end)
			}
		}
	})
}

// kind is how a connection ended: not at all, in order, or by an error.
func kind(end error) string {
	switch end {
	case nil:
		return "goes on"
	case io.EOF:
		return "in order"
	}
	return "by an error"
}

// FuzzOpen has any bytes, for a connection in any state.
func FuzzOpen(f *testing.F) {
	p := connect1(f, AES128GCM)
	good := p.mirror(f).Seal(new(Keys), nil, []byte("x"))
	f.Add(good, p.layer.AppendState(nil))
	f.Add([]byte{typeData, 3, 3, 0, 16}, p.layer.AppendState(nil))
	f.Add([]byte{20, 3, 3, 0, 1, 1}, p.layer.AppendState(nil))
	f.Fuzz(func(t *testing.T, b, state []byte) {
		l, n, err := Restore(state)
		if err != nil {
			return
		}
		if got := l.AppendState(nil); !bytes.Equal(got, state[:n]) {
			t.Fatalf("state %x came back as %x", state[:n], got)
		}
		var k Keys
		size := len(b)
		for range 100 {
			data, n, err := l.Open(&k, b)
			if n > len(b) || len(data) > MaxPlaintext || len(data) > max(n-Overhead, 0) {
				t.Fatalf("took %d of %d bytes, gave %d", n, len(b), len(data))
			}
			if b = b[n:]; err != nil || n == 0 {
				break
			}
		}
		if len(b) > MaxRecord && l.flags&ended == 0 && size < 100*MaxRecord {
			t.Fatalf("waits for more with %d bytes", len(b))
		}
		l.Seal(&k, nil, []byte("x"))
		l.Wipe(&k)
	})
}
