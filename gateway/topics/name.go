package topics

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxName is the longest name of a topic in bytes.
const MaxName = 200

// ErrName is wrapped by the errors about names that no topic can have.
var ErrName = errors.New("not a topic's name")

// CheckName says why name cannot be a topic's: names have 1 to MaxName bytes of UTF-8 without
// control characters. Any goroutine.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrName)
	case len(name) > MaxName:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrName, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: it is not UTF-8", ErrName)
	}
	for _, r := range name {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return fmt.Errorf("%w: it has the control character %U", ErrName, r)
		}
	}
	return nil
}

// Match reports whether name matches pattern, in which * stands for any characters, also none; all
// else stands for itself. Its time is bounded by the product of both lengths. Any goroutine.
func Match(pattern, name string) bool {
	prefix, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	if !strings.HasPrefix(name, prefix) {
		return false
	}
	name = name[len(prefix):]
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, part)
		}
		// The leftmost place is as good as any: what follows can only gain by it.
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}
