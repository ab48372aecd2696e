package sessions

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// hash is a session's hash as the reference keeps it: nil when there is none.
type hash map[string]contribution

func (h hash) total() (n uint64) {
	for _, c := range h {
		n += c.worth()
	}
	return n
}

// apply is commit.lua once more, written in Go and for a reader: what the script must do to h. The
// tests hold the two against each other. It returns the new hash and leaves h as it was.
func (h hash) apply(me string, c commit) (hash, stored) {
	old := h[me]
	s := stored{before: old.worth()}
	lost := h.total()-old.worth() < c.told
	if lost && len(c.others) == 0 {
		return h, stored{lost: true}
	}
	after := maps.Clone(h)
	if after == nil {
		after = hash{}
	}
	put := func(name string, v contribution) {
		if v.worth() > after[name].worth() {
			grown := v.worth() - after[name].worth()
			if v.after == 0 {
				v.after = after.total() + grown
			}
			after[name] = v
		}
	}
	if lost {
		for _, f := range c.others {
			put(f.name, join(after[f.name], f.contribution))
		}
	}
	mine := c.own
	mine.after = 0
	put(me, join(old, mine))
	v := join(old, mine)
	if _, written := after[me]; written && v.worth() > old.worth() {
		v = after[me]
	}
	s.total, s.after, s.base = after.total(), v.after, v.base
	if after.total()-v.worth() != c.told {
		for name, f := range after {
			if name != me {
				s.others = append(s.others, field{name, f})
			}
		}
		slices.SortFunc(s.others, func(a, b field) int { return strings.Compare(a.name, b.name) })
	}
	return after, s
}

func (h hash) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s=%v ", name, h[name])
	}
	return fmt.Sprintf("%s(%d)", b.String(), h.total())
}

// inOrder is an answer as text, its fields in order.
func inOrder(s stored) string {
	slices.SortFunc(s.others, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return fmt.Sprintf("%+v", s)
}
