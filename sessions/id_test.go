package sessions

import (
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	const canonical = "9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77"
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"canonical", canonical, true},
		{"upper case", strings.ToUpper(canonical), true},
		{"nil UUID", "00000000-0000-0000-0000-000000000000", true},
		{"version 7", "018f4e6c-7b1a-7c3d-9e2f-0a1b2c3d4e5f", true},
		{"empty", "", false},
		{"35 characters", canonical[:35], false},
		{"37 characters", canonical + "0", false},
		{"no dashes", strings.ReplaceAll(canonical, "-", ""), false},
		{"braces", "{" + canonical + "}", false},
		{"urn", "urn:uuid:" + canonical, false},
		{"braces, 36 long", "{" + canonical[1:35] + "}", false},
		{"not hexadecimal", "g" + canonical[1:], false},
		{"dash moved", "9b2f3c1-e0d4a-4c55-8e0b-3f6f6a1d2c77", false},
		{"space", " " + canonical[1:], false},
		{"NUL", canonical[:35] + "\x00", false},
	} {
		id, err := ParseID(c.in)
		if (err == nil) != c.ok {
			t.Errorf("%s: ParseID(%q) error = %v, want ok = %v", c.name, c.in, err, c.ok)
		}
		if c.ok && id.String() != strings.ToLower(c.in) {
			t.Errorf("%s: got %s back, want %s", c.name, id, strings.ToLower(c.in))
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes echoes the input", c.name, len(err.Error()))
		}
	}
}

func TestNewIDsAreVersion4AndDistinct(t *testing.T) {
	seen := make(map[ID]bool)
	for range 1000 {
		id := NewID()
		if id[6]>>4 != 4 || id[8]>>6 != 2 {
			t.Fatalf("%s is not a version 4 UUID of the RFC variant", id)
		}
		if seen[id] {
			t.Fatalf("%s came twice", id)
		}
		seen[id] = true
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	id, buf := NewID(), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { buf = id.Append(buf[:0]) }); n != 0 {
		t.Errorf("Append allocated %v times, want 0", n)
	}
	if string(buf) != id.String() {
		t.Errorf("Append gave %q, want %q", buf, id.String())
	}
}

// FuzzParseID: whatever is taken has one spelling, and is the same session again when read back.
func FuzzParseID(f *testing.F) {
	f.Add("9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77")          // the form
	f.Add("9B2F3C1E-0D4A-4C55-8E0B-3F6F6A1D2C77")          // upper case
	f.Add("urn:uuid:9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77") // other forms of google/uuid
	f.Add("{9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77}")
	f.Add("9b2f3c1e0d4a4c558e0b3f6f6a1d2c77")
	f.Add("{b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c7}") // 36 bytes, not the form
	f.Add("9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c\xff\xff")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		if got := id.String(); got != strings.ToLower(s) {
			t.Fatalf("ParseID(%q).String() = %q", s, got)
		}
		if again, err := ParseID(string(id.Append(nil))); err != nil || again != id {
			t.Fatalf("%q does not survive a round trip: %v, %v", s, again, err)
		}
	})
}
