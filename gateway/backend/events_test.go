package backend

import (
	"bytes"
	"strings"
	"testing"
)

// The first bodies are those of the protocol's own description.
func TestDecodeEvents(t *testing.T) {
	for _, tt := range []struct {
		body string
		want string // kind and content, separated by spaces; nil content is -
		err  error
	}{
		{"OPEN\r\n", "OPEN -", nil},
		{"TEXT 5\r\nhello\r\n", "TEXT hello", nil},
		{"TEXT B\r\nhello world\r\n", "TEXT hello_world", nil},
		{"TEXT b\r\nhello world\r\n", "TEXT hello_world", nil},
		{"OPEN\r\nTEXT 5\r\nhello\r\nTEXT 0\r\n\r\nCLOSE\r\n", "OPEN - TEXT hello TEXT  CLOSE -", nil},
		{"BINARY 4\r\na\r\nb\r\n", "BINARY a\r\nb", nil},
		{"CLOSE 2\r\n\x03\xe8\r\n", "CLOSE \x03\xe8", nil},
		{"DISCONNECT\r\n", "DISCONNECT -", nil},
		{"", "", nil},
		{"FUTURE 1\r\nx\r\nPONG\r\n", "? x PONG -", nil},
		{"OPEN\n", "", errEventLine},
		{"OPEN", "", errEventLine},
		{"\r\n", "", errEventLine},
		{" 5\r\nhello\r\n", "", errEventLine},
		{"open\r\n", "", errEventLine},
		{"OP EN\r\n", "", errEventLength},
		{"TEXT \r\n\r\n", "", errEventLength},
		{"TEXT -1\r\n\r\n", "", errEventLength},
		{"TEXT +5\r\nhello\r\n", "", errEventLength},
		{"TEXT 0x5\r\nhello\r\n", "", errEventLength},
		{"TEXT ffffffffffffffff\r\nhello\r\n", "", errEventLength},
		{"TEXT fffffff\r\nhello\r\n", "", errEventContent},
		{"TEXT 4\r\nhello\r\n", "", errEventContent},
		{"TEXT 6\r\nhello\r\n", "", errEventContent},
		{"TEXT 5\r\nhello", "", errEventContent},
		{"TEXT 5\r\nhello\r", "", errEventContent},
		{strings.Repeat("A", maxEventLine-2) + "\r\n", "? -", nil},
		{strings.Repeat("A", maxEventLine-1) + "\r\n", "", errEventLine},
		{"TEXT 5\r\nhello\r\nTEXT 6\r\nhello\r\n", "", errEventContent}, // and nothing of the first event
	} {
		var got []string
		err := eachEvent([]byte(tt.body), func(e event) bool {
			name, content := "?", "-"
			if e.kind != eventUnknown {
				name = eventNames[e.kind]
			}
			if e.content != nil {
				content = strings.ReplaceAll(string(e.content), " ", "_")
			}
			got = append(got, name, content)
			return true
		})
		if err != tt.err || strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.body, got, err, tt.want, tt.err)
		}
	}
}

func TestEventRoundTrip(t *testing.T) {
	for _, e := range []event{
		{eventOpen, nil}, {eventText, []byte("")}, {eventText, []byte("grüße")}, {eventBinary,
			bytes.Repeat([]byte{'\r', '\n'}, 9)},
		{eventPing, nil}, {eventPong, []byte("x")}, {eventClose, []byte{3, 0xe8}}, {eventDisconnect, nil},
	} {
		b := appendEvent(nil, e.kind, e.content)
		got, n, err := decodeEvent(append(b, "TEXT"...))
		if err != nil || n != len(b) || got.kind != e.kind || !bytes.Equal(got.content, e.content) ||
			(got.content == nil) != (e.content == nil) {
			t.Errorf("%v: encoded %q, decoded %v, %d of %d bytes, %v", e, b, got, n, len(b), err)
		}
		if len(b) > len(e.content)+eventOverhead {
			t.Errorf("%v: %d bytes more than its content, want at most %d", e, len(b)-len(e.content),
				eventOverhead)
		}
	}
}

func TestUnaccepted(t *testing.T) {
	const body = "TEXT 5\r\nhello\r\nPING\r\nBINARY 3\r\nabc\r\n"
	if got := contentSize([]byte(body)); got != 8 {
		t.Errorf("content of %q: got %d bytes, want 8", body, got)
	}
	for _, tt := range []struct {
		n    int
		want string
		ok   bool
	}{
		{0, body, true},
		{1, "TEXT 4\r\nello\r\nPING\r\nBINARY 3\r\nabc\r\n", true},
		{4, "TEXT 1\r\no\r\nPING\r\nBINARY 3\r\nabc\r\n", true},
		{5, "BINARY 3\r\nabc\r\n", true}, // PING has nothing that could be left
		{7, "BINARY 1\r\nc\r\n", true},
		{8, "", true},
		{9, "", false},
	} {
		got, ok := unaccepted(nil, []byte(body), tt.n)
		if ok != tt.ok || ok && string(got) != tt.want {
			t.Errorf("%d accepted: got %q, %v; want %q, %v", tt.n, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("OPEN\r\n"))                                  // the first answer
	f.Add([]byte("OPEN\r\nTEXT 5\r\nm:foo\r\nTEXT 0\r\n\r\n")) // messages, one of them empty
	f.Add([]byte("TEXT 2f\r\nc:{\"type\":\"subscribe\"}"))     // shorter than it says
	// content that looks like line ends; no CRLF behind the last
	f.Add([]byte("BINARY 4\r\n\r\n\r\n\r\nCLOSE 2\r\n\x03\xe8"))
	f.Add([]byte("TEXT fffffff\r\n"))             // the longest length there is
	f.Add([]byte("NEW 1\r\n \r\nDISCONNECT\r\n")) // a name of a later version
	f.Fuzz(func(t *testing.T, body []byte) {
		var again []byte
		var size int
		unknown := false
		err := eachEvent(body, func(e event) bool {
			if e.kind == eventUnknown {
				unknown = true
				return true
			}
			size += len(e.content)
			again = appendEvent(again, e.kind, e.content)
			return true
		})
		if err != nil {
			if again != nil {
				t.Fatalf("events of a body that is refused: %q", again)
			}
			return
		}
		if len(again) > len(body) {
			t.Fatalf("%q became longer: %q", body, again)
		}
		var third []byte
		if err := eachEvent(again,
			func(e event) bool { third = appendEvent(third, e.kind, e.content); return true }); err != nil ||
			!bytes.Equal(third, again) {
			t.Fatalf("%q: encoded %q, then %q, %v", body, again, third, err)
		}
		if unknown {
			return
		}
		if n, want := countEvents(again), countEvents(body); n != want {
			t.Fatalf("%q: %d events, encoded again %d", body, want, n)
		}
		// Accepted in two parts is accepted whole.
		for _, n := range []int{0, 1, size / 2, size} {
			if n > size {
				continue
			}
			rest, ok := unaccepted(nil, again, n)
			if left := contentSize(rest); !ok || left != size-n {
				t.Fatalf("%q: %d of %d bytes accepted leave %d, %v", again, n, size, left, ok)
			}
		}
		if _, ok := unaccepted(nil, again, size+1); ok {
			t.Fatalf("%q: more accepted than there is", again)
		}
	})
}
