package topics

import (
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func TestParsePublication(t *testing.T) {
	for _, tt := range []struct {
		text    string
		op      ws.OpCode
		at      Position
		payload string
		bad     bool
	}{
		{text: "t\nhello", op: ws.OpText, payload: "hello"},
		{text: "b\n", op: ws.OpBinary},
		{text: "c\n\x0f\xa1", op: ws.OpClose, payload: "\x0f\xa1"},
		{text: "t1f:12\na\nb", op: ws.OpText, at: Position{0x1f, 12}, payload: "a\nb"},
		{text: "tffffffffffffffff:18446744073709551615\n", op: ws.OpText,
			at: Position{1<<64 - 1, 1<<64 - 1}},
		{text: "", bad: true},
		{text: "t", bad: true},
		{text: "\nhello", bad: true},
		{text: "x\nhello", bad: true},
		{text: "t1f\nhello", bad: true},
		{text: "t1f:-1\nhello", bad: true},
		{text: "t" + strings.Repeat("1", 62) + "\n", bad: true},
		{text: "t" + strings.Repeat("1", 63) + "\n", bad: true},
	} {
		op, at, payload, err := parsePublication(tt.text)
		if (err != nil) != tt.bad || op != tt.op && !tt.bad || at != tt.at || payload != tt.payload {
			t.Errorf("%q: got %v %v %q, %v; want %v %v %q, an error %v",
				tt.text, op, at, payload, err, tt.op, tt.at, tt.payload, tt.bad)
		}
	}
}

func FuzzPublication(f *testing.F) {
	f.Add("t\nhello")                                   // without a history
	f.Add("b1f:12\n\x00\xff")                           // with one
	f.Add("c\n\x03\xe8bye")                             // a Close
	f.Add("\n")                                         // no letter
	f.Add("t1:2:3\n")                                   // no position
	f.Add("tffffffffffffffff:18446744073709551615\n\n") // the largest position
	f.Add("t" + strings.Repeat("0", 62) + "\n")         // the longest head that is looked at
	f.Add("t" + strings.Repeat("0", 100) + "\n")        // and beyond
	f.Fuzz(func(t *testing.T, text string) {
		op, at, payload, err := parsePublication(text)
		if err != nil {
			return
		}
		head := opLetter(op)
		if strings.Contains(text[:strings.IndexByte(text, '\n')], ":") {
			head += at.String()
		}
		if again := head + "\n" + payload; again != text {
			t.Errorf("%q was read as %q", text, again)
		}
	})
}

func FuzzKept(f *testing.F) {
	f.Add("1", "t", "hello")                     // as it is written
	f.Add("18446744073709551615", "b", "\xff")   // the largest number
	f.Add("18446744073709551616", "t", "")       // beyond
	f.Add("-1", "c", "\x03\xe8")                 // a sign
	f.Add("1", "c", "\x00")                      // half a code
	f.Add("1", "tt", "x")                        // two letters
	f.Add("1", "t", "\xff")                      // not UTF-8
	f.Add("1", "t", strings.Repeat("x", 1<<7+1)) // too long
	f.Fuzz(func(t *testing.T, number, letter, payload string) {
		const most = 1 << 7
		m, err := keptMessage(number, letter, payload, most)
		if err != nil {
			return
		}
		if opLetter(m.op) != letter || len(payload) > most {
			t.Errorf("%q %q %q was read as %+v", number, letter, payload, m)
		}
	})
}
