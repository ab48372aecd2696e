package sessions

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, minIDKey) }

func newKeys(t testing.TB, current byte, earlier ...byte) *IDKeys {
	t.Helper()
	var old [][]byte
	for _, b := range earlier {
		old = append(old, testKey(b))
	}
	k, err := NewIDKeys(testKey(current), old...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// An id is taken by who has its key, as the current or an earlier one, and by nobody else; nor is
// one of which a bit has changed.
func TestIDKeys(t *testing.T) {
	a, b := newKeys(t, 'a'), newKeys(t, 'b')
	both := newKeys(t, 'b', 'a')
	id := a.New()
	if u := uuid.UUID(id); u.Version() != 8 || u.Variant() != uuid.RFC4122 {
		t.Errorf("%v has version %v and variant %v, want 8 and RFC 9562's", id, u.Version(), u.Variant())
	}
	for _, c := range []struct {
		name string
		keys *IDKeys
		id   ID
		ok   bool
	}{
		{"its own", a, id, true},
		{"another key's", b, id, false},
		{"an earlier key's", both, id, true},
		{"made with the current key", both, both.New(), true},
		{"that, by who has only the earlier one", a, both.New(), false},
		{"without keys", nil, id, true},
		{"a random one", a, NewID(), false},
		{"a random one, without keys", nil, NewID(), true},
		{"zero", a, ID{}, false},
	} {
		got, err := c.keys.Parse(c.id.String())
		if (err == nil) != c.ok || c.ok && got != c.id || !c.ok && (got != ID{} || !errors.Is(err, errForeignID)) {
			t.Errorf("%s: %v is read as %v, %v, want ok %v", c.name, c.id, got, err, c.ok)
		}
	}
	for bit := range 128 {
		changed := id
		changed[bit/8] ^= 1 << (bit % 8)
		if _, err := a.Parse(changed.String()); err == nil {
			t.Errorf("bit %d changed: %v is taken", bit, changed)
		}
	}
	if first, second := a.New(), a.New(); first == second {
		t.Error("two ids are the same")
	}
}

func TestIDKeysWantLongKeys(t *testing.T) {
	for n, ok := range map[int]bool{minIDKey - 1: false, minIDKey: true, minIDKey + 1: true} {
		if _, err := NewIDKeys(make([]byte, n)); (err == nil) != ok {
			t.Errorf("a key of %d bytes: %v, want ok %v", n, err, ok)
		}
		if _, err := NewIDKeys(testKey('a'), make([]byte, n)); (err == nil) != ok {
			t.Errorf("an earlier key of %d bytes: %v, want ok %v", n, err, ok)
		}
	}
}

// FuzzIDKeys: whatever is taken was made with the key.
func FuzzIDKeys(f *testing.F) {
	k := newKeys(f, 'k')
	f.Add("9b2f3c1e-0d4a-8c55-8e0b-3f6f6a1d2c77")
	f.Add(k.New().String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := k.Parse(s)
		if err != nil {
			return
		}
		if !bytes.Equal(mac(testKey('k'), id), id[idMAC:]) {
			t.Errorf("%q is taken", s)
		}
	})
}

func BenchmarkIDKeys(b *testing.B) {
	k := newKeys(b, 'k')
	b.ReportAllocs()
	for b.Loop() {
		_, _ = k.Parse(k.New().String())
	}
}
