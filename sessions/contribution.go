package sessions

import (
	"fmt"
	"strconv"
	"strings"
)

// maxTotal is the largest total: Redis' scripts calculate in float64.
const maxTotal = 1<<53 - 1

// contribution is what one process has counted in a session: the value of its field in the hash.
type contribution struct {
	incarnation uint64 // of the process' writer: a larger one is later
	base        uint64 // what the field was worth before this incarnation
	delta       uint64 // messages of this incarnation
	after       uint64 // the session's total right after delta was stored
}

// worth is the number of messages that c stands for.
func (c contribution) worth() uint64 { return c.base + c.delta }

// join merges two values of one field, as commit.lua does.
func join(x, y contribution) contribution {
	if x.incarnation < y.incarnation {
		x, y = y, x
	}
	if x.incarnation > y.incarnation {
		x.base = max(x.base, y.worth())
		return x
	}
	if y.delta > x.delta {
		x.delta, x.after = y.delta, y.after
	}
	x.base = max(x.base, y.base)
	return x
}

// append appends the field's value: "incarnation:base:delta:after".
func (c contribution) append(b []byte) []byte {
	for _, n := range [...]uint64{c.incarnation, c.base, c.delta} {
		b = append(strconv.AppendUint(b, n, 10), ':')
	}
	return strconv.AppendUint(b, c.after, 10)
}

func (c contribution) String() string { return string(c.append(nil)) }

// parseContribution reads a field's value. Anything that a commit cannot have written is an error.
func parseContribution(s string) (c contribution, err error) {
	rest := s
	for i, to := range [...]*uint64{&c.incarnation, &c.base, &c.delta, &c.after} {
		text, tail, more := strings.Cut(rest, ":")
		if *to, err = parseCount(text); err != nil || more != (i < 3) {
			return c, &foreign{fmt.Sprintf("a field's value is %.80q", s)}
		}
		rest = tail
	}
	if c.worth() > maxTotal {
		return c, &foreign{fmt.Sprintf("a field's value is %.80q", s)}
	}
	return c, nil
}

// parseCount reads a number of at most maxTotal in the one form that commit.lua takes too: digits
// only.
func parseCount(s string) (uint64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > maxTotal {
		err = strconv.ErrRange
	}
	return n, err
}

// field is another process' field in a session's hash.
type field struct {
	name string
	contribution
}

// fields are the other processes' fields that this process was told of. nil for most sessions: only
// those that more than one process counted in have any.
type fields struct {
	list []field
	sum  uint64 // of what they are worth
}

// total is what all are worth.
func (f *fields) total() uint64 {
	if f == nil {
		return 0
	}
	return f.sum
}

// merge returns f joined with fields that Redis holds.
func (f *fields) merge(stored []field) *fields {
	if f == nil && len(stored) > 0 {
		f = new(fields)
	}
next:
	for _, s := range stored {
		for i := range f.list {
			if o := &f.list[i]; o.name == s.name {
				f.sum -= o.worth()
				o.contribution = join(o.contribution, s.contribution)
				f.sum += o.worth()
				continue next
			}
		}
		s.name = strings.Clone(s.name) // it may be a part of a whole answer
		f.list = append(f.list, s)
		f.sum += s.worth()
	}
	return f
}
