package load

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// chat is a server with a protocol of its own: it greets, answers "say ID SEQ" with "said SEQ to
// ID", and pushes news in between.
func chat(mend func(reply string, n int) string) *server {
	return &server{noWelcome: true, onOpen: func(p *peer) { p.text("hello") },
		onMessage: func(p *peer, n int, b []byte) {
			var id, seq int
			if _, err := fmt.Sscanf(string(b), "say %d %d", &id, &seq); err != nil {
				p.close(1008)
				return
			}
			p.text("news")
			if reply := mend(fmt.Sprintf("said %d to %d", seq, id), n); reply != "" {
				p.text(reply)
			}
		}}
}

func TestCustom(t *testing.T) {
	for _, tc := range []struct {
		name string
		mend func(reply string, n int) string
		want string // failure; "" for none
	}{
		{"honest", func(r string, _ int) string { return r }, ""},
		{"loses the 2nd", func(r string, n int) string {
			if n == 2 {
				return ""
			}
			return r
		}, "5 of 20 messages got no reply"},
		{"garbles the 3rd", func(r string, n int) string {
			if n == 3 {
				return "sad" + r[4:]
			}
			return r
		}, `5 of 20 messages got no reply; the first was "`},
		{"answers the 4th to somebody else", func(r string, n int) string {
			if n == 4 {
				return r[:strings.LastIndex(r, " ")] + " 99"
			}
			return r
		}, "5 of 20 messages got no reply"},
		{"answers what was not asked", func(r string, n int) string {
			if n == 1 {
				return "said 77" + r[strings.Index(r, " to"):]
			}
			return r
		}, "5 replies were corrupt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			// Some messages are on their way at once, so that order matters.
			r := load(t, Spec{Conns: 5, Message: "say {{id}} {{seq}}", Expect: "^said {{seq}} to {{id}}$",
				Rate: 100, Duration: 200 * time.Millisecond, Timeout: 3 * time.Second}, chat(tc.mend).start(t))
			want(t, "sent", r.Counters.Sent, 20)
			if tc.want == "" {
				wantOK(t, r)
				want(t, "answered", r.Counters.Replies, 20)
				want(t, "greetings, news and byes", r.Counters.Others, 30)
			} else if len(r.Failures) == 0 || !strings.Contains(r.Failures[0], tc.want) {
				t.Errorf("failures %q, want %q", r.Failures, tc.want)
			}
		})
	}
	t.Run("any reply", func(t *testing.T) {
		t.Parallel()
		s := (&server{noWelcome: true, onMessage: func(p *peer, _ int, b []byte) {
			p.text(strings.ToUpper(string(b)))
		}}).start(t)
		r := load(t, Spec{Message: "abc"}, s)
		wantOK(t, r)
		want(t, "answered", r.Counters.Replies, r.Counters.Sent)
	})
	t.Run("no reply", func(t *testing.T) {
		t.Parallel()
		s := (&server{noWelcome: true, onMessage: silent}).start(t)
		r := load(t, Spec{Message: "abc", Expect: ExpectNone, Rate: 100}, s)
		wantOK(t, r)
		want(t, "sent", r.Counters.Sent, 20)
		want(t, "answered", r.Counters.Replies, 0)
	})
	t.Run("reconnects", func(t *testing.T) {
		t.Parallel()
		s := (&server{noWelcome: true, onMessage: func(p *peer, n int, b []byte) {
			if n == 2 {
				p.close(1012)
				return
			}
			p.text(string(b))
		}}).start(t)
		r := load(t, Spec{Message: "{{id}}", Expect: "^{{id}}$", Conns: 3, Rate: 60, Reconnect: true,
			ExpectClose: []int{1012}}, s)
		wantOK(t, r)
		want(t, "byes", r.Counters.Others, 3)
	})
}

func TestCustomIsChecked(t *testing.T) {
	for name, s := range map[string]Spec{
		"a message of another scenario":    {Scenario: Echo, Message: "x"},
		"an expectation of another":        {Scenario: Count, Expect: "x"},
		"not a regular expression":         {Expect: "("},
		"no reply and no rate":             {Message: "x", Expect: ExpectNone},
		"a message beyond what is allowed": {Message: strings.Repeat("x", maxPayload/2+1)},
	} {
		s.Targets = []string{"ws://127.0.0.1:1"}
		if _, err := s.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What was wrong is shown, with what was expected and what may be the cause.
func TestWrongRepliesAreShown(t *testing.T) {
	t.Parallel()
	echoes := (&server{onMessage: echo, noWelcome: true}).start(t)
	counts := (&server{}).start(t)
	for _, tc := range []struct {
		scenario Scenario
		on       *server
		want     string
	}{
		{Count, echoes, `replies were corrupt; the first was "00000001ijkl[a-z]*", expected {"count":1}. ` +
			`The server echoes: use run -s echo, or capacity --echo.$`},
		{Echo, counts, `replies were corrupt; the first was "{\\"count\\":1}", expected "00000001ijkl[a-z]*". ` +
			`The server counts`},
	} {
		r := load(t, Spec{Scenario: tc.scenario, Conns: 2, Window: 2, Payload: 40}, tc.on)
		if len(r.Failures) == 0 || !regexp.MustCompile(tc.want).MatchString(r.Failures[0]) {
			t.Errorf("failures %q, want %s", r.Failures, tc.want)
		}
		if len(r.WrongReplies) == 0 || r.WrongReplies[0].Hint == "" {
			t.Errorf("wrong replies %+v, want a hint with the first", r.WrongReplies)
		}
	}
	if got := quote([]byte(strings.Repeat("é\n", 100))); len(got) > 200 || !strings.HasSuffix(got, `… (300 bytes)`) {
		t.Errorf("a long reply is shown as %s", got)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("say {{id}} {{seq}}", uint64(7), uint64(9), "say 7 9") // both marks
	f.Add("{{seq}}{{seq}}", uint64(1), uint64(12), "1212")       // marks that touch: ambiguous
	f.Add("{{x}}", uint64(1), uint64(1), "{{x}}")                // not a mark
	f.Fuzz(func(t *testing.T, message string, id, seq uint64, reply string) {
		made, err := newTemplate(&Spec{Message: message})
		if err != nil {
			t.Fatal(err)
		}
		p := made.append(nil, id, seq)
		if !strings.Contains(message, "{{") && string(p) != message {
			t.Fatalf("%q became %q", message, p)
		}
		back, err := newTemplate(&Spec{Expect: "^x{{seq}} {{id}}$"})
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := back.match(fmt.Appendf(nil, "x%d %d", seq, id), id); seq > 0 && (!ok || got != seq) {
			t.Fatalf("seq %d, id %d: matched %t with %d", seq, id, ok, got)
		}
		_, _ = back.match([]byte(reply), id)
	})
}
