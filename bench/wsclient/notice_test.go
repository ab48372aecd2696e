package wsclient

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestParseNotice(t *testing.T) {
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	for in, want := range map[string]Notice{
		`{"count":7}`:                    {Kind: Counted, Total: 7},
		`{"count":9999999999999999999}`:  {Kind: Counted, Total: 9999999999999999999},
		`{ "count" : 7 }`:                {Kind: Counted, Total: 7},
		`{"count":}`:                     {},
		`{"count":-1}`:                   {},
		`{"count":1.5}`:                  {},
		`{"count":99999999999999999999}`: {},
		`{"session_id":"` + id + `","count":3,"resumed":true}`:    {Kind: Welcome, Total: 3, Resumed: true},
		`{"resumed":false, "count":0, "session_id":"` + id + `"}`: {Kind: Welcome},
		`{"ts":"2026-01-02T03:04:05.678Z"}`:                       {Kind: Beat},
		`{"ts": 17}`:                                              {Kind: Beat},
		`{"bye":true,"total":12}`:                                 {Kind: Bye, Total: 12},
		`{"bye":false,"total":12}`:                                {},
		`hello`:                                                   {}, ``: {}, `{`: {}, `{}`: {}, `[]`: {}, `null`: {},
	} {
		got := ParseNotice([]byte(in))
		if got.ID != nil && string(got.ID) != id {
			t.Errorf("%s: id %q", in, got.ID)
		}
		if got.Kind != want.Kind || got.Total != want.Total || got.Resumed != want.Resumed {
			t.Errorf("%s: got %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseNotice(f *testing.F) {
	f.Add([]byte(`{"count":7}`))
	f.Add([]byte(`{"session_id":"x","count":3,"resumed":true}`))
	f.Add([]byte(`{"ts":"}`)) // a heartbeat cut short
	f.Fuzz(func(t *testing.T, b []byte) {
		n := ParseNotice(b)
		// What the quick look accepts, the long way accepts as well.
		if n.Kind == Counted {
			if long := parseJSON(b); long.Kind != Counted && !bytes.HasPrefix(b, []byte(`{"count":0`)) || long.Kind == Counted && long.Total != n.Total {
				t.Errorf("%q: %+v, and by encoding/json %+v", b, n, long)
			}
		}
	})
}

func TestSessionID(t *testing.T) {
	id := uuid.New()
	text := []byte(id.String())
	if back, ok := ParseSessionID(text); !ok || back != id {
		t.Errorf("%s: got %v, %t", text, back, ok)
	}
	if upper, ok := ParseSessionID(bytes.ToUpper(text)); !ok || upper != id {
		t.Errorf("%s in capitals: got %v, %t", text, upper, ok)
	}
	if text[14] != '4' || !strings.ContainsRune("89ab", rune(text[19])) {
		t.Errorf("%s is not a version 4 UUID", text)
	}
	for _, bad := range []string{"", "x", string(text[:35]), string(text) + "0", strings.Repeat("g", 36), strings.ReplaceAll(string(text), "-", "+"),
		"+1234567-89ab-cdef-0123-456789abcdef"} {
		if _, ok := ParseSessionID([]byte(bad)); ok {
			t.Errorf("%q was taken for a session", bad)
		}
	}
}
