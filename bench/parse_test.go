package bench

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestDecodeFrame(t *testing.T) {
	const limit = 70_000
	long := func(head []byte, n int) []byte { return append(head, make([]byte, n)...) }
	for _, tc := range []struct {
		name    string
		in      []byte
		payload int
		err     error // any error when errAny
	}{
		{"text", []byte{0x81, 2, 'h', 'i'}, 2, nil},
		{"empty", []byte{0x82, 0}, 0, nil},
		{"125", long([]byte{0x81, 125}, 125), 125, nil},
		{"126", long([]byte{0x81, 126, 0, 126}, 126), 126, nil},
		{"65535", long([]byte{0x81, 126, 0xff, 0xff}, 65535), 65535, nil},
		{"65536", long([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}, 65536), 65536, nil},
		{"limit", long([]byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70}, limit), limit, nil},
		{"limit+1, not even there", []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x71}, 0, errAny},
		{"2^64-1", []byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, 0, errAny},
		{"125 in two bytes", []byte{0x81, 126, 0, 125}, 0, errNotMinimal},
		{"65535 in eight bytes", []byte{0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255}, 0, errNotMinimal},
		{"masked", []byte{0x81, 0x80, 0, 0, 0, 0}, 0, errMasked},
		{"RSV1", []byte{0xc1, 0}, 0, errReserved},
		{"RSV3", []byte{0x91, 0}, 0, errReserved},
		{"opcode 3", []byte{0x83, 0}, 0, errOpCode},
		{"opcode 11", []byte{0x8b, 0}, 0, errOpCode},
		{"ping of 125", long([]byte{0x89, 125}, 125), 125, nil},
		{"ping of 126", []byte{0x89, 126, 0, 126}, 0, errControl},
		{"ping in fragments", []byte{0x09, 0}, 0, errControl},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, used, err := decodeFrame(tc.in, limit)
			switch {
			case tc.err == errAny && err == nil, tc.err != errAny && !errors.Is(err, tc.err):
				t.Fatalf("error %v, want %v", err, tc.err)
			case err == nil && (used != len(tc.in) || len(f.payload) != tc.payload):
				t.Fatalf("used %d with a payload of %d, want %d with %d", used, len(f.payload), len(tc.in), tc.payload)
			case err != nil:
				return
			}
			for n := range len(tc.in) {
				if _, used, err := decodeFrame(tc.in[:n], limit); used != 0 || err != nil {
					t.Fatalf("the first %d bytes: used %d, error %v; want neither", n, used, err)
				}
			}
		})
	}
}

var errAny = errors.New("any error")

func FuzzDecodeFrame(f *testing.F) {
	f.Add([]byte{0x81, 2, 'h', 'i'}, 1)                                 // a whole frame
	f.Add([]byte{0x01, 1, 'a', 0x89, 0, 0x80, 1, 'b'}, 2)               // fragments around a ping
	f.Add([]byte{0x88, 2, 3, 0xe8}, 3)                                  // Close 1000
	f.Add([]byte{0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255}, 9) // the longest length there is
	f.Add([]byte{0x81, 126, 0, 125}, 1)                                 // not the shortest form
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		const limit = 1 << 16
		whole, used, err := decodeFrame(b, limit)
		if used < 0 || used > len(b) || len(whole.payload) > limit || (err != nil && used != 0) {
			t.Fatalf("used %d of %d, payload %d, error %v", used, len(b), len(whole.payload), err)
		}
		// A part never yields another answer than the whole: the same frame, the same verdict, or "more".
		part, n, perr := decodeFrame(b[:min(max(cut, 0), len(b))], limit)
		if n != 0 && (n != used || part.op != whole.op || !bytes.Equal(part.payload, whole.payload)) {
			t.Fatalf("a part gave %d bytes and %v, the whole %d and %v", n, part, used, whole)
		}
		if perr != nil && err == nil {
			t.Fatalf("a part is an error (%v), the whole is not", perr)
		}
		if used > 0 {
			again := ws.MustCompileFrame(ws.NewFrame(whole.op, whole.fin, whole.payload))
			if !bytes.Equal(again, b[:used]) {
				t.Fatalf("gobwas/ws writes the frame as %x, it was %x", again, b[:used])
			}
		}
	})
}

