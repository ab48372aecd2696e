package topics

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"":                             false,
		"room":                         true,
		"user:42 / Zürich *?[":         true,
		strings.Repeat("x", MaxName-1): true,
		strings.Repeat("x", MaxName):   true,
		strings.Repeat("x", MaxName+1): false,
		strings.Repeat("é", MaxName/2): true,
		"a\nb":                         false,
		"a\x00":                        false,
		"a\x7f":                        false,
		"a\u0085":                      false,
		"a\u00a0":                      true,
		"\xff":                         false,
		"\xed\xa0\x80":                 false, // a surrogate
	} {
		if err := CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%.20q: got %v, want ok %v", name, err, ok)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "anything", true}, {"a", "a", true},
		{"a", "ab", false},
		{"a*", "a", true}, {"a*", "abc", true}, {"a*", "ba", false}, {"*a", "ba", true},
		{"*a", "ab", false},
		{"a*b", "ab", true}, {"a*b", "axxb", true}, {"a*b", "a", false},
		{"aa*aa", "aaa", false}, {"aa*aa", "aaaa", true},
		{"*.*", "a.b", true}, {"*.*", "ab", false}, {"a**b", "axb", true}, {"*ab*ab", "abab", true},
		{"*ab*ab", "xabyab", true},
		{"*ab*abc", "ababc", true}, {"a*b*c", "abbcbc", true}, {"a.c", "abc", false},
	} {
		if got := Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %q): got %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a*b", "axxb")     // one star
	f.Add("*ab*ab", "abxab") // a part that comes twice
	f.Add("aa*aa", "aaa")    // prefix and suffix overlap
	// what backtracking would not survive
	f.Add(strings.Repeat("a*", 100)+"b", strings.Repeat("a", 200))
	f.Add("*\xff*", "a\xff") // not UTF-8
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 400 || len(name) > 400 || strings.Contains(pattern+name, "\n") {
			return
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile(`^(?s:` + strings.Join(parts, ".*") + `)$`)
		if err != nil {
			return // not UTF-8
		}
		if got, want := Match(pattern, name), re.MatchString(name); got != want {
			t.Errorf("Match(%q, %q): got %v, want %v", pattern, name, got, want)
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	f.Add("1f:12")                                 // as it is written
	f.Add("0:0")                                   // none
	f.Add("ffffffffffffffff:18446744073709551615") // the largest
	f.Add("1F:12")                                 // written otherwise
	f.Add("01:1")                                  // a leading zero
	f.Add("1:1:1")                                 // a colon too many
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q was read as %v", s, p)
		}
	})
}
