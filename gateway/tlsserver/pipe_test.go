package tlsserver

import (
	"bytes"
	"testing"
)

// record is one of size bytes behind its header.
func record(kind byte, size int) []byte {
	b := make([]byte, recordHeader+size)
	b[0], b[1], b[2], b[3], b[4] = kind, 3, 3, byte(size>>8), byte(size)
	if size > 0 {
		b[recordHeader] = 1
	}
	return b
}

func TestWhole(t *testing.T) {
	hello := record(22, 40)
	for _, test := range []struct {
		name  string
		b     []byte
		first bool
		want  int
		bad   bool
	}{
		{"nothing", nil, true, 0, false},
		{"part of a header", hello[:4], true, 0, false},
		{"all but a byte", hello[:44], true, 0, false},
		{"whole", hello, true, 45, false},
		{"whole and a part", append(bytes.Clone(hello), hello[:9]...), true, 45, false},
		{"two", append(bytes.Clone(hello), record(23, 1)...), true, 51, false},
		{"largest - 1", record(23, maxFragment-1), false, MaxRecord - 1, false},
		{"largest", record(23, maxFragment), false, MaxRecord, false},
		{"largest + 1", record(23, maxFragment+1), false, 0, true},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), true, 0, true},
		{"SSL 2", []byte{0x80, 0x2e, 1, 3, 1}, true, 0, true},
		{"version 4", []byte{22, 4}, true, 0, true},
		{"data first", record(23, 40), true, 0, true},
		{"no hello", append(record(22, 0), 2), true, 0, true},
		{"hello of 3", record(22, 3), true, 0, true},
		{"hello of 4", record(22, 4), true, 9, false},
		{"type 19", []byte{19}, false, 0, true},
		{"type 24", []byte{24}, false, 0, true},
		{"garbage behind", append(bytes.Clone(hello), 'x'), true, 45, true},
	} {
		n, err := Whole(test.b, test.first)
		if n != test.want || (err != nil) != test.bad {
			t.Errorf("%s: got %d, %v, want %d, error %v", test.name, n, err, test.want, test.bad)
		}
	}
}

// What is refused is refused whatever follows, what is whole stays so, and both are found at the
// latest with the byte that completes them, however the bytes are cut.
func FuzzWhole(f *testing.F) {
	f.Add(record(22, 40), true)                           // a ClientHello
	f.Add(append(record(22, 4), record(23, 0)...), true)  // the shortest, and an empty record
	f.Add(record(23, 300)[:200], false)                   // a part
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), true)         // another protocol
	f.Add([]byte{23, 3, 3, 0x48, 0x01}, false)            // a byte too large
	f.Add([]byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, true)       // ServerHello
	f.Add(append(record(20, 1), record(21, 2)...), false) // change_cipher_spec, an alert
	f.Fuzz(func(t *testing.T, b []byte, first bool) {
		b = b[:min(len(b), 2000)]
		last, refused := 0, false
		for i := range len(b) + 1 {
			n, err := Whole(b[:i], first)
			if n < last || n > i || (refused && (err == nil || n != last)) {
				t.Fatalf("%d bytes: got %d, %v after %d, refused %v", i, n, err, last, refused)
			}
			if n > last && n != i {
				t.Fatalf("a record was found at %d bytes, %d late", i, i-n)
			}
			last, refused = n, err != nil
		}
	})
}

// The pipe gives out no more than the record that was begun.
func TestPipeStopsAtRecords(t *testing.T) {
	p := &pipe{in: append(record(22, 10), record(23, 20)...)}
	big := make([]byte, 100)
	for _, test := range []struct{ room, want int }{{5, 5}, {100, 10}, {7, 7}, {100, 18}} {
		if n, err := p.Read(big[:test.room]); n != test.want || err != nil {
			t.Errorf("room for %d: got %d, %v, want %d", test.room, n, err, test.want)
		}
	}
	if _, err := p.Read(big); err != (again{}) {
		t.Errorf("got %v, want again", err)
	}
}