func TestAppendFrameIsReadByOthers(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte{'p'}, n)
		b := appendFrame([]byte("before"), ws.OpText, payload, [4]byte{1, 2, 3, 4})[len("before"):]
		f, err := ws.ReadFrame(bytes.NewReader(b))
		if err != nil || !f.Header.Masked || !f.Header.Fin || f.Header.OpCode != ws.OpText {
			t.Fatalf("%d bytes: header %+v, error %v", n, f.Header, err)
		}
		if f = ws.UnmaskFrame(f); !bytes.Equal(f.Payload, payload) {
			t.Errorf("%d bytes: the payload does not come out as it went in", n)
		}
	}
}

func TestParseNotice(t *testing.T) {
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	for in, want := range map[string]notice{
		`{"count":7}`:                    {kind: counted, total: 7},
		`{"count":9999999999999999999}`:  {kind: counted, total: 9999999999999999999},
		`{ "count" : 7 }`:                {kind: counted, total: 7},
		`{"count":}`:                     {},
		`{"count":-1}`:                   {},
		`{"count":1.5}`:                  {},
		`{"count":99999999999999999999}`: {},
		`{"session_id":"` + id + `","count":3,"resumed":true}`:    {kind: welcome, total: 3, resumed: true},
		`{"resumed":false, "count":0, "session_id":"` + id + `"}`: {kind: welcome},
		`{"ts":"2026-01-02T03:04:05.678Z"}`:                       {kind: beat},
		`{"ts": 17}`:                                              {kind: beat},
		`{"bye":true,"total":12}`:                                 {kind: bye, total: 12},
		`{"bye":false,"total":12}`:                                {},
		`hello`:                                                   {}, ``: {}, `{`: {}, `{}`: {}, `[]`: {}, `null`: {},
	} {
		got := parseNotice([]byte(in))
		if got.id != nil && string(got.id) != id {
			t.Errorf("%s: id %q", in, got.id)
		}
		if got.kind != want.kind || got.total != want.total || got.resumed != want.resumed {
			t.Errorf("%s: got %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseNotice(f *testing.F) {
	f.Add([]byte(`{"count":7}`))
	f.Add([]byte(`{"session_id":"x","count":3,"resumed":true}`))
	f.Add([]byte(`{"ts":"}`)) // a heartbeat cut short
	f.Fuzz(func(t *testing.T, b []byte) {
		n := parseNotice(b)
		// What the quick look accepts, the long way accepts as well.
		if n.kind == counted {
			if long := parseJSON(b); long.kind != counted && !bytes.HasPrefix(b, []byte(`{"count":0`)) || long.kind == counted && long.total != n.total {
				t.Errorf("%q: %+v, and by encoding/json %+v", b, n, long)
			}
		}
	})
}

func TestSessionID(t *testing.T) {
	id := newSessionID()
	text := id.append(nil)
	if back, ok := parseSessionID(text); !ok || back != id {
		t.Errorf("%s: got %v, %t", text, back, ok)
	}
	if upper, ok := parseSessionID(bytes.ToUpper(text)); !ok || upper != id {
		t.Errorf("%s in capitals: got %v, %t", text, upper, ok)
	}
	if text[14] != '4' || !strings.ContainsRune("89ab", rune(text[19])) {
		t.Errorf("%s is not a version 4 UUID", text)
	}
	for _, bad := range []string{"", "x", string(text[:35]), string(text) + "0", strings.Repeat("g", 36), strings.ReplaceAll(string(text), "-", "+"),
		"+1234567-89ab-cdef-0123-456789abcdef"} {
		if _, ok := parseSessionID([]byte(bad)); ok {
			t.Errorf("%q was taken for a session", bad)
		}
	}
}

func TestParseResponse(t *testing.T) {
	head := "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\nX-SESSION-ID: abc\r\nSec-Websocket-Accept:  xyz \r\n\r\n"
	for n := range len(head) {
		if _, used, err := parseResponse([]byte(head[:n])); used != 0 || err != nil {
			t.Fatalf("the first %d bytes: used %d, error %v; want neither", n, used, err)
		}
	}
	r, used, err := parseResponse([]byte(head + "{}"))
	if err != nil || used != len(head) || r.status != 503 || r.retryAfter != 7*time.Second || string(r.sessionID) != "abc" || string(r.accept) != "xyz" {
		t.Errorf("got %+v, used %d, error %v", r, used, err)
	}
	for _, bad := range []string{"HTTP/2 101\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1\r\n\r\n", "SMTP ready", "\r\n\r\n"} {
		if _, used, err := parseResponse([]byte(bad)); err == nil {
			t.Errorf("%q: used %d, want an error", bad, used)
		}
	}
	fill := func(n int) []byte { return []byte("HTTP/1.1 101 X\r\n" + strings.Repeat("a", n-16)) }
	if _, _, err := parseResponse(fill(maxResponse)); err != nil {
		t.Errorf("%d bytes without an end: %v, want no error yet", maxResponse, err)
	}
	if _, _, err := parseResponse(fill(maxResponse + 1)); err == nil {
		t.Errorf("%d bytes without an end are still waited for", maxResponse+1)
	}
}

func TestRetryAfter(t *testing.T) {
	for in, want := range map[string]time.Duration{"0": 0, "5": 5 * time.Second, "-3": 0, "99999": time.Hour, "soon": 0, "": 0,
		"Mon, 02 Jan 2006 15:04:05 GMT": 0, "Fri, 01 Jan 2500 00:00:00 GMT": time.Hour} {
		if got := retryAfter(in); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n")) // what a server says
	f.Add([]byte("HTTP/1.0 503\r\nRetry-After: 99999999999999999999\r\n\r\n"))           // a number too large
	f.Add([]byte("HTTP/1.1 \r\n:\r\n\r\n"))                                              // nothing in its places
	f.Fuzz(func(t *testing.T, b []byte) {
		r, used, err := parseResponse(b)
		if used < 0 || used > len(b) || r.retryAfter < 0 || r.retryAfter > time.Hour || (err == nil && used > 0 && !bytes.HasSuffix(b[:used], []byte("\r\n\r\n"))) {
			t.Fatalf("used %d, %+v, error %v", used, r, err)
		}
	})
}

func TestParseObjective(t *testing.T) {
	for in, want := range map[string]Objective{
		"p99=5ms":            {"message", 99, 5 * time.Millisecond},
		"p99.9=1s":           {"message", 99.9, time.Second},
		"max=2s":             {"message", 100, 2 * time.Second},
		"handshake.p50=50ms": {"handshake", 50, 50 * time.Millisecond},
		"heartbeat.max=1s":   {"heartbeat", 100, time.Second},
	} {
		got, err := ParseObjective(in)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseObjective(got.String()); err != nil || again != got {
			t.Errorf("%q written as %q is read as %+v, %v", in, got, again, err)
		}
	}
	for _, bad := range []string{"", "p99", "p99=", "p99=5", "p0=1s", "p101=1s", "pNaN=1s", "p99=-1s", "foo.p99=1s", "q99=1s", "p9x9=1s"} {
		if o, err := ParseObjective(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, o)
		}
	}
}

func TestSpecIsChecked(t *testing.T) {
	good := Spec{Targets: []string{"ws://127.0.0.1:1/"}}
	if s, err := good.withDefaults(); err != nil || s.Conns != 1000 || s.Window != 64 || s.Scenario != Count {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	for name, change := range map[string]func(s *Spec){
		"no target":       func(s *Spec) { s.Targets = nil },
		"http":            func(s *Spec) { s.Targets[0] = "http://127.0.0.1/" },
		"no host":         func(s *Spec) { s.Targets[0] = "ws:///" },
		"scenario":        func(s *Spec) { s.Scenario = "fun" },
		"conns":           func(s *Spec) { s.Conns = -1 },
		"conns+1":         func(s *Spec) { s.Conns = 10_000_001 },
		"rate":            func(s *Spec) { s.Rate = -1 },
		"window":          func(s *Spec) { s.Window = -1 },
		"duration":        func(s *Spec) { s.Duration = -1 },
		"payload":         func(s *Spec) { s.Payload = maxPayload + 1 },
		"payload below":   func(s *Spec) { s.Payload = -2 },
		"heartbeats":      func(s *Spec) { s.Heartbeats = "maybe" },
		"session ids":     func(s *Spec) { s.SessionIDs = "both" },
		"slow":            func(s *Spec) { s.SlowFraction = 1 },
		"processes":       func(s *Spec) { s.Processes = 1001 },
		"a negative ramp": func(s *Spec) { s.Ramp = -5 },
	} {
		s := good
		s.Targets = []string{good.Targets[0]}
		change(&s)
		if _, err := s.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHistogramsAddUp(t *testing.T) {
	var a, b, both hist
	for i := range 10_000 {
		d := time.Duration(i*i) * time.Microsecond
		both.record(d)
		if i%3 == 0 {
			a.record(d)
		} else {
			b.record(d)
		}
	}
	sum, err := a.summary().Add(b.summary())
	if want := both.summary(); err != nil || !bytes.Equal(sum.HDR, want.HDR) || sum.P9999 != want.P9999 || sum.Count != 10_000 {
		t.Errorf("the sum is %+v, %v; want %+v", sum, err, want)
	}
	var clamped hist
	clamped.record(-time.Second)
	clamped.record(time.Hour)
	if l := clamped.summary(); l.MinUS != 1 || l.MaxUS < longest*999/1000 || l.Count != 2 {
		t.Errorf("values out of range are %+v, want the ends of the range", l)
	}
	if l := (Latency{HDR: []byte("nonsense")}); l.At(50) != 0 {
		t.Error("a percentile came out of nonsense")
	}
}

func TestInFlight(t *testing.T) {
	var q inFlight
	next, oldest := time.Duration(0), time.Duration(0)
	for _, step := range []int{1, -1, 3, -2, 5, -6, 2, -2} { // pushes, and pops as negative numbers
		for ; step > 0; step-- {
			q.push(next)
			next++
		}
		for ; step < 0; step++ {
			if got := q.pop(); got != oldest {
				t.Fatalf("popped %d, want %d", got, oldest)
			}
			oldest++
		}
	}
	if q.n != 0 || q.more != nil {
		t.Errorf("%d are left, and memory %v", q.n, q.more)
	}
}

func TestSources(t *testing.T) {
	spec := Spec{Targets: []string{"ws://127.0.0.1:1/"}, Conns: 1}
	count := func(change func(s *Spec)) string {
		s := spec
		change(&s)
		f, err := newFleet(t.Context(), &s)
		if err != nil {
			return err.Error()
		}
		seen := map[string]bool{}
		for _, a := range f.job.Sources {
			if !a.IsLoopback() && len(s.Sources) == 0 {
				t.Errorf("%v is not a loopback address", a)
			}
			seen[a.String()] = true
		}
		return fmt.Sprint(len(seen))
	}
	each := portsPerSource() * 2 / 5
	for name, tc := range map[string]struct {
		change func(s *Spec)
		want   string
	}{
		"few":            {func(s *Spec) {}, "0"},
		"as many as fit": {func(s *Spec) { s.Conns = each }, "0"},
		"one more":       {func(s *Spec) { s.Conns = each + 1 }, "2"},
		"two targets":    {func(s *Spec) { s.Conns = 2 * each; s.Targets = append(s.Targets, "ws://localhost:2/") }, "0"},
		"a million":      {func(s *Spec) { s.Conns = 1_000_000 }, fmt.Sprint((1_000_000 + each - 1) / each)},
		"given":          {func(s *Spec) { s.Sources = []string{"127.0.0.9", "127.0.0.10"} }, "2"},
	} {
		if got := count(func(s *Spec) { s.Targets = []string{s.Targets[0]}; tc.change(s) }); got != tc.want {
			t.Errorf("%s: %s sources, want %s", name, got, tc.want)
		}
	}
	if got := count(func(s *Spec) { s.Sources = []string{"nowhere"} }); !strings.Contains(got, "nowhere") {
		t.Errorf("a source that is no address: %s", got)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := SampleUsage(1 << 30)
	if err == nil {
		t.Errorf("a process that does not exist used %+v", u)
	}
	if got := kilobytes([]byte("Rss:   12 kB\nName: x\nPss: 3 kB\nbad kB\n")); got["Rss"] != 12<<10 || got["Pss"] != 3<<10 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestCommas(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := commas(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
