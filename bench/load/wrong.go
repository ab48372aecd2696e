package load

import (
	"fmt"
	"strconv"

	"sluice/bench/wsclient"
)

// WrongReply is an example of a wrong reply: the first of its kind.
type WrongReply struct {
	Kind string `json:"kind"`
	Want string `json:"want"`
	Got  string `json:"got"`            // quoted, and cut
	Hint string `json:"hint,omitempty"` // what the cause may be, a sentence
}

// The kinds of wrong replies.
const (
	wrongCorrupt   = "corrupt"
	wrongOrder     = "out of order"
	wrongTwice     = "came twice"
	wrongOvercount = "counts too many"
	wrongResume    = "resumed with a wrong total"
	wrongBye       = "goodbye with a wrong total"

	// NotExpected is a message that does not match Spec.Expect.
	NotExpected = "not the expected reply"
)

// example keeps the first wrong reply of each kind. got is a payload or a total.
func (w *worker) example(kind, want string, got any) {
	if _, ok := w.wrong[kind]; ok {
		return
	}
	e := WrongReply{Kind: kind, Want: want}
	switch got := got.(type) {
	case []byte:
		e.Got, e.Hint = quote(got), w.hint(got)
	case uint64:
		e.Got = fmt.Sprint(got)
	}
	w.wrong[kind] = e
}

func (w *worker) hint(got []byte) string {
	if _, echo := w.echoOf(got); echo && w.spec.Scenario != Echo && len(got) > 0 {
		return "The server echoes: use run -s echo, or capacity --echo."
	}
	if w.spec.Scenario == Echo && wsclient.ParseNotice(got).Kind == wsclient.Counted {
		return "The server counts: use run -s count, or capacity without --echo."
	}
	return ""
}

// quote quotes the front of a payload.
func quote(p []byte) string {
	const most = 80
	if len(p) <= most {
		return strconv.Quote(string(p))
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.Quote(string(p[:most])), len(p))
}

// mergeWrong adds the kinds that a has no example of.
func mergeWrong(a, b []WrongReply) []WrongReply {
next:
	for _, e := range b {
		for _, have := range a {
			if have.Kind == e.Kind {
				continue next
			}
		}
		a = append(a, e)
	}
	return a
}
