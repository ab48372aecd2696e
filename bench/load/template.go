package load

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// template makes the messages of the scenario custom and recognises their replies.
type template struct {
	parts  []string // literal, and idMark and seqMark between them
	expect *regexp.Regexp
	ids    []int // groups of expect that stand for the client's number
	seqs   []int // groups that stand for the message's number
}

const (
	idMark  = "{{id}}"
	seqMark = "{{seq}}"
)

var marks = regexp.MustCompile(`\{\{(id|seq)\}\}`)

func newTemplate(s *Spec) (*template, error) {
	t := &template{}
	rest := s.Message
	for rest != "" {
		at := marks.FindStringIndex(rest)
		if at == nil {
			at = []int{len(rest), len(rest)}
		}
		t.parts = append(t.parts, rest[:at[0]], rest[at[0]:at[1]])
		rest = rest[at[1]:]
	}
	if s.Expect == "" || s.Expect == ExpectNone {
		return t, nil
	}
	n := 0
	pattern := marks.ReplaceAllStringFunc(s.Expect, func(mark string) string {
		n++
		return fmt.Sprintf("(?P<%s_%d>[0-9]+)", strings.Trim(mark, "{}"), n)
	})
	var err error
	if t.expect, err = regexp.Compile(pattern); err != nil {
		return nil, fmt.Errorf("expect %q: %w", s.Expect, err)
	}
	for i, name := range t.expect.SubexpNames() {
		switch kind, _, _ := strings.Cut(name, "_"); kind {
		case "id":
			t.ids = append(t.ids, i)
		case "seq":
			t.seqs = append(t.seqs, i)
		}
	}
	return t, nil
}

// append appends the message with this number of the client with this id.
func (t *template) append(b []byte, id, seq uint64) []byte {
	for _, p := range t.parts {
		switch p {
		case idMark:
			b = strconv.AppendUint(b, id, 10)
		case seqMark:
			b = strconv.AppendUint(b, seq, 10)
		default:
			b = append(b, p...)
		}
	}
	return b
}

// match reports whether p is a reply to the client with this id, and to which message; seq is 0
// when replies do not say.
func (t *template) match(p []byte, id uint64) (seq uint64, ok bool) {
	if t.expect == nil {
		return 0, true
	}
	if len(t.ids)+len(t.seqs) == 0 {
		return 0, t.expect.Match(p)
	}
	at := t.expect.FindSubmatchIndex(p)
	if at == nil {
		return 0, false
	}
	number := func(group int) uint64 {
		if at[2*group] < 0 { // in a part of the expression that did not take part
			return 0
		}
		n, _ := strconv.ParseUint(string(p[at[2*group]:at[2*group+1]]), 10, 64)
		return n
	}
	for _, g := range t.ids {
		if number(g) != id {
			return 0, false
		}
	}
	for i, g := range t.seqs {
		if n := number(g); i == 0 {
			seq = n
		} else if n != seq {
			return 0, false
		}
	}
	return seq, len(t.seqs) == 0 || seq > 0
}
